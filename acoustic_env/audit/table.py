"""The audit's tables as files: Parquet or CSV at any fsspec URL, told apart by content when read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.files import for_arrow, new_file, read_bytes, write_bytes

HASHED_AT_ONCE: Final = 100_000  # rows: part of what the hashes in files say
ROWS: Final = 2**16  # of a part of a table that is read part by part


def table_schema(columns: Mapping[str, pa.DataType], nullable: Collection[str] = ()) -> pa.Schema:
    """Return a schema whose columns have a value in every row, apart from the nullable ones.

    >>> table_schema({"clip_id": pa.string(), "note": pa.string()}, nullable=["note"]).field("clip_id").nullable
    False
    """
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in columns.items()])


def read_table(url: str) -> pa.Table:
    """Return the table at `url`.

    Raises:
        UsageError: missing, unreadable, empty or damaged.
    """
    data = read_bytes(url)
    if not data.strip():
        raise UsageError(f"{url}: the file is empty")
    try:
        if data[:4] == b"PAR1":
            import pyarrow.parquet as pq

            return pq.read_table(for_arrow(data))
        from pyarrow import csv

        return csv.read_csv(for_arrow(data))
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{url}: neither a whole Parquet file nor a CSV table: {error}") from error


def write_table(table: pa.Table, url: str) -> None:
    """Write the table, CSV when the URL ends in .csv, else Parquet; whole or not at all.

    Raises:
        UsageError: the place cannot be written.
    """
    if not url.lower().endswith(".csv"):
        write_bytes(url, parquet_bytes(table))
        return
    from pyarrow import csv

    buffer = io.BytesIO()
    csv.write_csv(table, buffer)
    write_bytes(url, buffer.getvalue())


def parquet_bytes(table: pa.Table) -> bytes:
    """Return the table as a Parquet file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def require_columns(table: pa.Table, schema: pa.Schema, url: str, made_by: str) -> pa.Table:
    """Return the table's columns of `schema`, cast to its types; absent columns that may be null become null.

    Raises:
        UsageError: a column is missing, of the wrong type, or null where it must not be; names file, row and column.

    >>> schema = table_schema({"clip_id": pa.string(), "yes": pa.int64(), "note": pa.string()}, nullable=["note"])
    >>> require_columns(pa.table({"yes": [3], "clip_id": ["a"]}), schema, "votes.csv", "a votes file").to_pylist()
    [{'clip_id': 'a', 'yes': 3, 'note': None}]
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if field.nullable:
                columns.append(pa.nulls(table.num_rows, field.type))
                continue
            raise UsageError(f"{url}: no column {field.name!r}; {made_by} has {', '.join(schema.names)}")
        column = table.column(field.name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        try:
            column = column.cast(field.type)
        except pa.ArrowException as error:
            raise UsageError(f"{url}: column {field.name!r} does not hold {field.type}: {error}") from error
        if column.null_count and not field.nullable:
            row = column.is_null().to_pylist().index(True) + 1
            raise UsageError(f"{url}: row {row:,}, column {field.name!r}: empty")
        columns.append(column)
    return pa.table(columns, schema=schema.with_metadata(table.schema.metadata))


def require_values(table: pa.Table, allowed: Mapping[str, Sequence[object]], where: str) -> None:
    """Raise unless the columns hold only the values allowed in each.

    Raises:
        UsageError: another value; names file, row and column.
    """
    for column, values in allowed.items():
        row = pc.index(pc.is_in(table[column], value_set=pa.array(values)), False).as_py()
        if row >= 0:
            known = f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
            msg = f"{where}: row {row + 1:,}, column {column!r}: {table[column][row].as_py()!r} is not {known}"
            raise UsageError(msg)


def fill_columns(table: pa.Table, **values: object) -> pa.Table:
    """Return the table with one value in all rows of the named columns; new ones come last.

    >>> fill_columns(pa.table({"clip_id": ["a", "b"]}), role="gold")["role"].to_pylist()
    ['gold', 'gold']
    """
    for name, value in values.items():
        place = table.schema.get_field_index(name)
        if place < 0:
            table = table.append_column(name, pa.array([value] * table.num_rows))
        else:
            column = pa.array([value] * table.num_rows, table.schema.field(place).type)
            table = table.set_column(place, name, column)
    return table


def key_pairs(table: pa.Table) -> list[tuple[str, str]]:
    """Return (clip_id, label) of each row.

    >>> key_pairs(pa.table({"clip_id": ["a"], "label": ["rain"]}))
    [('a', 'rain')]
    """
    return list(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def of_clips(table: pa.Table, others: pa.Table | pa.Array) -> pa.Array:
    """Return [rows] whether a row's clip is among those of another table, or among the given ids."""
    ids = others["clip_id"] if isinstance(others, pa.Table) else others
    return pc.is_in(table["clip_id"], value_set=pc.unique(ids))


def of_rows(table: pa.Table, others: pa.Table) -> pa.Array:
    """Return [rows] whether a row's (clip_id, label) is among those of another table.

    >>> rows = pa.table({"clip_id": ["a", "a"], "label": ["rain", "wind"]})
    >>> of_rows(rows, rows.slice(1)).to_pylist(), of_clips(rows, rows.slice(1)).to_pylist()
    ([False, True], [True, True])
    """
    return pc.is_in(row_keys(table), value_set=row_keys(others))


