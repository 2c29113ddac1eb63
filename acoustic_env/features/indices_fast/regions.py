"""Regions of interest of a spectrogram: connected components above two thresholds, filtered by their bounding boxes."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from acoustic_env.features.indices_fast import measures
from acoustic_env.features.indices_fast.measures import Array
from acoustic_env.features.indices_fast.spectrogram import Spectrogram

RANGE_DB: Final = 96.0
SEED_DB: Final = 13.0
LOW_DB: Final = 6.0
MIN_DURATION_S: Final = 0.025
MIN_BANDWIDTH_HZ: Final = 50.0
LOWEST_HZ: Final = 50.0
MAX_RATIO: Final = 10.0  # bins by frames of the bounding box
_EIGHT_NEIGHBORS: Final = np.ones((3, 3), np.int8)


def region_indices(spectrogram: Spectrogram) -> dict[str, Array]:
    """Compute nROI (regions per minute) and aROI (per cent of the spectrogram's cells); `region_of_interest_index`.

    >>> from acoustic_env.features.indices_fast.spectrogram import spectrogram
    >>> t = np.arange(16_000) / 16_000
    >>> call = np.sin(2 * np.pi * (2_000 * t + 250 * t**2)) * (np.abs(t - 0.5) < 0.2)
    >>> noise = np.random.default_rng(23).normal(size=t.size)
    >>> found = region_indices(spectrogram((call + 0.01 * noise)[None], 16_000))
    >>> found["nROI"].round(1).tolist(), found["aROI"].round(2).tolist()
    ([62.5], [2.57])
    """
    level = _without_background(spectrogram.log_power)
    found = [_regions(clip, spectrogram.dt, spectrogram.df) for clip in level]
    count, cells = np.array(found, np.float64).reshape(-1, 2).T
    return {"nROI": count / (spectrogram.times[-1] / 60), "aROI": cells / (level.shape[1] * level.shape[2]) * 100}


def _without_background(log_power: Array) -> Array:
    """Compute levels in dB above rain (each frame's mean over bins), then above each bin's median; negative below."""
    level = 10 * log_power
    np.maximum(level, -RANGE_DB, out=level)
    np.minimum(level, 0, out=level)
    level += RANGE_DB
    level -= level.mean(axis=-2, keepdims=True)
    np.maximum(level, 0, out=level)
    level -= measures.median(level)[..., None]
    return level


def _regions(level: Array, dt: float, df: float) -> tuple[int, int]:
    """Count the regions that pass every test, and the cells of the regions that count for the cover.

    A region is a component of eight-connected cells above LOW_DB that has one above SEED_DB and two cells or more. The
    cover keeps regions that fail a test, except those of good size that reach down to the lowest bins.

    Args:
        level: dB, [bins, frames].
        dt: seconds a frame.
        df: Hz a bin.
    """
    low = level > LOW_DB
    labels, components = scipy.ndimage.label(low, _EIGHT_NEIGHBORS)
    cell = np.flatnonzero(low)
    label = labels.ravel()[cell]
    area = np.bincount(label, minlength=components + 1)
    keep = np.zeros(components + 1, bool)
    keep[label[level.ravel()[cell] > SEED_DB]] = True
    keep &= area > MIN_DURATION_S * MIN_BANDWIDTH_HZ
    kept = keep[label]
    label, (row, column) = label[kept], np.divmod(cell[kept], level.shape[1])

    bandwidth = _extent(label, row, components)
    duration = _extent(label, column, components)
    sized = keep & (duration.size * dt >= MIN_DURATION_S) & (bandwidth.size * df >= MIN_BANDWIDTH_HZ)
    at_bottom = sized & (bandwidth.first <= max(1, round(LOWEST_HZ / df)))
    slender = bandwidth.size < MAX_RATIO * duration.size
    return int((sized & ~at_bottom & slender).sum()), int(area[keep & ~at_bottom].sum())


class _Extent(NamedTuple):
    """First position of each label's cells and how far the last is from it; [labels], arbitrary without cells."""

    first: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]


def _extent(label: npt.NDArray[np.integer[Any]], position: npt.NDArray[np.int64], labels: int) -> _Extent:
    first = np.full(labels + 1, np.iinfo(np.int32).max, np.int64)
    last = np.zeros(labels + 1, np.int64)
    np.minimum.at(first, label, position)
    np.maximum.at(last, label, position)
    return _Extent(first, last - first)
