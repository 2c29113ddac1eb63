"""A block as one file for other programs: Parquet, CSV or NumPy's npz, with what is known of each clip beside its rows.

However the parts were cut (one run or ten, killed or not), the same rows give the same file. Memory holds the clip list
and one range of its clips at a time (`store.ranges`).
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from acoustic_env.audio.signals import signal_order
from acoustic_env.clips.sources import canonical_uris
from acoustic_env.clips.table import check_output, join_labels
from acoustic_env.errors import UsageError
from acoustic_env.io.files import put_file
from acoustic_env.store.feature_store import FeatureStore, wanted_schema
from acoustic_env.store.ranges import each_key_once, range_ends, row_bytes, rows_of_clips, sorted_ranges
from acoustic_env.store.schema import KEY_SCHEMA, as_matrix, row_keys
from acoustic_env.store.sources import recorded_sources

Shape = Literal["long", "wide"]
FORMATS: Final = (".parquet", ".csv", ".npz")
RANGE_BYTES: Final = 64 * 2**20  # of rows in memory, before sorting copies them
PLACE: Final = pa.field("clip_id", pa.int32(), nullable=False)  # in the list, in place of the id while rows are sorted


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and what it could not.

    Attributes:
        rows: written.
        without_rows: clips of the list that have none.
        renamed: columns of the list, by name, that a column of the block has too -> their names in the file.
    """

    rows: int
    without_rows: int
    renamed: Mapping[str, str]


def export(
    store: FeatureStore,
    block: str,
    out: str,
    fingerprints: Sequence[str] = (),
    signals: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    shape: Shape = "long",
    clips: pa.Table | None = None,
) -> Exported:
    """Write a block's rows to one file: their keys, the columns of the clip list, the features.

    Args:
        store: the store.
        block: which.
        out: a .parquet, .csv or .npz file, at any URL; written whole or not at all.
        fingerprints: which versions; empty for the only one of each signal.
        signals: only these; None for all.
        columns: only these (and the keys), of the list and of the block; None for all.
        shape: long, a row for each (clip, signal); wide, a row for each clip and columns `<signal>.<column>`, null
            where a clip lacks a signal.
        clips: a clip list; its clips are written, in its order. None for all clips by id, with `uri`, `start_s` and
            `end_s` as the store has recorded them.

    Locations are written without credentials. A column of the list with the name of one of the block is `list_<name>`.
    In CSV and npz a null is an empty cell or NaN, labels are written as in a clip list in CSV, other lists as JSON, and
    in CSV a vector column becomes `<column>_<position>` columns.

    Raises:
        UsageError: the file's ending or name, no such block, column or signal, wide for a per-frame table, or the file
            cannot be written.
        StoreInconsistentError: a part is gone or damaged.
        StoreError: the store cannot be read.
    """
    ending = check_output(out, (), FORMATS)
    versions = choose_versions(store, block, fingerprints, signals)
    schema = store.joint_schema(block, versions)
    if shape == "wide" and "frame" in schema.names:
        msg = f"block {block} has several rows (frames) for each clip and signal; export it in the long shape"
        raise UsageError(msg)
    counts = rows_of_clips(store.pieces(block, versions, KEY_SCHEMA))
    listed = recorded_sources(store, counts["clip_id"].combine_chunks()) if clips is None else _without_secrets(clips)
    wide = list(versions) if shape == "wide" else []
    listed, renamed = _renamed(listed, schema, wide)
    read, written = _choose_columns(schema, listed.schema, wide, columns, store.url)
    rows = counts["rows"].take(pc.index_in(listed["clip_id"], value_set=counts["clip_id"].combine_chunks()))
    known = listed.select([name for name in written.names if name in listed.schema.names])
    known = (known.filter(rows.is_valid()) if rows.null_count else known).combine_chunks()
    without_rows = rows.null_count
    parts = [part for version in dict.fromkeys(versions.values()) for part in store.parts(block, version)]
    size = RANGE_BYTES / row_bytes(store, parts, read)
    bounds = range_ends(rows.drop_null().to_numpy(), size).tolist()
    del listed, counts, rows
    placed = store.placed(block, versions, read, known["clip_id"])
    pieces = (table.set_column(0, PLACE, pa.array(places)) for table, places in placed)
    with tempfile.TemporaryDirectory(prefix="acoustic-env-export-") as folder:
        work = Path(folder)
        ranges = map(each_key_once, sorted_ranges(pieces, bounds, read.set(0, PLACE), work))
        finished = work / f"finished{ending}"
        writers = {".parquet": _write_parquet, ".csv": _write_csv, ".npz": _write_npz}
        tables = map(partial(_table, clips=known, schema=written, signals=wide), ranges)
        count = writers[ending](tables, written, finished)
        put_file(finished, out)
    return Exported(count, without_rows, renamed)


