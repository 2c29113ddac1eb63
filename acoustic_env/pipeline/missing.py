"""The work of a run: clip list minus committed keys, taken before any audio is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.schema import KEY_SCHEMA

KEYS_AT_ONCE: Final = 2**19


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
    index, failures, clips = listed.index, Failures(errors, listed), listed.num_rows
    missing = np.full(clips, sum(work.spec.mask for work in works), np.int64)
    excluded = np.zeros(clips, np.int64)
    for work in works:
        for fingerprint, signals in work.versions().items():
            for keys in _keys(store, work.spec.name, fingerprint):
                runs = pc.run_end_encode(keys["clip_id"].combine_chunks(), run_end_type=pa.int64())
                ends = np.diff(runs.run_ends.to_numpy(), prepend=0)
                position = np.repeat(index.positions(runs.values), ends)
                for signal in signals:
                    rows = pc.equal(keys["signal"], signal).to_numpy() & (position >= 0)
                    missing[position[rows]] &= ~work.spec.bit(signal)
            for signal in signals:
                failed = index.positions(failures.excluded(work.spec.name, fingerprint, signal))
                excluded[failed[failed >= 0]] |= work.spec.bit(signal)
    return MissingWork(missing, missing & excluded)


def _keys(store: FeatureStore, block: str, fingerprint: str) -> Iterator[pa.Table]:
    """Yield (clip_id, signal) of every row, `KEYS_AT_ONCE` or a few more at a time."""
    parts = store.scan(block, fingerprint, KEY_SCHEMA.names)
    tables = (part.table.replace_schema_metadata(None) for part in parts if isinstance(part, ScannedPart))
    return _gathered((table.cast(KEY_SCHEMA) for table in tables), KEYS_AT_ONCE)


def _gathered(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the tables joined to so many rows or a few more; the last may have fewer."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting)


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
