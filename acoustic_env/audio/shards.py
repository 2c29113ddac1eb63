"""Audio files inside larger files: members of tar shards (WebDataset) and rows of Parquet files (Hugging Face).

A clip list may say where in its shard a clip's bytes are (`byte_offset`, `byte_size`): of a tar shard the member with
its header, of a Parquet file the column chunk of its row group. Neighbors are then fetched by one request. The member
name and the row still decide which audio it is: where a member is not found at its place, the shard's index is read.
"""

from __future__ import annotations

import io
import itertools
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import BinaryIO, Final, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from acoustic_env.audio.transport import open_url, open_within, read_range
from acoustic_env.errors import ClipError
from acoustic_env.io.location import local_path

SHARDS_INDEXED: Final = 64
EXTENT_BYTES: Final = 4 * 2**20  # of neighbors fetched together, unless one clip alone is longer
GAP_SHARE: Final = 1 / 20  # of the bytes before it: what lies between neighbors and is fetched in vain
TAR_FORM: Final = "tar://MEMBER::URL"
PARQUET_FORM: Final = "parquet://COLUMN/ROW::URL"
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
    member, shard = split_uri(place.uri, TAR_FORM)
    try:
        with tarfile.open(fileobj=io.BytesIO(record), mode="r:") as archive:
            info = archive.next()
        if info is not None and info.isfile() and info.name == member:
            data = bytes(record[info.offset_data : info.offset_data + info.size])
            if len(data) == info.size:
                return data
    except TAR_ERRORS:
        pass  # the shard is another one than when the list was made, or cut short
    try:
        return member_bytes(member, shard)
    except ClipError as error:
        return error


def _rows_together(uris: Sequence[str]) -> list[bytes | Exception]:
    read, found = cache(_read_row_group), list[bytes | Exception]()
    for uri in uris:
        try:
            column, row, url = split_row(uri)
            found.append(_cell(column, row, url, read))
        except Exception as error:  # noqa: BLE001  whatever pyarrow does to one row stays with that clip
            found.append(error)
    return found


def split_uri(uri: str, form: str) -> tuple[str, str]:
    """Split `tar://MEMBER::URL` or `parquet://COLUMN/ROW::URL` into what is before and after the "::".

    Raises:
        ClipError: not_found; it is not of this form.

    >>> split_uri("tar://a/1.flac::s3://bucket/train.tar", TAR_FORM)
    ('a/1.flac', 's3://bucket/train.tar')
    """
    inner, _, url = uri.partition("://")[2].partition("::")
    if not inner or not url:
        raise ClipError("not_found", f"{uri}: not of the form {form}")
    return inner, url


def split_row(uri: str) -> tuple[str, int, str]:
    """Split `parquet://COLUMN/ROW::URL` into column, row and URL; raises as `split_uri`.

    >>> split_row("parquet://audio/17::/data/train.parquet")
    ('audio', 17, '/data/train.parquet')
    """
    place, url = split_uri(uri, PARQUET_FORM)
    column, _, row = place.rpartition("/")
    if not column or not row.isdecimal():
        raise ClipError("not_found", f"{uri}: not of the form {PARQUET_FORM}")
    return column, int(row), url


def member_bytes(member: str, shard: str) -> bytes:
    """Read a member of an uncompressed tar file: the shard's index once per process, the member as one range.

    Raises:
        ClipError: not_found for a missing shard or member; decode_failed for a damaged or compressed shard; the codes
            of the transport.
    """
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


def row_bytes(column: str, row: int, url: str) -> bytes:
    """Read the audio file in a row (from 0) of a Parquet file's column of bytes or struct<bytes, path>.

    Raises:
        ClipError: not_found for a missing file, column, row or an empty cell; decode_failed for a damaged file; the
            codes of the transport.
    """
    return _cell(column, row, url, _kept_row_group)


def _cell(column: str, row: int, url: str, read: Callable[..., pa.ChunkedArray]) -> bytes:
    """Return the audio in a row, of the row group that `read` returns."""
    version = _version(url)
    with _READING:
        groups = _row_groups(_footer(url, version)[0])
    for group, (start, end) in enumerate(groups):
        if start <= row < end:
            cell = read(url, version, column, group)[row - start].as_py()
            if cell is None:
                raise ClipError("not_found", f"{url}: row {row:,} of column {column!r} holds no bytes")
            return cast(bytes, cell)
    raise ClipError("not_found", f"{url}: no row {row:,}; the file has {groups[-1][1] if groups else 0:,} rows")


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


@lru_cache(maxsize=SHARDS_INDEXED)
def _footer(url: str, version: tuple[int, int] | None) -> tuple[pq.FileMetaData, int]:
    """Return a Parquet file's metadata and its size in bytes."""
    with open_within(url) as source, _parquet(url, source) as file:
        return file.metadata, source.seek(0, io.SEEK_END)


@lru_cache(maxsize=SHARDS_INDEXED)
def _row_groups(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    return list(itertools.pairwise(itertools.accumulate(rows, initial=0)))


def _kept_row_group(url: str, version: tuple[int, int] | None, column: str, group: int) -> pa.ChunkedArray:
    with _READING:
        return _row_group(url, version, column, group)


def _read_row_group(url: str, version: tuple[int, int] | None, column: str, group: int) -> pa.ChunkedArray:
    """Return the audio files in a row group: binary[rows]."""
    metadata, size = _footer(url, version)
    with open_within(url, size) as source, _parquet(url, source, metadata) as file:
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


@contextmanager
def _parquet(url: str, source: BinaryIO, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    try:
        file = pq.ParquetFile(source, metadata=metadata, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ClipError("decode_failed", f"{url}: not a readable Parquet file: {error}") from error
    yield file