def row_keys(table: pa.Table) -> pa.Array:
    """Return [rows] one string for each (clip_id, label)."""
    clip_ids, labels = (table[name].combine_chunks() for name in ("clip_id", "label"))
    return pc.binary_join_element_wise(clip_ids, labels, "\x00")


class RowHash:
    """SHA-256 over some columns of rows that come in parts; it does not depend on the parts.

    Attributes:
        rows: seen so far.

    Args:
        columns: their names.

    >>> rows, whole, parts = pa.table({"clip_id": ["a", "b"]}), RowHash(["clip_id"]), RowHash(["clip_id"])
    >>> whole.update(rows), parts.update(rows.slice(0, 1)), parts.update(rows.slice(1))
    (None, None, None)
    >>> whole.hexdigest() == parts.hexdigest(), whole.rows
    (True, 2)
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.rows = 0
        self._columns, self._digest, self._held = list(columns), hashlib.sha256(), list[pa.Table]()

    def update(self, part: pa.Table) -> None:
        """Add rows."""
        self.rows += part.num_rows
        self._held.append(part.select(self._columns).replace_schema_metadata(None))
        if sum(table.num_rows for table in self._held) >= HASHED_AT_ONCE:
            held = pa.concat_tables(self._held).combine_chunks()
            whole = held.num_rows // HASHED_AT_ONCE * HASHED_AT_ONCE
            self._hash(held.slice(0, whole))
            self._held = [held.slice(whole)]

    def hexdigest(self) -> str:
        """Return 16 hex digits of the hash; nothing is added after that."""
        self._hash(pa.concat_tables(self._held).combine_chunks())
        return self._digest.hexdigest()[:16]

    def _hash(self, table: pa.Table) -> None:
        for batch in table.to_batches(max_chunksize=HASHED_AT_ONCE):
            if batch.num_rows:
                self._digest.update(json.dumps(list(batch.to_pydict().values())).encode())


@contextmanager
def streamed(schema: pa.Schema, url: str) -> Iterator[Any]:
    """Open a writer (`write_table`) of a large file, CSV or Parquet; it appears when the body ends without an error.

    Args:
        schema: of the tables.
        url: of the file.

    Raises:
        UsageError: the place cannot be written.
    """
    import pyarrow.parquet as pq
    from pyarrow import csv

    to_csv = url.lower().endswith(".csv")
    open_writer = csv.CSVWriter if to_csv else partial(pq.ParquetWriter, compression="zstd")
    with new_file(url) as finished, open_writer(finished, schema) as writer:
        yield writer


def write_stream(tables: Iterable[pa.Table], url: str) -> int:
    """Write tables of one schema, at least one, as one file (`streamed`); return the number of rows.

    >>> write_stream([pa.table({"clip_id": ["a"]}), pa.table({"clip_id": ["b"]})], "example.csv")
    2
    >>> read_table("example.csv")["clip_id"].to_pylist()
    ['a', 'b']
    """
    waiting, rows = iter(tables), 0
    first = next(waiting)
    with streamed(first.schema, url) as writer:
        for table in chain([first], waiting):
            writer.write_table(table)
            rows += table.num_rows
    return rows


def whole_clips(tables: Iterable[pa.Table], rows: int = ROWS) -> Iterator[pa.Table]:
    """Yield rows that are sorted by clip in tables of about `rows`, none of which ends within a clip.

    >>> parts = [pa.table({"clip_id": ["a", "a"]}), pa.table({"clip_id": ["a", "b"]})]
    >>> [table["clip_id"].to_pylist() for table in whole_clips(parts, 2)]
    [['a', 'a', 'a'], ['b']]
    """
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows > rows:
            ids = held["clip_id"]
            end = pc.index(ids, ids[rows]).as_py() or pc.sum(pc.equal(ids, ids[0])).as_py()
            if end == held.num_rows:  # the clip may go on in the next table
                break
            yield held.slice(0, end).combine_chunks()
            held = held.slice(end)
    if held is not None:
        yield held.combine_chunks()


def clip_by_clip(*streams: Iterable[pa.Table] | None) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that several tables have of the same clips, one range of clips after another.

    Args:
        streams: tables sorted by clip, in parts of whole clips (`whole_clips`), at least one each; None for no table.

    >>> parts = clip_by_clip([pa.table({"clip_id": ["a", "b"]})], [pa.table({"clip_id": ["b", "c"]})])
    >>> [[part["clip_id"].to_pylist() for part in own] for own in parts]
    [[['a', 'b'], ['b']], [[], ['c']]]
    """
    further = [None if stream is None else iter(stream) for stream in streams]
    now: list[Any] = [None if stream is None else next(stream) for stream in further]
    while True:
        for place, stream in enumerate(further):
            while stream is not None and not now[place].num_rows and (table := next(stream, None)) is not None:
                now[place] = table
        last = [table["clip_id"][-1].as_py() for table in now if table]
        if not last:
            return
        ends = [pc.sum(pc.less_equal(table["clip_id"], min(last))).as_py() if table else 0 for table in now]
        yield tuple(None if table is None else table.slice(0, end) for table, end in zip(now, ends, strict=True))
        now = [None if table is None else table.slice(end) for table, end in zip(now, ends, strict=True)]
