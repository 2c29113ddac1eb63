"""An audio data set of Hugging Face on disk: Parquet shards, or a folder of audio with metadata.csv or .jsonl."""

from __future__ import annotations

import argparse
import json
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from acoustic_env.clips.naming import root_name
from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.parquet import GROUPS, LABELS, read_parquet
from acoustic_env.clips.readers.published import published_clips
from acoustic_env.clips.records import read_rows
from acoustic_env.clips.table import further_name, join_lists
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, read_bytes
from acoustic_env.io.location import join, url


class HuggingFaceReader:
    """Make a clip list of a Hugging Face audio data set, local or at any fsspec URL (hf://datasets/OWNER/NAME).

    Columns of audio and labels follow from the data set's own description. `source` is the split (train, validation,
    test).

    Examples:
        acoustic-env clips from-huggingface my-dataset/ --out clips.parquet
        acoustic-env clips from-huggingface my-dataset/ --splits train --label-column category --out clips.parquet
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=url, metavar="DIR", help="Folder of the data set.")
        parser.add_argument("--splits", help="Splits to take, such as train,test. Default: all.")
        parser.add_argument("--label-column", metavar="NAME", help=LABELS)
        parser.add_argument("--group-column", metavar="NAME", help=GROUPS)
        parser.add_argument("--name", help="Start of the clip ids (default: the folder's own name).")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        root = arguments.folder
        found = files_below(root)
        if found is None:
            raise UsageError(f"{root}: no such folder")
        name = root_name(root, arguments.name)
        shards = [path for path in found if path.endswith(".parquet")]
        tables = [path for path in found if PurePosixPath(path).name in ("metadata.csv", "metadata.jsonl")]
        if shards or tables:
            wanted = arguments.splits and [split.strip() for split in arguments.splits.split(",")]
            chosen = [path for path in shards or tables if not wanted or _split(path) in wanted]
            there = sorted(set(map(_split, shards or tables)))
            if unknown := [name for name in wanted or () if name not in there]:
                raise UsageError(f"{root}: --splits: no split {unknown[0]!r}; expected some of {', '.join(there)}")
            return _shards(arguments, chosen, name) if shards else _audio_folder(arguments, chosen, name, log)
        arrow = "; it is in Arrow format (save_to_disk): write it with dataset.to_parquet(...)"
        hint = arrow if any(path.endswith(".arrow") for path in found) else ""
        raise UsageError(f"{root}: neither .parquet shards nor metadata.csv or metadata.jsonl below it{hint}")


def _split(path: str) -> str:
    """Return the split of a shard or a table: data/train-00000-of-00002.parquet and train/0000.parquet are of train."""
    pure = PurePosixPath(path)
    own = pure.stem.partition("-")[0]
    return (pure.parent.name if own == "metadata" or own.isdigit() else own) or "train"


def _shards(arguments: argparse.Namespace, shards: list[str], name: str) -> pa.Table:
    columns = {"label_column": arguments.label_column, "group_column": arguments.group_column}
    places = ((join(arguments.folder, shard), _split(shard)) for shard in shards)
    return join_lists([read_parquet([at], **columns, name=f"{name}/{of}", source=of) for at, of in places])


def _audio_folder(arguments: argparse.Namespace, tables: list[str], name: str, log: Log) -> pa.Table:
    rows: list[dict[str, Any]] = []
    used = {"file_name", arguments.label_column or "label", arguments.group_column}
    known = {"file_name"}
    for table in tables:
        folder, split = str(PurePosixPath(table).parent), _split(table)
        place = join(arguments.folder, table)
        for number, row in enumerate(_metadata(place), start=1):
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise UsageError(f"{place}: row {number:,} has no file_name")
            known |= set(row)
            path = row["file_name"] if folder == "." else f"{folder}/{row['file_name']}"
            label, clip_id = row.get(arguments.label_column or "label"), f"{name}/{path}"
            labels = [str(one) for one in (label if isinstance(label, list) else [label]) if one not in (None, "")]
            group = str(row.get(arguments.group_column) or clip_id)
            further = {further_name(key): value for key, value in row.items() if key not in used}
            rows.append({"clip_id": clip_id, "uri": path, "labels": labels, "group": group, "source": split, **further})
    for option, column in (("--label-column", arguments.label_column), ("--group-column", arguments.group_column)):
        if column and column not in known:
            msg = f"no column {column!r} ({option}); expected one of: {', '.join(sorted(known))}"
            raise UsageError(f"{arguments.folder}: {msg}")
    return published_clips(arguments.folder, rows, {}, log, partial=False)


def _metadata(place: str) -> list[Any]:
    if place.endswith(".csv"):
        return list(read_rows(place, ("file_name",)))
    rows = []
    for number, line in enumerate(read_bytes(place).splitlines(), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:  # of JSON or of UTF-8
            raise UsageError(f"{place}: line {number:,}: not JSON: {error}") from error
    return rows
