"""Tables and arrays too long for memory: on this machine's disk for as long as the object lives."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.errors import UsageError

PIECE_BYTES: Final = 2**30  # Linux silently cuts calls of 2 GiB and more short


class Spool:
    """Rows of one schema in a temporary file.

    >>> spool = Spool(pa.schema([("n", pa.int64())]))
    >>> spool.append(pa.table({"n": [1, 2]}))
    >>> [table["n"].to_pylist() for table in spool.tables()]
    [[1, 2]]

    Args:
        schema: of every table.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.num_rows = 0
        handle, self._path = tempfile.mkstemp(prefix="acoustic-env-", suffix=".arrow")
        os.close(handle)
        weakref.finalize(self, os.unlink, self._path)
        self._sink = pa.OSFile(self._path, "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))

    def append(self, table: pa.Table) -> None:
        """Add rows; not after the first reading."""
        self._writer.write_table(table.combine_chunks())
        self.num_rows += table.num_rows

    def tables(self) -> Iterator[pa.Table]:
        """Yield the appended tables in their order."""
        if not self._sink.closed:
            self._writer.close()
            self._sink.close()
        with pa.OSFile(self._path) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch], self.schema)


class RowFile:
    """float32 [rows, columns] in a temporary file; rows that were not written are NaN.

    Plain reads and writes, no mapping: the pages belong to the system's cache, not to this process.

    Args:
        rows, columns: of the array.

    Attributes:
        written: bool [rows].

    Raises:
        UsageError: the disk has too little room.

    >>> file = RowFile(3, 2)
    >>> file.write(np.array([2, 0]), np.array([[5, 6], [1, 2]]))
    >>> file[np.array([0, 1, 2])].tolist()
    [[1.0, 2.0], [nan, nan], [5.0, 6.0]]
    """

    ndim = 2

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = (rows, columns)
        self.written = np.zeros(rows, np.bool_)
        self._row_bytes = 4 * columns
        folder, need = tempfile.gettempdir(), rows * self._row_bytes
        free = shutil.disk_usage(folder).free
        if need > free:
            msg = f"{folder}: {need / 2**30:.1f} GiB needed for features, {free / 2**30:.1f} GiB are free; set TMPDIR"
            raise UsageError(msg)
        self._file = tempfile.TemporaryFile(prefix="acoustic-env-", dir=folder, buffering=0)  # noqa: SIM115

    def __len__(self) -> int:
        return self.shape[0]

    def write(self, rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Write values [n, columns] to rows [n]."""
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], np.ascontiguousarray(values[order], np.float32)
        for start, stop in self._runs(rows):
            piece = values[start:stop]
            if os.pwrite(self._file.fileno(), piece.data, int(rows[start]) * self._row_bytes) != piece.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())
        self.written[rows] = True

    def __getitem__(self, rows: npt.NDArray[Any] | slice) -> npt.NDArray[np.float32]:
        """Return some rows (index, mask or slice)."""
        rows = np.arange(len(self))[rows]
        found = np.full((len(rows), self.shape[1]), np.nan, np.float32)
        for start, stop in self._runs(rows):
            os.preadv(self._file.fileno(), [found[start:stop].data.cast("B")], int(rows[start]) * self._row_bytes)
        found[~self.written[rows]] = np.nan
        return found

    def _runs(self, rows: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
        """Yield start and end of each run of consecutive rows, in pieces that one call of the system takes."""
        edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        most = max(1, PIECE_BYTES // max(1, self._row_bytes))
        for start, end in itertools.pairwise(edges):
            yield from ((first, min(first + most, end)) for first in range(start, end, most))
