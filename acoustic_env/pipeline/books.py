"""The books of a run: what the store has and lacks of the list, what the run may write, and its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.errors import RESOLVED
from acoustic_env.io.location import scrub
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.pending import Need, Pending, measure, remove_leftovers
from acoustic_env.pipeline.record import RunRecord
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store import sources
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path
from acoustic_env.store.lease import BlockLeases, acquire_sources
from acoustic_env.store.schema import KEY_SCHEMA

Log = Callable[[str], None]


COMMITTED: Final = """
INSERT INTO committed SELECT clip_id, bit_or(bit) FROM batch JOIN signals USING (signal) GROUP BY clip_id
"""


@dataclass(frozen=True)
class MissingWork:
    """The rows that a store lacks of a clip list, per clip as bits of `need` (`pipeline.work`).

    Attributes:
        missing: int64[clips], (block, signal) without a row.
        excluded: int64[clips], those of `missing` with a permanent error.
    """

    missing: Need
    excluded: Need

    @property
    def pending(self) -> Need:
        """int64[clips], the work of a run without --retry-errors."""
        return self.missing & ~self.excluded


def find_missing(listed: Listed, works: Sequence[BlockWork], store: FeatureStore, errors: pa.Table) -> MissingWork:
    """Return which rows of the blocks the store lacks; its keys are read part by part.

    Args:
        listed: the clip list.
        works: the blocks.
        store: the store.
        errors: of the store.
    """
    failures = Failures(errors, listed)
    missing = np.full(listed.num_rows, sum(work.spec.mask for work in works), np.int64)
    excluded = np.zeros(listed.num_rows, np.int64)
    for work in works:
        for fingerprint, signals in work.versions().items():
            bits = pa.table({"signal": signals, "bit": pa.array(map(work.spec.bit, signals), pa.int64())})
            parts = store.scan(work.spec.name, fingerprint, KEY_SCHEMA.names)
            keys = (part.table.cast(KEY_SCHEMA) for part in parts if isinstance(part, ScannedPart))
            listed.sql("CREATE OR REPLACE TABLE committed (clip_id VARCHAR, bits BIGINT)")
            listed.insert(COMMITTED, keys, signals=bits)
            found = listed.sql("SELECT row, bits FROM committed JOIN listed USING (clip_id)")
            rows, done = found["row"].to_numpy(), found["bits"].to_numpy()
            for bit in bits["bit"].to_pylist():
                missing[rows[done & bit != 0]] &= ~bit
            for signal in signals:
                failed = listed.positions(failures.excluded(work.spec.name, fingerprint, signal))
                excluded[failed[failed >= 0]] |= work.spec.bit(signal)
    return MissingWork(missing, missing & excluded)


class Books:
    """The store as one run sees it.

    Args:
        settings: of the run.
        works: its blocks.
        clips: the list.
        log: receives each human-readable line.
    """

    def __init__(self, settings: ExtractSettings, works: Sequence[BlockWork], clips: Listed, log: Log) -> None:
        self.settings, self.works, self.clips, self.log = settings, works, clips, log
        self.store = FeatureStore(settings.store)
        self._begun: list[tuple[str, str, int]] = []  # block, fingerprint and fencing id of what is written
        fingerprints = {work.spec.name: work.fingerprints for work in works}
        stored = {name: scrub(value) if isinstance(value, str) else value for name, value in settings.as_json().items()}
        self.record = RunRecord(stored, fingerprints, clips.num_rows)

    def admit(self, beside: Callable[[], Sequence[str]] = list) -> sources.Admission:
        """Compare the list with the sources that the store has recorded, before anything runs."""
        admission = sources.admit(self.store, self.clips, self.settings.relocated, self.settings.clips, beside)
        self.record.relocated = admission.relocations
        for line in admission.lines:
            self.log(f"sources   {line}")
        return admission

    def lacking(self) -> Pending:
        """Return what there is to do; it is logged and recorded."""
        errors = self.store.errors()
        found = find_missing(self.clips, self.works, self.store, errors)
        self.record.left = int(np.count_nonzero(found.pending))
        self.record.failed_on_list = int(np.count_nonzero(found.excluded))
        need = self._wanted(found)
        self.record.pending = int(np.count_nonzero(need))
        self.record.pairs = _pairs(need, self.works)
        for line in _described(need, self.works):
            self.log(line)
        return measure(self.clips, need, errors)

    def _wanted(self, found: MissingWork) -> Need:
        return found.missing if self.settings.retry_errors else found.pending

    def open(self, leases: BlockLeases) -> Pending:
        """Record the sources of the list, and take over the versions that are written; return what there is to do.

        Parts that manifests name and storage has lost are named, and not counted any more.
        """
        with acquire_sources(self.settings.store, f"extract {self.record.run_id}") as lease:
            admission = self.admit(leases.others)
            if self.record.relocated:
                self.write_record()  # first, so that a killed run leaves the reason
            sources.record(self.store, admission, self.record.run_id, lease.check)
        remove_leftovers(self.store, leases.others)
        todo = self.lacking()
        for work in self.works:
            for fingerprint, signals in work.versions().items():
                if todo.need & sum(map(work.spec.bit, signals)) or self.store.lost_parts(work.spec.name, fingerprint):
                    token = leases.tokens[lease_path(work.spec.name)]
                    self.record.lost += self.store.begin(work.spec.name, fingerprint, token)
                    self._begun.append((work.spec.name, fingerprint, token))
        self.record.lost += self.store.drop_lost_errors()
        for line in self.record.lost:
            self.log(f"lost      {line}")
        if todo.clips or self.record.relocated:
            self.write_record()  # so that errors of a killed run have a version
        return todo

    def left(self) -> tuple[Pending, list[str]]:
        """Return what is still to do in the middle of the run, and the clips that failed in it; the store decides."""
        errors = self.store.errors()
        failed = pc.unique(_of_run(errors, self.record.run_id)["clip_id"])
        need = self._wanted(find_missing(self.clips, self.works, self.store, errors)).copy()
        done = self.clips.positions(failed)
        need[done[done >= 0]] = 0
        todo = measure(self.clips, need, errors)
        self.record.finished, self.record.failed = self.record.pending - todo.clips, len(failed)
        return todo, failed.to_pylist()

    def own_errors(self) -> pa.Table:
        """Return this run's errors."""
        return _of_run(self.store.errors(), self.record.run_id)

    def close(self) -> None:
        """Write the record with the counts that the store gives after the run, not the run's own."""
        for block, fingerprint, token in self._begun:
            self.store.version(block, fingerprint).end(token)
        found = find_missing(self.clips, self.works, self.store, self.store.errors())
        self.record.left = int(np.count_nonzero(found.pending))
        self.record.failed_on_list = int(np.count_nonzero(found.missing))
        self.write_record()

    def write_record(self) -> None:
        """Write the record as it is."""
        self.store.write_run(self.record.run_id, dataclasses.asdict(self.record))


