"""The work of a run: clip list minus committed keys, taken before any audio is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.pipeline.rows import WORK_SCHEMA
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore


@dataclass(frozen=True)
class MissingWork:
    """The rows that a store lacks of a clip list, per clip as bits of `need` (`pipeline.work`).

    Attributes:
        missing: int64[clips], (block, signal) without a row.
        excluded: int64[clips], those of `missing` with a permanent error.
    """

    missing: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.int64]

    @property
    def pending(self) -> npt.NDArray[np.int64]:
        """int64[clips], the work of a run without --retry-errors."""
        return self.missing & ~self.excluded


def find_missing(clips: pa.Table, works: Sequence[BlockWork], store: FeatureStore, errors: pa.Table) -> MissingWork:
    """Return which rows of the blocks the store lacks.

    Args:
        clips: the clip list.
        works: the blocks.
        store: the store.
        errors: of the store.
    """
    ids = clips["clip_id"].combine_chunks()
    failures = Failures(store, errors)
    missing, excluded = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for work in works:
        for fingerprint, signals in work.versions().items():
            keys = store.missing(ids, signals, work.spec.name, fingerprint, retry_errors=True)
            for signal in signals:
                without = keys.filter(pc.equal(keys["signal"], signal))["clip_id"].combine_chunks()
                failed = failures.excluded(work.spec.name, fingerprint, signal)
                for bits, those in ((missing, without), (excluded, failed)):
                    bits[pc.is_in(ids, value_set=those).to_numpy(zero_copy_only=False)] |= work.spec.bit(signal)
    return MissingWork(missing, missing & excluded)


def pending_rows(clips: pa.Table, need: npt.NDArray[np.int64], errors: pa.Table) -> pa.Table:
    """Return rows of `rows.WORK_SCHEMA` for the clips that lack something, in the order of the list.

    Args:
        clips: a clip list.
        need: int64[clips], a bit for each missing block and signal (`pipeline.work`).
        errors: of the store, for the number of earlier attempts.
    """
    rows = clips.select(["clip_id", "uri", "start_s", "end_s"]).filter(pa.array(need != 0)).combine_chunks()
    failed = errors.group_by("clip_id").aggregate([("attempt", "max")])
    position = pc.index_in(rows["clip_id"], value_set=failed["clip_id"].combine_chunks())
    before = pc.fill_null(failed["attempt_max"].combine_chunks().take(position), 0)
    rows = rows.append_column("need", pa.array(need[need != 0]))
    return rows.append_column("attempt", pc.cast(pc.add(before, 1), pa.int32())).cast(WORK_SCHEMA)


def describe_pending(pending: pa.Table, works: Sequence[BlockWork], clips: int) -> list[str]:
    """Return the work as human-readable lines: the list, then each version of each block."""
    lines = [f"clips     {clips} on the list, {pending.num_rows} with something missing"]
    need = pending["need"].to_numpy()
    for work in works:
        for fingerprint, signals in work.versions().items():
            bits = [work.spec.bit(signal) for signal in signals]
            rows = sum(int(np.count_nonzero(need & bit)) for bit in bits)
            lines.append(
                f"block     {work.spec.name:<8} {fingerprint} ({work.spec.engine}) {','.join(signals)}: "
                f"{np.count_nonzero(need & sum(bits))} clips, {rows} rows pending"
            )
    return lines


def pending_pairs(pending: pa.Table, works: Sequence[BlockWork]) -> dict[str, int]:
    """Return block -> pairs of a pending clip and a signal that lack its rows."""
    need = pending["need"].to_numpy()
    signals = {work.spec.name: [work.spec.bit(signal) for signal in work.spec.signals] for work in works}
    return {name: sum(int(np.count_nonzero(need & bit)) for bit in bits) for name, bits in signals.items()}
