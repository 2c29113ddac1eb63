"""A task: clips on their way through the graph, what of them is done, and prepared signals for a later pool.

In a process it is tables and arrays; between processes one row of an Arrow table (`Task.pack`).
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.errors import ClipError, ErrorCode
from acoustic_env.io.location import scrub

TEXT: Final = pa.string()
WORK_SCHEMA: Final = pa.schema(
    {"clip_id": TEXT, "uri": TEXT, "start_s": pa.float64(), "end_s": pa.float64()}
    | {"need": pa.int64(), "attempt": pa.int32()}  # a bit for each missing (block, signal); 1 if it never failed before
    | {"byte_offset": pa.int64(), "byte_size": pa.int64(), "seconds": pa.float64()}  # the last null where not known
)
ASSUMED_S: Final = 30.0  # of a clip whose length is not known
MAX_MESSAGE: Final = 1000

Waves = npt.NDArray[np.float32]  # [clips, samples]


class RowError(NamedTuple):
    """What went wrong with one clip in one stage: with its source, or with one signal of one block."""

    stage: str
    code: ErrorCode | Literal["resolved"]
    message: str
    permanent: bool
    block: str | None = None
    signal: str | None = None


def row_error(stage: str, error: Exception) -> RowError:
    """Any failure as an error of a clip; what is not a `ClipError` is the stage's own failure."""
    if isinstance(error, ClipError):
        return RowError(stage, error.code, scrub(error.message)[:MAX_MESSAGE], error.permanent)
    # PyTorch's class of this name is a RuntimeError.
    if isinstance(error, MemoryError) or "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}:
        return RowError(stage, "out_of_memory", "the worker ran out of memory", permanent=False)
    code: ErrorCode = "decode_failed" if stage == "decode" else "compute_failed"
    return RowError(stage, code, scrub(f"{type(error).__name__}: {error}")[:MAX_MESSAGE], permanent=True)


@dataclass(frozen=True)
class Group:
    """Clips of a task that lack the same and are of one length.

    Attributes:
        clips: their positions in the task.
        need: of each, as in `WORK_SCHEMA`.
        waves: sample rate in Hz -> signal (`audio.signals.DECODED` as decoded) -> float32 [clips, samples].
    """

    clips: tuple[int, ...]
    need: int
    waves: Mapping[int, Mapping[str, Waves]]

    @property
    def seconds(self) -> float:
        """Of audio."""
        rate, waves = next(iter(self.waves.items()))
        return next(iter(waves.values())).size / rate

    def only(self, i: int) -> Group:
        """Return one clip of the group alone."""
        waves = {rate: {name: wave[i : i + 1] for name, wave in some.items()} for rate, some in self.waves.items()}
        return Group(self.clips[i : i + 1], self.need, waves)


class Worked(NamedTuple):
    """A worker that had a task: its pool and node, the seconds it took, and its peak memory so far in bytes."""

    pool: str
    node: str
    seconds: float
    memory: int


@dataclass
class Task:
    """Clips that are worked on together.

    Attributes:
        clips: `WORK_SCHEMA`.
        errors: each after its clip's position.
        rows: block -> finished rows, in pieces.
        groups: prepared signals that a later pool needs.
        seconds: stage -> seconds spent.
        worked: in the order of the pools.
    """

    clips: pa.Table
    errors: list[tuple[int, RowError]] = field(default_factory=list)
    rows: dict[str, list[pa.Table]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    worked: list[Worked] = field(default_factory=list)

    def spend(self, stage: str, seconds: float) -> None:
        """Add to a stage's seconds."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def only(self, i: int) -> Task:
        """Return one clip as a task of its own, as it came."""
        groups = [group.only(group.clips.index(i)) for group in self.groups if i in group.clips]
        return Task(self.clips.slice(i, 1), groups=[dataclasses.replace(group, clips=(0,)) for group in groups])

    def take_in(self, i: int, one: Task) -> None:
        """Add what became of a clip that was a task of its own."""
        self.errors += [(i, error) for _, error in one.errors]
        self.groups += [dataclasses.replace(group, clips=(i,)) for group in one.groups]
        for block, pieces in one.rows.items():
            self.rows.setdefault(block, []).extend(pieces)
        for stage, seconds in one.seconds.items():
            self.spend(stage, seconds)

    def pack(self) -> pa.Table:
        """Return the task as one row."""
        data = pa.py_buffer(pickle.dumps(self, protocol=5))
        offsets = pa.py_buffer(np.array([0, data.size], np.int64))
        return pa.table({"task": pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])})


def unpack(packed: pa.Table) -> list[Task]:
    """Return the tasks of the rows: of `Task.pack`, or of a pending list (`pending.TASK_SCHEMA`)."""
    if "clips" in packed.column_names:
        tables = [pa.Table.from_struct_array(clips.values) for clips in packed["clips"]]
        return [Task(table.take(np.arange(len(table)))) for table in tables]  # of a slice, pickle would keep the whole
    return [pickle.loads(task.as_buffer()) for task in packed["task"]]  # noqa: S301
