"""Cover, activity and events of the median-equalized spectrogram."""

from __future__ import annotations

from typing import Final

import numpy as np

from acoustic_env.features.indices_fast import measures
from acoustic_env.features.indices_fast.measures import Array
from acoustic_env.features.indices_fast.spectrogram import Spectrogram

THRESHOLD_DB: Final = 3.0
SHORTEST_EVENT: Final = 4  # frames: one more than the rejected duration of three
LOW_HZ: Final = (0.0, 1000.0)
MID_HZ: Final = (1000.0, 10_000.0)
HIGH_HZ: Final = (10_000.0, 20_000.0)


def activity_indices(spectrogram: Spectrogram) -> dict[str, Array]:
    """Compute LFC to EVNspCount; `spectral_cover`, `spectral_activity`, `spectral_events`.

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> noise = np.random.default_rng(23).normal(size=16_000)
    >>> noise[8_000:10_000] *= 5
    >>> found = activity_indices(spectrogram(noise[None], 16_000))
    >>> {name: round(float(found[name][0]), 2) for name in ("LFC", "MFC", "ACTspFract", "EVNspMean")}
    {'LFC': 0.2, 'MFC': 0.2, 'ACTspFract': 0.2, 'EVNspMean': 0.1}
    """
    threshold = 10 ** (THRESHOLD_DB / 10)
    equalized = spectrogram.equalized
    active = equalized >= threshold
    count = measures.count_true(active)  # [clips, bins]
    frames = equalized.shape[-1]
    fraction = count / frames

    loud = np.where(equalized > threshold, equalized, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        loud_level = 10 * np.log10(loud.sum(axis=-1).sum(axis=-1) / np.count_nonzero(loud, axis=(1, 2)))

    events, together = measures.runs(active, SHORTEST_EVENT)
    dt = spectrogram.dt
    return {
        "LFC": fraction[:, spectrogram.band(*LOW_HZ)].mean(axis=-1),
        "MFC": fraction[:, spectrogram.band(*MID_HZ)].mean(axis=-1),
        "HFC": fraction[:, spectrogram.band(*HIGH_HZ)].mean(axis=-1),
        "ACTspFract": fraction.mean(axis=-1),
        "ACTspCount": count.mean(axis=-1),
        "ACTspMean": np.where(loud.any(axis=(1, 2)), loud_level, 0),
        "EVNspFract": together.mean(axis=-1) / frames,
        "EVNspMean": (together / np.maximum(events, 1)).mean(axis=-1) * dt,
        "EVNspCount": events.mean(axis=-1) / ((frames - 1) * dt),
    }
