"""A task: clips on their way through the graph, what of them is done, and prepared signals for a later pool.

In a process it is tables and arrays. Between processes it is one row of an Arrow table (`pack`), whose cells are Arrow
streams that are read without copying:

clips          the rows of the pending list, `WORK_SCHEMA`
rows:<block>   finished rows, the block's own table
signals        `SIGNALS_SCHEMA`, for a later pool
notes          JSON: errors, seconds of each stage, and the workers that had the task
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
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
SIGNALS_SCHEMA: Final = pa.schema(
    {"clips": pa.list_(pa.int32()), "need": pa.int64(), "rate": pa.int32(), "signal": TEXT}
    | {"samples": pa.large_list(pa.float32())}
)
ROWS: Final = "rows:"
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
        notes = {"errors": self.errors, "seconds": self.seconds, "worked": self.worked}
        cells = {"notes": pa.array([json.dumps(notes)], TEXT), "clips": _stream(self.clips)}
        for block, pieces in self.rows.items():
            cells[f"{ROWS}{block}"] = _stream(pa.concat_tables(pieces))
        if self.groups:
            cells["signals"] = _stream(_pack_signals(self.groups))
        return pa.table(cells)


def unpack(packed: pa.Table) -> list[Task]:
    """Return the tasks of the rows: of `Task.pack`, or of a pending list (`pending.TASK_SCHEMA`)."""
    if "notes" not in packed.column_names:
        return [Task(pa.Table.from_struct_array(clips.values)) for clips in packed["clips"]]
    return [_unpack(row) for i in range(len(packed)) for row in [packed.slice(i, 1)]]


def _unpack(row: pa.Table) -> Task:
    notes = json.loads(row["notes"][0].as_py())
    found = {name: pa.ipc.open_stream(row[name][0].as_buffer()).read_all()
             for name in row.column_names if name != "notes" and row[name][0].is_valid}  # fmt: skip
    return Task(
        found.pop("clips"),
        [(position, RowError(*error)) for position, error in notes["errors"]],
        groups=_unpack_signals(found.pop("signals", SIGNALS_SCHEMA.empty_table())),
        rows={name.removeprefix(ROWS): [table] for name, table in found.items()},
        seconds=notes["seconds"],
        worked=[Worked(*worked) for worked in notes["worked"]],
    )


def _stream(table: pa.Table) -> pa.Array:
    """Return a table as a cell, large_binary [1]."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data = sink.getvalue()
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def _pack_signals(groups: Sequence[Group]) -> pa.Table:
    """Return a row for each group, rate and signal."""
    rows = [
        (list(group.clips), group.need, rate, name, waves)
        for group in groups
        for rate, signals in group.waves.items()
        for name, waves in signals.items()
    ]
    clips, need, rate, signal, waves = zip(*rows, strict=True)
    offsets = np.cumsum([0, *(wave.size for wave in waves)], dtype=np.int64)
    samples = pa.LargeListArray.from_arrays(offsets, np.concatenate([wave.ravel() for wave in waves]))
    columns = [pa.array(clips, SIGNALS_SCHEMA.field("clips").type), need, rate, signal, samples]
    return pa.table(columns, schema=SIGNALS_SCHEMA)


def _unpack_signals(table: pa.Table) -> list[Group]:
    groups: dict[tuple[tuple[int, ...], int], dict[int, dict[str, Waves]]] = {}
    for i, row in enumerate(table.drop_columns("samples").to_pylist()):
        clips = tuple(row["clips"])
        waves = table["samples"][i].values.to_numpy().reshape(len(clips), -1)
        groups.setdefault((clips, row["need"]), {}).setdefault(row["rate"], {})[row["signal"]] = waves
    return [Group(clips, need, waves) for (clips, need), waves in groups.items()]
