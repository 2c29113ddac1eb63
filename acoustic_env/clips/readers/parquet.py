"""Clip lists of Parquet files that hold encoded audio (Hugging Face layout)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from acoustic_env.clips.naming import require_unique, root_name, shard_name
from acoustic_env.clips.readers import Log
from acoustic_env.clips.table import clip_table, further_name, join_lists
from acoustic_env.errors import UsageError
from acoustic_env.io.files import expand, open_file
from acoustic_env.io.location import url

AUDIO: Final = "Column of audio (default: the one described as audio, else audio)."
LABELS: Final = "Column of strings, lists of strings or class numbers (default: the only ClassLabel, else none)."
GROUPS: Final = "Column of what must not be split (default: every row is a group)."
NO_LABEL: Final = (None, "", -1)  # Hugging Face writes -1 where the label is not known


class ParquetReader:
    """Make a clip list of Parquet files that hold encoded audio.

    The audio column holds bytes or the Hugging Face struct<bytes, path>; audio is not read here. Further columns of
    numbers or text are carried along. Ids are <the file's last two folders>/<file>/<row>; --name NAME takes NAME in
    place of the folders.

    Examples:
        acoustic-env clips from-parquet 'data/train-*.parquet' --label-column category --out clips.parquet
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("files", type=url, nargs="+", metavar="FILE.parquet", help="Files; * and ? are expanded.")
        parser.add_argument("--audio-column", metavar="NAME", help=AUDIO)
        parser.add_argument("--label-column", metavar="NAME", help=LABELS)
        parser.add_argument("--id-column", metavar="NAME", help="Column of ids (default: <folders>/<file>/<row>).")
        parser.add_argument("--group-column", metavar="NAME", help=GROUPS)
        name = "Start of the clip ids (default: each file's last two folders; with --id-column nothing)."
        parser.add_argument("--name", help=name)

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        columns = (arguments.audio_column, arguments.label_column, arguments.id_column, arguments.group_column)
        return read_parquet(arguments.files, *columns, arguments.name)


