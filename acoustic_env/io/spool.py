"""Tables too long for memory: on this machine's disk for as long as the object lives, read back batch by batch."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator

import pyarrow as pa


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
