"""A clip list of any length: ids and hashes of its sources in memory, the rows on this machine's disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import LISTED_SCHEMA, listed_sources
from acoustic_env.clips.table import PLACE_SCHEMA, duplicate_issues, raise_issues
from acoustic_env.io.spool import Spool

BATCH_CLIPS: Final = 2**18
ROWS_SCHEMA: Final = pa.schema([*LISTED_SCHEMA, *PLACE_SCHEMA])
WORD: Final = 8  # bytes hashed at once
HASHED_ROWS: Final = 2**14

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


class Listed:
    """A clip list, about 50 bytes a clip in memory.

    Attributes:
        index: of its ids.
        num_rows: clips.
        sources: hash of each clip's location and segment.

    Args:
        batches: clip lists of any columns; those of `ROWS_SCHEMA` are kept.
        where: the list, for messages.
        limit: the first clips only; None for all.

    Raises:
        UsageError: an id twice, in different batches.
    """

    def __init__(self, batches: Iterable[pa.Table], where: str = "the clip list", limit: int | None = None) -> None:
        self._spool = Spool(ROWS_SCHEMA)
        ids, hashes = [], []
        for batch in batches:
            for first in range(0, len(batch), BATCH_CLIPS):
                left = BATCH_CLIPS if limit is None else min(BATCH_CLIPS, limit - self._spool.num_rows)
                table = _rows(batch.slice(first, left))
                self._spool.append(table)
                ids.append(table["clip_id"].combine_chunks().cast(pa.large_string()))
                hashes.append(hash_sources(listed_sources(table)))
            if limit is not None and self._spool.num_rows >= limit:
                break
        self.num_rows = self._spool.num_rows
        self.sources = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        del hashes
        self.index = IdIndex(pa.chunked_array(ids, pa.large_string()), where)

    def tables(self) -> Iterator[tuple[slice, pa.Table]]:
        """Yield the rows, `ROWS_SCHEMA`, batch by batch, each with their positions."""
        first = 0
        for table in self._spool.tables():
            yield slice(first, first + len(table)), table
            first += len(table)

    def take(self, rows: Ints) -> pa.Table:
        """Return the sources at these positions, `LISTED_SCHEMA`, locations in one spelling."""
        order = np.argsort(rows, kind="stable")
        wanted, found = rows[order], [LISTED_SCHEMA.empty_table()]
        for piece, table in self.tables():
            first, last = np.searchsorted(wanted, [piece.start, piece.stop])
            if last > first:
                found.append(listed_sources(table.take(pa.array(wanted[first:last] - piece.start))))
        return pa.concat_tables(found).take(pa.array(np.argsort(order, kind="stable")))


def _rows(clips: pa.Table) -> pa.Table:
    for field in ROWS_SCHEMA:
        if field.name not in clips.schema.names:
            clips = clips.append_column(field, pa.nulls(len(clips), field.type))
    return clips.select(ROWS_SCHEMA.names).cast(ROWS_SCHEMA)


class IdIndex:
    """Positions of ids in a list, exact, 12 bytes an id besides the ids themselves.

    >>> IdIndex(pa.chunked_array([["a", "b"]])).positions(pa.chunked_array([["b", "c"]]))
    array([ 1, -1])

    Args:
        ids: each once.
        where: they are from, for messages.

    Raises:
        UsageError: an id is there twice.
    """

    def __init__(self, ids: pa.ChunkedArray, where: str = "the clip list") -> None:
        self.ids = ids.cast(pa.large_string()).combine_chunks()
        for self._seed in range(8):
            hashes = hash_strings(self.ids, self._seed)
            self._order = np.argsort(hashes).astype(np.uint32)
            self._hashes = hashes[self._order]
            alike = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
            if not len(alike):
                return
            raise_issues(
                where, duplicate_issues(self.ids, np.concatenate([self._order[alike], self._order[alike + 1]]))
            )

    def positions(self, ids: pa.Array | pa.ChunkedArray) -> Ints:
        """Return the position of each id, -1 where it is not there."""
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        found = np.full(len(ids), -1, np.int64)
        if not len(self._hashes) or not len(ids):
            return found
        hashes = hash_strings(ids, self._seed)
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        hit = np.flatnonzero(self._hashes[place] == hashes)
        position = self._order[place[hit]].astype(np.int64)
        same = pc.equal(self.ids.take(pa.array(position)), ids.take(pa.array(hit)).cast(pa.large_string()))
        same = pc.fill_null(same, False).to_numpy(zero_copy_only=False)
        found[hit[same]] = position[same]
        return found


def hash_strings(values: pa.Array, seed: int = 0) -> Hashes:
    """Return a 64-bit hash of each text: its bytes, eight at a time, through the mixer of SplitMix64.

    Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.

    >>> one, other, again = hash_strings(pa.array(["a", "b", "a"]))
    >>> bool(one == again), bool(one == other)
    (True, False)

    Args:
        values: texts; null is as empty.
        seed: another one gives other hashes.
    """
    values = values.cast(pa.large_string()).fill_null("")
    hashes = np.empty(len(values), np.uint64)
    offsets = np.frombuffer(values.buffers()[1], np.int64, len(values) + 1, values.offset * 8)
    data = np.frombuffer(values.buffers()[2] or b"", np.uint8)
    for first in range(0, len(values), HASHED_ROWS):
        rows = slice(first, min(first + HASHED_ROWS, len(values)))
        begin, end = offsets[rows.start : rows.stop], offsets[rows.start + 1 : rows.stop + 1]
        found = mix((end - begin).astype(np.uint64) + np.uint64(seed << 32))
        for start in range(0, int((end - begin).max()), WORD):
            place = begin[:, None] + np.arange(start, start + WORD)
            inside = place < end[:, None]
            word = np.where(inside, data[np.where(inside, place, 0)], 0).astype(np.uint8).view("<u8")[:, 0]
            found = np.where(inside[:, 0], mix(found ^ word), found)
        hashes[rows] = found
    return hashes


def hash_sources(sources: pa.Table) -> Hashes:
    """Return a 64-bit hash of each location and segment of `listed_sources`; without a start as from 0 s."""
    found = hash_strings(sources["uri"].combine_chunks())
    for name, null in (("start_s", 0.0), ("end_s", np.inf)):
        times = np.asarray(pc.fill_null(sources[name], null).to_numpy(), np.float64)
        found = mix(found ^ times.view(np.uint64))
    return found


def mix(values: npt.NDArray[Any]) -> Hashes:
    """Return the finalizer of SplitMix64 of each number."""
    found = values + np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(found ^ (found >> np.uint64(31)), np.uint64)
