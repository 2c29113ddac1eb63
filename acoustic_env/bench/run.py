"""Measure both engines side by side, stage by stage and in the whole job, and a classifier that answers.

A stage is timed in processor seconds of one thread. Each clip goes through one engine and then the other; a stage's
seconds are the median over clips, its ratio the median of the clips' ratios.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np

from acoustic_env.bench.classify import LoadResult, PredictResult, measure_predict, measure_serve
from acoustic_env.bench.clips import SAMPLE_RATE, BenchClip, bench_clips
from acoustic_env.bench.gpu import GpuResult, has_gpu, measure_gpu
from acoustic_env.bench.job import JobResult, measure_job
from acoustic_env.bench.timing import Pair, cpu_seconds, one_thread
from acoustic_env.errors import UsageError

LENGTHS: Final = (5.0, 10.0, 20.0, 30.0, 60.0)  # seconds
LENGTH_RUNS: Final = 3
GPU: Final = "gpu"  # the stage that is the parts a GPU can do
JOB: Final = "extract"  # the stage that is the whole job
PREDICT: Final = "predict"  # a classifier without a cluster
SERVE: Final = "serve"  # servers of it under load

_DSP: Final = ("decode", "separation", "indices", "modulation", "dsp", "logmel", "mfcc", "spectral")
# Stage -> the function that makes its pair of engines.
STAGES: Final[dict[str, str]] = {
    **{name: f"acoustic_env.bench.dsp:{name}" for name in _DSP},
    "vggish": "acoustic_env.bench.tfhub:vggish_pair",
    "yamnet": "acoustic_env.bench.tfhub:yamnet_pair",
    "panns": "acoustic_env.bench.tagging:panns",
    "mn04": "acoustic_env.bench.tagging:mn04",
}


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
    """A whole run."""

    machine: str  # processor, operating system and libraries
    clips: int  # how many clips each stage saw
    clip_seconds: float  # their median length
    source: str  # real clips or generated scenes
    stages: tuple[StageResult, ...]  # in the order of `STAGES`
    lengths: tuple[LengthResult, ...]  # what the stage dsp costs at each of `LENGTHS`; empty without that stage
    gpu: GpuResult | None  # the parts that a GPU can do, on it; None where there is none or it was not asked for
    job: JobResult | None  # the whole job with both engines; None where it was not asked for
    predict: PredictResult | None  # a classifier without a cluster; None where it was not asked for
    serve: tuple[LoadResult, ...]  # servers of it under load; empty where it was not asked for


def run_bench(
    stages: Sequence[str], clips: int, job_clips: int | None, log: Callable[[str], None], *, bundle: str | None = None
) -> BenchResult:
    """Measure the named stages.

    Args:
        stages: of `STAGES`, `GPU`, `JOB`, `PREDICT` or `SERVE`; all when empty, `GPU` only where there is one.
        clips: for a stage, 1 or more; fewer when there are not as many.
        job_clips: on the list of the job, 1 or more; None for as many as keep this machine busy for a while.
        log: receives the name of what is measured.
        bundle: the classifier of `PREDICT` and `SERVE`; None for a small one.

    Raises:
        UsageError: an unknown stage, no real clips where there should be, or no GPU where one was asked for.
        AcousticEnvError: the job failed.
    """
    known = [*STAGES, GPU, JOB, PREDICT, SERVE]
    unknown = [stage for stage in stages if stage not in known]
    if unknown:
        raise UsageError(f"no stage named {unknown[0]!r}; expected one of: {', '.join(known)}")
    if GPU in stages and not has_gpu():
        raise UsageError(f"stage {GPU}: PyTorch sees no GPU here; leave it out")
    wanted = stages or [stage for stage in known if stage != GPU or has_gpu()]
    with bench_clips(clips) as material:
        sample = material.clips(clips)
        results, lengths = _measure_stages([stage for stage in STAGES if stage in wanted], sample, log)
        gpu = measure_gpu(sample, "cuda", log) if GPU in wanted else None
        return BenchResult(
            machine=_machine(),
            clips=len(sample),
            clip_seconds=statistics.median(clip.raw.size for clip in sample) / SAMPLE_RATE,
            source=material.source,
            stages=results,
            lengths=lengths,
            gpu=gpu,
            job=measure_job(material, job_clips, log) if JOB in wanted else None,
            predict=measure_predict(bundle, log) if PREDICT in wanted else None,
            serve=measure_serve(bundle, log) if SERVE in wanted else (),
        )


def _measure_stages(
    stages: Sequence[str], sample: Sequence[BenchClip], log: Callable[[str], None]
) -> tuple[tuple[StageResult, ...], tuple[LengthResult, ...]]:
    results = []
    lengths: tuple[LengthResult, ...] = ()
    with one_thread():
        for stage in stages:
            log(stage)
            module, _, attribute = STAGES[stage].partition(":")
            pair = getattr(import_module(module), attribute)()
            results.append(_measure(stage, pair, sample))
            if stage == "dsp":
                lengths = tuple(_measure_length(length_s, pair, sample[0]) for length_s in LENGTHS)
    return tuple(results), lengths


def _measure(stage: str, pair: Pair, material: Sequence[BenchClip]) -> StageResult:
    clips = (material[0], *material)  # the first clip twice, to warm up
    _, *times = [(cpu_seconds(pair.reference, clip), cpu_seconds(pair.fast, clip)) for clip in clips]
    reference, fast = zip(*times, strict=True)
    ratio = statistics.median(a / b for a, b in times)
    return StageResult(stage, statistics.median(reference), statistics.median(fast), ratio)


def _measure_length(length_s: float, pair: Pair, clip: BenchClip) -> LengthResult:
    """The fast side for the clip cut or repeated to a length: the quickest of a few runs."""
    other = replace(clip, raw=np.resize(clip.raw, round(length_s * SAMPLE_RATE)), signals={})
    return LengthResult(length_s, min(cpu_seconds(pair.fast, other) for _ in range(LENGTH_RUNS)))


def _machine() -> str:
    import scipy
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = next(iter(names), platform.processor() or platform.machine())
    libraries = f"numpy {np.__version__}, scipy {scipy.__version__}, torch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, {libraries}"
