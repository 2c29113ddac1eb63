"""What blocks of short-time spectra share: settings of frames, the length of clips, spectrograms, statistics.

Frames are those of librosa: centered at multiples of the hop, zeros beyond the ends.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from acoustic_env.config import Settings, from_mapping
from acoustic_env.features.block import Column, Columns, Engine, FeatureBlock, Json, Waveforms

Array = npt.NDArray[Any]

CACHED_FRAMES: Final = 32  # transformed at a time, so that they stay in the processor's cache


class FrameSettings(Settings):
    """Frames of a clip, and what part of the clip they cover."""

    sample_rate: int = Field(22_050, ge=4_000, le=96_000)
    """Rate in Hz that clips are resampled to."""

    n_fft: int = Field(2_048, ge=32, multiple_of=2)
    """Samples of the Fourier transform, an even number."""

    hop_length: int = Field(512, ge=1)
    """Samples between frames."""

    win_length: int | None = Field(None, ge=1)
    """Samples of the window, zeros on both sides up to n_fft. Default: n_fft."""

    window: Literal["hann", "hamming", "blackman", "boxcar"] = "hann"
    """Window of a frame."""

    seconds: float | None = Field(None, gt=0)
    """Crop or pad clips to this length. Default: clips as long as they are."""

    crop: Literal["first", "center", "random"] = "first"
    """Part kept of a longer clip; random follows from seed and samples, so it is the same in every run."""

    pad: Literal["end", "center", "random"] = "end"
    """Where a shorter clip gets zeros: at the end, on both sides, or at both by chance."""

    seed: int = Field(23, ge=0)
    """Seed of random crops and pads."""

    frames: bool = False
    """Also compute the per-frame table, the block NAME_frames."""

    @model_validator(mode="after")
    def _window_fits(self) -> FrameSettings:
        if self.win_length is not None and self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is longer than n_fft {self.n_fft}")
        return self

    def parameters(self) -> dict[str, Json]:
        """Return what can change a number, for fingerprints.

        >>> found = FrameSettings(sample_rate=16_000, n_fft=512, seconds=10.0).parameters()
        >>> found["n_fft"], found["seconds"], found["window"], "sample_rate" in found
        (512, 10.0, 'hann', False)
        """
        return {name: value for name, value in self.as_json().items() if name not in ("frames", "sample_rate")}


def fit_length(waveforms: Waveforms, settings: FrameSettings) -> Waveforms:
    """Crop or pad clips [clips, samples] to [clips, round(seconds * sample_rate)], where a length is set.

    >>> fit_length(np.ones((1, 4000), np.float32), FrameSettings(sample_rate=4000, seconds=2.0)).shape
    (1, 8000)
    """
    if settings.seconds is None:
        return waveforms
    wanted = round(settings.seconds * settings.sample_rate)
    spare = waveforms.shape[1] - wanted
    rule = settings.crop if spare > 0 else settings.pad
    fitted = np.zeros((len(waveforms), wanted), waveforms.dtype)
    for clip, out in zip(waveforms, fitted, strict=True):
        shift = {"first": 0, "end": 0, "center": abs(spare) // 2}.get(rule)
        if shift is None:
            rng = np.random.default_rng([settings.seed, zlib.crc32(np.ascontiguousarray(clip, np.float32).tobytes())])
            shift = int(rng.integers(abs(spare) + 1))
        if spare > 0:
            out[:] = clip[shift : shift + wanted]
        else:
            out[shift : shift + clip.size] = clip
    return fitted


def framed(samples: Array, frame_length: int, hop_length: int, mode: Literal["constant", "edge"]) -> Array:
    """Return the centered frames [frames, frame_length] of one clip as a view of its padded samples.

    >>> framed(np.array([1.0, 2.0, 3.0]), 2, 1, "edge").tolist()
    [[1.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 3.0]]
    >>> framed(np.arange(1000.0), 256, 100, "constant").shape
    (11, 256)
    """
    padded = np.pad(samples, frame_length // 2, mode=mode)
    return np.lib.stride_tricks.sliding_window_view(padded, frame_length)[::hop_length]


def power_spectrogram(waveform: Array, settings: FrameSettings) -> Array:
    """Compute the power spectrogram [frames, n_fft // 2 + 1] of one clip in its dtype, framed as by `librosa.stft`.

    >>> settings = FrameSettings(sample_rate=16_000, n_fft=512, hop_length=160)
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    >>> power = power_spectrogram(tone, settings)
    >>> power.shape, int(power[50].argmax()) * 16_000 / 512
    ((101, 257), 1000.0)
    """
    from scipy import fft, signal

    length = settings.win_length or settings.n_fft
    before = (settings.n_fft - length) // 2
    window = np.pad(signal.get_window(settings.window, length), (before, settings.n_fft - length - before))
    frames = framed(waveform, settings.n_fft, settings.hop_length, "constant")
    power = np.empty((len(frames), settings.n_fft // 2 + 1), waveform.dtype)
    for first in range(0, len(frames), CACHED_FRAMES):
        some = slice(first, first + CACHED_FRAMES)
        spectrum = fft.rfft(frames[some] * window.astype(waveform.dtype), axis=1)
        power[some] = np.square(spectrum.real) + np.square(spectrum.imag)
    return power


class ShortTimeBlock(FeatureBlock):
    """Mean and standard deviation over frames of short-time features; `frames_of` is what a subclass computes.

    Attributes:
        settings_class: settings of the block.
        settings: as the recipe gives them.
    """

    settings_class: ClassVar[type[FrameSettings]] = FrameSettings

    def __init__(self, engine: Engine, **options: Json) -> None:
        self.engine = engine
        self.settings = from_mapping(self.settings_class, options, f"block {self.name}")
        self.sample_rate = self.settings.sample_rate
        self.columns = self.table_columns()

    @abstractmethod
    def features(self) -> tuple[Column, ...]:
        """Return the columns of one frame."""

    @abstractmethod
    def frames_of(self, waveform: Array) -> dict[str, Array]:
        """Compute the features of the frames of one clip [samples]: for each feature [frames] or [frames, size]."""

    def parameters(self) -> dict[str, Json]:
        """Return the settings, and for the reference engine librosa's release; the fast one takes only its filters."""
        from importlib.metadata import version

        library: dict[str, Json] = {"librosa": version("librosa")} if self.engine == "reference" else {}
        return {**library, **self.settings.parameters()}

    def table_columns(self) -> tuple[Column, ...]:
        """Return the columns of the table: mean and standard deviation of each feature."""
        statistics = (("mean", "mean over frames"), ("std", "standard deviation over frames"))
        return tuple(
            Column(f"{of.name}_{name}", of.type, of.unit, f"{of.description}: {text}")
            for of in self.features()
            for name, text in statistics
        )

    def compute(self, waveforms: Waveforms) -> Columns:
        """Compute the statistics, float64 [clips] or float32 [clips, size]."""
        rows = [self._statistics(self.frames_of(clip)) for clip in fit_length(waveforms, self.settings)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _statistics(self, frames: Mapping[str, Array]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, values in frames.items():
            found[f"{name}_mean"] = values.mean(axis=0, dtype=np.float64)
            found[f"{name}_std"] = values.std(axis=0, dtype=np.float64)
        return found


class ShortTimeFramesBlock(ShortTimeBlock):
    """Every frame: `class LogMelFramesBlock(ShortTimeFramesBlock, LogMelBlock)`."""

    def __init__(self, engine: Engine, **options: Json) -> None:
        super().__init__(engine, **options)
        self.frame_hop_s = self.settings.hop_length / self.sample_rate

    def table_columns(self) -> tuple[Column, ...]:
        """Return the features themselves."""
        return self.features()

    def compute(self, waveforms: Waveforms) -> Columns:
        """Compute float32 [clips, frames] or [clips, frames, size]."""
        rows = [self.frames_of(clip) for clip in fit_length(waveforms, self.settings)]
        return {of.name: np.stack([row[of.name] for row in rows]).astype(np.float32) for of in self.features()}


def vector(size: int) -> pa.DataType:
    """Return the type of a column of float32 vectors."""
    return pa.list_(pa.float32(), size)
