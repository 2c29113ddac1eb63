"""What a worker does with a task: decode its clips, prepare the signals, compute the rows. No Ray here.

A clip that fails leaves an error in the task; its neighbors never notice. Decoded samples stay in this process and are
dropped as soon as they are computed on, so that a task of any number of clips needs the memory of a few.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.signals import DECODED
from acoustic_env.errors import AcousticEnvError
from acoustic_env.features.block import FeatureBlock, to_table
from acoustic_env.features.golden import check_decoders, check_golden
from acoustic_env.pipeline.guard import HANG_S, alarm
from acoustic_env.pipeline.reading import Decoded, decode_clips
from acoustic_env.pipeline.task import Group, RowError, Task, row_error
from acoustic_env.pipeline.work import BlockWork, block_work, lacking_pairs, missing_signals

# Samples decoded, separated and computed at once (8 clips of 10 s): bounds the memory of a worker.
STEP_SAMPLES: Final = 8 * 160_000
SLOWEST: Final = 10.0  # seconds that computing may take for a second of audio, before it counts as endless


@dataclass(frozen=True)
class ComputeSettings:
    """What the workers of one pool do.

    Attributes:
        blocks: they compute.
        passes_on: blocks of later pools, for which prepared signals are kept.
        first: whether the clips come as sources, to be decoded and prepared; else as prepared signals.
        device: where the blocks' models run, "cpu" or "cuda".
        longest_s: the longest clip that there is memory for.
    """

    blocks: tuple[BlockWork, ...]
    passes_on: tuple[BlockWork, ...] = ()
    first: bool = True
    device: str = "cpu"
    longest_s: float = float("inf")


class Compute:
    """Tasks to the rows of one or more blocks; models are loaded once, at construction."""

    def __init__(self, settings: ComputeSettings) -> None:
        self.settings = settings
        self.specs = [work.spec for work in (*settings.blocks, *settings.passes_on)]
        self.rates = sorted({work.sample_rate for work in (*settings.blocks, *settings.passes_on)})
        self.blocks: list[tuple[BlockWork, FeatureBlock]] = []
        for work in settings.blocks:
            block = planned_block(work)
            block.load(settings.device)
            self.blocks.append((work, block))

    def check(self) -> None:
        """Decode and compute the golden clip; raises what a sick worker raises, AcousticEnvError where it differs."""
        if self.settings.first:
            check_decoders(self.rates)
        for _, block in self.blocks:
            check_golden(block)

    def __call__(self, task: Task) -> Task:
        """Add the rows and errors of the clips, and the signals that later pools need, to the task."""
        with alarm(HANG_S) as alive:
            if self.settings.first:
                for group in self._groups(task, alive):
                    alive(SLOWEST * group.seconds)
                    for rate in self.rates:
                        self._prepare(task, group, rate)
                return task
            groups, task.groups = task.groups, []
            for group in groups:
                alive(SLOWEST * group.seconds)
                self._compute_all(task, group)
            return task

    def decode(self, task: Task) -> Task:
        """Only decode the clips, as the first step of the whole: the task gets the errors."""
        with alarm(HANG_S) as alive:
            for _ in self._groups(task, alive) if self.settings.first else ():
                pass
        return task

    def parts(self, task: Task) -> list[Task]:
        """Return one clip as tasks of one block and signal each: those computed here, and those prepared for later."""
        (need,) = task.clips["need"].to_pylist()
        parts = []
        for spec, signal in lacking_pairs(need, self.specs):
            bit = spec.bit(signal)
            clips = (
                task.clips.drop_columns("need").append_column("need", pa.array([bit])).select(task.clips.column_names)
            )
            groups = [dataclasses.replace(group, need=bit) for group in task.groups if group.need & bit]
            if self.settings.first or groups:
                parts.append(Task(clips, groups=groups))
        return parts

    def skip(self, task: Task, error: RowError) -> Task:
        """Add an error of one clip that broke the worker: of its source, or of all that it lacked here."""
        (need,) = task.clips["need"].to_pylist()
        pairs = [(spec.name, signal) for spec, signal in lacking_pairs(need, self.specs)]
        subjects = [(None, None)] if error.stage == "decode" else pairs
        task.errors += [(0, error._replace(block=block, signal=signal)) for block, signal in subjects]
        return task

    # ---- decoding

    def _groups(self, task: Task, alive: Callable[[float], object]) -> Iterator[Group]:
        """Yield decoded clips of equal length that lack the same, of `STEP_SAMPLES` in all or one clip at a time."""
        needs = task.clips["need"].to_pylist()
        held: dict[tuple[int, tuple[int, ...]], list[Decoded]] = {}
        samples = 0
        for clip in decode_clips(task.clips, self.rates, self.settings.longest_s):
            alive(0.0)
            task.spend("decode", clip.spent_s)
            if clip.error is not None:
                task.errors.append((clip.position, clip.error))
                continue
            lengths = tuple(map(len, clip.waves.values()))
            held.setdefault((needs[clip.position], lengths), []).append(clip)
            samples += max(lengths)
            if samples >= STEP_SAMPLES:
                yield from _stacked(held)
                samples = 0
        yield from _stacked(held)

    # ---- preparing and computing

    def _prepare(self, task: Task, group: Group, rate: int) -> None:
        """Normalize and separate what the clips lack at a rate; then compute it, or keep it for a later pool."""
        specs = [work.spec for work in (*self.settings.blocks, *self.settings.passes_on) if work.sample_rate == rate]
        need = group.need & sum(spec.mask for spec in specs)
        signals = missing_signals(need, specs)
        if not signals:
            return
        started = time.perf_counter()
        group = dataclasses.replace(group, need=need)
        try:
            waves = prepare.prepare(group.waves[rate][DECODED], rate, specs[0].engine, signals)
        except Exception as error:  # noqa: BLE001  which clip and signal it was is found
            task.spend("prepare", time.perf_counter() - started)
            self._apart(task, group, "prepare", error, lambda part: self._prepare(task, part, rate))
            return
        task.spend("prepare", time.perf_counter() - started)
        self._compute_all(task, dataclasses.replace(group, waves={rate: waves}))
        later = sum(work.spec.mask for work in self.settings.passes_on if work.sample_rate == rate) & need
        if later:
            kept = {signal: waves[signal] for signal in missing_signals(later, self.specs)}
            task.groups.append(Group(group.clips, later, {rate: kept}))

    def _compute_all(self, task: Task, group: Group) -> None:
        for work, block in self.blocks:
            if work.sample_rate in group.waves:
                own = dataclasses.replace(group, need=group.need & work.spec.mask)
                self._compute(task, own, work, block)

    def _compute(self, task: Task, group: Group, work: BlockWork, block: FeatureBlock) -> None:
        """Add the block's rows of the group's clips; signals of long clips one after the other."""
        waves = group.waves[work.sample_rate]
        signals = [signal for signal in work.spec.signals if signal in waves and group.need & work.spec.bit(signal)]
        if not signals:
            return
        if len(signals) > 1 and waves[signals[0]].size > 2 * STEP_SAMPLES:
            for signal in signals:
                self._compute(task, dataclasses.replace(group, need=work.spec.bit(signal)), work, block)
            return
        started = time.perf_counter()
        failure: Exception | None = None
        try:
            columns = block.compute(np.concatenate([waves[signal] for signal in signals]))
            ids = task.clips["clip_id"].take(np.array(group.clips)).to_pylist()
            named = [signal for signal in signals for _ in ids]
            task.rows.setdefault(work.spec.name, []).append(to_table(work.schema, ids * len(signals), named, columns))
        except Exception as error:  # noqa: BLE001  which clip and signal it was is found below
            failure = error
        task.spend(work.spec.name, time.perf_counter() - started)
        if failure is not None:
            self._apart(task, group, "compute", failure, lambda part: self._compute(task, part, work, block))

    def _apart(self, task: Task, group: Group, stage: str, error: Exception, again: Callable[[Group], None]) -> None:
        """Do what failed for a group clip by clip, and of one clip signal by signal; what fails then is its error."""
        signals = missing_signals(group.need, self.specs)
        if len(group.clips) > 1:
            for i in range(len(group.clips)):
                again(group.only(i))
        elif len(signals) > 1:
            for signal in signals:
                bits = sum(spec.bit(signal) for spec in self.specs if signal in spec.signals)
                again(dataclasses.replace(group, need=group.need & bits))
        else:
            found = row_error(stage, error)
            task.errors += [(group.clips[0], found._replace(block=spec.name, signal=signal))
                            for spec, signal in lacking_pairs(group.need, self.specs)]  # fmt: skip


def _stacked(held: dict[tuple[int, tuple[int, ...]], list[Decoded]]) -> Iterator[Group]:
    """Yield a group of each key, and empty the dictionary."""
    for (need, _), clips in held.items():
        waves = {rate: {DECODED: np.stack([clip.waves[rate] for clip in clips])} for rate in clips[0].waves}
        yield Group(tuple(clip.position for clip in clips), need, waves)
    held.clear()


def planned_block(work: BlockWork) -> FeatureBlock:
    """The block as this worker would compute it, which must be the version that was planned."""
    here = block_work(work.spec)
    if here.fingerprints != work.fingerprints:
        signal = next(signal for signal, planned in work.fingerprints.items() if here.fingerprints[signal] != planned)
        raise AcousticEnvError(
            f"block {work.spec.name}, signal {signal}: this worker ({platform.node()}) computes version "
            f"{here.fingerprints[signal]}, the run was planned for {work.fingerprints[signal]}; give every node the "
            "same weights (ACOUSTIC_ENV_WEIGHTS) and installation"
        )
    return work.spec.make()
