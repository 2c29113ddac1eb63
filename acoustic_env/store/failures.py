"""Which recorded errors are in force and what they exclude: one place decides, for every reader of the errors table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.sources import describe_source
from acoustic_env.errors import RESOLVED
from acoustic_env.io.database import Database
from acoustic_env.store.schema import ERROR_SCHEMA

if TYPE_CHECKING:
    from acoustic_env.store.feature_store import FeatureStore

OF_LAST_SOURCE: Final = """
FROM errors SEMI JOIN (SELECT clip_id, source FROM errors QUALIFY attempt = max(attempt) OVER (PARTITION BY clip_id))
    USING (clip_id, source)
"""
IN_FORCE: Final = """
FROM (FROM errors QUALIFY attempt = max(attempt) OVER (PARTITION BY clip_id, source, block, fingerprint, signal))
WHERE code <> ?
ORDER BY ALL
"""
COUNTS: Final = """
SELECT block, code, count(DISTINCT clip_id) AS clips, count(DISTINCT clip_id) FILTER (permanent) AS permanent
FROM errors GROUP BY block, code ORDER BY clips DESC, coalesce(block, ''), code
"""


@dataclass(frozen=True)
class FailureCount:
    """Clips with one kind of error.

    Attributes:
        block: whose row failed; null where the source did.
        code: one of `errors.CLIP_ERRORS`.
        clips: how many.
        permanent: of them, final until --retry-errors.
    """

    block: str | None
    code: str
    clips: int
    permanent: int


class Failures:
    """The errors of a store that are in force.

    An error is of a source, or of one version of a block for one signal of a source; the last attempt at it decides. A
    `resolved` row ends it. An error of another source than the clip has now says nothing.

    Args:
        errors: rows of `ERROR_SCHEMA`.
        listed: the clip list, whose sources count; None for the source of each clip that was tried last.
    """

    def __init__(self, errors: pa.Table, listed: Listed | None = None) -> None:
        database = Database() if listed is None else listed
        errors = database.sql(OF_LAST_SOURCE, errors=errors) if listed is None else _of_listed(errors, listed)
        self.errors = database.sql(IN_FORCE, RESOLVED, errors=errors).cast(ERROR_SCHEMA)
        self._of_source = self.errors.filter(pc.is_null(self.errors["block"]))

    def in_force(self, block: str, fingerprint: str, signal: str) -> pa.Table:
        """Return the errors of `ERROR_SCHEMA` that keep clips from a row, those that may pass included."""
        own = self.errors
        for name, value in (("block", block), ("fingerprint", fingerprint), ("signal", signal)):
            own = own.filter(pc.equal(own[name], value))
        return pa.concat_tables([self._of_source, own])

    def excluded(self, block: str, fingerprint: str, signal: str) -> pa.ChunkedArray:
        """Return the clips that a permanent error excludes from a row, until `--retry-errors`."""
        errors = self.in_force(block, fingerprint, signal)
        return pc.unique(errors.filter(errors["permanent"])["clip_id"])

    def open(self, store: FeatureStore) -> pa.Table:
        """Return all errors in force, `ERROR_SCHEMA`, by clip; those of a row that is there are not."""
        found = [self._of_source]
        of_blocks = self.errors.filter(pc.is_valid(self.errors["block"]))
        for row in of_blocks.group_by(["block", "fingerprint"]).aggregate([]).to_pylist():
            block, fingerprint = row["block"], row["fingerprint"]
            own = of_blocks.filter(
                pc.and_(pc.equal(of_blocks["block"], block), pc.equal(of_blocks["fingerprint"], fingerprint))
            )
            keys = store.committed_keys(block, fingerprint)
            found.append(own.join(keys, ["clip_id", "signal"], join_type="left anti").select(ERROR_SCHEMA.names))
        order = [(name, "ascending") for name in ("clip_id", "block", "signal", "code")]
        return pa.concat_tables([table.cast(ERROR_SCHEMA) for table in found]).sort_by(order).combine_chunks()


def _of_listed(errors: pa.Table, listed: Listed) -> pa.Table:
    """The errors of listed clips whose source is the list's."""
    join = "SELECT number, source, sources.* FROM errors JOIN sources USING (clip_id) ORDER BY number"
    found = listed.sql(join, errors=errors.append_column("number", pa.array(range(len(errors)))))
    same = [describe_source(row) == row["source"] for row in found.to_pylist()]
    return errors.take(found["number"].filter(pa.array(same, pa.bool_())))


def count_failures(errors: pa.Table) -> list[FailureCount]:
    """Count the clips of each block and code, most first."""
    return [FailureCount(**row) for row in Database().sql(COUNTS, errors=errors).to_pylist()]
