"""Audio files inside larger files: members of tar shards (WebDataset) and rows of Parquet files (Hugging Face)."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from acoustic_env.audio.transport import open_url, read_range
from acoustic_env.errors import ClipError
from acoustic_env.io.location import local_path

SHARDS_INDEXED: Final = 64


def member_bytes(member: str, shard: str) -> bytes:
    """Read a member of an uncompressed tar file: the shard's index once per process, the member as one range.

    Raises:
        ClipError: not_found for a missing shard or member; decode_failed for a damaged or compressed shard; the codes
            of the transport.
    """
    index = _tar_index(shard, _version(shard))
    if member not in index:
        msg = f"{shard}: no member {member!r} among the shard's {len(index):,}"
        raise ClipError("not_found", msg)
    start, size = index[member]
    data = read_range(shard, start, start + size)
    if len(data) < size:
        msg = f"{shard}: the shard ends inside {member!r}, after {len(data):,} of its {size:,} bytes"
        raise ClipError("decode_failed", msg)
    return data


def row_bytes(column: str, row: int, url: str) -> bytes:
    """Read the audio file in a row (from 0) of a Parquet file's column of bytes or struct<bytes, path>.

    Raises:
        ClipError: not_found for a missing file, column, row or an empty cell; decode_failed for a damaged file; the
            codes of the transport.
    """
    version = _version(url)
    groups = _row_groups(url, version)
    for group, (start, end) in enumerate(groups):
        if start <= row < end:
            cell = _row_group(url, version, column, group)[row - start].as_py()
            if cell is None:
                msg = f"{url}: row {row:,} of column {column!r} holds no bytes"
                raise ClipError("not_found", msg)
            return cast(bytes, cell)
    msg = f"{url}: no row {row:,}; the file has {groups[-1][1] if groups else 0:,} rows"
    raise ClipError("not_found", msg)


def _version(url: str) -> tuple[int, int] | None:
    path = local_path(url)
    if path is None or not path.exists():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=SHARDS_INDEXED)
def _tar_index(shard: str, version: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    """Return member name -> (first byte, size); a shard cut short keeps the members before the cut."""
    index: dict[str, tuple[int, int]] = {}
    try:
        with open_url(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                if member.isfile():
                    index[member.name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        if not index:
            msg = f"{shard}: not an uncompressed tar file: {error}"
            raise ClipError("decode_failed", msg) from error
    return index


@lru_cache(maxsize=SHARDS_INDEXED)
def _row_groups(url: str, version: tuple[int, int] | None) -> list[tuple[int, int]]:
    with _parquet(url) as file:
        metadata = file.metadata
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return list(itertools.pairwise(starts))


@lru_cache(maxsize=1)  # rows are asked for in order; a row group of audio is large
def _row_group(url: str, version: tuple[int, int] | None, column: str, group: int) -> pa.ChunkedArray:
    with _parquet(url) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            msg = f"{url}: no column {column!r}; expected one of: {', '.join(schema.names)}"
            raise ClipError("not_found", msg)
        kind = schema.field(column).type
        leaf = f"{column}.bytes" if pa.types.is_struct(kind) else column
        try:
            values = file.read_row_group(group, columns=[leaf], use_threads=False)[column]
        except (pa.ArrowException, OSError, KeyError) as error:
            msg = f"{url}: row group {group} of column {column!r} cannot be read: {error}"
            raise ClipError("decode_failed", msg) from error
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
        values = pa.chunked_array([chunk.field("bytes") for chunk in values.chunks], kind)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        msg = f"{url}: column {column!r} is {kind}, neither bytes nor struct<bytes, path>"
        raise ClipError("decode_failed", msg)
    return values


@contextmanager
def _parquet(url: str) -> Iterator[pq.ParquetFile]:
    with open_url(url) as source:
        try:
            file = pq.ParquetFile(source, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            msg = f"{url}: not a readable Parquet file: {error}"
            raise ClipError("decode_failed", msg) from error
        yield file
