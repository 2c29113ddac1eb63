"""`acoustic-env bench`: both engines side by side, stage by stage."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from acoustic_env.commands.arguments import add_command, check_inputs, log, names, positive, url

if TYPE_CHECKING:
    from acoustic_env.bench.classify import LoadResult, PredictResult
    from acoustic_env.bench.gpu import GpuResult
    from acoustic_env.bench.job import JobResult
    from acoustic_env.bench.run import BenchResult

DESCRIPTION = """\
Measure the reference engine (noisereduce, scikit-maad, soundsig as published) and the fast engine on the same clips in
one run. Seconds are processor time of one thread, per clip with its three signals; a ratio is the median over clips.
Stage `dsp` is separation, 60 indices and modulation spectrum; it also reports the fast engine's cost for clips of 5 to
60 s.

Stage `gpu` measures the throughput of a GPU (modulation spectrum and networks) and the CPU cores that keep it busy;
without --stages it is left out where there is no GPU. Stage `extract` runs the whole job with both engines on one list,
with the memory of its workers, and compares the fast job with a plain loop of the same kernels on a list four times as
long. It takes most of the time: some eight minutes of ten on two cores.

Stage `predict` measures `predict FILE` beside importing torch, and the seconds of a window. Stage `serve` measures the
requests/s of `serve` and the quantiles of its answers' seconds with 1 to 8 clients, in one process and on Ray Serve (on
the cluster of RAY_ADDRESS, if set) where that has CPUs enough. Both take the classifier of --bundle, or a small one
that needs no weights.

The clips are real ones of 10 s if the environment variable ACOUSTIC_ENV_TEST_DATA names the folder of real data, else
generated scenes."""

EXAMPLES = """\
  acoustic-env bench
  acoustic-env bench --stages dsp --num-clips 5 --json
  acoustic-env bench --stages extract --num-job-clips 500
  acoustic-env bench --stages predict,serve --bundle bundle"""


def add_parsers(subparsers: Any) -> None:
    add = add_command(subparsers, "bench", bench, DESCRIPTION, EXAMPLES).add_argument
    add("--stages", type=names, default=(), metavar="A,B", help="Stages to measure. Default: all.")
    add("--num-clips", type=positive, default=12, metavar="N", help="Number of clips of each stage. Default: 12.")
    add("--num-job-clips", type=positive, metavar="N", help="Number of clips of extract. Default: 100 per CPU.")
    add("--bundle", type=url, metavar="BUNDLE", help="Classifier of predict and serve. Default: a small one.")


def bench(namespace: argparse.Namespace) -> None:
    """Measure and print."""
    check_inputs(bundle=namespace.bundle)
    from acoustic_env.bench.run import run_bench

    result = run_bench(namespace.stages, namespace.num_clips, namespace.num_job_clips, _log, bundle=namespace.bundle)
    print(json.dumps(dataclasses.asdict(result), indent=2) if namespace.json else "\n".join(_lines(result)))
    if not namespace.stages and result.gpu is None:
        _log("PyTorch sees no GPU here: stage gpu was not run")


def _log(what: str) -> None:
    log(f"bench: {what}")


def _lines(result: BenchResult) -> list[str]:
    lines = [result.machine]
    if result.stages:
        lines += [
            f"{result.clips} clips of {result.clip_seconds:g} s ({result.source}), one thread, processor time",
            "",
            f"{'stage':<18}{'reference':>14}{'fast':>12}{'ratio':>9}",
            f"{'':<18}{'ms per clip':>14}{'ms per clip':>12}",
        ]
    for stage in result.stages:
        reference, fast = 1e3 * stage.reference_s_per_clip, 1e3 * stage.fast_s_per_clip
        lines.append(f"{stage.stage:<18}{reference:>14.1f}{fast:>12.1f}{stage.ratio:>8.1f}x")
    if result.lengths:
        lines += ["", f"{'dsp, fast, clip of':<32}{'ms per clip':>12}{'ms per s':>9}"]
    for length in result.lengths:
        cost = 1e3 * length.fast_s_per_clip
        lines.append(f"{length.clip_seconds:>16g} s{cost:>26.1f}{cost / length.clip_seconds:>9.1f}")
    if result.gpu is not None:
        lines += _gpu_lines(result.gpu)
    if result.job is not None:
        lines += _job_lines(result.job, result.source)
    if result.predict is not None:
        lines += _predict_lines(result.predict)
    if result.serve:
        lines += _serve_lines(result.serve)
    return lines


def _gpu_lines(gpu: GpuResult) -> list[str]:
    lines = ["", f"{gpu.device + ', part of a clip':<34}{'on':<12}{'ms per clip':>12}"]
    lines += [f"{part.part:<34}{part.place:<12}{1e3 * part.s_per_clip:>12.2f}" for part in gpu.parts]
    for what, rate in (("the DSP", gpu.dsp), ("the DSP and all networks", gpu.dsp_and_networks)):
        lines.append(
            f"{what}: {rate.clips_per_second:.0f} clips/s of the GPU, if {rate.decode_cores:.1f} CPU cores decode and "
            f"{rate.dsp_cores:.1f} separate and compute indices"
        )
    return lines


def _job_lines(job: JobResult, source: str) -> list[str]:
    gib, efficiency = 1 << 30, job.efficiency
    reference, fast = job.reference, job.fast
    return [
        "",
        f"extract, {job.clips} clips of {job.clip_seconds:g} s ({source}), {job.workers} workers",
        f"{'':<18}{'reference':>14}{'fast':>12}{'ratio':>9}",
        f"{'whole command, s':<18}{reference.command_s:>14.1f}{fast.command_s:>12.1f}{job.ratio:>8.1f}x",
        f"{'clips/s, running':<18}{reference.clips_per_second:>14.2f}{fast.clips_per_second:>12.2f}",
        f"{'GiB per worker':<18}{reference.worker_bytes / gib:>14.2f}{fast.worker_bytes / gib:>12.2f}",
        "",
        f"fast job, {efficiency.clips} clips: {efficiency.job_clips_per_second:.2f} clips/s; a plain loop of the same "
        f"kernels {efficiency.loop_clips_per_second:.2f}: efficiency {efficiency.ratio:.2f}",
    ]


def _predict_lines(found: PredictResult) -> list[str]:
    return [
        "",
        f"predict, {found.classifier}",
        f"import torch {found.import_torch_s:.2f} s, predict FILE {found.command_s:.2f} s, ratio {found.ratio:.2f}",
        f"a window of {found.window_s:g} s: {1e3 * found.alone_s:.1f} ms alone, "
        f"{1e3 * found.together_s:.1f} ms in a recording",
    ]


def _serve_lines(loads: Sequence[LoadResult]) -> list[str]:
    lines = ["", f"{'serve':<24}{'clients':>8}{'requests/s':>12}{'p50, ms':>9}{'p95, ms':>9}{'p99, ms':>9}"]
    for load in loads:
        quantiles = "".join(f"{1e3 * seconds:>9.0f}" for seconds in (load.p50_s, load.p95_s, load.p99_s))
        lines.append(f"{load.server:<24}{load.clients:>8}{load.requests_per_s:>12.1f}{quantiles}")
    return lines
