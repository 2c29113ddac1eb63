"""Pipeline efficiency: clips/s of the Ray job over clips/s of the same kernels in a plain loop, in turns in one run.

    python -m tests.pipeline.bench_efficiency --clips clips.parquet [--engine fast] [--processes 2] [--jobs 2]

The plain loop runs the pipeline's own stages (decode, prepare, blocks) in as many processes as the job has CPUs,
without Ray, without a store. The loop's pool is warm before its clock starts; the job's clock is the run record's
streaming time, which begins when the graph is handed to Ray and so includes the start of its actors. Each job runs
between two loops and is compared with their mean, because the speed of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa

from acoustic_env.clips.table import read_clips
from acoustic_env.config import ExtractSettings
from acoustic_env.pipeline.extract import extract, resolve_blocks
from acoustic_env.pipeline.rows import WORK_SCHEMA
from acoustic_env.pipeline.stages import Compute, ComputeSettings, Decode

_stages: tuple[Decode, Compute] | None = None


def _load(settings: ExtractSettings) -> None:
    global _stages
    works = tuple(resolve_blocks(settings))
    rates = sorted({work.sample_rate for work in works})
    _stages = (Decode(rates), Compute(ComputeSettings(works, decodes=(), prepares=True, passes_on=(), device="cpu")))


def _work(piece: pa.Table) -> int:
    assert _stages is not None
    decode, compute = _stages
    return compute(decode(piece)).num_rows


def plain_loop(settings: ExtractSettings, clips: pa.Table, processes: int) -> float:
    """Clips/s of the kernels alone."""
    works = resolve_blocks(settings)
    need = sum(work.spec.mask for work in works)
    rows = clips.select(["clip_id", "uri", "start_s", "end_s"])
    rows = rows.append_column("need", pa.array(np.full(clips.num_rows, need, np.int64)))
    rows = rows.append_column("attempt", pa.array(np.ones(clips.num_rows, np.int32))).cast(WORK_SCHEMA)
    pieces = [rows.slice(i, 16) for i in range(0, rows.num_rows, 16)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _load, (settings,)) as pool:
        pool.map(_work, [rows.slice(0, 2)] * processes, chunksize=1)
        started = time.perf_counter()
        done = sum(pool.imap_unordered(_work, pieces))
        return done / (time.perf_counter() - started)


def ray_job(settings: ExtractSettings, clips: pa.Table) -> float:
    """Clips/s of the job's streaming part."""
    return extract(settings, clips=clips).clips_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", required=True)
    parser.add_argument("--engine", default="fast", choices=("fast", "reference"))
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    clips = read_clips(options.clips)
    clips = clips if options.limit is None else clips.slice(0, options.limit)
    settings = ExtractSettings(clips=options.clips, store="", engine=options.engine, max_error_rate=1.0)
    loops = [plain_loop(settings, clips, options.processes)]
    ratios = []
    for _ in range(options.jobs):
        with tempfile.TemporaryDirectory() as store:
            job = ray_job(replace(settings, store=store), clips)
        loops.append(plain_loop(settings, clips, options.processes))
        ratios.append(job / statistics.mean(loops[-2:]))
        print(f"job {job:.2f} clips/s, loops {loops[-2]:.2f} and {loops[-1]:.2f} clips/s, ratio {ratios[-1]:.3f}")
    print(f"{clips.num_rows} clips, {options.processes} processes: median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
