"""Another installed package adds a block and a signal by entry points: used by name, found without being imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import soundfile

from acoustic_env.clips.table import read_clips
from acoustic_env.store.feature_store import FeatureStore

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which the example package is installed."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("installed")
    shutil.copytree(Path(__file__).parent / "example_package", source)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=120)
    return {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_names_are_listed_without_importing_what_they_stand_for(environment: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "from acoustic_env.audio.signals import SIGNALS\n"
        "from acoustic_env.features.registry import BLOCKS\n"
        "print('loudness' in BLOCKS, 'differenced' in SIGNALS, 'example_acoustics' in sys.modules)"
    )
    assert python(environment, "-c", code).stdout.split() == ["True", "True", "False"]


@pytest.mark.slow
def test_its_block_of_its_signal_is_computed_and_stored_by_the_command_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    noise = np.random.default_rng(23).normal(0, 0.1, 16_000)
    for name, samples in {"noise": noise, "silence": np.zeros(16_000)}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
    clips, store = tmp_path / "clips.csv", str(tmp_path / "store")
    clips.write_text("clip_id,uri\n" + "".join(f"{n},{tmp_path}/{n}.wav\n" for n in ("noise", "silence")))
    extract = ["-m", "acoustic_env.cli", "extract", "--clips", str(clips), "--store", store]
    ran = python(environment, *extract, "--blocks", "loudness", "--signals", "differenced,raw")
    assert ran.returncode == 0, ran.stderr
    rows = FeatureStore(store).read("loudness")
    assert sorted(zip(rows["clip_id"].to_pylist(), rows["signal"].to_pylist(), strict=True)) == [
        (clip, signal) for clip in ("noise", "silence") for signal in ("differenced", "raw")
    ]
    raw = rows.filter((pc.field("signal") == "raw") & (pc.field("clip_id") == "noise"))
    assert raw["level"].to_pylist() == [pytest.approx(-20.0)]
    assert rows.filter(pc.field("clip_id") == "silence")["level"].null_count == 2
    metadata = FeatureStore(store).read("loudness", signals=["differenced"]).schema.metadata
    assert json.loads(metadata[b"acoustic_env.audio"])["signal:differenced"] == {"version": 1}


def test_its_reader_is_a_command(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "site-1.txt").write_text("0.0\t2.5\tbird\n4.0\t9.0\ttraffic\n")
    out = tmp_path / "clips.parquet"
    make = ["-m", "acoustic_env.cli", "clips", "from-audacity"]
    ran = python(environment, *make, str(tmp_path / "*.txt"), "--out", str(out))
    assert ran.returncode == 0, ran.stderr
    rows = read_clips(str(out)).select(["clip_id", "uri", "start_s", "end_s", "labels", "group"]).to_pylist()
    track = {"uri": str(tmp_path / "site-1.wav"), "group": "site-1"}
    assert rows == [
        {"clip_id": "site-1_0", **track, "start_s": 0.0, "end_s": 2.5, "labels": ["bird"]},
        {"clip_id": "site-1_4000", **track, "start_s": 4.0, "end_s": 9.0, "labels": ["traffic"]},
    ]
    assert "Make a clip list of exported Audacity label tracks" in python(environment, *make, "--help").stdout


@pytest.mark.slow
def test_its_classifier_is_a_kind_in_recipes_with_checked_settings(environment: dict[str, str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    code = (
        "import sys, numpy as np\n"
        "from acoustic_env.io.documents import load_recipe\n"
        f"model = load_recipe({str(recipe)!r}).model\n"
        "rows, labels = np.array([[0.0], [0.1], [1.0], [1.1]]), [0, 0, 1, 1]\n"
        "print(model.kind, *model.estimator(0).fit(rows, labels, sample_weight=[1, 1, 1, 1]).predict(rows))"
    )
    recipe.write_text("name: r\nmodel: {kind: naive_bayes, smoothing: 0.01}\n")
    ran = python(environment, "-c", code)
    assert ran.stdout.split() == ["naive_bayes", "0", "0", "1", "1"], ran.stderr
    recipe.write_text("name: r\nmodel: {kind: naive_bayes, smoothing: 0}\n")
    assert "model.smoothing" in python(environment, "-c", code).stderr


def test_an_unknown_block_is_refused_with_its_names_among_the_others(
    environment: dict[str, str], tmp_path: Path
) -> None:
    clips = tmp_path / "clips.csv"
    clips.write_text("clip_id,uri\na,a.wav\n")
    ran = python(
        environment, "-m", "acoustic_env.cli", "extract", "--clips", str(clips), "--store", str(tmp_path / "s"),
        "--blocks", "loud",
    )  # fmt: skip
    assert ran.returncode == 2
    assert "no feature block named 'loud'; expected one of: indices," in ran.stderr
    assert "loudness" in ran.stderr
