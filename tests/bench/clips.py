"""The clips of the benchmark: real recordings where there are any, else generated scenes."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.fetch import duration_of
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.features.golden import GOLDEN_SIGNALS

SAMPLE_RATE: Final = 16_000
CLIP_SECONDS: Final = 10.0
TEST_DATA: Final = "ACOUSTIC_ENV_TEST_DATA"
REAL_RECORDINGS: Final = ("clips/maad_soundscape/*.wav", "clips/blanket/*.ogg")  # of 10 s or more
SEED: Final = 23


@dataclass(frozen=True)
class BenchClip:
    """A clip as the stages take it."""

    data: bytes  # the file's bytes
    start_s: float  # the clip in it
    end_s: float
    raw: npt.NDArray[np.float32]  # float32 [samples], RMS-normalized
    signals: dict[str, npt.NDArray[np.float32]]  # raw, foreground and background, float32 [samples]


@dataclass(frozen=True)
class Material:
    """Recordings."""

    paths: tuple[Path, ...]  # audio files, most of them at least as long as a clip
    source: str  # human-readable origin
    clip_seconds: float  # of the clips made of them

    def clips(self, count: int) -> list[BenchClip]:
        """Return the beginnings of so many recordings, spread over all; fewer where there are not as many.

        Raises:
            UsageError: one cannot be decoded.
        """
        count = min(count, len(self.paths))
        return [_clip(self.paths[i * len(self.paths) // count], self.clip_seconds) for i in range(count)]

    def clip_list(self, count: int) -> pa.Table:
        """Return a clip list of so many windows, spread evenly over all recordings; they may overlap.

        Raises:
            UsageError: a recording cannot be read.
        """
        lengths = [(path, _seconds(path)) for path in self.paths]
        lengths = [(path, length) for path, length in lengths if length >= self.clip_seconds] or lengths
        ends = np.cumsum([max(1.0, length - self.clip_seconds + 1.0) for _, length in lengths])
        rows = []
        for i, at in enumerate((np.arange(count) + 0.5) / count * ends[-1]):
            which = int(np.searchsorted(ends, at, side="right"))
            path, length = lengths[which]
            start = min(float(at - (ends[which - 1] if which else 0.0)), max(0.0, length - self.clip_seconds))
            rows.append({"clip_id": f"{path.stem}-{i:05d}", "uri": str(path), "start_s": start})
            rows[-1] |= {"end_s": start + self.clip_seconds, "source": "bench"}
        return clip_table(rows)


@contextlib.contextmanager
def bench_clips(scenes: int) -> Iterator[Material]:
    """Yield real recordings or, where there are none, so many generated scenes, which are removed after the block.

    Raises:
        UsageError: the folder of real data has none.
    """
    folder = os.environ.get(TEST_DATA)
    if folder:
        paths = tuple(path for pattern in REAL_RECORDINGS for path in sorted(Path(folder).glob(pattern)))
        if not paths:
            raise UsageError(f"{TEST_DATA}={folder}: no recordings {' or '.join(REAL_RECORDINGS)} there")
        yield Material(paths, f"real clips of {folder}", CLIP_SECONDS)
        return
    from acoustic_env.clips.scenes import write_scenes

    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as generated:
        table = write_scenes(generated, scenes, SEED, seconds=2 * CLIP_SECONDS)
        paths = tuple(Path(uri) for uri in table["uri"].to_pylist())
        yield Material(paths, "generated scenes", CLIP_SECONDS)


def _seconds(path: Path) -> float:
    if (seconds := duration_of(str(path))) is None:
        raise UsageError(f"{path}: not a readable recording")
    return seconds


def _clip(path: Path, seconds: float) -> BenchClip:
    data = path.read_bytes()
    try:
        waveform = prepare.decode_and_resample(io.BytesIO(data), 0.0, seconds, path.name, [SAMPLE_RATE])[SAMPLE_RATE]
    except ClipError as error:
        raise UsageError(f"{path}: not a readable recording: {error}") from error
    signals = prepare.prepare(waveform[None], SAMPLE_RATE, "fast", GOLDEN_SIGNALS)
    each = {signal: waveforms[0] for signal, waveforms in signals.items()}
    return BenchClip(data, 0.0, seconds, each["raw"], each)
