"""`acoustic-env bench --stages extract`: the command itself with both engines, and a plain loop beside it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from acoustic_env.bench import clips as bench_clips
from acoustic_env.bench import job as bench_job
from acoustic_env.bench.clips import Material
from acoustic_env.bench.job import (
    Efficiency,
    EngineRun,
    _record,
    measure_efficiency,
    measure_job,
    run_extract,
)
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.errors import AcousticEnvError

MIB = 1 << 20


@pytest.mark.slow
def test_efficiency_is_the_command_over_a_loop_on_this_machine_and_nothing_stays_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "ray://nobody.invalid:10001")  # a cluster is not what is measured
    monkeypatch.setattr(bench_clips, "CLIP_SECONDS", 2.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with bench_clips.bench_clips(2) as material:
        clips = material.clip_list(8)
        write_clips(clips, str(tmp_path / "list.parquet"))
        efficiency = measure_efficiency(str(tmp_path / "list.parquet"), clips, "fast", lambda _: None)
    assert efficiency.clips == 8
    assert efficiency.ratio == efficiency.job_clips_per_second / efficiency.loop_clips_per_second
    assert 0 < efficiency.ratio < 1  # so short a job is mostly the start of its workers
    assert list(tmp_path.glob("acoustic-env-*")) == []


def test_the_reference_runs_between_two_fast_runs_on_one_list_and_efficiency_has_a_longer_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "noise.wav", np.zeros(16_000 * 9), 16_000)
    seen: list[tuple[str, int]] = []
    answers = {"fast": [EngineRun(4.0, 20.0, 7), EngineRun(6.0, 10.0, 9)], "reference": [EngineRun(40.0, 1.0, 8)]}

    def run(url: str, engine: str) -> EngineRun:
        seen.append((engine, read_clips(url).num_rows))
        return answers[engine].pop(0)

    def efficiency(url: str, clips: pa.Table, engine: str, progress: object) -> Efficiency:
        assert read_clips(url).num_rows == clips.num_rows
        return Efficiency(clips.num_rows, 9.0, 10.0, 0.9)

    monkeypatch.setattr(bench_job, "run_extract", run)
    monkeypatch.setattr(bench_job, "measure_efficiency", efficiency)
    job = measure_job(Material((tmp_path / "noise.wav",), "test", 2.0), 6, lambda _: None)
    assert seen == [("fast", 6), ("reference", 6), ("fast", 6)]
    assert (job.ratio, job.fast) == (8.0, EngineRun(5.0, 15.0, 9))
    assert (job.clips, job.clip_seconds, job.efficiency.clips) == (6, 2.0, 24)


@pytest.mark.slow
def test_a_run_says_how_long_it_took_and_what_a_worker_needed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    write_clips(clip_table([{"clip_id": "noise", "uri": str(tmp_path / "noise.wav")}]), str(tmp_path / "list.csv"))
    run = run_extract(str(tmp_path / "list.csv"), "reference")
    assert run.command_s > 1 / run.clips_per_second > 0
    assert 50 * MIB < run.worker_bytes < 4096 * MIB


def test_a_run_that_fails_quotes_its_last_lines() -> None:
    with pytest.raises(AcousticEnvError, match=r"exit code 2:\n.*/no/such\.parquet"):
        run_extract("/no/such.parquet", "fast")


def test_an_interrupt_ends_the_run_as_a_stopped_job_ends(tmp_path: Path) -> None:
    code = """
import signal, sys, pathlib
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("lease released")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[2]).touch()
signal.pause()
"""
    told, ready = tmp_path / "told", tmp_path / "ready"

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script's background runs this
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            _record([sys.executable, "-c", code, str(told), str(ready)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert told.read_text() == "lease released"
