"""Which recorded errors are in force and what they exclude: one place decides, for every reader of the errors table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import RESOLVED
from acoustic_env.store.schema import ERROR_SCHEMA, SHARED_STAGES

if TYPE_CHECKING:
    from acoustic_env.store.feature_store import FeatureStore


@dataclass(frozen=True)
class FailureCount:
    """Clips with one kind of error.

    Attributes:
        stage: fetch, decode, prepare, compute (the worker died) or a block.
        code: one of `errors.CLIP_ERRORS`.
        clips: how many.
        permanent: of them, final until --retry-errors.
    """

    stage: str
    code: str
    clips: int
    permanent: int


class Failures:
    """The errors of a store that are in force.

    The last attempt decides:

    * An error of a shared stage (`SHARED_STAGES`) is in force for every block and signal until a later attempt at the
      clip is recorded: another error, or the `resolved` row that a successful attempt writes before its rows.
    * An error of a block is in force for its signal under the fingerprint that its run computed (without a run record:
      under every fingerprint), until a later attempt at the same is recorded.

    Args:
        store: whose errors.
        errors: from `store.errors()`, where the caller has it.
    """

    def __init__(self, store: FeatureStore, errors: pa.Table | None = None) -> None:
        self.store = store
        self.errors = store.errors() if errors is None else errors
        self._records: dict[str, dict[str, Any]] = {}
        last = _last_attempts(self.errors)
        self._shared = last.filter(pc.and_(_is_shared(last), pc.not_equal(last["code"], RESOLVED)))

    def in_force(self, block: str, fingerprint: str, signal: str) -> pa.Table:
        """Return the errors of `ERROR_SCHEMA` that keep clips from a row, transient ones included."""
        return pa.concat_tables([self._shared, self._of_block(block, fingerprint, signal)])

    def excluded(self, block: str, fingerprint: str, signal: str) -> pa.ChunkedArray:
        """Return the clips that a permanent error excludes from a row, until `--retry-errors`."""
        errors = self.in_force(block, fingerprint, signal)
        return pc.unique(errors.filter(errors["permanent"])["clip_id"])

    def open(self) -> pa.Table:
        """Return all errors in force, `ERROR_SCHEMA`, by clip and stage; those of a block whose row is there are not.

        A clip is among them with a permanent error if and only if `excluded` names it for a row that it lacks.
        """
        found = [self._shared]
        of_blocks = self.errors.filter(pc.invert(_is_shared(self.errors)))
        places = of_blocks.group_by(["stage", "signal", "run_id"]).aggregate([]).to_pylist()
        for block, signal, fingerprint in {
            (row["stage"], row["signal"], self._computed(row["run_id"], row["stage"], row["signal"])) for row in places
        }:
            rows = self._of_block(block, fingerprint, signal)
            if fingerprint is not None:
                keys = self.store.committed_keys(block, fingerprint)
                done = keys.filter(pc.equal(keys["signal"], signal))["clip_id"]
                rows = rows.filter(pc.invert(pc.is_in(rows["clip_id"], value_set=done)))
            found.append(rows)
        names = ERROR_SCHEMA.names
        table = pa.concat_tables(found).group_by(names).aggregate([]).select(names).cast(ERROR_SCHEMA)
        return table.sort_by([(name, "ascending") for name in ("clip_id", "stage", "signal", "code")]).combine_chunks()

    def _of_block(self, block: str, fingerprint: str | None, signal: str) -> pa.Table:
        """Errors of the last attempt at a block's row."""
        errors = self.errors.filter(pc.and_(_is(self.errors, "stage", block), _is(self.errors, "signal", signal)))
        runs = pc.unique(errors["run_id"]).to_pylist()
        kept = [run_id for run_id in runs if self._computed(run_id, block, signal) in (None, fingerprint)]
        return _last_attempts(errors.filter(pc.is_in(errors["run_id"], value_set=pa.array(kept, pa.string()))))

    def _computed(self, run_id: str, block: str, signal: str) -> str | None:
        """The fingerprint under which a run computed a signal of a block; None where no record says so."""
        if run_id not in self._records:
            self._records[run_id] = self.store.run(run_id) or {}
        versions = self._records[run_id].get("fingerprints", {}).get(block)
        return versions.get(signal) if isinstance(versions, dict) else None


def _is(errors: pa.Table, column: str, value: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(errors[column], value), False)


def _is_shared(errors: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(errors["stage"], value_set=pa.array(SHARED_STAGES))


def _last_attempts(errors: pa.Table) -> pa.Table:
    """The rows of each clip's last attempt among these."""
    last = errors.group_by("clip_id").aggregate([("attempt", "max")])
    position = pc.index_in(errors["clip_id"], value_set=last["clip_id"])
    return errors.filter(pc.equal(errors["attempt"], last["attempt_max"].take(position)))


def count_failures(errors: pa.Table) -> list[FailureCount]:
    """Count the clips of each stage and code, most first."""
    grouped = errors.append_column("final", pc.cast(errors["permanent"], pa.int64()))
    counts = grouped.group_by(["stage", "code"]).aggregate([("clip_id", "count_distinct"), ("final", "sum")])
    rows = [
        FailureCount(row["stage"], row["code"], row["clip_id_count_distinct"], row["final_sum"])
        for row in counts.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row.clips, row.stage, row.code))
