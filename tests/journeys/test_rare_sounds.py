"""From recordings in which one sound is rare to probabilities that a person can act on.

What a person wants in hand at the end: of ten clips said to be a gunshot with 70 %, seven are; a score with an interval
that new recordings keep to, or the reason why there is none; and answers for new files, odd ones among them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.journeys.commands import Shell

pytestmark = pytest.mark.slow
RATE = 16_000
RECORDINGS = {"rain": 44, "engine": 12, "shot": 6}
CLIPS = {"rain": 6, "engine": 4, "shot": 3}
RECIPE = """
name: rare
task: multiclass
classes:
  rain: {labels: [rain]}
  engine: {labels: [engine]}
  shot: {labels: [shot]}
signals: [raw]
blocks:
  mfcc: {}
split: {folds: 5, validation_folds: [4], test_folds: []}
model: {kind: logistic, per_class: 40}
"""


def sound(kind: str, random: np.random.Generator, seconds: float) -> np.ndarray:
    """Noise with an engine's hum or a bang in it, both sometimes too weak to tell."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.1 * random.normal(size=time.size)
    strength = random.lognormal(-1.7, 1.0)
    if kind == "engine":
        wave += 0.2 * strength * np.sign(np.sin(2 * np.pi * random.uniform(60, 110) * time))
    if kind == "shot":
        wave += strength * random.normal(size=time.size) * np.exp(-np.abs(time - seconds / 2) * 12)
    return (wave / np.abs(wave).max() * 0.8).astype(np.float32)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Recordings of two seasons, a folder a sound; the clips of a recording are numbered."""
    random = np.random.default_rng(0)
    for season in ("first", "second"):
        for kind, recordings in RECORDINGS.items():
            folder = tmp_path / season / kind
            folder.mkdir(parents=True)
            for recording in range(recordings):
                for clip in range(CLIPS[kind]):
                    seconds = 1.98 if clip == 1 else 2.0
                    soundfile.write(folder / f"{season}{recording}-{clip}.wav", sound(kind, random, seconds), RATE)
    (tmp_path / "rare.yaml").write_text(RECIPE)
    return Shell(tmp_path)


def test_probabilities_of_a_rare_sound_are_right_and_intervals_hold_or_are_withheld(shell: Shell) -> None:
    for season in ("first", "second"):
        shell.run(f"acoustic-env clips from-folder {season} --group-from '^(.+)-' --out {season}.parquet")
        shell.run(f"acoustic-env extract --clips {season}.parquet --store features --recipe rare.yaml")
    said = shell.run("acoustic-env train --clips first.parquet --store features --recipe rare.yaml --out bundle")
    assert "shot: " in said.out
    assert "mean posterior" in said.out

    said = shell.run("acoustic-env evaluate --bundle bundle --clips second.parquet --store features --json")
    found = json.loads(said.out)
    assert found["clips"] == sum(RECORDINGS[kind] * CLIPS[kind] for kind in RECORDINGS)
    for one in found["per_class"]:
        error = (one["share"] * (1 - one["share"]) / found["clips"]) ** 0.5
        assert abs(one["mean_posterior"] - one["share"]) <= 0.2 * one["share"] + 3 * error, one
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["withheld"] == ""

    # A season of two recordings a sound says nothing of recordings: the reason stands where the interval would.
    clips = pq.read_table(shell.folder / "second.parquet")
    few = clips.filter(np.array([group.endswith(("second0", "second1")) for group in clips["group"].to_pylist()]))
    pq.write_table(few, shell.folder / "few.parquet")
    said = shell.run("acoustic-env evaluate --bundle bundle --clips few.parquet --store features")
    assert "2 groups with rows of a class, too few" in said.out

    # New files, one of them no audio: it is named, the others are answered.
    (shell.folder / "broken.wav").write_bytes(b"<html>404</html>" * 9)
    files = "second/shot/second0-0.wav broken.wav second/rain/second0-1.wav"
    said = shell.run(f"acoustic-env predict --bundle bundle {files} --out new.parquet")
    assert "broken.wav" in said.err
    answers = pq.read_table(shell.folder / "new.parquet").to_pylist()
    assert {row["clip_id"] for row in answers} == {"second/shot/second0-0.wav", "second/rain/second0-1.wav"}
    shell.run("acoustic-env report --bundle bundle --clips second.parquet --store features --out report.html")
    page = (shell.folder / "report.html").read_text()
    assert "mean posterior" in page
