"""Entropies and diversities of the spectrum and of the median-equalized spectrogram."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.features.indices_fast import measures
from acoustic_env.features.indices_fast.measures import Array
from acoustic_env.features.indices_fast.spectrogram import Spectrogram

BAND_HZ: Final = (1000.0, 20_000.0)
ORDER: Final = 3  # of the Havrda, Renyi and gamma entropies


def equalized_entropies(spectrogram: Spectrogram) -> dict[str, Array]:
    """Compute EAS to EPS_SKEW: 1 - entropy of the bins' mean, variance, variation and peaks (`spectral_entropy`).

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> noise = np.random.default_rng(23).normal(size=(2, 16_000))
    >>> found = equalized_entropies(spectrogram(noise, 16_000))
    >>> list(found), found["EAS"].shape
    (['EAS', 'ECU', 'ECV', 'EPS', 'EPS_KURT', 'EPS_SKEW'], (2,))
    >>> bool((found["EAS"] < 0.1).all())
    True
    """
    band = spectrogram.band(*BAND_HZ)
    mean, variance = measures.variance(spectrogram.equalized[:, band])
    peaks = _peak_histogram(spectrogram, band)
    _, _, skewness, kurtosis = measures.moments(peaks)
    return {
        "EAS": 1 - measures.entropy(mean),
        "ECU": 1 - measures.entropy(variance),
        "ECV": 1 - measures.entropy(variance / mean),
        "EPS": np.where(peaks.any(axis=-1), 1 - measures.entropy(peaks), np.nan),
        "EPS_KURT": kurtosis,
        "EPS_SKEW": skewness,
    }


def _peak_histogram(spectrogram: Spectrogram, band: slice) -> Array:
    """Compute share of frames whose loudest bin falls into each of as many bins as the band has, spread over BAND_HZ.

    The band's lowest bin may lie below it; frames that peak there are left out.
    """
    frequencies = spectrogram.frequencies[band]
    size = len(frequencies)
    edges = np.histogram_bin_edges([], size, BAND_HZ)
    place = np.searchsorted(edges, frequencies, side="right") - 1
    place[frequencies == edges[-1]] = size - 1
    place[frequencies < edges[0]] = size
    loudest = place[spectrogram.equalized[:, band].argmax(axis=1)]
    counts = np.array([np.bincount(clip, minlength=size + 1)[:size] for clip in loudest], np.float64)
    counts = counts.reshape(len(loudest), size)
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


def spectrum_entropies(mean_power: Array) -> dict[str, Array]:
    """Compute H_Havrda to H_GiniSimpson of the mean power spectrum [clips, bins]; `more_entropy`, order 3.

    >>> found = spectrum_entropies(np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 0.0, 0.0]]))
    >>> found["H_GiniSimpson"].round(6).tolist()
    [0.75, 0.375]
    >>> found["H_Havrda"].round(6).tolist()
    [0.3125, 0.1875]
    """
    p = measures.without_zero(mean_power / mean_power.sum(axis=-1, keepdims=True))
    cubes = (p**ORDER).sum(axis=-1)
    return {
        "H_Havrda": (1 - cubes) / (2 ** (ORDER - 1) - 1),
        "H_Renyi": np.log(cubes) / (1 - ORDER),
        "H_pairedShannon": -(p * np.log(p)).sum(axis=-1) - ((1 - p) * np.log(1 - p)).sum(axis=-1),
        "H_gamma": (1 - (p ** (1 / ORDER)).sum(axis=-1) ** ORDER) / (1 - 2 ** (ORDER - 1)),
        "H_GiniSimpson": 1 - (p**2).sum(axis=-1),
    }


def rao_quadratic_entropy(binned: Array, bins: npt.NDArray[np.float64]) -> Array:
    """Compute RAOQ of power in coarse bins [clips, bins] that start at `bins`; `frequency_raoq`.

    >>> bins = np.array([0.0, 1000.0, 2000.0])
    >>> rao_quadratic_entropy(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]), bins).round(3).tolist()
    [0.0, 1.414]
    """
    p = binned / binned.sum(axis=-1, keepdims=True)
    position = bins / (bins.max() - bins.min())
    distance = np.abs(position[:, None] - position)
    return np.asarray(np.einsum("ci,ij,cj->c", p, distance, p) * 2 * np.sqrt(2))
