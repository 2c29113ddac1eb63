"""A clip list of any length: ids and hashes of its sources in memory, the rows on this machine's disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import LISTED_SCHEMA, listed_sources
from acoustic_env.clips.table import PLACE_SCHEMA, duplicate_issues, raise_issues
from acoustic_env.io.spool import Spool

BATCH_CLIPS: Final = 2**18
ROWS_SCHEMA: Final = pa.schema([*LISTED_SCHEMA, *PLACE_SCHEMA])
HASH_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
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
    """Return a 64-bit hash of each text, SipHash by pandas.

    >>> one, other, again = hash_strings(pa.array(["a", "b", "a"]))
    >>> bool(one == again), bool(one == other)
    (True, False)

    Args:
        values: texts; null is as empty.
        seed: another one gives other hashes.
    """
    from pandas.util import hash_array

    found = np.empty(len(values), np.uint64)
    for first in range(0, len(values), HASHED_ROWS):
        texts = pc.fill_null(values.slice(first, HASHED_ROWS), "").to_numpy(zero_copy_only=False)
        found[first : first + len(texts)] = hash_array(texts, hash_key=f"{seed:016d}", categorize=False)
    return found


def hash_sources(sources: pa.Table) -> Hashes:
    """Return a 64-bit hash of each location and segment of `listed_sources`; without a start as from 0 s."""
    from pandas.util import hash_array

    found = hash_strings(sources["uri"].combine_chunks())
    for name, null in (("start_s", 0.0), ("end_s", np.inf)):
        times = np.asarray(pc.fill_null(sources[name], null).to_numpy(), np.float64)
        found = found * HASH_FACTOR ^ hash_array(times)
    return found
