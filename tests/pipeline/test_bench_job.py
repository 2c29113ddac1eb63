"""`acoustic-env bench --stages extract`: the command itself with both engines, and a plain loop beside it."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from acoustic_env.cli import main
from acoustic_env.errors import AcousticEnvError
from acoustic_env.pipeline import bench_material
from acoustic_env.pipeline.bench_job import _record, run_extract

MIB = 1 << 20


def test_the_job_is_run_with_both_engines_on_this_machine_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("ACOUSTIC_ENV_TEST_DATA", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "ray://nobody.invalid:10001")  # a cluster is not what is measured
    monkeypatch.setattr(bench_material, "CLIP_SECONDS", 2.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["bench", "--stages", "extract", "--clips", "2", "--job-clips", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    job = result["job"]
    assert (result["stages"], job["clips"], job["clip_seconds"]) == ([], 4, 2.0)
    assert job["ratio"] == pytest.approx(job["reference"]["command_s"] / job["fast"]["command_s"])
    for engine in ("reference", "fast"):
        assert job[engine]["command_s"] > 4 / job[engine]["clips_per_second"]
        assert 50 * MIB < job[engine]["worker_bytes"] < 4096 * MIB
    efficiency = job["efficiency"]
    assert efficiency["clips"] == 16
    assert efficiency["ratio"] == pytest.approx(
        efficiency["job_clips_per_second"] / efficiency["loop_clips_per_second"]
    )
    assert 0 < efficiency["ratio"] < 1  # so short a job is mostly the start of its workers
    assert list(tmp_path.glob("acoustic-env-*")) == []


def test_a_run_that_fails_says_what_it_said() -> None:
    with pytest.raises(AcousticEnvError, match=r"exit code 2:\n.*/no/such\.parquet"):
        run_extract("/no/such.parquet", "fast")


def test_an_interrupt_ends_the_run_as_a_stopped_job_ends(tmp_path: Path) -> None:
    code = """
import signal, sys, pathlib
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("lease given back")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[2]).touch()
signal.pause()
"""
    told, ready = tmp_path / "told", tmp_path / "ready"

    def interrupt() -> None:
        while not ready.exists():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        _record([sys.executable, "-c", code, str(told), str(ready)])
    assert told.read_text() == "lease given back"