def _described(need: Need, works: Sequence[BlockWork]) -> list[str]:
    """Return the work as human-readable lines: the list, then each version of each block.

    Args:
        need: int64[clips], a bit for each missing block and signal (`pipeline.work`).
        works: the blocks.
    """
    lines = [f"clips     {len(need)} on the list, {np.count_nonzero(need)} with something missing"]
    for work in works:
        for fingerprint, signals in work.versions().items():
            bits = [work.spec.bit(signal) for signal in signals]
            rows = sum(int(np.count_nonzero(need & bit)) for bit in bits)
            lines.append(
                f"block     {work.spec.name:<8} {fingerprint} ({work.spec.engine}) {','.join(signals)}: "
                f"{np.count_nonzero(need & sum(bits))} clips, {rows} rows pending"
            )
    return lines


def _pairs(need: Need, works: Sequence[BlockWork]) -> dict[str, int]:
    """Return block -> pairs of a pending clip and a signal that lack its rows."""
    signals = {work.spec.name: [work.spec.bit(signal) for signal in work.spec.signals] for work in works}
    return {name: sum(int(np.count_nonzero(need & bit)) for bit in bits) for name, bits in signals.items()}


def _of_run(errors: pa.Table, run_id: str) -> pa.Table:
    return errors.filter(pc.and_(pc.equal(errors["run_id"], run_id), pc.not_equal(errors["code"], RESOLVED)))
