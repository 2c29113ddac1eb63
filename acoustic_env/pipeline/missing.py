"""The work of a run: clip list minus committed keys, taken before any audio is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.clips.listed import Listed
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.schema import KEY_SCHEMA

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

    missing: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.int64]

    @property
    def pending(self) -> npt.NDArray[np.int64]:
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


def describe_pending(need: npt.NDArray[np.int64], works: Sequence[BlockWork]) -> list[str]:
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


def pending_pairs(need: npt.NDArray[np.int64], works: Sequence[BlockWork]) -> dict[str, int]:
    """Return block -> pairs of a pending clip and a signal that lack its rows."""
    signals = {work.spec.name: [work.spec.bit(signal) for signal in work.spec.signals] for work in works}
    return {name: sum(int(np.count_nonzero(need & bit)) for bit in bits) for name, bits in signals.items()}
