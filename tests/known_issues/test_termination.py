"""SIGTERM, as a scheduler sends it, ended `extract` with exit code 15, a stack dump and no way to resume.

Ray replaces the handler of the command that starts it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.pipeline.cluster import cluster
from tests.pipeline.test_extract import write_noise


def test_a_terminated_run_releases_its_leases_and_says_how_to_resume(tmp_path: Path) -> None:
    write_noise(tmp_path / "audio", 1)
    audio = next((tmp_path / "audio").glob("*.wav"))
    clips, store, said = str(tmp_path / "clips.parquet"), tmp_path / "store", tmp_path / "said"
    write_clips(clip_table({"clip_id": f"c{i}", "uri": str(audio)} for i in range(20_000)), clips)
    arguments = ["extract", "--clips", clips, "--store", str(store), "--blocks", "indices"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with said.open("wb") as file:
        run = subprocess.Popen([sys.executable, "-m", "acoustic_env.cli", *arguments], stderr=file, env=environment)
    try:
        end = time.monotonic() + 240
        while "memory " not in said.read_text() and time.monotonic() < end:
            time.sleep(0.2)
        run.send_signal(signal.SIGTERM)
        assert run.wait(200) == 130
    finally:
        run.kill()
    text = said.read_text()
    assert f"interrupted; nothing finished is lost. To resume: acoustic-env {' '.join(arguments)}" in text
    assert "SIGTERM received" not in text
    (lease,) = store.glob("leases/indices/*.json")
    assert '"released": true' in lease.read_text()


def test_the_handler_of_the_caller_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("acoustic_env.pipeline.cluster._start_local", lambda: signal.signal(signal.SIGTERM, print))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with cluster(None):
            assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)
