"""Spectral indices of the power and amplitude spectrogram: moments, levels, gradients, bands."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal

from acoustic_env.features.indices_fast import measures
from acoustic_env.features.indices_fast.measures import Array
from acoustic_env.features.indices_fast.spectrogram import Spectrogram, nearest_band

LOW_HZ: Final = (0.0, 1000.0)
MID_HZ: Final = (1000.0, 10_000.0)
BIN_HZ: Final = 1000.0
DIVERSITY_HZ: Final = (0, 10_000)
DIVERSITY_DB: Final = -50.0
PEAK_DISTANCE_HZ: Final = 200.0
PEAK_SLOPE_DB: Final = 1.0
GAIN_DB: Final = 42.0
SENSITIVITY_DB: Final = -35.0
REFERENCE_PRESSURE: Final = 2e-5
ROUNDING: Final = 2.0**-23  # of float32 samples
NOISE_BINS: Final = (25, 5)  # of the running means over the noise profile, one after the other
_THIRD_OCTAVES: Final = np.array(
    (
        *(16, 20, 25, 31.5, 40, 50, 63, 80, 100, 125, 160, 200, 250, 315, 400, 500, 630, 800, 1000, 1250, 1600, 2000),
        *(2500, 3150, 4000, 5000, 6300, 8000, 10_000, 12_500, 16_000, 20_000),
    )
)


def spectrum_indices(spectrogram: Spectrogram) -> dict[str, Array]:
    """Compute MEANf to Hf: moments, peaks, levels and entropy of the spectrum averaged over frames.

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> noise = np.random.default_rng(23).normal(size=16_000)
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    >>> spectrum_indices(spectrogram(np.stack([noise, tone]), 16_000))["Hf"].round(2).tolist()
    [1.0, 0.14]
    """
    power = spectrogram.mean_power
    amplitude = np.sqrt(power)
    mean, variance, skewness, kurtosis = measures.moments(amplitude)
    level = 20 * np.log10(measures.without_zero(amplitude))
    peaks = [_count_peaks(spectrum, spectrogram.df) for spectrum in level]
    pressure = np.square(amplitude / 10 ** (SENSITIVITY_DB / 20) / 10 ** (GAIN_DB / 20))
    noise = spectrogram.median_power
    for bins in NOISE_BINS:
        noise = scipy.ndimage.uniform_filter1d(noise, bins, axis=-1, mode="nearest")
    total = measures.power_to_db(power.sum(axis=-1))
    background = measures.power_to_db(noise.sum(axis=-1))
    return {
        "MEANf": mean,
        "VARf": variance,
        "SKEWf": skewness,
        "KURTf": kurtosis,
        "NBPEAKS": np.array(peaks, np.float64),
        "LEQf": 10 * np.log10(measures.without_zero(pressure).sum(axis=-1) / REFERENCE_PRESSURE**2),
        "ENRf": total,
        "BGNf": background,
        "SNRf": total - background,
        "Hf": measures.entropy(power),
    }


def _count_peaks(level: Array, df: float) -> int:
    """Count peaks of a spectrum in dB at least PEAK_DISTANCE_HZ apart that rise by PEAK_SLOPE_DB on both sides."""
    peaks, found = scipy.signal.find_peaks(level, distance=PEAK_DISTANCE_HZ / df, prominence=0)
    rise = level[peaks] - level[found["left_bases"]]
    fall = level[peaks] - level[found["right_bases"]]
    return int(np.count_nonzero((rise >= PEAK_SLOPE_DB) & (fall > PEAK_SLOPE_DB)))


def gradient_indices(spectrogram: Spectrogram) -> dict[str, Array]:
    """Compute ACI, ROU and AGI: first and second differences of the amplitude from frame to frame.

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> steady = np.random.default_rng(23).normal(size=16_000)
    >>> pulsed = steady * (np.arange(16_000) // 1_000 % 2)
    >>> found = gradient_indices(spectrogram(np.stack([steady, pulsed]), 16_000))
    >>> found["ACI"].round().tolist()
    [287.0, 499.0]
    """
    amplitude = spectrogram.amplitude
    change = np.diff(amplitude, axis=-1)
    bend = np.diff(change, axis=-1)
    roughness = np.einsum("cft,cft->cf", bend, bend).sum(axis=-1)
    np.abs(change, out=change)
    total = change.sum(axis=-1)
    return {
        "ACI": (total / amplitude.sum(axis=-1)).sum(axis=-1),
        "ROU": roughness,
        "AGI": gradient_index(change),
    }


def gradient_index(change: Array) -> Array:
    """Compute AGI: mean over median gradient of each bin, averaged over bins (`acoustic_gradient_index`).

    The library divides by the smallest double where a median is zero. Below `ROUNDING` of the mean, the median is what
    float32 samples leave of nothing, and so is the ratio: AGI is NaN where a bin has such a median.

    Args:
        change: magnitude of the difference from frame to frame [clips, bins, frames - 1].

    >>> rounded = [[[1.0, 3.0, 2.0]], [[1.0, 1e-9, 1e-9]]]
    >>> gradient_index(np.array(rounded)).tolist()
    [1.0, nan]
    """
    mean, middle = change.mean(axis=-1), measures.median(change)
    defined = (middle > ROUNDING * mean).all(axis=-1)
    return np.where(defined, (mean / np.where(middle > 0, middle, 1)).mean(axis=-1), np.nan)


def soundscape_indices(binned: Array, bins: npt.NDArray[np.float64], frames: int) -> dict[str, Array]:
    """Compute NDSI, rBA, AnthroEnergy, BioEnergy of mean power in coarse bins (`soundscape_index`, soundecology).

    As in the library, both bands take in the bin that starts at 1 kHz. NaN for silence.

    Args:
        binned: mean power [clips, bins].
        bins: where they start in Hz, ascending.
        frames: of the spectrogram; energies are sums over them.

    >>> power, bins = np.array([[1.0, 3.0, 0.0]]), np.array([0.0, 1000.0, 2000.0])
    >>> soundscape_indices(power, bins, 1)
    {'NDSI': array([-0.14285714]), 'rBA': array([0.75]), 'AnthroEnergy': array([4.]), 'BioEnergy': array([3.])}
    """
    biophony = binned[:, nearest_band(bins, *MID_HZ)].sum(axis=-1) * frames
    anthropophony = binned[:, nearest_band(bins, *LOW_HZ)].sum(axis=-1) * frames
    return {
        "NDSI": (biophony - anthropophony) / (biophony + anthropophony),
        "rBA": biophony / anthropophony,
        "AnthroEnergy": anthropophony,
        "BioEnergy": biophony,
    }


def coarse_bins(spectrogram: Spectrogram) -> tuple[Array, npt.NDArray[np.float64]]:
    """Compute mean power in bins of BIN_HZ times the mean number of fine bins in one, and their starts; `into_bins`.

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> tone = np.sin(2 * np.pi * 2500 * np.arange(16_000) / 16_000)
    >>> power, bins = coarse_bins(spectrogram(tone[None], 16_000))
    >>> power.shape, float(bins[power[0].argmax()])
    ((1, 8), 2000.0)
    """
    frequencies = spectrogram.frequencies
    edges = np.arange(frequencies[0], frequencies[-1] + BIN_HZ, BIN_HZ)
    place = np.searchsorted(frequencies, edges)
    sizes = np.diff(place)
    means = [spectrogram.mean_power[:, a:b].mean(axis=-1) for a, b in itertools.pairwise(place)]
    return np.stack(means, axis=-1) * sizes.mean(), edges[:-1]


def bioacoustic_index(spectrogram: Spectrogram) -> Array:
    """Compute BI: area of the mean amplitude spectrum in dB above its minimum, mid band (`bioacoustics_index`).

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> noise = np.random.default_rng(23).normal(size=(2, 16_000))
    >>> bioacoustic_index(spectrogram(noise, 16_000)).round(1).tolist()
    [72.5, 75.4]
    """
    amplitude = spectrogram.amplitude
    mean = amplitude.mean(axis=-1) / amplitude.max(axis=(1, 2))[:, None]
    level = measures.amplitude_to_db(mean)[:, spectrogram.band(*MID_HZ)]
    return np.asarray((level - level.min(axis=-1, keepdims=True)).sum(axis=-1) / spectrogram.df)


def diversity_indices(spectrogram: Spectrogram) -> dict[str, Array]:
    """Compute ADI and AEI: how evenly cells above DIVERSITY_DB of the maximum spread over bands of BIN_HZ.

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> noise = np.random.default_rng(23).normal(size=16_000)
    >>> tone = np.sin(2 * np.pi * 2500 * np.arange(16_000) / 16_000)
    >>> found = diversity_indices(spectrogram(np.stack([noise, tone]), 16_000))
    >>> found["ADI"].round(2).tolist(), found["AEI"].round(2).tolist()
    ([2.3, 0.0], [0.0, 0.9])
    """
    amplitude = spectrogram.amplitude
    loudest = amplitude.max(axis=(1, 2))
    threshold = np.where(loudest > 0, loudest * 10 ** (DIVERSITY_DB / 20), np.inf)
    loud = measures.count_true(amplitude >= threshold[:, None, None]) / amplitude.shape[-1]
    low, high = DIVERSITY_HZ
    bands = [spectrogram.band(start, start + BIN_HZ) for start in range(low, high, int(BIN_HZ))]
    share = np.stack([loud[:, band].mean(axis=-1) for band in bands], axis=-1)
    return {"ADI": measures.entropy(share) * np.log(len(bands)), "AEI": measures.gini(share)}


def time_frequency_derivation(spectrogram: Spectrogram) -> Array:
    """Compute TFSD: share of the mid band in the derivative of third-octave log amplitude in time and frequency.

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> noise = np.random.default_rng(23).normal(size=(1, 16_000))
    >>> time_frequency_derivation(spectrogram(noise, 16_000)).round(2).tolist()
    [0.71]
    """
    weights, centers = _third_octave_weights(spectrogram.frequencies)
    used = np.flatnonzero(weights.any(axis=0))
    rows = slice(used[0], used[-1] + 1)
    octaves = weights[:, rows] @ spectrogram.log_power[:, rows]
    change = np.abs(np.diff(np.diff(octaves, axis=2), axis=1)).sum(axis=-1)
    share = change[:, nearest_band(centers[:-1], *MID_HZ)].sum(axis=-1) / change.sum(axis=-1)
    return np.where(np.isnan(share), 0, share)


def _third_octave_weights(frequencies: npt.NDArray[np.float64]) -> tuple[Array, npt.NDArray[np.float64]]:
    """Return which bin belongs to which band [bands, bins], and the bands' centers (`linear_to_octave`)."""
    centers = np.array([hz for hz in _THIRD_OCTAVES if frequencies[0] <= hz <= frequencies[-1]])
    low, high = centers / 2**0.1666666, centers * 2**0.1666666
    return ((frequencies >= low[:, None]) & (frequencies <= high[:, None])).astype(np.float64), centers
