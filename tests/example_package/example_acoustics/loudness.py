"""Block `loudness`: the level and the crest factor of a signal."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from acoustic_env.features.block import Column, Columns, Engine, FeatureBlock, Json, Waveforms


class LoudnessBlock(FeatureBlock):
    """Two float64 columns; undefined (null) for silence. Option `floor_db`: levels below it count as silence."""

    name = "loudness"
    version = 1
    columns = (
        Column("level", pa.float64(), "dB", "RMS level relative to full scale"),
        Column("crest", pa.float64(), "dB", "peak over RMS"),
    )

    def __init__(self, engine: Engine, *, floor_db: float = -120.0) -> None:
        self.engine = engine
        self.sample_rate = 16_000
        self.floor_db = floor_db

    def parameters(self) -> dict[str, Json]:
        return {"floor_db": self.floor_db}

    def compute(self, waveforms: Waveforms) -> Columns:
        rms = np.sqrt(np.square(waveforms, dtype=np.float64).mean(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            level = 20 * np.log10(rms)
            crest = 20 * np.log10(np.abs(waveforms).max(axis=1) / rms)
        audible = level > self.floor_db
        return {"level": np.where(audible, level, np.nan), "crest": np.where(audible, crest, np.nan)}
