"""Blocks `logmel` and `mfcc`: the mel spectrogram and its cepstral coefficients, as librosa defines them.

The filters are librosa's (Slaney's scale and norm); dB are 10 log10 of the power, relative to 1 or to the largest cell
of the clip. MFCCs are the orthonormal DCT-II of the mel spectrogram in dB; deltas are Savitzky-Golay slopes over nine
frames.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Final, Literal

import librosa
import numpy as np
from pydantic import Field, model_validator

from acoustic_env.features.block import Column
from acoustic_env.features.short_time import (
    Array,
    FrameSettings,
    ShortTimeBlock,
    ShortTimeFramesBlock,
    power_spectrogram,
    vector,
)

AMIN: Final = 1e-10  # the least power of a cell before the logarithm, as librosa.power_to_db
LN_OFFSET: Final = 1e-9
DELTA_FRAMES: Final = 9
_NAMES: Final = ("mfcc", "mfcc_delta", "mfcc_delta2")


class MelSettings(FrameSettings):
    """Frames, mel bands and the logarithm."""

    n_mels: int = Field(64, ge=1, le=512)
    """Number of mel bands."""

    fmin: float = Field(0.0, ge=0)
    """Lowest frequency in Hz."""

    fmax: float | None = Field(None, gt=0)
    """Highest frequency in Hz, at most half the rate. Default: half the rate."""

    log: Literal["db", "ln", "none"] = "db"
    """db: 10 log10 of the power; ln: ln(power + 1e-9); none: the power itself."""

    reference: Literal["one", "max"] = "one"
    """0 dB is a power of 1, or the clip's largest cell."""

    top_db: float | None = Field(80.0, gt=0)
    """Cells more than this below the clip's largest are raised to it; null for no limit."""

    @model_validator(mode="after")
    def _bands_below_half_the_rate(self) -> MelSettings:
        highest = self.fmax or self.sample_rate / 2
        if not self.fmin < highest <= self.sample_rate / 2:
            msg = f"bands from {self.fmin:g} to {highest:g} Hz; half the rate is {self.sample_rate / 2:g} Hz"
            raise ValueError(msg)
        return self


class MfccSettings(MelSettings):
    """A mel spectrogram in dB and its number of coefficients."""

    n_mels: int = Field(128, ge=1, le=512)
    """Number of mel bands."""

    n_mfcc: int = Field(20, ge=1)
    """Number of cepstral coefficients, at most n_mels."""

    deltas: int = Field(2, ge=0, le=2)
    """Derivatives in time besides: none, the slope, or the slope's slope as well."""

    log: Literal["db"] = "db"
    """MFCCs are of the spectrogram in dB."""


class LogMelBlock(ShortTimeBlock):
    """Mean and standard deviation over frames of each mel band.

    >>> block = LogMelBlock("fast", n_mels=40)
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(22_050) / 22_050)
    >>> block.spectrogram(tone).shape
    (44, 40)
    >>> {name: values.shape for name, values in block.compute(tone[None]).items()}
    {'logmel_mean': (1, 40), 'logmel_std': (1, 40)}
    """

    name: ClassVar[str] = "logmel"
    version: ClassVar[int] = 1
    settings_class: ClassVar[type[FrameSettings]] = MelSettings
    settings: MelSettings

    def features(self) -> tuple[Column, ...]:
        unit = "dB" if self.settings.log == "db" else "1"
        return (Column("logmel", vector(self.settings.n_mels), unit, f"mel spectrogram, {self.settings.log}"),)

    def frames_of(self, waveform: Array) -> dict[str, Array]:
        return {"logmel": self.spectrogram(waveform)}

    def spectrogram(self, waveform: Array) -> Array:
        """Compute the mel spectrogram [frames, mels] of one clip, with its logarithm."""
        power = self._reference_power(waveform) if self.engine == "reference" else self._power(waveform)
        match self.settings.log:
            case "ln":
                return np.asarray(np.log(power + power.dtype.type(LN_OFFSET)))
            case "none":
                return power
        reference: Any = 1.0
        if self.settings.reference == "max":
            reference = np.max if self.engine == "reference" else float(power.max())
        return np.asarray(librosa.power_to_db(power, ref=reference, amin=AMIN, top_db=self.settings.top_db))

    def _power(self, waveform: Array) -> Array:
        return np.asarray(power_spectrogram(waveform, self.settings) @ self._filters.astype(waveform.dtype))

    @cached_property
    def _filters(self) -> Array:
        """Mel filters [bins, mels]."""
        at = self.settings
        return librosa.filters.mel(sr=at.sample_rate, n_fft=at.n_fft, n_mels=at.n_mels, fmin=at.fmin, fmax=at.fmax).T

    def _reference_power(self, waveform: Array) -> Array:
        at = self.settings.as_json()
        names = ("n_fft", "hop_length", "win_length", "window", "n_mels", "fmin", "fmax")
        return librosa.feature.melspectrogram(y=waveform, sr=self.sample_rate, **{name: at[name] for name in names}).T


