"""Audio files inside larger files: members of tar shards (WebDataset) and rows of Parquet files (Hugging Face).

A clip list may say where in its shard a clip's bytes are (`byte_offset`, `byte_size`): of a tar shard the member with
its header, of a Parquet file the column chunk of its row group. Neighbors are then fetched by one request. The member
name and the row still decide which audio it is: where a member is not found at its place, the shard's index is read.
"""

from __future__ import annotations

import bisect
import io
import itertools
import re
import tarfile
import threading
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import BinaryIO, Final, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from acoustic_env.audio.fetch import open_url, open_within, read_range
from acoustic_env.errors import ClipError
from acoustic_env.io.location import local_path

SHARDS_INDEXED: Final = 64
EXTENT_BYTES: Final = 4 * 2**20  # of neighbors fetched together, unless one clip alone is longer
GAP_SHARE: Final = 1 / 20  # of the bytes before it: what lies between neighbors and is fetched in vain
FORM: Final = re.compile(r"tar://(.+?)::(.+)|parquet://((?:(?!::).)+)/([0-9]+)::(.+)", re.DOTALL)
TAR_ERRORS: Final = (tarfile.TarError, ValueError, OverflowError)  # the last two of headers with damaged numbers
_READING: Final = threading.Lock()  # of an index, a footer or a row group: by one thread, the others find it


class Place(NamedTuple):
    """Where a clip's bytes are in its shard.

    >>> Place("tar://a.flac::s3://bucket/train.tar", 1024, 4096).shard
    's3://bucket/train.tar'
    """

    uri: str
    start: int
    end: int

    @property
    def shard(self) -> str:
        """URL of the shard."""
        return self.uri.partition("::")[2]


def neighbors(uris: Sequence[str], offsets: Sequence[int | None], sizes: Sequence[int | None]) -> list[list[int]]:
    """Group clips whose bytes one request brings; clips without a place (`byte_offset`, `byte_size`) are alone.

    >>> neighbors(["tar://a::s", "/b.wav", "tar://c::s"], [0, None, 1024], [1024, None, 1024])
    [[0, 2], [1]]

    Returns:
        Row numbers, each once, groups in the order of their first clips.
    """
    placed: list[tuple[str, int, int, int]] = []
    groups: list[list[int]] = []
    for row, (uri, offset, size) in enumerate(zip(uris, offsets, sizes, strict=True)):
        if offset is None or size is None or not uri.startswith(("tar://", "parquet://")):
            groups.append([row])
        else:
            placed.append((uri.partition("::")[2], offset, offset + size, row))
    shard, start, end = None, 0, 0
    for of, first, last, row in sorted(placed):
        near = first - end <= (end - start) * GAP_SHARE and last - start <= EXTENT_BYTES
        if of == shard and (near or last <= end):
            groups[-1].append(row)
            end = max(end, last)
        else:
            groups.append([row])
            shard, start, end = of, first, last
    return sorted(groups, key=min)


def fetch_together(places: Sequence[Place]) -> list[bytes | Exception]:
    """Fetch the audio of one group of `neighbors`.

    Returns:
        Of each the bytes of its audio file, or what is wrong with it: what `member_bytes` and `row_bytes` raise.
    """
    try:
        if places[0].uri.startswith("parquet://"):
            return _rows_together([place.uri for place in places])
        start = min(place.start for place in places)
        data = memoryview(read_range(places[0].shard, start, max(place.end for place in places)))
    except ClipError as error:
        return [error] * len(places)
    return [_member(place, data[place.start - start : place.end - start]) for place in places]


def _member(place: Place, record: memoryview) -> bytes | Exception:
    try:
        with tarfile.open(fileobj=io.BytesIO(record), mode="r:") as archive:
            info = archive.next()
        if info is not None and info.isfile() and info.name == _split(place.uri)[0]:
            data = bytes(record[info.offset_data : info.offset_data + info.size])
            if len(data) == info.size:
                return data
    except TAR_ERRORS:
        pass  # the shard is another one than when the list was made, or cut short
    try:
        return member_bytes(place.uri)
    except ClipError as error:
        return error


