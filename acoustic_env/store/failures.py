"""Which recorded errors are in force and what they exclude: one place decides, for every reader of the errors table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import RESOLVED
from acoustic_env.store.schema import ERROR_SCHEMA, KEY_SCHEMA, SHARED_STAGES

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
    * An error of a block is in force for its signal (without one: for every signal) under the fingerprint that its run
      computed (without a run record: under every fingerprint), until a later attempt at the same is recorded.

    Stores written before there were `resolved` rows: an error of a shared stage also ends when the clip has a row of
    every block that its run was to compute. The clip lacked some of them when it failed, so a later attempt made them.
    (Where they are of another fingerprint instead, the clip is tried once more.)

    Args:
        store: whose errors.
        errors: from `store.errors()`, where the caller has it.
    """

    def __init__(self, store: FeatureStore, errors: pa.Table | None = None) -> None:
        self.store = store
        self.errors = store.errors() if errors is None else errors
        self._fingerprints: dict[str, dict[str, dict[str, str]]] = {}

    def in_force(self, block: str, fingerprint: str | None, signal: str | None) -> pa.Table:
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
        found = [ERROR_SCHEMA.empty_table(), self._shared]
        of_blocks = self.errors.filter(pc.invert(_is_shared(self.errors)))
        for block in pc.unique(of_blocks["stage"]).to_pylist():
            errors = of_blocks.filter(pc.equal(of_blocks["stage"], block))
            runs = pc.unique(errors["run_id"]).to_pylist()
            for signal in pc.unique(errors["signal"]).to_pylist():
                for fingerprint in {self._computed(run_id, block, signal) for run_id in runs}:
                    rows = self._of_block(block, fingerprint, signal)
                    if fingerprint is not None:
                        done = self._complete(block, [fingerprint], None if signal is None else [signal])
                        rows = rows.filter(pc.invert(pc.is_in(rows["clip_id"], value_set=done)))
                    found.append(rows)
        names = ERROR_SCHEMA.names
        table = pa.concat_tables(found).group_by(names).aggregate([]).select(names).cast(ERROR_SCHEMA)
        return table.sort_by([(name, "ascending") for name in ("clip_id", "stage", "signal", "code")]).combine_chunks()

    @cached_property
    def _shared(self) -> pa.Table:
        """Errors of the last attempt at each clip, of shared stages."""
        errors = _last_attempts(self.errors)
        errors = errors.filter(pc.and_(_is_shared(errors), pc.not_equal(errors["code"], RESOLVED)))
        for run_id in pc.unique(errors["run_id"]).to_pylist():
            versions = self._run(run_id)
            if any("" in of_block for of_block in versions.values()):
                cured = pc.equal(errors["run_id"], run_id)
                for block in versions:
                    done = self._complete(block, self.store.blocks().get(block, []), None)
                    cured = pc.and_(cured, pc.is_in(errors["clip_id"], value_set=done))
                errors = errors.filter(pc.invert(cured))
        return errors

    def _of_block(self, block: str, fingerprint: str | None, signal: str | None) -> pa.Table:
        """Errors of the last attempt at a block's row."""
        errors = self.errors.filter(pc.equal(self.errors["stage"], block))
        of_signal = errors["signal"].is_null()
        if signal is not None:
            of_signal = pc.or_(of_signal, pc.fill_null(pc.equal(errors["signal"], signal), False))
        errors = errors.filter(of_signal)
        runs = pc.unique(errors["run_id"]).to_pylist()
        kept = [run_id for run_id in runs if self._computed(run_id, block, signal) in (None, fingerprint)]
        return _last_attempts(errors.filter(pc.is_in(errors["run_id"], value_set=pa.array(kept, pa.string()))))

    def _computed(self, run_id: str, block: str, signal: str | None) -> str | None:
        """The fingerprint under which a run computed a signal of a block; None where no record says so."""
        versions = self._run(run_id).get(block, {})
        return versions.get(signal or "", versions.get(""))

    def _run(self, run_id: str) -> dict[str, dict[str, str]]:
        """block -> signal -> fingerprint, by the run's record; signal "" where older code had one for all signals."""
        if run_id not in self._fingerprints:
            recorded = (self.store.run(run_id) or {}).get("fingerprints") or {}
            self._fingerprints[run_id] = {
                block: {"": versions} if isinstance(versions, str) else versions for block, versions in recorded.items()
            }
        return self._fingerprints[run_id]

    def _complete(self, block: str, fingerprints: Sequence[str], signals: Sequence[str] | None) -> pa.ChunkedArray:
        """Clips that have the signals of a block (None: all that there are) under some of the fingerprints."""
        keys = pa.concat_tables(
            [KEY_SCHEMA.empty_table(), *(self.store.committed_keys(block, version) for version in fingerprints)]
        )
        wanted = pc.unique(keys["signal"]) if signals is None else pa.array(signals, pa.string())
        keys = keys.filter(pc.is_in(keys["signal"], value_set=wanted))
        counts = keys.group_by("clip_id").aggregate([("signal", "count_distinct")])
        return counts.filter(pc.equal(counts["signal_count_distinct"], len(wanted)))["clip_id"]


def _is_shared(errors: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(errors["stage"], value_set=pa.array(SHARED_STAGES))


def _last_attempts(errors: pa.Table) -> pa.Table:
    """The rows of each clip's last attempt among these."""
    last = errors.group_by("clip_id").aggregate([("attempt", "max")])
    position = pc.index_in(errors["clip_id"], value_set=last["clip_id"])
    return errors.filter(pc.equal(errors["attempt"], last["attempt_max"].take(position)))


def count_failures(errors: pa.Table) -> list[FailureCount]:
    """Clips per stage and code, most first."""
    grouped = errors.append_column("final", pc.cast(errors["permanent"], pa.int64()))
    counts = grouped.group_by(["stage", "code"]).aggregate([("clip_id", "count_distinct"), ("final", "sum")])
    rows = [
        FailureCount(row["stage"], row["code"], row["clip_id_count_distinct"], row["final_sum"])
        for row in counts.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row.clips, row.stage, row.code))