class MfccBlock(LogMelBlock):
    """Mean and standard deviation over frames of each coefficient and of its derivatives in time.

    >>> block = MfccBlock("fast", n_mfcc=13, deltas=1)
    >>> clips = np.random.default_rng(23).normal(size=(2, 22_050)).astype(np.float32)
    >>> {name: values.shape for name, values in block.compute(clips).items()}
    {'mfcc_mean': (2, 13), 'mfcc_std': (2, 13), 'mfcc_delta_mean': (2, 13), 'mfcc_delta_std': (2, 13)}
    """

    name: ClassVar[str] = "mfcc"
    version: ClassVar[int] = 1
    settings_class = MfccSettings
    settings: MfccSettings

    def features(self) -> tuple[Column, ...]:
        texts = ("cepstral coefficients of the mel spectrogram", "their slope per frame", "their second derivative")
        wanted = zip(_NAMES[: self.settings.deltas + 1], texts, strict=False)
        return tuple(Column(name, vector(self.settings.n_mfcc), "dB", text) for name, text in wanted)

    def frames_of(self, waveform: Array) -> dict[str, Array]:
        coefficients = librosa.feature.mfcc(S=self.spectrogram(waveform).T, n_mfcc=self.settings.n_mfcc)
        # With fewer frames than a slope needs, the ends are repeated.
        mode = "interp" if coefficients.shape[1] >= DELTA_FRAMES else "nearest"
        orders = range(1, self.settings.deltas + 1)
        slopes = [librosa.feature.delta(coefficients, width=DELTA_FRAMES, order=n, mode=mode).T for n in orders]
        found = zip(_NAMES, (coefficients.T, *slopes), strict=False)
        # Statistics sum in the order of memory, and the last digits of stored tables follow from it.
        order: Any = "K" if self.engine == "reference" else "C"
        return {name: np.asarray(values, order=order) for name, values in found}


class LogMelFramesBlock(ShortTimeFramesBlock, LogMelBlock):
    """Every frame of the mel spectrogram.

    >>> block = LogMelFramesBlock("fast", n_mels=40)
    >>> block.compute(np.zeros((2, 22_050), np.float32))["logmel"].shape, round(block.frame_hop_s, 4)
    ((2, 44, 40), 0.0232)
    """

    name = "logmel_frames"
    mel_bands = True


class MfccFramesBlock(ShortTimeFramesBlock, MfccBlock):
    """Every frame of the coefficients and of their derivatives.

    >>> block = MfccFramesBlock("fast", n_mfcc=13)
    >>> {name: values.shape for name, values in block.compute(np.ones((1, 22_050), np.float32)).items()}
    {'mfcc': (1, 44, 13), 'mfcc_delta': (1, 44, 13), 'mfcc_delta2': (1, 44, 13)}
    """

    name = "mfcc_frames"
