"""The benchmark's stage `extract`: the speed of the whole job with both engines, and its efficiency.

Each run is a process with a store of its own: the fast engine before and after the reference, because the speed of a
shared machine drifts. Efficiency is the job's clips per second over those of a plain loop: the pipeline's own stages in
as many processes as the job has workers, without Ray and store. Half of the loop runs before the job and half after it.
The loop's clock starts with warm processes; the job's includes the start of its workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from acoustic_env.audio.signals import Engine
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import write_clips
from acoustic_env.errors import AcousticEnvError
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.cluster import local_node, workers_of_one_thread
from acoustic_env.pipeline.compute import Compute, ComputeSettings
from acoustic_env.pipeline.pending import pending_rows
from acoustic_env.pipeline.plan import Device
from acoustic_env.pipeline.task import Task
from acoustic_env.pipeline.work import resolve_blocks
from acoustic_env.store.schema import ERROR_SCHEMA
from tests.bench.clips import Material

CLIPS_PER_CPU: Final = 100  # three minutes of the reference engine on a slow core
EFFICIENCY_CLIPS: Final = 4  # times as many as the pair of engines sees: the fast one is soon done
LOOP_CLIPS: Final = 8  # a piece of the plain loop
STOP_S: Final = 60.0  # for an interrupted run to release its lease

Log = Callable[[str], None]
_compute: Compute | None = None  # in a process of the plain loop


@dataclass(frozen=True)
class EngineRun:
    """`extract` with one engine."""

    command_s: float  # seconds of the whole command, from its start to its end
    clips_per_second: float  # while it streams (the start of workers included, that of Ray and the plan not)
    worker_bytes: int  # peak memory of a worker


@dataclass(frozen=True)
class Efficiency:
    """The job against a plain loop of the same kernels."""

    clips: int  # of the list
    job_clips_per_second: float  # of the job while it streams
    loop_clips_per_second: float  # of the loop
    ratio: float  # the first over the second


@dataclass(frozen=True)
class JobResult:
    """The whole job, blocks and signals as `extract` takes them by default."""

    clips: int  # of the list that both engines saw
    clip_seconds: float  # their length
    workers: int  # processes that compute
    reference: EngineRun  # the reference engine
    fast: EngineRun  # the fast one; the mean of two runs
    ratio: float  # of the seconds of the whole command
    efficiency: Efficiency  # of the fast engine on a longer list


def measure_job(material: Material, wanted: int | None, log: Log) -> JobResult:
    """Run the job with both engines on `wanted` clips (None for `CLIPS_PER_CPU`), then the fast one on a longer list.

    Raises:
        AcousticEnvError: a run failed; quotes its last lines.
    """
    clips = wanted or CLIPS_PER_CPU * _processes()
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder:
        short, long = Path(folder, "short.parquet"), Path(folder, "long.parquet")
        write_clips(material.clip_list(clips), str(short))
        runs = []
        for engine in ("fast", "reference", "fast"):
            log(f"extract, {engine} engine, {clips} clips")
            runs.append(run_extract(str(short), engine))
        first, reference, second = runs
        fast = EngineRun(
            (first.command_s + second.command_s) / 2,
            (first.clips_per_second + second.clips_per_second) / 2,
            max(first.worker_bytes, second.worker_bytes),
        )
        many = material.clip_list(EFFICIENCY_CLIPS * clips)
        write_clips(many, str(long))
        efficiency = measure_efficiency(str(long), many, "fast", log)
    ratio = reference.command_s / fast.command_s
    return JobResult(clips, material.clip_seconds, _processes(), reference, fast, ratio, efficiency)


def measure_efficiency(url: str, clips: pa.Table, engine: Engine, log: Log, blocks: tuple[str, ...] = ()) -> Efficiency:
    """Measure the job on a list, its rows at `url`, between two halves of a plain loop over the same list.

    Without `blocks`, it computes those of `extract`.
    """
    log(f"plain loop, {engine} engine, half of {clips.num_rows} clips")
    odd = np.arange(clips.num_rows) % 2 == 1
    seconds = _loop_seconds(clips.filter(pa.array(~odd)), engine, blocks)
    log(f"extract, {engine} engine, {clips.num_rows} clips")
    job = run_extract(url, engine, "cpu", blocks).clips_per_second
    log(f"plain loop, {engine} engine, the other half")
    seconds += _loop_seconds(clips.filter(pa.array(odd)), engine, blocks)
    loop = clips.num_rows / seconds
    return Efficiency(clips.num_rows, job, loop, job / loop)


def run_extract(url: str, engine: str, device: Device = "auto", blocks: tuple[str, ...] = ()) -> EngineRun:
    """Run the command on this machine, into a store that is thrown away.

    Raises:
        AcousticEnvError: it failed; quotes its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as store:
        options = ["--clips", url, "--store", store, "--engine", engine, "--device", device, "--json"]
        options += ["--blocks", ",".join(blocks)] if blocks else []
        started = time.perf_counter()
        record = _record([sys.executable, "-m", "acoustic_env.cli", "extract", *options])
        return EngineRun(time.perf_counter() - started, record["clips_per_second"], record["memory"]["cpu"])


def _record(command: list[str]) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # A session of its own: Ctrl-C in the terminal reaches it once, from here.
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)
            raise
    if process.returncode != 0:
        last = "\n".join(err.strip().splitlines()[-5:])
        raise AcousticEnvError(f"bench: {' '.join(command)} ended with exit code {process.returncode}:\n{last}")
    record: dict[str, Any] = json.loads(out)
    return record


def _loop_seconds(clips: pa.Table, engine: Engine, blocks: tuple[str, ...]) -> float:
    """Seconds of the kernels alone."""
    works = resolve_blocks(ExtractSettings(clips="", store="", engine=engine, blocks=blocks))
    need = np.full(clips.num_rows, sum(work.spec.mask for work in works), np.int64)
    rows = pa.concat_tables(pending_rows(Listed([clips]), need, ERROR_SCHEMA.empty_table()))
    pieces = [rows.slice(i, LOOP_CLIPS) for i in range(0, rows.num_rows, LOOP_CLIPS)]
    workers_of_one_thread()
    processes = _processes()
    with multiprocessing.get_context("spawn").Pool(processes, _load, (engine, blocks)) as pool:
        pool.map(_work, [rows.slice(0, 2)] * processes, chunksize=1)
        started = time.perf_counter()
        for _ in pool.imap_unordered(_work, pieces):
            pass
        return time.perf_counter() - started


def _load(engine: Engine, blocks: tuple[str, ...]) -> None:
    global _compute
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    works = tuple(resolve_blocks(ExtractSettings(clips="", store="", engine=engine, blocks=blocks)))
    _compute = Compute(ComputeSettings(works))


def _work(piece: pa.Table) -> None:
    assert _compute is not None
    _compute(Task(piece))


def _processes() -> int:
    return int(local_node().cpus)
