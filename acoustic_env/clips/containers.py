"""Clip lists of tar shards (WebDataset naming) and of Parquet files that hold audio bytes (Hugging Face layout)."""

from __future__ import annotations

import glob
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa

from acoustic_env.clips.folder import is_audio_name
from acoustic_env.clips.naming import require_unique, root_name, shard_name
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path

LABEL_MEMBERS: Final = (".json", ".cls", ".txt")
JSON_KEYS: Final = ("labels", "label", "tags", "tag", "class")
MAX_LABEL_BYTES: Final = 2**20


def read_tar(urls: Sequence[str], json_key: str | None = None, name: str | None = None) -> pa.Table:
    """The clips of tar shards: files that share a name up to the first dot are one sample.

    Args:
        urls: shards at any fsspec URL; local ones may hold `*`.
        json_key: where in a sample's .json the labels stand, None for the first of `JSON_KEYS`. Labels come from the
            .json, the .cls or the .txt member, in this order.
        name: in place of the shards' folders in ids and groups.

    Returns:
        Clips named `<the shard's last two folders>/<shard>/<sample>`; every sample is a group.

    Raises:
        UsageError: a shard is missing, compressed or damaged, a sample's labels cannot be read, no shard has audio, or
            an id would stand in the list twice.
    """
    rows: list[dict[str, Any]] = []
    for url in _expanded(urls):
        samples: dict[str, list[str]] = {}
        label_files: dict[str, dict[str, bytes]] = {}
        for member, data in _members(url):
            folder, _, base = member.rpartition("/")
            key, _, extension = base.partition(".")
            key = f"{folder}/{key}" if folder else key
            if data is not None:
                label_files.setdefault(key, {})[f".{extension}"] = data
            elif is_audio_name(member):
                samples.setdefault(key, []).append(member)
        shard = shard_name(url, ".tar", name)
        for key, audio in samples.items():
            labels = _sample_labels(label_files.get(key, {}), json_key, f"{url}: sample {key}")
            for member in audio:
                clip_id = f"{shard}/{key}" if len(audio) == 1 else f"{shard}/{member}"
                uri = f"tar://{member}::{url}"
                rows.append(
                    {"clip_id": clip_id, "uri": uri, "labels": labels, "group": f"{shard}/{key}", "source": "tar"}
                )
    if not rows:
        msg = f"{', '.join(urls)}: no audio in the shards"
        raise UsageError(msg)
    return require_unique(clip_table(rows), ", ".join(urls))


def read_parquet(
    urls: Sequence[str],
    audio_column: str = "audio",
    label_column: str | None = "label",
    id_column: str | None = None,
    group_column: str | None = None,
    name: str | None = None,
) -> pa.Table:
    """The clips of Parquet files with a column of audio bytes or struct<bytes, path>; no audio is read.

    Args:
        urls: files at any fsspec URL; local ones may hold `*`.
        audio_column: the column with the bytes.
        label_column: strings, lists of strings, or the class numbers of a Hugging Face data set (names from its
            metadata); None for clips without labels.
        id_column: clip ids, with `name` before them if there is one; None makes
            `<the file's last two folders>/<file>/<row>`.
        group_column: what must not be split; None: every row is a group.
        name: in place of the files' folders.

    Raises:
        UsageError: a file or column is missing, a column is of the wrong kind, or an id would stand in the list twice.
    """
    tables = [_read_rows(url, audio_column, label_column, id_column, group_column, name) for url in _expanded(urls)]
    return require_unique(pa.concat_tables(tables), ", ".join(urls))


def _expanded(urls: Sequence[str]) -> Iterator[str]:
    for url in urls:
        path = local_path(url)
        if path is None:
            yield from _expanded_url(url)
            continue
        if path.exists() or not glob.has_magic(str(path)):
            yield str(path.absolute())
            continue
        found = sorted(glob.glob(str(path.absolute())))  # noqa: PTH207  Path.glob takes no absolute pattern
        if not found:
            msg = f"{url}: no such file"
            raise UsageError(msg)
        yield from found


def _expanded_url(url: str) -> Iterator[str]:
    import fsspec

    if not glob.has_magic(url):
        yield url
        return
    try:
        filesystem, pattern = fsspec.core.url_to_fs(url)
        if url.startswith(("http://", "https://")) or filesystem.exists(pattern):  # a "?" begins a query there
            yield url
            return
        found = sorted(filesystem.glob(pattern))
    except Exception as error:  # every filesystem has its own exceptions
        msg = f"{url}: cannot be listed: {type(error).__name__}: {error}"
        raise UsageError(msg) from error
    if not found:
        msg = f"{url}: no such file"
        raise UsageError(msg)
    yield from (filesystem.unstrip_protocol(name) for name in found)


