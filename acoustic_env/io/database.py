"""Tables too long for memory, joined by SQL: a temporary DuckDB database on this machine's disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from acoustic_env.errors import UsageError

BATCH_ROWS: Final = 2**19
MEMORY_MB: Final = 256
# Nothing is read by DuckDB itself: this package's readers have the retries, checksums and credentials.
SETTINGS: Final[dict[str, Any]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "memory_limit": f"{MEMORY_MB}MB",  # the rest of a join is on the disk
    "preserve_insertion_order": False,
    "threads": min(4, os.cpu_count() or 1),
}


class Database:
    """SQL over Arrow tables and over tables on the disk, which are there for as long as the object lives.

    >>> database = Database()
    >>> _ = database.sql("CREATE TABLE kept AS FROM numbers WHERE n > ?", 1, numbers=pa.table({"n": [1, 2, 3]}))
    >>> database.sql("FROM kept ORDER BY n DESC")["n"].to_pylist(), database.count("kept WHERE n = 3")
    ([3, 2], 1)
    """

    def __init__(self) -> None:
        import duckdb

        self._folder = tempfile.mkdtemp(prefix="acoustic-env-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._connection = duckdb.connect(f"{self._folder}/tables.duckdb", config=SETTINGS)

    def sql(self, statement: str, *values: object, **tables: pa.Table) -> pa.Table:
        """Run a statement and return its rows.

        Args:
            statement: in DuckDB's SQL.
            values: of its parameters.
            tables: which it may name, too.

        Raises:
            UsageError: the disk or memory has too little room.
        """
        import duckdb

        for name, table in tables.items():
            self._connection.register(name, table)
        try:
            try:
                return self._connection.sql(statement, params=values or None).to_arrow_table()
            except duckdb.OutOfMemoryException:
                self._connection.execute("RESET memory_limit")  # 80 % of the machine's
                return self._connection.sql(statement, params=values or None).to_arrow_table()
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{self._folder}: {reason}; set TMPDIR to a folder with more room") from error
        finally:
            for name in tables:
                self._connection.unregister(name)

    def insert(self, statement: str, batches: Iterable[pa.Table], **tables: pa.Table) -> None:
        """Run a statement on each `batch`, `BATCH_ROWS` or a few more rows at a time."""
        for batch in gathered(batches, BATCH_ROWS):
            self.sql(statement, batch=batch, **tables)

    def count(self, rows: str) -> int:
        """Return the number of rows of a table, with a condition if need be."""
        return int(self.sql(f"SELECT count(*) AS n FROM {rows}")["n"][0].as_py())


def gathered(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the tables joined to so many rows or a few more; the last may have fewer."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting)
