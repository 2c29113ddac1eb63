"""Tasks for tests, without a plan or a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from acoustic_env.clips.listed import Listed
from acoustic_env.pipeline.pending import Need, pending_rows
from acoustic_env.pipeline.task import WORK_SCHEMA, Task
from acoustic_env.pipeline.work import BlockSpec, BlockWork, block_work
from acoustic_env.store.schema import ERROR_SCHEMA


def works(*names: str, signals: Sequence[str] = ("raw", "fg", "bg")) -> tuple[BlockWork, ...]:
    """The blocks of a run of the fast engine."""
    return tuple(block_work(BlockSpec(name, "fast", i, tuple(signals))) for i, name in enumerate(names))


def pending(clips: pa.Table, need: Need | None = None, errors: pa.Table | None = None) -> pa.Table:
    """The pending rows of a list in its order, where every clip lacks something unless `need` says otherwise."""
    need = np.ones(len(clips), np.int64) if need is None else need
    rows = pending_rows(Listed([clips]), need, ERROR_SCHEMA.empty_table() if errors is None else errors)
    return pa.concat_tables([WORK_SCHEMA.empty_table(), *rows]).combine_chunks()


def noise(folder: Path, samples: dict[str, int], blocks: Sequence[BlockWork]) -> pa.Table:
    """Pending rows of noise files of the given lengths at 16 kHz; 0 samples means no file."""
    rows = []
    for i, (name, length) in enumerate(samples.items()):
        path = folder / f"{name}.wav"
        if length:
            soundfile.write(path, np.random.default_rng(i).normal(0, 0.2, length), 16_000)
        need = sum(work.spec.mask for work in blocks)
        rows.append({"clip_id": name, "uri": str(path), "need": need, "attempt": 1})
    return pa.Table.from_pylist(rows, WORK_SCHEMA)


def named(*clip_ids: str) -> Task:
    """A task of clips without a place."""
    rows = [{"clip_id": name, "uri": f"/{name}.wav", "need": 1, "attempt": 1} for name in clip_ids]
    return Task(pa.Table.from_pylist(rows, WORK_SCHEMA))


def rows_of(task: Task, work: BlockWork) -> pa.Table:
    """The finished rows of a block, by clip and signal."""
    rows = pa.concat_tables([work.schema.empty_table(), *task.rows.get(work.spec.name, ())])
    return rows.sort_by([("clip_id", "ascending"), ("signal", "ascending")]).combine_chunks()


def errors_of(task: Task) -> dict[str, list[tuple[str, str | None, str | None]]]:
    """Clip -> code, block and signal of its errors."""
    ids = task.clips["clip_id"].to_pylist()
    found: dict[str, list[tuple[str, str | None, str | None]]] = {clip: [] for clip in ids}
    for position, error in task.errors:
        found[ids[position]].append((error.code, error.block, error.signal))
    return found
