"""Part files: rows in the order of their keys to Parquet bytes, always the same ones, and back."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from acoustic_env.io.filesystem import Entry, Filesystem, LocalFilesystem
from acoustic_env.io.ranged import RangedFile
from acoustic_env.io.retry import StoreError

T = TypeVar("T")
Item = TypeVar("Item")

DICTIONARY_COLUMNS: Final = ("clip_id", "signal", "stage", "code", "run_id")
TAIL_BYTES: Final = 64 * 2**10  # one request brings the footer, and a small part whole
LOCAL_THREADS: Final = 4
REMOTE_THREADS: Final = 16
AHEAD_BYTES: Final = 256 * 2**20
IO_ERRNOS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})


@dataclass(frozen=True)
class UnreadablePart:
    """A file with a part's name whose rows cannot be had.

    Attributes:
        entry: the file.
        reason: why, as text.
    """

    entry: Entry
    reason: str


class NotAPart(Exception):  # noqa: N818
    """Internal to the room: the file's content is no part."""


def part_bytes(table: pa.Table) -> bytes:
    """Return the table as a Parquet file: zstd, one row group, page checksums; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=max(1, table.num_rows),
        compression="zstd",
        use_dictionary=[name for name in DICTIONARY_COLUMNS if name in table.schema.names],
        column_encoding=dict.fromkeys(_float_leaves(table.schema), "BYTE_STREAM_SPLIT"),
        write_page_checksum=True,
        use_compliant_nested_type=False,  # reads back with the very schema it was written with
    )
    return buffer.getvalue()


def _float_leaves(schema: pa.Schema) -> list[str]:
    """Parquet's paths of the columns of floats: split into byte streams, they compress by another eighth."""
    leaves = []
    for field in schema:
        nested = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        value = field.type.value_field if nested else field
        if pa.types.is_floating(value.type) and not pa.types.is_float16(value.type):
            leaves.append(f"{field.name}.list.{value.name}" if nested else field.name)
    return leaves


def open_part(filesystem: Filesystem, entry: Entry) -> pq.ParquetFile:
    """Open a part whose footer reads back; a context manager. The checksum of every page is verified when it is read.

    Raises:
        NotAPart: truncated, empty or no Parquet file.
        StoreError: the filesystem failed.
    """

    def opened() -> pq.ParquetFile:
        if isinstance(filesystem, LocalFilesystem):
            return pq.ParquetFile(filesystem.folder / entry.path, page_checksum_verification=True)
        start = max(0, entry.size - TAIL_BYTES)
        tail = filesystem.read_range(entry.path, start, entry.size) if entry.size else b""
        source = RangedFile(partial(filesystem.read_range, entry.path), entry.size, known=tail, known_start=start)
        return pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)

    return _reading(filesystem, entry, opened)


def read_part(
    filesystem: Filesystem, entry: Entry, part: pq.ParquetFile, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read columns of an open part (all without `columns`), in the file's order.

    Raises:
        NotAPart: the data are damaged, or a column is missing.
        StoreError: the filesystem failed.
    """
    if columns is not None:
        missing = [name for name in columns if name not in part.schema_arrow.names]
        if missing:
            raise NotAPart(f"it has no column {missing[0]!r}")
    return _reading(filesystem, entry, lambda: part.read(columns=columns, use_threads=False))


def read_rows(filesystem: Filesystem, entry: Entry, schema: pa.Schema) -> pa.Table | UnreadablePart:
    """Read a part of a table with one schema: of errors, or of sources; raises StoreError as `read_part`."""
    try:
        with open_part(filesystem, entry) as part:
            return read_part(filesystem, entry, part, schema.names).cast(schema)
    except (NotAPart, pa.ArrowInvalid) as error:
        return UnreadablePart(entry, str(error))


def _reading(filesystem: Filesystem, entry: Entry, call: Callable[[], T]) -> T:
    """Tell damaged content (pyarrow's errors, an unreadable disk block) from a filesystem that does not answer."""
    place = filesystem.place(entry.path)
    try:
        return call()
    except FileNotFoundError as error:
        raise NotAPart("it is gone") from error
    except MemoryError:
        raise
    except OSError as error:
        if error.errno in IO_ERRNOS:
            raise StoreError(f"{place}: cannot be read: {error}") from error
        raise NotAPart(_first_line(error)) from error
    except pa.ArrowException as error:
        raise NotAPart(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def in_threads(
    filesystem: Filesystem, items: Iterable[Item], call: Callable[[Item], T], item_bytes: int = 0
) -> Iterator[T]:
    """Yield `call` of every item, in order, several at once: as many as `AHEAD_BYTES` hold, where a result is large."""
    threads = LOCAL_THREADS if isinstance(filesystem, LocalFilesystem) else REMOTE_THREADS
    ahead = max(2, min(2 * threads, AHEAD_BYTES // max(1, item_bytes)))
    waiting = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="store") as pool:
        futures: list[Future[T]] = [pool.submit(call, item) for item in islice(waiting, ahead)]
        try:
            while futures:
                result = futures.pop(0).result()
                futures += [pool.submit(call, item) for item in islice(waiting, 1)]
                yield result
        finally:
            for future in futures:
                future.cancel()
