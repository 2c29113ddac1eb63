"""Foreground by spectral gating, as the published library noisereduce does it: the reference for `separate_fast`."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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


def separate_reference(waveform: npt.NDArray[Any], sample_rate: int) -> npt.NDArray[Any]:
    """Foreground of one clip; the background is what remains, `waveform - foreground`.

    Args:
        waveform: float32 or float64 [samples].
        sample_rate: Hz.

    Returns:
        The foreground, same shape and dtype (the gate itself works in float64). Where the gate is undefined, zero over
        zero in a chunk of digital silence, nothing stands above the floor and the foreground is zero.
    """
    import noisereduce

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        foreground: npt.NDArray[Any] = noisereduce.reduce_noise(waveform, sample_rate, **GATE)
    foreground[~np.isfinite(foreground)] = 0
    return foreground
