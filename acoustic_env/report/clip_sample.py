"""A seeded sample of the clips of each class, decoded and measured at the level of the recording."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio.decode import decode, duration_s, resample
from acoustic_env.audio.fetch import any_remote, open_source
from acoustic_env.audit.listen_audio import video_at
from acoustic_env.errors import ClipError
from acoustic_env.features.short_time import FrameSettings, power_spectrogram

Array = npt.NDArray[Any]

RATE: Final = 22_050
BANDS: Final = 64
CLASSES: Final = 12  # the largest
PER_CLASS: Final = 12
REMOTE_PER_CLASS: Final = 3
LONGEST_S: Final = 30.0
FLOOR_DB: Final = -120.0
HOPELESS: Final = 10  # a sample whose first clips all fail is of a list without its audio
SEED: Final = 23
FRAMES: Final = FrameSettings(sample_rate=RATE)


@dataclass(frozen=True)
class HeardClip:
    """A decoded clip.

    >>> clip = HeardClip("tone", np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32), 1.0)
    >>> bool(abs(decibels(clip.mel_power[20].sum()) + 3) < 0.5)  # a full-scale sine has an RMS of -3 dBFS
    True
    """

    clip_id: str  # of the clip list
    waveform: Array  # float32 [samples] at `RATE`, the first `LONGEST_S` seconds, full scale at 1.0
    seconds: float  # length of the whole clip

    @property
    def rms_db(self) -> float:
        """RMS in dB relative to a full scale of 1.0."""
        return float(decibels(np.square(self.waveform, dtype=np.float64).mean()))

    @property
    def crossings(self) -> float:
        """Zero crossings a second, mean removed."""
        positive = self.waveform > self.waveform.mean()
        return float(np.count_nonzero(np.diff(positive)) * RATE / max(len(positive), 1))

    @cached_property
    def mel_power(self) -> Array:
        """Mean square [frames, bands] of the signal in each mel band, by Parseval's theorem."""
        from scipy import signal

        scale = 2 / (FRAMES.n_fft * np.square(signal.get_window(FRAMES.window, FRAMES.n_fft)).sum())
        return np.asarray(power_spectrogram(self.waveform, FRAMES) @ mel_filters().T * scale)

    @property
    def spectrum_db(self) -> Array:
        """Level in dBFS of each mel band over the whole clip [bands]."""
        return decibels(self.mel_power.mean(axis=0))


@dataclass(frozen=True)
class ClipSample:
    """Sampled clips."""

    clips: Mapping[str, Sequence[HeardClip]]  # class -> its clips that could be read, classes by size
    tried: int  # how many clips were read or failed
    failed: Mapping[str, str]  # clip id -> why it could not be read


def decibels(power: Any) -> Array:
    """Return 10 log10 of mean squares, at least `FLOOR_DB`.

    >>> [float(level) for level in decibels(np.array([1.0, 0.0]))]
    [0.0, -120.0]
    """
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10))))


@cache
def mel_filters() -> Array:
    """Return librosa's triangular mel filters [bands, bins] with peaks of about 1."""
    import librosa

    return np.asarray(librosa.filters.mel(sr=RATE, n_fft=FRAMES.n_fft, n_mels=BANDS, norm=None))


@cache
def band_hertz() -> Array:
    """Return the center of each mel band in Hz."""
    import librosa

    return np.asarray(librosa.mel_frequencies(BANDS + 2, fmin=0.0, fmax=RATE / 2)[1:-1])


def seeded_order(clip_ids: Sequence[str]) -> list[int]:
    """Return row numbers in an order that depends on the seed and the ids alone, not on the order of the list."""
    return sorted(range(len(clip_ids)), key=lambda row: (zlib.crc32(f"{SEED} {clip_ids[row]}".encode()), clip_ids[row]))


def draw_clips(clips: pa.Table, names: Sequence[Sequence[str]]) -> ClipSample:
    """Decode some clips of each of the largest classes; `names` are the classes of each clip."""
    most = REMOTE_PER_CLASS if any_remote(clips["uri"]) else PER_CLASS
    ids, uris, starts, ends = (clips[name].to_pylist() for name in ("clip_id", "uri", "start_s", "end_s"))
    rows: dict[str, list[int]] = {}
    for row in seeded_order(ids):
        for name in dict.fromkeys(names[row]):
            rows.setdefault(name, []).append(row)
    largest = sorted(rows, key=lambda name: (-len(rows[name]), name))[:CLASSES]
    heard: dict[int, HeardClip | None] = {}
    failed: dict[str, str] = {}
    for row in dict.fromkeys(row for name in largest for row in rows[name][:most]):
        if len(failed) == len(heard) == HOPELESS:
            break
        try:
            heard[row] = hear(ids[row], uris[row], starts[row], ends[row])
        except ClipError as error:
            heard[row], failed[ids[row]] = None, error.message
    found = {name: [clip for row in rows[name][:most] if (clip := heard.get(row)) is not None] for name in largest}
    return ClipSample({name: clips for name, clips in found.items() if clips}, len(heard), failed)


def hear(clip_id: str, uri: str, start_s: float | None, end_s: float | None) -> HeardClip:
    """Decode the first `LONGEST_S` seconds of a clip.

    Raises:
        ClipError: why it cannot be read.
    """
    if video_at("", uri, start_s):
        raise ClipError("not_found", f"{uri}: a video, no audio file")
    with open_source(uri) as source:
        end, begin = duration_s(source, uri) if end_s is None else end_s, start_s or 0.0
        waveform, rate = decode(source, start_s, end_s if end - begin <= LONGEST_S else begin + LONGEST_S, uri)
    return HeardClip(clip_id, resample(waveform, rate, RATE), end - begin)
