"""From a folder of labeled audio to a served classifier and a report, no path typed twice.

What a person wants in hand at the end: features, a classifier with its score, plots, a page with everything, and a page
that classifies a new file, from a folder of recordings and commands that name no file but that folder. The same at an
S3 URL, for a list of which a fifth of the audio is gone, for two studies of one store, and in a notebook.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.io.files import read_bytes, write_bytes
from tests.journeys.commands import Shell
from tests.s3 import S3Server

pytestmark = pytest.mark.slow
RATE = 16_000


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Iterator[None]:
    """A cache with the one small network of the test data."""
    place = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACOUSTIC_ENV_WEIGHTS", str(place))
        shell = Shell(place)
        classes = test_data / "audioset" / "class_labels_indices.csv"
        shell.run(f"acoustic-env weights fetch audioset-classes --from {classes}")
        shell.run(f"acoustic-env weights fetch mn04 --from {test_data / 'weights' / 'mn04_as_mAP_432.pt'}")
        yield


def served(folder: Path, command: list[str]) -> dict[str, object]:
    """Serve in a folder, ask the page's API what it serves, end it by Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "acoustic_env.cli", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        address = next(line.split()[-1] for line in process.stderr if line.startswith("classification page: "))
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/v1/model", timeout=60) as answer:
            return dict(json.load(answer))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.usefixtures("weights")
def test_400_clips_in_folders_need_no_path(tmp_path: Path, test_data: Path) -> None:
    shell, audio = Shell(tmp_path), test_data / "clips" / "esc10"
    said = shell.run(f"acoustic-env init {audio}")
    assert "blocks mn04 of signals raw" in said.err
    assert "mn04" in (tmp_path / "study.yaml").read_text()
    pattern = said.advice("--group-from").removeprefix("--group-from ")
    (tmp_path / "study.yaml").unlink()
    (tmp_path / "clips.parquet").unlink()
    said = shell.run(f"acoustic-env init {audio} --group-from {pattern}")
    assert "names look like" not in said.err
    assert "there is a study already" in shell.run(f"acoustic-env init {audio}", code=2).err
    shell.run("acoustic-env extract")
    shell.run("acoustic-env store verify")
    said = shell.run("acoustic-env train --json")
    assert json.loads(said.out)["metrics"]["accuracy"]["value"] > 0.9
    said = shell.run("acoustic-env evaluate --json")
    assert json.loads(said.out)["metrics"]["accuracy"]["value"] > 0.9
    shell.run("acoustic-env train --model logistic")
    assert (tmp_path / "bundle.previous" / "metadata.json").is_file()
    shell.run("acoustic-env predict")
    assert pq.read_table(tmp_path / "predictions.parquet").num_rows == 4000
    shell.run("acoustic-env explain")
    shell.run("acoustic-env report")
    page = (tmp_path / "report.html").read_text()
    assert all(part in page for part in ("The classifier", "Provenance", "clips.parquet"))
    shell.run("acoustic-env store export --block mn04 --out table.csv")
    assert "001 - Dog bark" in (tmp_path / "table.csv").read_text()
    assert len(served(tmp_path, ["serve"])["classes"]) == 10  # type: ignore[arg-type]


def scenes(folder: Path, clips: int = 24) -> Path:
    """Hums and noises, a folder each, two clips a recording."""
    random = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    for kind in ("hum", "noise"):
        (folder / kind).mkdir(parents=True)
        for number in range(clips):
            wave = 0.1 * random.normal(size=RATE) + (kind == "hum") * np.sign(np.sin(2 * np.pi * 90 * time))
            soundfile.write(folder / kind / f"{kind}{number // 2}_{number % 2}.wav", 0.3 * wave, RATE)
    return folder


RECIPE = """
task: binary
classes: {noise: {labels: [noise]}, hum: {labels: [hum]}}
signals: [raw]
blocks: {mfcc: {}}
split: {folds: 4, validation_folds: [2], test_folds: [3]}
model: {kind: logistic}
"""


def test_a_study_at_an_s3_url_needs_no_local_file(tmp_path: Path, s3: S3Server) -> None:
    shell, bucket = Shell(tmp_path), s3.url
    write_bytes(f"{bucket}/small.yaml", RECIPE.encode())
    for file in sorted(scenes(tmp_path.with_name("made"), clips=12).rglob("*.wav")):
        write_bytes(f"{bucket}/audio/{file.parent.name}/{file.name}", file.read_bytes())
    study = f"'{bucket}/study'"
    shell.run(f"acoustic-env init '{bucket}/audio' {study} --recipe '{bucket}/small.yaml' --group-from '/([^/]+)_'")
    for command in ("extract", "train", "evaluate", "explain", "predict", "report"):
        shell.run(f"acoustic-env {command} --study {study}")
    assert list(tmp_path.iterdir()) == []
    assert b"Provenance" in read_bytes(f"{bucket}/study/report.html")


def test_a_list_whose_audio_is_partly_gone(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    audio = scenes(tmp_path / "audio")
    shell.run("acoustic-env init audio --recipe small.yaml --group-from '/([^/]+)_'")
    for file in sorted(audio.rglob("*_0.wav"))[::3]:
        file.unlink()
    said = shell.run("acoustic-env extract", code=3)
    assert "not_found" in shell.run("acoustic-env store errors").out
    said = shell.run("acoustic-env clips check clips.parquet --drop-missing there.parquet")
    assert "are left out" in said.err
    (tmp_path / "study.yaml").write_text((tmp_path / "study.yaml").read_text() + "paths: {clips: there.parquet}\n")
    shell.run("acoustic-env extract")
    shell.run("acoustic-env store verify")
    shell.run("acoustic-env train")
    shell.run("acoustic-env evaluate")


def test_two_studies_of_one_store(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    scenes(tmp_path / "audio")
    for name, kind in (("one", "logistic"), ("two", "knn")):
        (tmp_path / "small.yaml").write_text(RECIPE.replace("logistic", kind) + "paths: {store: ../features}\n")
        shell.run(f"acoustic-env init audio {name} --recipe small.yaml --group-from '/([^/]+)_'")
    shell.run("acoustic-env extract --study one")
    assert "nothing to do" in shell.run("acoustic-env extract --study two").out
    for name in ("one", "two"):
        inside = Shell(tmp_path / name)
        inside.run("acoustic-env train")
        inside.run("acoustic-env evaluate")
        assert (tmp_path / name / "bundle" / "metadata.json").is_file()
