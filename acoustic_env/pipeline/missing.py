"""The work of a run: clip list minus committed keys, taken before any audio is fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import PLACE_SCHEMA
from acoustic_env.io.database import gathered
from acoustic_env.pipeline.rows import WORK_SCHEMA
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.schema import KEY_SCHEMA

ROUND_CLIPS: Final = 2**19  # their rows are in the object store at once
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


def pending_rounds(listed: Listed, need: npt.NDArray[np.int64], errors: pa.Table) -> Iterator[pa.Table]:
    """Yield the pending rows, `ROUND_CLIPS` or a few more at a time: what is on its way to the workers at once.

    Args:
        listed: the clip list.
        need: int64[clips], as `pending_rows`.
        errors: of the store.
    """
    tables = (pending_rows(table, need[rows], errors) for rows, table in listed.tables())
    return map(_in_shard_order, gathered(tables, ROUND_CLIPS))


def pending_rows(clips: pa.Table, need: npt.NDArray[np.int64], errors: pa.Table) -> pa.Table:
    """Return rows of `rows.WORK_SCHEMA` for the clips that lack something: in shard order, others in the list's.

    Args:
        clips: a clip list.
        need: int64[clips], a bit for each missing block and signal (`pipeline.work`).
        errors: of the store, for the number of earlier attempts.
    """
    for field in PLACE_SCHEMA:
        if field.name not in clips.schema.names:
            clips = clips.append_column(field, pa.nulls(len(clips), field.type))
    names = ["clip_id", "uri", "start_s", "end_s", *PLACE_SCHEMA.names]
    rows = clips.select(names).filter(pa.array(need != 0)).combine_chunks()
    failed = errors.group_by("clip_id").aggregate([("attempt", "max")])
    position = pc.index_in(rows["clip_id"], value_set=failed["clip_id"].combine_chunks())
    before = pc.fill_null(failed["attempt_max"].combine_chunks().take(position), 0)
    rows = rows.append_column("need", pa.array(need[need != 0]))
    rows = rows.append_column("attempt", pc.cast(pc.add(before, 1), pa.int32()))
    return _in_shard_order(rows.select(WORK_SCHEMA.names).cast(WORK_SCHEMA))


def _in_shard_order(rows: pa.Table) -> pa.Table:
    if rows["byte_offset"].null_count == len(rows):
        return rows
    shards = pc.if_else(pc.is_valid(rows["byte_offset"]), _shards(rows), "")
    keys = pa.table({"shard": shards, "offset": rows["byte_offset"]})
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    return rows.take(order).combine_chunks()


def _shards(rows: pa.Table) -> pa.ChunkedArray:
    return pc.replace_substring_regex(rows["uri"], "^(tar|parquet)://.*?::", "")


def cut_tasks(pending: pa.Table, task_clips: int) -> list[pa.Table]:
    """Cut the pending rows into tasks.

    A row group of a Parquet file, which is read as a whole, stays in one task where the task is then not longer than
    twice `task_clips`.

    Args:
        pending: of `pending_rows`.
        task_clips: clips a task, at most, row groups apart.
    """
    same = np.zeros(len(pending) + 1, bool)  # whether a row has the row group of the one before
    if pending["byte_offset"].null_count < len(pending):
        group = pa.table({"shard": _shards(pending), "offset": pending["byte_offset"]})
        alike = pc.and_(*(pc.equal(group[name][1:], group[name][:-1]) for name in group.column_names))
        same[1:-1] = pc.fill_null(alike, False).to_numpy()
    starts = np.flatnonzero(~same)
    tasks, first = [], 0
    while first < len(pending):
        last = first + task_clips
        if last < len(pending) and same[last]:
            begin, end = starts[np.searchsorted(starts, last, "right") - 1 :][:2]
            last = end if end - first <= 2 * task_clips else begin if begin > first else last
        tasks.append(pending.slice(first, last - first))
        first = int(last)
    return tasks


def describe_pending(need: npt.NDArray[np.int64], works: Sequence[BlockWork]) -> list[str]:
    """Return the work as human-readable lines: the list, then each version of each block.

    Args:
        need: int64[clips], as `pending_rows`.
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
