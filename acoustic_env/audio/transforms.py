"""Transforms of one clip for variants: noise, pitch, speed, gain, circular shift, silence trimmed, envelope mask.

A transform is a settings class with `apply`; what it draws comes from the generator it is given. It returns as many
samples as it got: what becomes shorter ends in zeros, what becomes longer is cut.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import metadata
from typing import Any, ClassVar, Final

import librosa
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from acoustic_env.config import Settings
from acoustic_env.registry import Registry

Clip = npt.NDArray[Any]  # float32 or float64 [samples]


class Transform(Settings):
    """Settings of one transform.

    Attributes:
        version: raised when samples change for the same settings.
        library: package that computes the samples, whose release counts; "" for none.
    """

    version: ClassVar[int] = 1
    library: ClassVar[str] = ""

    def parameters(self) -> dict[str, Any]:
        """Return what can change a sample, for fingerprints."""
        library = {self.library: metadata.version(self.library)} if self.library else {}
        return {"version": self.version, **library, **self.as_json()}

    @abstractmethod
    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Transform one clip that is not silent.

        Args:
            clip: float32 or float64 [samples]; not to be changed in place.
            sample_rate: Hz.
            rng: for everything random.

        Returns:
            [samples].
        """


class Noise(Transform):
    """Add white Gaussian noise."""

    snr_db: float | None = None
    """Signal-to-noise ratio in dB. Default: 20, where rms_ratio is not given."""

    rms_ratio: float | None = Field(None, gt=0)
    """Standard deviation of the noise over the clip's RMS, in place of snr_db."""

    @model_validator(mode="after")
    def _one_level(self) -> Noise:
        if self.snr_db is not None and self.rms_ratio is not None:
            raise ValueError("give snr_db or rms_ratio, not both")
        return self

    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Add noise to a clip that is not silent.

        >>> clip = np.sin(np.arange(16_000.0))
        >>> noisy = Noise(snr_db=20.0).apply(clip, 16_000, np.random.default_rng(23))
        >>> ratio = np.square(clip).mean() / np.square(noisy - clip).mean()
        >>> float(10 * np.log10(ratio).round(2))
        20.0
        """
        ratio = self.rms_ratio or 10 ** (-(20.0 if self.snr_db is None else self.snr_db) / 20)
        rms = float(np.sqrt(np.square(clip, dtype=np.float64).mean()))
        return clip + ratio * rms * rng.standard_normal(clip.size)


class Pitch(Transform):
    """Shift the pitch by a random interval, the duration kept (librosa's phase vocoder)."""

    library: ClassVar[str] = "librosa"

    semitones: float = Field(2.0, gt=0)
    """Largest shift up or down."""

    step: float = Field(0.0, ge=0)
    """Shifts are multiples of this many semitones; 0 for any shift."""

    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Shift the pitch by an interval drawn uniformly.

        >>> tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
        >>> higher = Pitch(semitones=2, step=2).apply(tone, 16_000, np.random.default_rng(3))
        >>> int(np.abs(np.fft.rfft(higher)).argmax())
        494
        """
        if self.step:
            steps = int(self.semitones / self.step)
            shift = self.step * int(rng.integers(-steps, steps + 1))
        else:
            shift = float(rng.uniform(-self.semitones, self.semitones))
        return librosa.effects.pitch_shift(clip, sr=sample_rate, n_steps=shift)


class Stretch(Transform):
    """Play faster or slower by a random factor, the pitch kept (librosa's phase vocoder)."""

    library: ClassVar[str] = "librosa"

    factor: float = Field(1.25, gt=1)
    """Largest factor; drawn log-uniformly between its inverse and itself."""

    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Play faster or slower by a factor drawn log-uniformly.

        >>> tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
        >>> Stretch(factor=1.5).apply(tone, 16_000, np.random.default_rng(23)).shape
        (16000,)
        """
        rate = float(np.exp(rng.uniform(-np.log(self.factor), np.log(self.factor))))
        return _as_long(librosa.effects.time_stretch(clip, rate=rate), clip)


class Gain(Transform):
    """Change the level by a random gain."""

    db: float = Field(6.0, gt=0)
    """Largest gain up or down in dB."""

    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Change the level by a gain drawn uniformly in dB.

        >>> round(float(Gain(db=6.0).apply(np.ones(2), 16_000, np.random.default_rng(23))[0]), 3)
        1.307
        """
        return clip * 10 ** (rng.uniform(-self.db, self.db) / 20)


class Roll(Transform):
    """Shift the clip in time by a random number of samples; what leaves at the end enters at the start."""

    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Shift the clip circularly.

        >>> Roll().apply(np.arange(5.0), 16_000, np.random.default_rng(1)).tolist()
        [3.0, 4.0, 0.0, 1.0, 2.0]
        """
        return np.roll(clip, int(rng.integers(clip.size)))


class Trim(Transform):
    """Leave out silence at the start and the end."""

    library: ClassVar[str] = "librosa"

    top_db: float = Field(60.0, gt=0)
    """Silent is what lies this many dB below the clip's loudest frame."""

    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Move the sound to the clip's start; zeros follow.

        >>> clip = np.zeros(16_000)
        >>> clip[8_000:] = 1
        >>> found = Trim().apply(clip, 16_000, np.random.default_rng(23))
        >>> found.shape, float(found[2_048]), float(found[-1])
        ((16000,), 1.0, 0.0)
        """
        return _as_long(librosa.effects.trim(clip, top_db=self.top_db)[0], clip)


class Mask(Transform):
    """Leave out stretches whose envelope, the rolling mean of the absolute samples, is low."""

    threshold: float = Field(0.0005, gt=0)
    """Lowest envelope kept, relative to full scale."""

    window_s: float = Field(0.2, gt=0)
    """Length of the rolling mean in seconds."""

    def apply(self, clip: Clip, sample_rate: int, rng: np.random.Generator) -> Clip:
        """Move the louder stretches to the clip's start; zeros follow.

        >>> clip = np.r_[np.ones(2), np.zeros(4), np.full(2, 0.5)]
        >>> Mask(threshold=0.1, window_s=0.1).apply(clip, 10, np.random.default_rng(23)).tolist()
        [1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
        """
        from scipy.ndimage import uniform_filter1d

        window = max(1, round(self.window_s * sample_rate))
        return _as_long(clip[uniform_filter1d(np.abs(clip), window, mode="constant") > self.threshold], clip)


TRANSFORMS: Final[Registry[type[Transform]]] = Registry(
    "transforms",
    "transform",
    {kind.__name__.lower(): f"{__name__}:{kind.__name__}" for kind in (Noise, Pitch, Stretch, Gain, Roll, Trim, Mask)},
)


def _as_long(changed: Clip, clip: Clip) -> Clip:
    """Cut or pad with zeros at the end to the length of a clip."""
    return np.pad(changed[: clip.size], (0, max(0, clip.size - changed.size)))
