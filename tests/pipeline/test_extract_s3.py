"""Audio and store on an S3 server that throttles, fails and drops connections: every clip is accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.store.feature_store import FeatureStore
from tests.s3 import Fault, S3Server

CLIPS = 16


def upload(server: S3Server, folder: Path) -> str:
    """Noise files in the bucket, one of them missing; returns the URL of their list."""
    files = open_filesystem(f"s3://{server.bucket}")
    rows = []
    for i in range(CLIPS):
        path = folder / "clip.wav"
        soundfile.write(path, np.random.default_rng(i).normal(0, 0.1, 16_000), 16_000)
        if i != 5:
            files.write(f"audio/a clip {i}.wav", path.read_bytes())
        rows.append({"clip_id": f"c{i:02d}", "uri": f"s3://{server.bucket}/audio/a clip {i}.wav"})
    write_clips(clip_table(rows), f"s3://{server.bucket}/clips.parquet")
    return f"s3://{server.bucket}/clips.parquet"


def command(server: S3Server, clips: str) -> list[str]:
    """An extraction of one block of one signal into the bucket's store."""
    extract = [
        "extract",
        "--clips",
        clips,
        "--store",
        server.url,
        "--blocks",
        "placeholder",
        "--signals",
        "raw",
        "--json",
    ]
    return [sys.executable, "-m", "acoustic_env.cli", *extract, "--max-error-rate", "0.1"]


@pytest.mark.slow
def test_an_outage_of_every_request_costs_no_clip(s3: S3Server, tmp_path: Path) -> None:
    clips = upload(s3, tmp_path)
    outage_s, began = float(os.environ.get("ACOUSTIC_ENV_OUTAGE_S", "10")), list[float]()

    def away(_method: str, path: str, _number: int) -> Fault | None:
        if not began and "clip" in path and path.endswith(".wav"):  # the first clip: all clips are still to do
            began.append(time.monotonic())
        return "throttle" if began and time.monotonic() - began[0] < outage_s else None

    s3.choose = away
    run = subprocess.run(command(s3, clips), capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert len(s3.done) >= CLIPS // 2
    assert (record["finished"], record["failed"], record["left"]) == (CLIPS, 1, 1)
    assert set(record["memory"]) == {"cpu", "write"}
    assert FeatureStore(s3.url).errors()["code"].to_pylist() == ["not_found"]
