"""How much faster the fast engine is than the reference, stage by stage: pairs measured side by side in one run.

Seconds are this process's processor time on one thread, so that they are core-seconds whatever else the machine does.
Each clip goes through both engines one straight after the other; a stage's figure is the median over clips, its ratio
the median of the clips' ratios.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audio import prepare
from acoustic_env.audio.signals import SIGNALS, Signal
from acoustic_env.errors import UsageError

SAMPLE_RATE: Final = 16_000
CLIP_SECONDS: Final = 10.0
LENGTHS: Final = (5.0, 10.0, 20.0, 30.0, 60.0)  # seconds
LENGTH_RUNS: Final = 3
REAL_RECORDINGS: Final = (
    "clips/maad_soundscape/*.wav",
    "clips/blanket/*.ogg",
)  # of the folder of real data: 10 s or more

# A stage is one line: its name and the function that makes its two sides, each a callable of a BenchClip.
STAGES: Final[dict[str, str]] = {
    "decode": "acoustic_env.pipeline.bench_dsp:decode",
    "separation": "acoustic_env.pipeline.bench_dsp:separation",
    "spectrogram": "acoustic_env.pipeline.bench_dsp:power_spectrogram",
    "indices temporal": "acoustic_env.pipeline.bench_dsp:temporal",
    "indices spectrum": "acoustic_env.pipeline.bench_dsp:spectrum",
    "indices entropy": "acoustic_env.pipeline.bench_dsp:equalised_entropy",
    "indices gradient": "acoustic_env.pipeline.bench_dsp:gradient",
    "indices bands": "acoustic_env.pipeline.bench_dsp:bands",
    "indices activity": "acoustic_env.pipeline.bench_dsp:activity",
    "indices regions": "acoustic_env.pipeline.bench_dsp:regions",
    "indices": "acoustic_env.pipeline.bench_dsp:indices",
    "modulation": "acoustic_env.pipeline.bench_dsp:modulation",
    "dsp": "acoustic_env.pipeline.bench_dsp:dsp",
    "vggish": "acoustic_env.pipeline.bench_tfhub:vggish_pair",
    "yamnet": "acoustic_env.pipeline.bench_tfhub:yamnet_pair",
    "panns": "acoustic_env.pipeline.bench_tagging:panns",
    "mn04": "acoustic_env.pipeline.bench_tagging:mn04",
}


@dataclass(frozen=True)
class BenchClip:
    """One clip and what the stages start from.

    Attributes:
        data: the file's bytes.
        start_s, end_s: the clip in it.
        raw: float32 [samples], levelled.
        signals: raw, foreground and background, float32 [samples].
    """

    data: bytes
    start_s: float
    end_s: float
    raw: npt.NDArray[np.float32]
    signals: dict[Signal, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Pair:
    """A stage's two sides, and what to make ready for a clip before its clocks start; results are thrown away."""

    reference: Callable[[BenchClip], object]
    fast: Callable[[BenchClip], object]
    ready: Callable[[BenchClip], object] = id


@dataclass(frozen=True)
class StageResult:
    """Seconds per clip of all its signals."""

    stage: str
    reference_s_per_clip: float
    fast_s_per_clip: float
    ratio: float


@dataclass(frozen=True)
class LengthResult:
    """Seconds of the fast engine's whole DSP for a clip of so many seconds."""

    clip_seconds: float
    fast_s_per_clip: float


@dataclass(frozen=True)
class BenchResult:
    """A whole run.

    Attributes:
        machine: processor, operating system and libraries.
        clips: how many clips each stage saw.
        clip_seconds: their median length.
        source: real clips or generated scenes.
        stages: in the order of `STAGES`.
        lengths: what the stage dsp costs at each of `LENGTHS`; empty where it was not asked for.
    """

    machine: str
    clips: int
    clip_seconds: float
    source: str
    stages: tuple[StageResult, ...]
    lengths: tuple[LengthResult, ...]


