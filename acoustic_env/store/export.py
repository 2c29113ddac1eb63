"""A block as one file for other programs: Parquet, CSV or NumPy's npz, rows in the order of their keys.

However the parts were cut (one run or ten, killed or not), the same rows give the same file. Memory holds one range of
clips at a time (`store.ranges`).
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from acoustic_env.audio.signals import signal_order
from acoustic_env.clips.table import join_labels
from acoustic_env.errors import UsageError
from acoustic_env.io.files import check_place, put_file
from acoustic_env.store.feature_store import FeatureStore, wanted_schema
from acoustic_env.store.ranges import clip_bounds, each_key_once, sorted_ranges
from acoustic_env.store.schema import as_matrix, row_keys

Shape = Literal["long", "wide"]
FORMATS: Final = (".parquet", ".csv", ".npz")
RANGE_BYTES: Final = 64 * 2**20  # of rows in memory, before sorting copies them


def export(
    store: FeatureStore,
    block: str,
    out: str,
    fingerprints: Sequence[str] = (),
    signals: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    shape: Shape = "long",
    clips: pa.Table | None = None,
) -> int:
    """Write a block's rows to one file.

    Args:
        store: the store.
        block: which.
        out: a .parquet, .csv or .npz file, at any URL; written whole or not at all.
        fingerprints: which versions; empty for the only one of each signal.
        signals: only these; None for all.
        columns: only these (and the keys); None for all.
        shape: long, a row for each (clip, signal); wide, a row for each clip and columns `<signal>.<column>`, null
            where a clip lacks a signal.
        clips: a clip list; only its clips are written, with its columns. None for all clips, without.

    In CSV and npz a null is an empty cell or NaN, and in CSV a vector column becomes `<column>_<position>` columns.

    Returns:
        Rows written.

    Raises:
        UsageError: the file's ending or name, no such block, column or signal, wide for a per-frame table, or the file
            cannot be written.
        StoreInconsistentError: a part is gone or damaged.
        StoreError: the store cannot be read.
    """
    suffix = next((suffix for suffix in FORMATS if out.lower().endswith(suffix)), None)
    if suffix is None:
        raise UsageError(f"--out {out}: expected a name that ends with one of {', '.join(FORMATS)}")
    check_place(out)
    versions = choose_versions(store, block, fingerprints, signals)
    schema = wanted_schema(store.joint_schema(block, versions), columns, store.url)
    if shape == "wide" and "frame" in schema.names:
        msg = f"block {block} has several rows (frames) for each clip and signal; export it in the long shape"
        raise UsageError(msg)
    with tempfile.TemporaryDirectory(prefix="acoustic-env-export-") as name:
        work = Path(name)
        present = list(versions)
        parts = [part for version in dict.fromkeys(versions.values()) for part in store.parts(block, version)]
        bounds = clip_bounds(store, parts, schema, RANGE_BYTES)
        ranges = map(each_key_once, sorted_ranges(store.pieces(block, versions, schema), bounds, schema, work))
        if shape == "wide":
            ranges = map(partial(_widen, schema=schema, signals=present), ranges)
            schema = _wide_schema(schema, present)
        if clips is not None:
            clips = _without_lists(clips) if suffix != ".parquet" else clips
            schema = _with_fields(schema, clips.schema, store.url)
            ranges = map(partial(_join, clips=clips, schema=schema), ranges)
        finished = work / f"finished{suffix}"
        writers = {".parquet": _write_parquet, ".csv": _write_csv, ".npz": _write_npz}
        rows = writers[suffix](ranges, schema, finished)
        put_file(finished, out)
    return rows


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


def _wide_schema(schema: pa.Schema, signals: Sequence[str]) -> pa.Schema:
    values = [field for field in schema if field.name not in row_keys(schema)]
    named = [field.with_name(f"{signal}.{field.name}").with_nullable(True) for signal in signals for field in values]
    return pa.schema([schema.field("clip_id"), *named], metadata=schema.metadata)


def _widen(table: pa.Table, schema: pa.Schema, signals: Sequence[str]) -> pa.Table:
    """One row a clip out of one row for each (clip, signal)."""
    ids = pc.unique(table["clip_id"])
    columns: list[Any] = [ids]
    for signal in signals:
        rows = table.filter(pc.equal(table["signal"], signal)).combine_chunks()
        position = pc.index_in(ids, value_set=rows["clip_id"])
        columns += [rows[name].take(position) for name in schema.names if name not in row_keys(schema)]
    return pa.table(columns, schema=_wide_schema(schema, signals))


def _without_lists(clips: pa.Table) -> pa.Table:
    """The labels as in a clip list in CSV, other nested columns as JSON."""
    for number, field in enumerate(clips.schema):
        if pa.types.is_nested(field.type):
            write = join_labels if field.name == "labels" else partial(json.dumps, default=str)
            texts = [None if cell is None else write(cell) for cell in clips[field.name].to_pylist()]
            clips = clips.set_column(number, field.name, pa.array(texts, pa.string()))
    return clips


def _with_fields(schema: pa.Schema, listed: pa.Schema, where: str) -> pa.Schema:
    both = sorted({*schema.names} & {*listed.names} - {"clip_id"})
    if both:
        msg = f"--clips: its column {both[0]!r} is also one of the block in {where}; give it another name, or omit it"
        raise UsageError(msg)
    fields = [*schema, *(field.with_nullable(True) for field in listed if field.name != "clip_id")]
    return pa.schema(fields, metadata=schema.metadata)


def _join(table: pa.Table, clips: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows of listed clips, with the columns of the list."""
    position = pc.index_in(table["clip_id"], value_set=clips["clip_id"].combine_chunks())
    table, found = table.filter(pc.is_valid(position)), clips.take(position.drop_null())
    columns = [table[name] if name in table.column_names else found[name] for name in schema.names]
    return pa.table(columns, schema=schema)


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
    """Vector columns as one column for each position."""
    columns: dict[str, Any] = {}
    for field in table.schema:
        if not pa.types.is_fixed_size_list(field.type):
            columns[field.name] = table[field.name]
            continue
        for position in range(field.type.list_size):
            columns[f"{field.name}_{position}"] = pc.list_element(table[field.name], position)
    return pa.table(columns)


def _write_npz(ranges: Iterator[pa.Table], schema: pa.Schema, file: Path) -> int:
    """Each column as one array, in `.npy` files made range by range and zipped at the end; no pickles."""
    pieces: dict[str, list[Path]] = {name: [] for name in schema.names}
    rows = 0
    for number, table in enumerate(ranges):
        rows += table.num_rows
        for column, name in enumerate(schema.names):
            piece = file.parent / f"column-{column}-{number}.npy"
            np.save(piece, _array(table[name]), allow_pickle=False)
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


def _array(column: pa.ChunkedArray) -> Any:
    """A column as an array [rows] or [rows, size], null as NaN; what is no number as fixed-width Unicode."""
    if pa.types.is_fixed_size_list(column.type):
        return as_matrix(column)
    if pa.types.is_boolean(column.type) and column.null_count:
        column = column.cast(pa.uint8())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        return column.to_numpy(zero_copy_only=False)
    return np.array(["" if cell is None else str(cell) for cell in column.to_pylist()], dtype=np.str_)
