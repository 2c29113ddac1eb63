"""Block `spectral`: shape of the spectrum, zero crossings, chroma and level of frames, as librosa defines them.

The level `rms` is in dB relative to full scale, of the signal as it is: of `raw` it is that of RMS normalization, of
`original` that of the recording.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Final

import librosa
import numpy as np
import pyarrow as pa
from pydantic import Field

from acoustic_env.features.block import Column
from acoustic_env.features.short_time import (
    Array,
    FrameSettings,
    ShortTimeBlock,
    ShortTimeFramesBlock,
    framed,
    power_spectrogram,
    vector,
)

AMIN: Final = 1e-10  # of power, and of samples that count as zero, as in librosa
LEVEL_FLOOR: Final = 1e-10  # -200 dBFS
CHROMA: Final = 12
_COLUMNS: Final = (
    ("centroid", "Hz", "mean frequency, weighted by magnitude"),
    ("bandwidth", "Hz", "standard deviation of the frequency, weighted by magnitude"),
    ("rolloff", "Hz", "frequency below which a share of the magnitude lies"),
    ("flatness", "1", "geometric over arithmetic mean of the power, 1 for white noise"),
    ("zcr", "1", "share of samples where the sign changes"),
    ("rms", "dB", "level relative to full scale"),
)


class SpectralSettings(FrameSettings):
    """Frames and the roll-off."""

    roll_percent: float = Field(0.85, gt=0, lt=1)
    """Share of the magnitude below the roll-off."""


class SpectralBlock(ShortTimeBlock):
    """Mean and standard deviation over frames; chroma as vectors of 12 pitch classes from C.

    >>> block = SpectralBlock("fast", sample_rate=16_000)
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)[None]
    >>> found = block.compute(tone)
    >>> found["rms_mean"].round(1).tolist(), found["chroma_mean"].shape
    ([-3.2], (1, 12))
    >>> found = block.frames_of(tone[0])
    >>> round(float(found["centroid"][16])), found["chroma"].shape, int(found["chroma"][16].argmax())
    (1000, (32, 12), 11)
    """

    name: ClassVar[str] = "spectral"
    version: ClassVar[int] = 1
    settings_class = SpectralSettings
    settings: SpectralSettings

    def features(self) -> tuple[Column, ...]:
        scalars = tuple(Column(name, pa.float64(), unit, text) for name, unit, text in _COLUMNS)
        return (*scalars, Column("chroma", vector(CHROMA), "1", "energy of each pitch class, the largest is 1"))

    def frames_of(self, waveform: Array) -> dict[str, Array]:
        """Compute the features; of a silent frame centroid, bandwidth, roll-off and chroma are 0 and flatness is 1."""
        return self._reference(waveform) if self.engine == "reference" else self._fast(waveform)

    def _fast(self, waveform: Array) -> dict[str, Array]:
        at = self.settings
        power = power_spectrogram(waveform, at)
        spectrum = np.sqrt(power)
        total = np.maximum(spectrum.sum(axis=1), np.finfo(spectrum.dtype).tiny)
        centroid = spectrum @ self._frequencies / total
        deviation = np.abs(self._frequencies - centroid[:, None])
        cumulative = np.cumsum(spectrum, axis=1)
        above = (cumulative >= at.roll_percent * cumulative[:, -1:]).argmax(axis=1)
        audible = np.where(np.abs(waveform) <= AMIN, 0, waveform)
        negative = np.pad(np.signbit(audible), at.n_fft // 2, mode="edge")
        crossings = np.concatenate([[0], np.cumsum(negative[1:] != negative[:-1])])
        starts = np.arange(len(power)) * at.hop_length
        squares = framed(np.square(waveform), at.n_fft, at.hop_length, "constant")
        pitch = power @ self._chroma
        largest = pitch.max(axis=1, keepdims=True)
        floored = np.maximum(power, AMIN)
        return {
            "centroid": centroid,
            "bandwidth": np.sqrt((spectrum * deviation**2).sum(axis=1) / total),
            "rolloff": self._frequencies[above],
            "flatness": np.exp(np.log(floored).mean(axis=1)) / floored.mean(axis=1),
            "zcr": (crossings[starts + at.n_fft - 1] - crossings[starts]) / at.n_fft,
            "rms": decibels(np.sqrt(squares.mean(axis=1))),
            "chroma": pitch / np.where(largest > 0, largest, 1),
        }

    def _reference(self, waveform: Array) -> dict[str, Array]:
        from librosa import feature

        at, rate = self.settings, self.sample_rate
        spectrum = magnitudes_by_librosa(waveform, at)
        found = {
            "centroid": feature.spectral_centroid(S=spectrum, sr=rate),
            "bandwidth": feature.spectral_bandwidth(S=spectrum, sr=rate),
            "rolloff": feature.spectral_rolloff(S=spectrum, sr=rate, roll_percent=at.roll_percent),
            "flatness": feature.spectral_flatness(S=spectrum),
            "zcr": feature.zero_crossing_rate(waveform, frame_length=at.n_fft, hop_length=at.hop_length),
            "rms": decibels(feature.rms(y=waveform, frame_length=at.n_fft, hop_length=at.hop_length)),
        }
        chroma = feature.chroma_stft(S=spectrum**2, sr=rate, tuning=0.0)
        return {**{name: values[0] for name, values in found.items()}, "chroma": chroma.T}

    @cached_property
    def _frequencies(self) -> Array:
        """Frequency of each bin in Hz."""
        return np.fft.rfftfreq(self.settings.n_fft, 1 / self.sample_rate)

    @cached_property
    def _chroma(self) -> Array:
        """Weights [bins, 12] of pitch classes, at A4 = 440 Hz."""
        return librosa.filters.chroma(sr=self.sample_rate, n_fft=self.settings.n_fft, tuning=0.0).T


class SpectralFramesBlock(ShortTimeFramesBlock, SpectralBlock):
    """Every frame.

    >>> block = SpectralFramesBlock("fast", sample_rate=16_000, hop_length=1600)
    >>> found = block.compute(np.zeros((2, 16_000), np.float32))
    >>> found["rms"].shape, float(found["rms"][0, 0].round(3)), block.frame_hop_s
    ((2, 11), -200.0, 0.1)
    """

    name = "spectral_frames"


def decibels(amplitude: Array) -> Array:
    """Return levels in dB relative to full scale, at least -200.

    >>> decibels(np.array([1.0, 0.1, 0.0]))
    array([   0.,  -20., -200.])
    """
    return 20 * np.log10(np.maximum(amplitude, LEVEL_FLOOR))


def magnitudes_by_librosa(waveform: Array, settings: FrameSettings) -> Array:
    """Compute the magnitude spectrogram [bins, frames] by librosa itself.

    >>> tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)
    >>> magnitudes_by_librosa(tone, FrameSettings()).shape
    (1025, 44)
    """
    at = settings
    spectrum = librosa.stft(
        waveform, n_fft=at.n_fft, hop_length=at.hop_length, win_length=at.win_length, window=at.window
    )
    return np.asarray(np.abs(spectrum))
