"""The 60 acoustic indices of scikit-maad 1.5.2 at its defaults, computed for many clips at once.

Definitions are the library's, down to what it does with silence; each module says which functions it reproduces. The
work goes through small batches: one spectrogram, and from it, once, what several indices need.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.features.indices import NAMES
from acoustic_env.features.indices_fast.activity import activity_indices
from acoustic_env.features.indices_fast.entropy import equalized_entropies, rao_quadratic_entropy, spectrum_entropies
from acoustic_env.features.indices_fast.measures import Array
from acoustic_env.features.indices_fast.regions import region_indices
from acoustic_env.features.indices_fast.spectral import (
    bioacoustic_index,
    coarse_bins,
    diversity_indices,
    gradient_indices,
    soundscape_indices,
    spectrum_indices,
    time_frequency_derivation,
)
from acoustic_env.features.indices_fast.spectrogram import Spectrogram, spectrogram
from acoustic_env.features.indices_fast.temporal import temporal_indices
from acoustic_env.memory import reuse_freed_memory

_SAMPLES_AT_ONCE: Final = 1 << 18


def compute_indices(
    waveforms: npt.NDArray[np.float32] | npt.NDArray[np.float64], sample_rate: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Compute all indices of [clips, samples] in double precision, by name in the library's order; NaN where undefined.

    Raises:
        ValueError: clips too short for two frames of the spectrogram.

    >>> noise = np.random.default_rng(23).normal(scale=0.1, size=(2, 16_000))
    >>> noise[1] = 0
    >>> found = compute_indices(noise, 16_000)
    >>> len(found), found["ADI"].round(2).tolist(), found["NDSI"].round(2).tolist()
    (60, [2.3, 2.3], [0.55, nan])
    """
    clips, samples = waveforms.shape
    reuse_freed_memory()
    indices = {name: np.empty(clips) for name in NAMES}
    step = max(1, _SAMPLES_AT_ONCE // max(samples, 1))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for first in range(0, clips, step):
            batch = np.ascontiguousarray(waveforms[first : first + step], np.float64)
            values = temporal_indices(batch, sample_rate) | spectral_indices(spectrogram(batch, sample_rate))
            for name, column in indices.items():
                column[first : first + step] = values[name]
    for column in indices.values():
        column[~np.isfinite(column)] = np.nan
    return indices


def spectral_indices(of: Spectrogram) -> dict[str, Array]:
    """Compute the 44 spectral indices (`all_spectral_alpha_indices`, defaults); each [clips].

    >>> noise = np.random.default_rng(23).normal(size=(3, 16_000))
    >>> found = spectral_indices(spectrogram(noise, 16_000))
    >>> len(found), found["ACI"].shape
    (44, (3,))
    """
    binned, bins = coarse_bins(of)
    return {
        **spectrum_indices(of),
        **equalized_entropies(of),
        **gradient_indices(of),
        **soundscape_indices(binned, bins, of.power.shape[-1]),
        "BI": bioacoustic_index(of),
        **diversity_indices(of),
        **activity_indices(of),
        "TFSD": time_frequency_derivation(of),
        **spectrum_entropies(of.mean_power),
        "RAOQ": rao_quadratic_entropy(binned, bins),
        **region_indices(of),
    }
