"""The 16 temporal indices of scikit-maad 1.5.2 (`all_temporal_alpha_indices`, defaults)."""

from __future__ import annotations

from typing import Final

import numpy as np

from acoustic_env.features.indices_fast import measures
from acoustic_env.features.indices_fast.measures import Array

FRAME: Final = 512  # samples of an envelope frame
GAIN_DB: Final = 42.0
SENSITIVITY_DB: Final = -35.0
REFERENCE_DB: Final = 94.0
THRESHOLD_DB: Final = 3.0
REJECT_S: Final = 0.01  # events of this duration or shorter, in frames rounded, are not counted


def temporal_indices(waveforms: Array, sample_rate: int) -> dict[str, Array]:
    """Compute ZCR to EVNtCount of [clips, samples]; each [clips].

    >>> tone = np.sin(2 * np.pi * 100 * (np.arange(16_000) + 0.5) / 16_000)
    >>> found = temporal_indices(tone[None], 16_000)
    >>> {name: round(float(found[name][0]), 2) for name in ("ZCR", "VARt", "LEQt", "Ht")}
    {'ZCR': 199.0, 'VARt': 0.5, 'LEQt': 83.99, 'Ht': 1.0}
    """
    samples = waveforms.shape[1]
    positive = waveforms > 0
    crossings = measures.count_true(positive[:, 1:] != positive[:, :-1])
    mean, variance, skewness, kurtosis = measures.moments(waveforms)
    indices: dict[str, Array] = {
        "ZCR": 1 / (samples / sample_rate) * crossings,
        "MEANt": mean,
        "VARt": variance,
        "SKEWt": skewness,
        "KURTt": kurtosis,
        "LEQt": _equivalent_level(waveforms, sample_rate),
    }
    return indices | _envelope_indices(waveforms, sample_rate)


def _equivalent_level(waveforms: Array, sample_rate: int) -> Array:
    """Compute the mean level of whole seconds in dB; NaN for less than one."""
    seconds = waveforms.shape[1] // sample_rate
    if seconds == 0:
        return np.full(len(waveforms), np.nan)
    whole = waveforms[:, : seconds * sample_rate].reshape(len(waveforms), seconds, sample_rate)
    rms = measures.without_zero(np.sqrt(measures.mean_product(whole, whole)))
    level = 20 * np.log10(rms) - SENSITIVITY_DB - GAIN_DB + REFERENCE_DB
    return measures.power_to_db((10 ** (level / 10)).mean(axis=-1))


def _envelope_indices(waveforms: Array, sample_rate: int) -> dict[str, Array]:
    """Compute the indices of the envelope, the largest magnitude of each frame."""
    frames = waveforms.shape[1] // FRAME
    framed = waveforms[:, : frames * FRAME].reshape(len(waveforms), frames, FRAME)
    envelope = np.maximum(framed.max(axis=-1), -framed.min(axis=-1))
    power = envelope**2
    level = measures.power_to_db(power)
    background = measures.median(level)
    mean_level = measures.power_to_db((10 ** (level / 10)).mean(axis=-1))

    above = measures.amplitude_to_db(envelope) - background[:, None]
    active = measures.count_true(above >= THRESHOLD_DB)
    loud = above > THRESHOLD_DB
    loud_power = np.where(loud, 10 ** (above / 10), 0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        loud_level = 10 * np.log10(loud_power / loud.sum(axis=-1))

    dt = 1 / sample_rate * FRAME
    with np.errstate(divide="ignore", invalid="ignore"):
        event = 10 * np.log10(power) - background[:, None] >= THRESHOLD_DB
    count, together = measures.runs(event, round(REJECT_S / dt) + 1)
    return {
        "BGNt": background,
        "SNRt": mean_level - background,
        "MED": measures.median(envelope),
        "Ht": measures.entropy(power),
        "ACTtFraction": active / frames,
        "ACTtCount": active,
        "ACTtMean": np.where(loud.any(axis=-1), loud_level, 0),
        "EVNtFraction": together / frames,
        "EVNtMean": together * dt / np.maximum(count, 1),
        "EVNtCount": count / ((frames - 1) * dt),
    }
