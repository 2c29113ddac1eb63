"""Signals `original`, each clip as decoded, and `raw`, without its mean at an RMS of 0.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from acoustic_env.audio.signals import DECODED, Engine, Signal

if TYPE_CHECKING:
    from acoustic_env.audio.signals import Batch

RMS: Final = 0.1
SILENCE_RMS: Final = 1e-8  # -160 dBFS, half a bit of a 28-bit file
_FLOAT32_RESOLUTION: Final = 1.2e-7


class RawSignal(Signal):
    """The clip itself, RMS-normalized.

    >>> clips = np.array([[0.5, 0.5, 0.7, 0.3]])
    >>> RawSignal().compute({"decoded": clips}, 16_000, "fast").round(3).tolist()
    [[0.0, 0.0, 0.141, -0.141]]
    """

    name = "raw"
    title = "raw sound"
    version = 2
    needs = (DECODED,)

    def settings(self, sample_rate: int, engine: Engine) -> dict[str, Any]:
        return {"prepare": self.version, "rms": RMS, "silence_rms": SILENCE_RMS}

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        return rms_normalize(needed[DECODED])


class OriginalSignal(Signal):
    """The recording itself; full scale is 1.

    >>> clips = np.array([[0.5, 0.75]], np.float32)
    >>> OriginalSignal().compute({DECODED: clips}, 16_000, "fast").tolist()
    [[0.5, 0.75]]
    """

    name = "original"
    needs = (DECODED,)

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        return needed[DECODED]


def rms_normalize(waveforms: Batch) -> Batch:
    """Remove each clip's mean and scale it to RMS 0.1; silent clips become zeros.

    Silent is an RMS below -160 dBFS, or one that is mere rounding of the clip's mean. Clips are float32 or float64
    [clips, samples], and so is the result; sums are taken in float64.

    >>> rms_normalize(np.array([[1.0, -1.0], [0.0, 0.0]]))
    array([[ 0.1, -0.1],
           [ 0. ,  0. ]])
    """
    samples = np.ascontiguousarray(waveforms, np.float64)
    offset = samples.mean(axis=1, keepdims=True)
    samples = samples - offset
    rms = np.sqrt(np.square(samples).mean(axis=1, keepdims=True))
    audible = rms > np.maximum(SILENCE_RMS, _FLOAT32_RESOLUTION * np.abs(offset))
    gain = np.divide(RMS, rms, out=np.zeros_like(rms), where=audible)
    normalized: Batch = (samples * gain).astype(waveforms.dtype)
    return normalized
