"""The spectrogram all spectral indices start from, and what several of them derive from it, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal

from acoustic_env.features.indices_fast import measures
from acoustic_env.features.indices_fast.measures import Array

WINDOW: Final = 1024
HOP: Final = 512
SHORTEST: Final = WINDOW + HOP  # samples of the shortest clip with a second frame, which scikit-maad needs


@dataclass(frozen=True, eq=False)
class Spectrogram:
    """Hann spectrogram without its Nyquist bin (`maad.sound.spectrogram`, mode psd) and shared intermediates.

    >>> noise = np.random.default_rng(23).normal(size=(2, 8_000))
    >>> found = spectrogram(noise, 16_000)
    >>> found.df, found.dt
    (15.625, 0.032)
    >>> found.band(1000.0, 2000.0)
    slice(64, 129, None)
    >>> found.equalized.shape, float(found.equalized.min())
    ((2, 512, 14), 1.0)
    """

    power: Array  # [clips, bins, frames], each bin's share of the frame's mean square
    frequencies: npt.NDArray[np.float64]  # Hz, [bins]
    times: npt.NDArray[np.float64]  # seconds of the middle of each frame, [frames]

    @property
    def dt(self) -> float:
        """Seconds from frame to frame."""
        return float(self.times[1] - self.times[0])

    @property
    def df(self) -> float:
        """Hz from bin to bin."""
        return float(self.frequencies[1] - self.frequencies[0])

    @cached_property
    def amplitude(self) -> Array:
        """[clips, bins, frames]."""
        return np.sqrt(self.power)

    @cached_property
    def log_power(self) -> Array:
        """log10 of the power, -inf for none; [clips, bins, frames]."""
        return np.log10(self.power)

    @cached_property
    def mean_power(self) -> Array:
        """Over frames, [clips, bins]."""
        return np.asarray(self.power.mean(axis=-1))

    @cached_property
    def median_power(self) -> Array:
        """Over frames, [clips, bins]."""
        return measures.median(self.power)

    @cached_property
    def equalized(self) -> Array:
        """Power above the bin's median in units of the median's height above the minimum, at least 1.

        `maad.sound.median_equalizer`; [clips, bins, frames]. NaN throughout for silence.
        """
        norm = self.median_power - self.power.min(axis=-1)
        norm = np.where(norm <= 0, self.power.max(axis=(1, 2))[:, None], norm)
        equalized = self.power - self.median_power[..., None]
        equalized /= norm[..., None]
        return np.maximum(equalized, 1, out=equalized)

    def band(self, low_hz: float, high_hz: float) -> slice:
        """Return the bins from the one nearest to `low_hz` to the one nearest to `high_hz`, both included."""
        return nearest_band(self.frequencies, low_hz, high_hz)


def nearest_band(frequencies: npt.NDArray[np.float64], low_hz: float, high_hz: float) -> slice:
    """Return the indices from the frequency nearest to `low_hz` to the one nearest to `high_hz`, both included.

    >>> nearest_band(np.array([0.0, 100.0, 200.0, 300.0]), 90.0, 210.0)
    slice(1, 3, None)
    """
    first, last = (int(np.abs(frequencies - hz).argmin()) for hz in (low_hz, high_hz))
    return slice(first, last + 1)


def spectrogram(waveforms: Array, sample_rate: int) -> Spectrogram:
    """Compute the spectrogram of [clips, samples].

    Raises:
        ValueError: clips shorter than two frames.

    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    >>> found = spectrogram(tone[None], 16_000)
    >>> found.power.shape
    (1, 512, 30)
    >>> peak = int(found.mean_power[0].argmax())
    >>> float(found.frequencies[peak]), round(float(found.mean_power[0, peak]), 3)
    (1000.0, 0.333)
    """
    samples = waveforms.shape[1]
    if samples < SHORTEST:
        raise ValueError(f"the spectral indices need {SHORTEST} samples, not {samples}")
    frames = np.lib.stride_tricks.sliding_window_view(waveforms, WINDOW, axis=1)[:, ::HOP]
    window = scipy.signal.get_window("hann", WINDOW)
    windowed = frames - frames.mean(axis=-1, keepdims=True)
    windowed *= window
    spectrum = scipy.fft.rfft(windowed, axis=-1, workers=1)[..., :-1]
    power = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    # density scaling of the transform, times the bin's width, times two for the negative frequencies
    power *= 2 / WINDOW / np.square(window).sum()
    times = np.arange(WINDOW / 2, samples - WINDOW / 2 + 1, HOP) / float(sample_rate)
    return Spectrogram(
        power=np.ascontiguousarray(power.transpose(0, 2, 1)),
        frequencies=scipy.fft.rfftfreq(WINDOW, 1 / sample_rate)[:-1],
        times=times,
    )