def run_bench(stages: Sequence[str], clips: int, progress: Callable[[str], None]) -> BenchResult:
    """Measure the named stages on so many clips.

    Args:
        stages: of `STAGES`; all when empty.
        clips: 1 or more; fewer when there are not as many.
        progress: told what is measured.

    Raises:
        UsageError: an unknown stage.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        msg = f"no stage named {unknown[0]!r}; there are {', '.join(STAGES)}"
        raise UsageError(msg)
    with _one_thread():
        folder = os.environ.get("ACOUSTIC_ENV_TEST_DATA")
        material = list(_real_clips(Path(folder), clips) if folder else _generated_clips(clips))
        if not material:
            msg = f"ACOUSTIC_ENV_TEST_DATA={folder}: no recordings {' or '.join(REAL_RECORDINGS)} there"
            raise UsageError(msg)
        results = []
        lengths: tuple[LengthResult, ...] = ()
        for stage in [name for name in STAGES if name in (stages or STAGES)]:
            progress(stage)
            module, _, attribute = STAGES[stage].partition(":")
            pair = getattr(import_module(module), attribute)()
            results.append(_measure(stage, pair, material))
            if stage == "dsp":
                lengths = tuple(_measure_length(seconds, pair, material[0]) for seconds in LENGTHS)
    return BenchResult(
        machine=_machine(),
        clips=len(material),
        clip_seconds=statistics.median(clip.raw.size for clip in material) / SAMPLE_RATE,
        source=f"real clips of {folder}" if folder else "generated scenes",
        stages=tuple(results),
        lengths=lengths,
    )


def _measure(stage: str, pair: Pair, material: Sequence[BenchClip]) -> StageResult:
    times = []
    for clip in (material[0], *material):  # the first once more: its first time is imports and caches
        pair.ready(clip)
        times.append((_seconds(pair.reference, clip), _seconds(pair.fast, clip)))
    times = times[1:]
    reference, fast = zip(*times, strict=True)
    ratio = statistics.median(a / b for a, b in times)
    return StageResult(stage, statistics.median(reference), statistics.median(fast), ratio)


def _measure_length(seconds: float, pair: Pair, clip: BenchClip) -> LengthResult:
    """The fast side for the clip cut or repeated to a length: the quickest of a few runs, as the first fills caches."""
    other = replace(clip, raw=np.resize(clip.raw, round(seconds * SAMPLE_RATE)), signals={})
    return LengthResult(seconds, min(_seconds(pair.fast, other) for _ in range(LENGTH_RUNS)))


def _seconds(side: Callable[[BenchClip], object], clip: BenchClip) -> float:
    begin = time.process_time()
    side(clip)
    return time.process_time() - begin


def _real_clips(folder: Path, count: int) -> Iterator[BenchClip]:
    paths = [path for pattern in REAL_RECORDINGS for path in sorted(folder.glob(pattern))]
    chosen = [paths[i * len(paths) // count] for i in range(min(count, len(paths)))] if count < len(paths) else paths
    for path in chosen:
        yield _clip(path.read_bytes(), path.name)


def _generated_clips(count: int) -> Iterator[BenchClip]:
    from acoustic_env.clips.scenes import write_scenes

    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), count, seed=23, seconds=CLIP_SECONDS)
        audio = [path for path in sorted(Path(folder).rglob("*")) if path.suffix in (".wav", ".flac", ".ogg")]
        for path in audio[:count]:
            yield _clip(path.read_bytes(), path.name)


def _clip(data: bytes, name: str) -> BenchClip:
    waveform = prepare.standardise(io.BytesIO(data), 0.0, CLIP_SECONDS, name, [SAMPLE_RATE])[SAMPLE_RATE]
    signals = prepare.prepare(waveform[None], SAMPLE_RATE, "fast", SIGNALS)
    each = {signal: waveforms[0] for signal, waveforms in signals.items()}
    return BenchClip(data, 0.0, CLIP_SECONDS, each["raw"], each)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """BLAS, OpenMP and torch's own pool at one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _machine() -> str:
    import scipy
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    libraries = f"numpy {np.__version__}, scipy {scipy.__version__}, torch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, {libraries}"
