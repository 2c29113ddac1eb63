"""Signals `fg` and `bg`: the foreground by spectral gating, and what remains.

The reference engine calls noisereduce clip by clip; `separate_fast` computes the same for a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audio.signals import Engine, Signal

if TYPE_CHECKING:
    from acoustic_env.audio.signals import Batch

# Raise an engine's whenever its foreground of the same raw signal changes for another reason than its parameters.
SEPARATION_VERSION: Final[Mapping[Engine, int]] = {"fast": 1, "reference": 1}
# In digital silence the gate leaves rounding errors of 1e-17, different on every machine, and indices that measure a
# background level would measure them: foreground below this, -220 dB below the RMS, is zero.
ROUNDING: Final = 1e-12
# noisereduce 2.0.1's defaults, which the studied system used; 3.0.3 has the same ones. Written out so that a later
# release cannot change them silently. The gate is non-stationary: each bin against its own 2 s average.
GATE: Final[dict[str, Any]] = {
    "stationary": False,
    "prop_decrease": 1.0,
    "time_constant_s": 2.0,
    "freq_mask_smooth_hz": 500,
    "time_mask_smooth_ms": 50,
    "thresh_n_mult_nonstationary": 2,
    "sigmoid_slope_nonstationary": 10,
    "n_fft": 1024,
    "win_length": 1024,
    "hop_length": 256,
    "chunk_size": 600_000,
    "padding": 30_000,
    "n_jobs": 1,
    "use_tqdm": False,
    "use_torch": False,
}


class ForegroundSignal(Signal):
    """What stands out from the noise floor; not normalized again, so its level says how much of the clip it is.

    >>> from acoustic_env.audio.signals import make_signal
    >>> noise = np.random.default_rng(23).normal(scale=0.1, size=(1, 16_000))
    >>> found = make_signal("fg").compute({"raw": noise}, 16_000, "fast")
    >>> found.shape, bool(np.square(found).mean() < np.square(noise).mean())
    ((1, 16000), True)
    """

    name = "fg"
    title = "foreground"

    def settings(self, sample_rate: int, engine: Engine) -> dict[str, Any]:
        """Return the gate's parameters; the reference engine calls noisereduce, so its release counts."""
        separation: dict[str, Any] = {name: value for name, value in GATE.items() if name not in ("n_jobs", "use_tqdm")}
        separation |= {"engine": engine, "version": SEPARATION_VERSION[engine], "rounding": ROUNDING}
        if engine == "reference":
            separation["noisereduce"] = version("noisereduce")
        return {"separation": separation}

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        raw = needed["raw"]
        if engine == "fast":
            from acoustic_env.audio.separate_fast import separate_fast

            foreground = separate_fast(raw, sample_rate)
        else:
            foreground = np.stack([separate_reference(waveform, sample_rate) for waveform in raw])
        foreground[~np.isfinite(foreground) | (np.abs(foreground) < ROUNDING)] = 0
        return foreground


class BackgroundSignal(Signal):
    """The clip without its foreground: raw - fg. It has the foreground's fingerprints.

    >>> raw, fg = np.array([[1.0, 2.0]]), np.array([[0.25, 2.0]])
    >>> BackgroundSignal().compute({"raw": raw, "fg": fg}, 16_000, "fast").tolist()
    [[0.75, 0.0]]
    """

    name = "bg"
    title = "background"
    needs = ("raw", "fg")

    def settings(self, sample_rate: int, engine: Engine) -> dict[str, Any]:
        return {}

    def compute(self, needed: Mapping[str, Batch], sample_rate: int, engine: Engine) -> Batch:
        return needed["raw"] - needed["fg"]


def separate_reference(waveform: npt.NDArray[Any], sample_rate: int) -> npt.NDArray[Any]:
    """Compute the foreground of one clip, float32 or float64 [samples], with noisereduce.

    Returns:
        The foreground, same shape and dtype (the gate itself works in float64). Where the gate is undefined, zero over
        zero in a chunk of digital silence, nothing stands above the floor and the foreground is zero.

    >>> noise = np.random.default_rng(23).normal(scale=0.1, size=16_000)
    >>> separate_reference(noise, 16_000).shape
    (16000,)
    >>> bool(separate_reference(np.zeros(16_000), 16_000).any())
    False
    """
    import noisereduce

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        foreground: npt.NDArray[Any] = noisereduce.reduce_noise(waveform, sample_rate, **GATE)
    foreground[~np.isfinite(foreground)] = 0
    return foreground
