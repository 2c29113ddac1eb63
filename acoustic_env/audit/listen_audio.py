"""Clips of the sample as the page plays and draws them: a WAV of one loudness and its spectrogram."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import soundfile

from acoustic_env.audio.decode import Mono, decode
from acoustic_env.audio.fetch import open_source
from acoustic_env.audit.listen import Row
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.io.location import scrub

CACHE_BYTES: Final = 64 * 1024**2
TARGET_RMS: Final = 0.1  # loudness differs by 60 dB between recordings
PEAK: Final = 0.9
LARGEST_GAIN: Final = 1_000.0

SPECTROGRAM_BANDS: Final = 160
SPECTROGRAM_FRAMES: Final = 800
LOWEST_HZ: Final = 50.0
RANGE_DB: Final = 80.0
_WINDOW_S: Final = 0.046

_AUDIOSET_ID: Final = re.compile(r"([A-Za-z0-9_-]{11})_(\d+)")
_VIDEO_ID: Final = re.compile(r"[A-Za-z0-9_-]{11}")
_VIDEO_HOSTS: Final = frozenset({"youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be"})


@dataclass(frozen=True)
class Place:
    """Where a clip's audio is: columns of the clip list, and the video's address for an AudioSet clip, else None."""

    uri: str
    start_s: float | None
    end_s: float | None
    video: str | None

    @property
    def length_s(self) -> float | None:
        """Seconds of the segment, None where the list has no end."""
        return None if self.end_s is None else self.end_s - (self.start_s or 0.0)


@dataclass(frozen=True)
class PlayableClip:
    """A clip that can be played.

    Attributes:
        wav: 16-bit mono WAV file.
        seconds: its length.
        spectrogram: what the page draws, from `describe`.
    """

    wav: bytes
    seconds: float
    spectrogram: dict[str, Any]


def places(rows: list[Row], clips: pa.Table, where: str) -> list[Place]:
    """Return the place of every row's clip.

    Args:
        rows: of the sample.
        clips: clip list.
        where: its name, for the message.

    Raises:
        UsageError: a clip of the sample is not in the list.

    >>> clips = pa.table({"clip_id": ["a"], "uri": ["a.wav"], "start_s": [1.0], "end_s": [3.5]})
    >>> places([Row("a", "rain", "sample")], clips, "clips.parquet")[0].length_s
    2.5
    """
    wanted = clips.select(["clip_id", "uri", "start_s", "end_s"])
    of = {entry["clip_id"]: entry for entry in wanted.to_pylist()}
    lacking = [row.clip_id for row in rows if row.clip_id not in of]
    if lacking:
        msg = f"{where}: {len(lacking):,} of {len(rows):,} clips of the sample are not in this list ({lacking[0]}, ...)"
        raise UsageError(msg)
    found = [of[row.clip_id] for row in rows]
    return [Place(e["uri"], e["start_s"], e["end_s"], video_at(e["clip_id"], e["uri"], e["start_s"])) for e in found]


def video_at(clip_id: str, uri: str, start_s: float | None) -> str | None:
    """Return the address of an AudioSet clip's video at the clip's first second; None if the clip is of no video.

    >>> video_at("abcdefghijk_12500", "s3://bucket/x.flac", None)
    'https://www.youtube.com/watch?v=abcdefghijk&t=12s'
    """
    found = _AUDIOSET_ID.fullmatch(clip_id)
    named = _video_of(uri, start_s) or ((found[1], int(found[2]) / 1000) if found else None)
    return f"https://www.youtube.com/watch?v={named[0]}&t={int(named[1])}s" if named else None


def _video_of(uri: str, start_s: float | None) -> tuple[str, float] | None:
    parts = urlsplit(uri) if uri.startswith(("http://", "https://")) else None
    if parts is None or parts.hostname not in _VIDEO_HOSTS:
        return None
    last = parts.path.rstrip("/").rpartition("/")[2]
    video = parse_qs(parts.query).get("v", [last])[0]
    return (video, start_s or 0.0) if _VIDEO_ID.fullmatch(video) else None


class ClipCache:
    """The clips of a sample by row number, the last `CACHE_BYTES` of them in memory; safe for several threads.

    Args:
        wanted: place of each row's clip.
    """

    def __init__(self, wanted: list[Place]) -> None:
        self.wanted = wanted
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, PlayableClip] = OrderedDict()

    def __getitem__(self, row: int) -> PlayableClip:
        """Return the clip of a row.

        Raises:
            ClipError: its audio cannot be read; the message says why.
        """
        with self._lock:
            if row in self._kept:
                self._kept.move_to_end(row)
                return self._kept[row]
        clip = load_clip(self.wanted[row])
        with self._lock:
            self._kept[row] = clip
            while len(self._kept) > 1 and sum(len(kept.wav) for kept in self._kept.values()) > CACHE_BYTES:
                self._kept.popitem(last=False)
        return clip


def load_clip(place: Place) -> PlayableClip:
    """Fetch and decode a clip.

    Raises:
        ClipError: why it cannot be played. The message never names the place: a folder's name often is the label.
    """
    if _video_of(place.uri, None):
        raise ClipError("not_found", "the clip list has no audio file for it, only its video")
    try:
        with open_source(place.uri) as source:
            waveform, rate = decode(source, place.start_s, place.end_s, "the clip")
    except ClipError as error:
        raise ClipError(error.code, _blind(error, place.uri)) from None
    waveform = normalize_for_playback(waveform)
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="WAV", subtype="PCM_16")
    return PlayableClip(buffer.getvalue(), len(waveform) / rate, describe(waveform, rate))


def _blind(error: ClipError, uri: str) -> str:
    known = {
        "not_found": "its file is not where the clip list says",
        "access_denied": "its file may not be read",
        "download_failed": "its file could not be fetched",
        "unreachable": "its file cannot be reached from this machine",
    }
    return known.get(error.code, error.message.replace(uri, "the clip").replace(scrub(uri), "the clip"))


def normalize_for_playback(waveform: Mono) -> Mono:
    """Remove the mean of float32 [samples], scale to RMS 0.1 with a peak of at most 0.9; silence becomes zeros.

    >>> normalize_for_playback(np.array([1.5, 0.5, 1.5, 0.5], np.float32)).round(3)
    array([ 0.1, -0.1,  0.1, -0.1], dtype=float32)
    """
    centered = waveform - waveform.mean(dtype=np.float64)
    rms, peak = float(np.sqrt(np.square(centered).mean())), float(np.abs(centered).max())
    if rms < 1e-8:
        return np.zeros_like(waveform)
    return np.asarray(centered * min(TARGET_RMS / rms, PEAK / peak, LARGEST_GAIN), np.float32)


def mel(hertz: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    """Convert Hz to mel, 2595 log10(1 + f / 700) (O'Shaughnessy 1987).

    >>> mel(np.array([0.0, 1000.0, 8000.0])).round(1).tolist()
    [0.0, 1000.0, 2840.0]
    """
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0))


def spectrogram(
    waveform: Mono, rate: int, frames: int = SPECTROGRAM_FRAMES, *, relative: bool = True
) -> npt.NDArray[np.uint8]:
    """Compute the level in dB over mel-spaced frequency, from `LOWEST_HZ` to half the rate, and time.

    Args:
        waveform: float32 [samples].
        rate: Hz.
        frames: at most so many, spread evenly over the clip.
        relative: 255 is the loudest point of the clip; otherwise a sine of full scale.

    Returns:
        uint8 [SPECTROGRAM_BANDS, frames]: 0 is `RANGE_DB` below 255 or less; band 0 is the lowest.

    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    >>> levels = spectrogram(tone, 16_000)
    >>> levels.shape, levels.dtype, int(levels.max()), int(levels.mean(axis=1).argmax())
    ((160, 62), dtype('uint8'), 255, 53)
    """
    window = 1 << max(5, round(np.log2(_WINDOW_S * rate)))
    padded = np.pad(waveform, window // 2)
    frames = int(np.clip(len(waveform) * 4 // window, 1, frames))
    starts = np.linspace(0, len(waveform), frames, endpoint=False).astype(np.int64)
    starts += (len(waveform) // frames) // 2
    shape = np.hanning(window).astype(np.float32)
    edges = np.linspace(mel(LOWEST_HZ), mel(rate / 2), SPECTROGRAM_BANDS + 1)
    edge_bins = 700.0 * (10.0 ** (edges / 2595.0) - 1.0) * window / rate
    inside = np.diff(np.clip(edge_bins[:, None] + 0.5 - np.arange(window // 2 + 1), 0.0, 1.0), axis=0)
    weights = (inside / np.diff(edge_bins)[:, None]).astype(np.float32)  # each band's mean over its bins
    power = np.empty((SPECTROGRAM_BANDS, frames), np.float32)
    for first in range(0, frames, 128):  # a bounded piece of a long clip at a time
        taken = starts[first : first + 128]
        pieces = padded[taken[:, None] + np.arange(window)] * shape
        power[:, first : first + 128] = weights @ (np.abs(np.fft.rfft(pieces, axis=1)) ** 2).T
    top = float(power.max()) if relative else (window / 4) ** 2  # a sine's, through a Hann window
    if top <= 0.0:
        return np.zeros(power.shape, np.uint8)
    decibels = 10.0 * np.log10(np.clip(power / top, 10.0 ** (-RANGE_DB / 10.0), 1.0))
    levels: npt.NDArray[np.uint8] = np.round(255.0 * (1.0 + decibels / RANGE_DB)).astype(np.uint8)
    return levels


def describe(waveform: Mono, rate: int, frames: int = SPECTROGRAM_FRAMES, *, relative: bool = True) -> dict[str, Any]:
    """Return the spectrogram as JSON; `levels` are base64, row by row.

    >>> found = describe(np.zeros(16_000, np.float32), 16_000, frames=10)
    >>> found["bands"], found["frames"], found["high_hz"]
    (160, 10, 8000.0)
    """
    levels = spectrogram(waveform, rate, frames, relative=relative)
    return {
        "bands": levels.shape[0],
        "frames": levels.shape[1],
        "low_hz": LOWEST_HZ,
        "high_hz": rate / 2,
        "scale": "mel",
        "levels": base64.b64encode(levels.tobytes()).decode(),
    }
