"""Sort more rows than fit into memory: into ranges of clip ids in one file on the local disk, then range by range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.manifest import Part
from acoustic_env.store.parts import in_threads
from acoustic_env.store.schema import repeats, sort_by_key

BUFFER_BYTES: Final = 32 * 2**20  # of rows that are sorted together on their way to the file


def clip_bounds(store: FeatureStore, parts: Sequence[Part], schema: pa.Schema, range_bytes: int) -> list[str]:
    """Return the clip ids that cut the rows of some parts into ranges of about `range_bytes` in memory.

    A range ends with its bound; the last one, after the last bound, is not empty.

    Args:
        store: to read.
        parts: of one block.
        schema: of the columns that count.
        range_bytes: in memory, uncompressed.

    Raises:
        StoreInconsistentError: a part is gone or damaged.
    """
    read = in_threads(store.filesystem, parts, lambda part: store.read_one(part, ["clip_id"]).table)
    clips = rows_of_clips(read)
    last = range_ends(clips["rows"].to_numpy(), range_bytes / row_bytes(store, parts, schema))
    bounds: list[str] = clips["clip_id"].take(pa.array(last)).to_pylist()
    return bounds


def rows_of_clips(tables: Iterable[pa.Table]) -> pa.Table:
    """Return the ids in some tables, sorted, with the number of `rows` of each."""
    counts = [pa.Table.from_struct_array(table["clip_id"].value_counts()) for table in tables]
    empty = pa.table({"values": pa.array([], pa.string()), "counts": pa.array([], pa.int64())})
    clips = pa.concat_tables([empty, *counts]).group_by("values").aggregate([("counts", "sum")])
    return clips.rename_columns(["clip_id", "rows"]).sort_by("clip_id").combine_chunks()


def range_ends(rows: npt.NDArray[np.int64], range_rows: float) -> npt.NDArray[np.int64]:
    """Return the last clip of each range of about `range_rows`, without that of the last range.

    >>> range_ends(np.array([3, 3, 3, 3]), 6.0)
    array([0, 2])
    """
    number = (np.cumsum(rows) / range_rows).astype(np.int64)
    return np.flatnonzero(number[1:] > number[:-1])


def row_bytes(store: FeatureStore, parts: Sequence[Part], schema: pa.Schema) -> float:
    """Return the bytes of a row in memory, uncompressed, as the smallest part has them."""
    smallest = min(parts, key=lambda part: part.size, default=None)
    table = store.read_one(smallest, schema.names).table if smallest else schema.empty_table()
    size: int = table.nbytes
    return max(1.0, size / max(1, int(table.num_rows)))


def sorted_ranges(
    pieces: Iterable[pa.Table], bounds: Sequence[Any], schema: pa.Schema, work: Path
) -> Iterator[pa.Table]:
    """Yield the rows of all pieces range by range, each sorted by key; a key of two pieces comes twice.

    Args:
        pieces: tables of the schema, in any order.
        bounds: of `clip_bounds`, or of other keys than ids in the column `clip_id`.
        schema: of the rows.
        work: a folder on the local disk with room for all rows, uncompressed.
    """
    file = work / "ranges.arrow"
    places: list[list[int]] = [[] for _ in range(len(bounds) + 1)]
    written = 0
    with pa.ipc.new_file(str(file), schema) as sink:
        for table in _joined(pieces):
            table = sort_by_key(table)
            ids = table["clip_id"].to_numpy()
            cuts = [0, *np.searchsorted(ids, np.array(bounds, ids.dtype), side="right").tolist(), len(ids)]
            for place, start, stop in zip(places, cuts[:-1], cuts[1:], strict=True):
                if stop > start:
                    sink.write_batch(table.slice(start, stop - start).to_batches()[0])
                    place.append(written)
                    written += 1
    with pa.OSFile(str(file)) as source:
        reader = pa.ipc.open_file(source)
        for place in places:
            yield sort_by_key(pa.Table.from_batches([reader.get_batch(number) for number in place], schema))
    file.unlink()


def each_key_once(table: pa.Table) -> pa.Table:
    """Return a table sorted by key with the first row of each key."""
    return table.filter(pc.invert(repeats(table))).combine_chunks()


def _joined(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Pieces joined to tables of at least `BUFFER_BYTES`."""
    waiting: list[pa.Table] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += piece.nbytes
        if size >= BUFFER_BYTES:
            yield pa.concat_tables(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)
