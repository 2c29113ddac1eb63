"""The audit's tables as files: Parquet or CSV at any fsspec URL, told apart by content when read."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.files import for_arrow, new_file, read_bytes, write_bytes


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
        msg = f"{url}: the file is empty"
        raise UsageError(msg)
    try:
        if data[:4] == b"PAR1":
            import pyarrow.parquet as pq

            return pq.read_table(for_arrow(data))
        from pyarrow import csv

        return csv.read_csv(for_arrow(data))
    except (pa.ArrowException, OSError) as error:
        msg = f"{url}: neither a whole Parquet file nor a CSV table: {error}"
        raise UsageError(msg) from error


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
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if field.nullable:
                columns.append(pa.nulls(table.num_rows, field.type))
                continue
            msg = f"{url}: no column {field.name!r}; {made_by} has {', '.join(schema.names)}"
            raise UsageError(msg)
        column = table.column(field.name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        try:
            column = column.cast(field.type)
        except pa.ArrowException as error:
            msg = f"{url}: column {field.name!r} does not hold {field.type}: {error}"
            raise UsageError(msg) from error
        if column.null_count and not field.nullable:
            row = column.is_null().to_pylist().index(True) + 1
            msg = f"{url}: row {row:,}, column {field.name!r}: empty"
            raise UsageError(msg)
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
    """Return [rows] whether a row's (clip_id, label) is among those of another table."""
    return pc.is_in(row_keys(table), value_set=row_keys(others))


def row_keys(table: pa.Table) -> pa.Array:
    """Return [rows] one string for each (clip_id, label)."""
    clip_ids, labels = (table[name].combine_chunks() for name in ("clip_id", "label"))
    return pc.binary_join_element_wise(clip_ids, labels, "\x00")


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
    """Write tables of one schema, at least one, as one file (`streamed`); return the number of rows."""
    waiting, rows = iter(tables), 0
    first = next(waiting)
    with streamed(first.schema, url) as writer:
        for table in chain([first], waiting):
            writer.write_table(table)
            rows += table.num_rows
    return rows