def _open(url: str) -> BinaryIO:
    import fsspec

    try:
        path = local_path(url)
        return path.open("rb") if path is not None else cast(BinaryIO, fsspec.open(url, "rb").open())
    except Exception as error:  # every filesystem has its own exceptions
        msg = f"{url}: cannot be read: {type(error).__name__}: {error}"
        raise UsageError(msg) from error


def _members(url: str) -> Iterator[tuple[str, bytes | None]]:
    """Name of every file in a shard, with the bytes of those that may hold labels."""
    with _open(url) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if not member.isfile():
                        continue
                    if "::" in member.name:
                        msg = f"{url}: the member name {member.name!r} holds '::', which a tar:// URI cannot carry"
                        raise UsageError(msg)
                    wanted = PurePosixPath(member.name).suffix in LABEL_MEMBERS and member.size < MAX_LABEL_BYTES
                    content = archive.extractfile(member) if wanted else None
                    yield member.name, content.read() if content else None
        except tarfile.TarError as error:
            msg = f"{url}: not a whole, uncompressed tar file: {error}"
            raise UsageError(msg) from error


def _sample_labels(files: dict[str, bytes], json_key: str | None, where: str) -> list[str]:
    for extension in LABEL_MEMBERS:
        if extension not in files:
            continue
        try:
            text = files[extension].decode("utf-8")
            if extension == ".json":
                return _json_labels(json.loads(text), json_key)
            return [text.strip()] if text.strip() else []
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{where}: no labels in its {extension} file: {error}"
            raise UsageError(msg) from error
    return []


def _json_labels(document: Any, json_key: str | None) -> list[str]:
    if not isinstance(document, dict):
        msg = "it is not an object"
        raise TypeError(msg)
    key = json_key or next((name for name in JSON_KEYS if name in document), None)
    if key is None:
        return []
    if key not in document:
        msg = f"no key {key!r}; there are {', '.join(document)}"
        raise KeyError(msg)
    value = document[key]
    return [str(label) for label in value] if isinstance(value, list) else [str(value)]


def _read_rows(
    url: str,
    audio_column: str,
    label_column: str | None,
    id_column: str | None,
    group_column: str | None,
    name: str | None,
) -> pa.Table:
    import pyarrow.parquet as pq

    wanted = {"--label-column": label_column, "--id-column": id_column, "--group-column": group_column}
    with _open(url) as source:
        try:
            file = pq.ParquetFile(source)
        except (pa.ArrowException, OSError) as error:
            msg = f"{url}: not a readable Parquet file: {error}"
            raise UsageError(msg) from error
        schema = file.schema_arrow
        for option, column in {"--audio-column": audio_column, **wanted}.items():
            if column is not None and column not in schema.names:
                msg = f"{url}: no column {column!r} ({option}); there are {', '.join(schema.names)}"
                raise UsageError(msg)
        kind = schema.field(audio_column).type
        if not (pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            msg = f"{url}: column {audio_column!r} is {kind}, neither bytes nor struct<bytes, path>"
            raise UsageError(msg)
        values = file.read(columns=sorted({column for column in wanted.values() if column}), use_threads=False)
        rows = file.metadata.num_rows
    stem = PurePosixPath(url).name.removesuffix(".parquet")
    ids = _row_ids(values[id_column], name) if id_column else _numbered(shard_name(url, ".parquet", name), rows)
    groups = values[group_column].cast(pa.string()).to_pylist() if group_column else ids
    labels = _column_labels(values[label_column], schema, label_column) if label_column else [[]] * rows
    return clip_table(
        {
            "clip_id": clip_id,
            "uri": f"parquet://{audio_column}/{row}::{url}",
            "labels": of,
            "group": group,
            "source": stem,
        }
        for row, (clip_id, of, group) in enumerate(zip(ids, labels, groups, strict=True))
    )


def _row_ids(values: pa.ChunkedArray, name: str | None) -> list[str]:
    ids: list[str] = values.cast(pa.string()).to_pylist()
    return ids if name is None else [clip_id and f"{root_name('', name)}/{clip_id}" for clip_id in ids]


def _numbered(shard: str, rows: int) -> list[str]:
    return [f"{shard}/{row}" for row in range(rows)]


def _column_labels(values: pa.ChunkedArray, schema: pa.Schema, column: str) -> list[list[str]]:
    names = _class_names(schema, column)
    cells = [[] if cell is None else cell if isinstance(cell, list) else [cell] for cell in values.to_pylist()]
    if not names:
        return [[str(label) for label in cell] for cell in cells]
    try:
        return [[names[label] for label in cell] for cell in cells]
    except (IndexError, TypeError) as error:
        msg = f"column {column!r}: a label has no name among the {len(names)} of the file's metadata"
        raise UsageError(msg) from error


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names of a Hugging Face ClassLabel column, empty for other columns."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return []
    feature = json.loads(raw).get("info", {}).get("features", {}).get(column, {})
    inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
    return list(inner.get("names", [])) if isinstance(inner, dict) else []