def _rows_together(uris: Sequence[str]) -> list[bytes | Exception]:
    read, found = cache(_read_row_group), list[bytes | Exception]()
    for uri in uris:
        try:
            found.append(row_bytes(uri, read))
        except Exception as error:  # noqa: BLE001  whatever pyarrow does to one row stays with that clip
            found.append(error)
    return found


def _split(uri: str) -> list[str]:
    """Return member and URL of a tar shard's member, or column, row and URL of a Parquet file's row."""
    found = FORM.fullmatch(uri)
    if found is None:
        raise ClipError("not_found", f"{uri}: neither of the form tar://MEMBER::URL nor parquet://COLUMN/ROW::URL")
    return [part for part in found.groups() if part is not None]


def member_bytes(uri: str) -> bytes:
    """Read a member of an uncompressed tar file: the shard's index once per process, the member as one range.

    Args:
        uri: `tar://MEMBER::URL`.

    Raises:
        ClipError: not_found for a missing shard or member, or another form; decode_failed for a damaged or compressed
            shard; the codes of `fetch.open_url`.
    """
    member, shard = _split(uri)
    with _READING:
        index = _tar_index(shard, _version(shard))
    if member not in index:
        raise ClipError("not_found", f"{shard}: no member {member!r} among the shard's {len(index):,}")
    start, size = index[member]
    data = read_range(shard, start, start + size)
    if len(data) < size:
        msg = f"{shard}: the shard ends inside {member!r}, after {len(data):,} of its {size:,} bytes"
        raise ClipError("decode_failed", msg)
    return data


def row_bytes(uri: str, read: Callable[..., pa.ChunkedArray] | None = None) -> bytes:
    """Read the audio file in a row (from 0) of a Parquet file's column of bytes or struct<bytes, path>.

    Args:
        uri: `parquet://COLUMN/ROW::URL`.
        read: returns a row group; None for one that keeps the last one.

    Raises:
        ClipError: not_found for a missing file, column, row or an empty cell, or another form; decode_failed for a
            damaged file; the codes of `fetch.open_url`.
    """
    column, number, url = _split(uri)
    row, version = int(number), _version(url)
    with _READING:
        ends = _footer(url, version).ends
    group = bisect.bisect_right(ends, row)
    if group == len(ends):
        raise ClipError("not_found", f"{url}: no row {row:,}; the file has {ends[-1] if ends else 0:,} rows")
    cell = (read or _kept_row_group)(url, version, column, group)[row - ends[group]].as_py()
    if cell is None:
        raise ClipError("not_found", f"{url}: row {row:,} of column {column!r} holds no bytes")
    return cast(bytes, cell)


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
    except TAR_ERRORS as error:
        if not index:
            raise ClipError("decode_failed", f"{shard}: not an uncompressed tar file: {error}") from error
    return index


class _Footer(NamedTuple):
    metadata: pq.FileMetaData
    size: int  # of the file, in bytes
    ends: list[int]  # rows up to the end of each row group


@lru_cache(maxsize=SHARDS_INDEXED)
def _footer(url: str, version: tuple[int, int] | None) -> _Footer:
    with open_within(url) as source:
        metadata = _parquet(url, source).metadata
        rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return _Footer(metadata, source.seek(0, io.SEEK_END), list(itertools.accumulate(rows)))


def _kept_row_group(url: str, version: tuple[int, int] | None, column: str, group: int) -> pa.ChunkedArray:
    with _READING:
        return _row_group(url, version, column, group)


def _read_row_group(url: str, version: tuple[int, int] | None, column: str, group: int) -> pa.ChunkedArray:
    """Return the audio files in a row group: binary[rows]."""
    footer = _footer(url, version)
    with open_within(url, footer.size) as source:
        file = _parquet(url, source, footer.metadata)
        schema = file.schema_arrow
        if column not in schema.names:
            raise ClipError("not_found", f"{url}: no column {column!r}; expected one of: {', '.join(schema.names)}")
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
        raise ClipError("decode_failed", f"{url}: column {column!r} is {kind}, neither bytes nor struct<bytes, path>")
    return values


_row_group: Final = lru_cache(maxsize=1)(_read_row_group)  # rows are asked for in order; one of audio is large


def _parquet(url: str, source: BinaryIO, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source, metadata=metadata, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ClipError("decode_failed", f"{url}: not a readable Parquet file: {error}") from error
