"""A clip list of any length, in a temporary database on this machine's disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import LISTED_SCHEMA, MACROS, canonical_uris
from acoustic_env.clips.table import KNOWN_SCHEMA, duplicate_issues, raise_issues
from acoustic_env.io.database import MEMORY_MB, Database

BATCH_CLIPS: Final = 2**18
CLIP_BYTES: Final = 32  # of memory that a join may use; with less, a long list is joined many times slower
ROWS_SCHEMA: Final = pa.schema([*LISTED_SCHEMA, *KNOWN_SCHEMA])
TABLES: Final = """
CREATE TABLE listed (row BIGINT, clip_id VARCHAR, uri VARCHAR, start_s DOUBLE, end_s DOUBLE, byte_offset BIGINT,
                     byte_size BIGINT, duration_s DOUBLE, place VARCHAR);
CREATE VIEW sources AS SELECT row, clip_id, coalesce(place, uri) AS uri, start_s, end_s FROM listed;
"""


class Listed(Database):
    """A clip list: the table `listed`, and `sources` with the locations in one spelling; both count the `row` from 0.

    Attributes:
        num_rows: clips.

    Args:
        batches: clip lists of any columns; those of `ROWS_SCHEMA` are kept.
        where: the list, for messages.
        limit: the first clips only; None for all.

    Raises:
        UsageError: an id twice.
    """

    def __init__(self, batches: Iterable[pa.Table], where: str = "the clip list", limit: int | None = None) -> None:
        super().__init__()
        self.sql(MACROS + TABLES)
        self.num_rows = 0
        for batch in batches:
            for first in range(0, len(batch), BATCH_CLIPS):
                left = None if limit is None else limit - self.num_rows
                table = _rows(batch.slice(first, BATCH_CLIPS).slice(0, left))
                row = pa.array(np.arange(self.num_rows, self.num_rows + len(table)))
                self.sql("INSERT INTO listed FROM batch", batch=table.add_column(0, "row", row))
                self.num_rows += len(table)
            if limit is not None and self.num_rows >= limit:
                break
        self.sql(f"SET memory_limit = '{MEMORY_MB + CLIP_BYTES * self.num_rows // 10**6}MB'")
        repeated = "SELECT clip_id FROM listed GROUP BY clip_id HAVING count(*) > 1"
        twice = self.sql(f"SELECT row + 1 AS row, clip_id FROM listed WHERE clip_id IN ({repeated}) ORDER BY row")
        raise_issues(where, duplicate_issues(twice["clip_id"], twice["row"].to_numpy()))

    def tables(self) -> Iterator[tuple[slice, pa.Table]]:
        """Yield the rows, `ROWS_SCHEMA`, batch by batch, each with their positions."""
        for rows, table in self.pages("listed"):
            yield rows, table.select(ROWS_SCHEMA.names).cast(ROWS_SCHEMA)

    def pages(self, relation: str) -> Iterator[tuple[slice, pa.Table]]:
        """Yield the rows of a relation with the list's `row`, in its order, a range of positions at a time."""
        for first in range(0, self.num_rows, BATCH_CLIPS):
            rows = slice(first, min(first + BATCH_CLIPS, self.num_rows))
            page = f"FROM {relation} WHERE row >= ? AND row < ? ORDER BY row"
            yield rows, self.sql(page, rows.start, rows.stop)

    def positions(self, ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Return the position of each id, -1 where it is not there."""
        asked = pa.table({"clip_id": ids, "number": np.arange(len(ids))})
        join = "SELECT coalesce(row, -1) AS row FROM asked LEFT JOIN listed USING (clip_id) ORDER BY number"
        return np.asarray(self.sql(join, asked=asked)["row"].to_numpy())


def _rows(clips: pa.Table) -> pa.Table:
    for field in ROWS_SCHEMA:
        if field.name not in clips.schema.names:
            clips = clips.append_column(field, pa.nulls(len(clips), field.type))
    clips = clips.select(ROWS_SCHEMA.names).cast(ROWS_SCHEMA).combine_chunks()
    uris = clips["uri"].combine_chunks()
    places = canonical_uris(uris)
    return clips.append_column("place", pc.if_else(pc.equal(places, uris), pa.scalar(None, pa.string()), places))