def read_parquet(
    urls: Sequence[str],
    audio_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    group_column: str | None = None,
    name: str | None = None,
    source: str | None = None,
) -> pa.Table:
    """Return the clips of Parquet files with a column of audio bytes or struct<bytes, path>; no audio is read.

    Args:
        urls: files at any fsspec URL, patterns allowed.
        audio_column: the column with the bytes; None for what Hugging Face's metadata describes as audio, else `audio`.
        label_column: strings, lists of strings, or the class numbers of a Hugging Face data set (names from its
            metadata); None for its only column of class numbers, else clips have no labels.
        id_column: clip ids, with `name` before them if there is one; None makes
            `<the file's last two folders>/<file>/<row>`.
        group_column: what must not be split; None: every row is a group.
        name: in place of the files' folders.
        source: of the clips, None for the name of their file.

    Raises:
        UsageError: a file or column is missing, a column is of the wrong kind, or two clips would have the same id.
    """
    tables = []
    for place in (place for pattern in urls for place in expand(pattern)):
        with open_file(place) as opened:
            try:
                file = pq.ParquetFile(opened)
            except (pa.ArrowException, OSError) as error:
                raise UsageError(f"{place}: not a readable Parquet file: {error}") from error
            schema, features = file.schema_arrow, _described(file.schema_arrow)
            audio, classes = (
                [column for column, of in features.items() if of.get("_type") == kind]
                for kind in ("Audio", "ClassLabel")
            )
            audio_name = audio_column or (audio[0] if audio else "audio")
            label_name = label_column or (classes[0] if len(classes) == 1 else None)
            wanted = {"--label-column": label_name, "--id-column": id_column, "--group-column": group_column}
            for option, column in {"--audio-column": audio_name, **wanted}.items():
                if column is not None and column not in schema.names:
                    msg = f"{place}: no column {column!r} ({option}); expected one of: {', '.join(schema.names)}"
                    raise UsageError(msg)
            for option, column in wanted.items():
                kind = schema.field(column).type if column else pa.null()
                if not _plain(getattr(kind, "value_type", kind) if option == "--label-column" else kind):
                    raise UsageError(f"{place}: column {column!r} ({option}) is {kind}, expected text or numbers")
            spans = _spans(file.metadata, _leaf(schema.field(audio_name), place))
            names = [column for column in dict.fromkeys(wanted.values()) if column]
            names += [field.name for field in schema if field.name not in (*names, audio_name) and _plain(field.type)]
            values = file.read(columns=names, use_threads=False)
        rows = range(len(values))
        if id_column is None:
            ids = [f"{shard_name(place, '.parquet', name)}/{row}" for row in rows]
        else:
            before = "" if name is None else f"{root_name('', name)}/"
            ids = [value and f"{before}{value}" for value in values[id_column].cast(pa.string()).to_pylist()]
        labels = [list[str]()] * len(rows)
        if label_name:
            labels = _labels(values[label_name], features.get(label_name, {}), place)
        columns: dict[str, Sequence[Any]] = {
            "clip_id": ids,
            "uri": [f"parquet://{audio_name}/{row}::{place}" for row in rows],
            "labels": labels,
            "group": values[group_column].cast(pa.string()).to_pylist() if group_column else ids,
            "source": [source or PurePosixPath(place).name.removesuffix(".parquet")] * len(rows),
            **spans,
        }
        table = clip_table(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        for column in values.column_names:
            if column not in wanted.values():
                table = table.append_column(further_name(column), values[column])
        tables.append(table)
    return require_unique(join_lists(tables), ", ".join(urls))


def _leaf(audio: pa.Field, place: str) -> str:
    """Return the path of the column of bytes."""
    inner = pa.types.is_struct(audio.type) and audio.type.get_field_index("bytes") >= 0
    kind = audio.type.field("bytes").type if inner else audio.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        remedy = "audio files that it names are read by from-folder, from-tsv or from-huggingface"
        msg = f"{place}: column {audio.name!r} is {audio.type}, expected bytes or struct<bytes, path>; {remedy}"
        raise UsageError(msg)
    return f"{audio.name}.bytes" if inner else str(audio.name)


def _plain(kind: pa.DataType) -> bool:
    """Return whether a clip list carries a column of this type along: no bytes, and nothing nested."""
    bytes_like = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not bytes_like and not pa.types.is_nested(kind)


def _spans(metadata: pq.FileMetaData, leaf: str) -> dict[str, list[int]]:
    """Return the place of each row's row group in a column: Parquet keeps no smaller one."""
    spans: dict[str, list[int]] = {"byte_offset": [], "byte_size": []}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        chunks = (group.column(number) for number in range(group.num_columns))
        chunk = next(chunk for chunk in chunks if chunk.path_in_schema == leaf)
        starts = [chunk.data_page_offset, chunk.dictionary_page_offset]
        spans["byte_offset"] += [min(start for start in starts if start is not None)] * group.num_rows
        spans["byte_size"] += [chunk.total_compressed_size] * group.num_rows
    return spans


def _labels(values: pa.ChunkedArray, feature: dict[str, Any], place: str) -> list[list[str]]:
    inner = feature.get("feature", feature)  # of a sequence of ClassLabel
    names = dict(enumerate(inner.get("names", []) if isinstance(inner, dict) else []))
    cells = [cell if isinstance(cell, list) else [cell] for cell in values.to_pylist()]
    try:
        return [[names[label] if names else str(label) for label in cell if label not in NO_LABEL] for cell in cells]
    except KeyError as error:
        raise UsageError(f"{place}: label {error} has no name among the {len(names)} of the file's metadata") from error


def _described(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's metadata says of each column; empty where there is none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {column: of for column, of in features.items() if isinstance(of, dict)}
    except (ValueError, AttributeError):
        return {}
