"""A cheap block whose failures the waveform itself asks for."""

from __future__ import annotations

import signal

import numpy as np
import pyarrow as pa

from acoustic_env.features.block import Column, Columns, Engine, FeatureBlock, Json, Waveforms
from acoustic_env.pipeline.task import RowError, Task

POISON_SAMPLES = 4321
DEADLY_SAMPLES = 4322


class LevelBlock(FeatureBlock):
    """RMS and length; raises for a batch that holds a clip of `POISON_SAMPLES` samples."""

    name = "level"
    version = 1
    sample_rate = 16_000
    columns = (Column("rms", pa.float64(), "1", "RMS"), Column("samples", pa.float64(), "1", "length"))

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def parameters(self) -> dict[str, Json]:
        return {}

    def compute(self, waveforms: Waveforms) -> Columns:
        if waveforms.shape[1] == POISON_SAMPLES:
            msg = "poison"
            raise ValueError(msg)
        rms = np.sqrt(np.square(waveforms, dtype=np.float64).mean(axis=1))
        return {"rms": rms, "samples": np.full(len(waveforms), float(waveforms.shape[1]))}


class SignalBlock(LevelBlock):
    """Fails for one signal alone: the raw one, whose RMS is 0.1."""

    name = "signal"

    def compute(self, waveforms: Waveforms) -> Columns:
        columns = super().compute(waveforms)
        if np.isclose(columns["rms"], 0.1, atol=1e-4).any():
            msg = "raw signal"
            raise ValueError(msg)
        return columns


class DeadlyBlock(LevelBlock):
    """Ends the process at the raw signal, whose RMS is 0.1, of a clip of `DEADLY_SAMPLES`."""

    name = "deadly"

    def compute(self, waveforms: Waveforms) -> Columns:
        columns = super().compute(waveforms)
        if waveforms.shape[1] == DEADLY_SAMPLES and np.isclose(columns["rms"], 0.1, atol=1e-4).any():
            signal.raise_signal(signal.SIGSEGV)
        return columns


class DeadlyStage:
    """Does nothing; clips named after a signal (SIGSEGV-1) end the process by it."""

    def __call__(self, task: Task) -> Task:
        for clip_id in task.clips["clip_id"].to_pylist():
            if clip_id.startswith("SIG"):
                signal.raise_signal(getattr(signal, clip_id.partition("-")[0]))
        return task

    def decode(self, task: Task) -> Task:
        return task

    def check(self) -> None:
        """Nothing can be wrong with that."""

    def parts(self, task: Task) -> list[Task]:
        return [task]

    def skip(self, task: Task, error: RowError) -> Task:
        task.errors.append((0, error))
        return task