def choose_versions(
    store: FeatureStore, block: str, fingerprints: Sequence[str], signals: Sequence[str] | None
) -> dict[str, str]:
    """Return the signals to write, in the order raw, fg, bg, with the version of each.

    Raises:
        UsageError: no such block, version or signal, or a signal has several versions and none is chosen.
    """
    versions = store.resolve(block, None if signals is None else sorted(set(signals), key=signal_order), fingerprints)
    unknown = sorted(set(signals or ()) - set(versions))
    if unknown:
        there = ", ".join(store.resolve(block, None, fingerprints))
        raise UsageError(f"{store.url}: block {block} holds no signal {unknown[0]!r}; expected one of: {there}")
    return versions


def _without_secrets(clips: pa.Table) -> pa.Table:
    uris = canonical_uris(clips["uri"].combine_chunks())
    return clips.set_column(clips.schema.get_field_index("uri"), "uri", uris)


def _renamed(listed: pa.Table, schema: pa.Schema, signals: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
    """Return the list with other names for what the block has too, and these: old -> new."""
    of_block = {*schema.names, *(name for field in _in_file(schema, signals) for name in _flat_names(field))}
    new: dict[str, str] = {}
    for field in listed.schema.remove(listed.schema.get_field_index("clip_id")):
        name = field.name
        while of_block & {name, *_flat_names(field.with_name(name))} or (
            name != field.name and name in listed.schema.names
        ):
            name = f"list_{name}"
        if name != field.name:
            new[field.name] = name
    return listed.rename_columns([new.get(name, name) for name in listed.column_names]), new


def _choose_columns(
    schema: pa.Schema, listed: pa.Schema, signals: Sequence[str], columns: Sequence[str] | None, url: str
) -> tuple[pa.Schema, pa.Schema]:
    """Return what is read of the block's rows, and what is written: keys, columns of the list, features."""
    keys = row_keys(schema)
    known = dict.fromkeys([*keys, *listed.names, *schema.names])
    unknown = [name for name in columns or () if name not in known]
    if unknown:
        raise UsageError(f"{url}: no column {unknown[0]!r}; expected one of: {', '.join(known)}")
    chosen = [name for name in dict.fromkeys(known if columns is None else columns) if name not in keys]
    read = wanted_schema(schema, [name for name in chosen if name in schema.names], url)
    fields = [schema.field(name) for name in keys if not signals or name == "clip_id"]
    fields += [listed.field(name).with_nullable(True) for name in chosen if name in listed.names]
    return read, pa.schema([*fields, *_in_file(read, signals)], metadata=schema.metadata)


def _in_file(schema: pa.Schema, signals: Sequence[str]) -> list[pa.Field]:
    """The features as the file has them: in the wide shape one for each signal, null where a clip lacks it."""
    features = [field for field in schema if field.name not in row_keys(schema)]
    wide = [field.with_name(f"{signal}.{field.name}") for signal in signals for field in features]
    return [field.with_nullable(True) for field in wide] if signals else features


def _table(rows: pa.Table, clips: pa.Table, schema: pa.Schema, signals: Sequence[str]) -> pa.Table:
    """The table to write of rows whose `clip_id` is a place in the list."""
    rows = _widen(rows, signals) if signals else rows
    listed, place = clips.column_names, rows["clip_id"]
    columns = [clips[name].take(place) if name in listed else rows[name] for name in schema.names]
    return pa.table(columns, schema=schema)


def _widen(table: pa.Table, signals: Sequence[str]) -> pa.Table:
    """One row a clip, with columns `<signal>.<column>`, out of one row for each (clip, signal)."""
    ids = pc.unique(table["clip_id"])
    columns = {"clip_id": ids}
    for signal in signals:
        rows = table.filter(pc.equal(table["signal"], signal)).combine_chunks()
        position = pc.index_in(ids, value_set=rows["clip_id"].combine_chunks())
        values = [name for name in table.column_names if name not in row_keys(table.schema)]
        columns |= {f"{signal}.{name}": rows[name].take(position) for name in values}
    return pa.table(columns)


def _write_parquet(ranges: Iterator[pa.Table], schema: pa.Schema, file: Path) -> int:
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        return _write_all(writer, ranges)


def _write_csv(ranges: Iterator[pa.Table], schema: pa.Schema, file: Path) -> int:
    with pcsv.CSVWriter(file, _flat(schema.empty_table()).schema) as writer:
        return _write_all(writer, map(_flat, ranges))


def _write_all(writer: pq.ParquetWriter | pcsv.CSVWriter, ranges: Iterator[pa.Table]) -> int:
    rows = 0
    for table in ranges:
        writer.write_table(table)
        rows += table.num_rows
    return rows


def _flat(table: pa.Table) -> pa.Table:
    """Vector columns as one column for each position, other lists as text."""
    columns: dict[str, Any] = {}
    for field in table.schema:
        if not pa.types.is_fixed_size_list(field.type):
            columns[field.name] = _as_text(table[field.name], field.name)
            continue
        for position, name in enumerate(_flat_names(field)):
            columns[name] = pc.list_element(table[field.name], position)
    return pa.table(columns)


def _flat_names(field: pa.Field) -> list[str]:
    """The columns of a column in CSV."""
    vector = pa.types.is_fixed_size_list(field.type)
    return [f"{field.name}_{position}" for position in range(field.type.list_size)] if vector else [field.name]


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The labels as in a clip list in CSV, another column of lists or bytes as JSON; any other as it is."""
    if not (pa.types.is_nested(column.type) or pa.types.is_binary(column.type)):
        return column
    write = join_labels if name == "labels" else partial(json.dumps, default=str)
    return pa.chunked_array([[None if cell is None else write(cell) for cell in column.to_pylist()]], pa.string())


def _write_npz(ranges: Iterator[pa.Table], schema: pa.Schema, file: Path) -> int:
    """Each column as one array, in `.npy` files made range by range and zipped at the end; no pickles."""
    pieces: dict[str, list[Path]] = {name: [] for name in schema.names}
    rows = 0
    for number, table in enumerate(ranges):
        rows += table.num_rows
        for column, name in enumerate(schema.names):
            piece = file.parent / f"column-{column}-{number}.npy"
            np.save(piece, _array(table[name], name), allow_pickle=False)
            pieces[name].append(piece)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, parts in pieces.items():
            arrays = [np.load(part, mmap_mode="r", allow_pickle=False) for part in parts]
            kind = np.result_type(*arrays)
            shape = (rows, *arrays[0].shape[1:])
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(member, header)
                for array in arrays:
                    member.write(np.ascontiguousarray(array, kind).tobytes())
    return rows


def _array(column: pa.ChunkedArray, name: str) -> Any:
    """A column as an array [rows] or [rows, size], null as NaN; what is no number as fixed-width Unicode."""
    if pa.types.is_fixed_size_list(column.type):
        return as_matrix(column)
    if pa.types.is_boolean(column.type) and column.null_count:
        column = column.cast(pa.uint8())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        return column.to_numpy(zero_copy_only=False)
    return np.array(["" if cell is None else str(cell) for cell in _as_text(column, name).to_pylist()], dtype=np.str_)
