"""`audit sample --n 200` of a study with 527 labels demanded 10,540 rows: four for each quantile of each label."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from acoustic_env.audit import designs
from acoustic_env.audit.annotations import check_annotations
from acoustic_env.audit.estimate import estimate
from acoustic_env.audit.sample import draw_sample
from acoustic_env.cli import main
from acoustic_env.options import SampleSettings
from tests.audit.generated import listen

LABELS, ROWS = 527, 6000


def many_labels() -> tuple[pa.Table, np.ndarray]:
    """527 labels of very unequal size; a score that knows something of which of them are right."""
    rng = np.random.default_rng(3)
    share = 1.0 / np.arange(1, LABELS + 1)
    label = np.concatenate([np.arange(LABELS), rng.choice(LABELS, ROWS - LABELS, p=share / share.sum())])
    right = rng.random(ROWS) >= 0.05 + 0.3 * (label % 3 == 0)
    quality = 1 / (1 + np.exp(-(1.0 + 1.5 * (right - 0.5) + rng.normal(0, 1.0, ROWS))))
    columns = {"clip_id": [f"clip{i:05d}" for i in range(ROWS)], "label": [f"label {k:03d}" for k in label]}
    scores = {"given": [True] * ROWS, "quality": quality, "flagged": quality < 0.4}
    return pa.table(columns | scores), right


RANKED, RIGHT = many_labels()


@pytest.mark.parametrize("n", [1, 3, 10, 200, 1500])
def test_a_sample_never_has_more_rows_than_asked_for(n: int) -> None:
    sample = draw_sample(RANKED, SampleSettings(n=n, repeat=0.1))
    roles = sample["role"].to_pylist()
    assert (roles.count("sample"), roles.count("repeat")) == (n, round(0.1 * n))
    chances = sample.filter(pc.equal(sample["role"], "sample"))["inclusion_probability"].to_numpy()
    assert (1 / chances).sum() == pytest.approx(ROWS)


def test_the_command_draws_what_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranked, out = str(tmp_path / "ranked.parquet"), str(tmp_path / "sample.parquet")
    pq.write_table(RANKED, ranked)
    assert main(["audit", "sample", "--ranked", ranked, "--n", "200", "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sample"] == 200


@pytest.mark.slow
def test_estimates_from_pooled_strata_are_unbiased_and_better_than_a_simple_sample() -> None:
    top = np.asarray(RANKED["label"]) == "label 000"
    errors, errors_of_top, chosen = [], [], np.zeros(ROWS)
    for seed in range(100):
        sample = draw_sample(RANKED, SampleSettings(n=200, seed=seed, repeat=0.0))
        rows = np.array([int(clip[4:]) for clip in sample["clip_id"].to_pylist()])
        inclusion = sample["inclusion_probability"].to_numpy()
        chosen[rows] += 1 / inclusion
        errors.append((RIGHT[rows] / inclusion).sum() / ROWS - RIGHT.mean())
        within, _ = designs.ratio((RIGHT & top)[rows].astype(float), top[rows].astype(float), inclusion)
        errors_of_top.append(within - RIGHT[top].mean())
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(100)
    assert abs(np.mean(errors_of_top)) < 3 * np.std(errors_of_top) / np.sqrt(100)
    assert np.std(errors) < 0.97 * np.sqrt(RIGHT.mean() * (1 - RIGHT.mean()) / 200)
    assert chosen.reshape(10, -1).sum(axis=1) / 100 == pytest.approx(ROWS / 10, rel=0.05)


@pytest.mark.slow
def test_the_intervals_cover_overall_and_for_a_label_that_shares_its_strata() -> None:
    top = np.asarray(RANKED["label"]) == "label 000"
    held = {"all": 0, "label 000": 0}
    for seed in range(40):
        sample = draw_sample(RANKED, SampleSettings(n=400, seed=seed, repeat=0.0))
        found = estimate(sample, check_annotations(listen(sample, RIGHT, {"ada": 1.0}, seed), "v"), "s")
        overall, one = found["overall"]["stratified"], found["labels"]["label 000"]["stratified"]
        held["all"] += overall.low <= RIGHT.mean() <= overall.high
        held["label 000"] += one.low <= RIGHT[top].mean() <= one.high
    # a true 95 % of 40 repeats lies at 34 or more with probability 0.99
    assert min(held.values()) >= 34, held


def test_few_labels_keep_strata_of_their_own() -> None:
    few = RANKED.set_column(1, "label", pa.array(np.where(np.arange(ROWS) % 3 == 0, "urban", "nature")))
    names = set(draw_sample(few, SampleSettings(n=200))["stratum"].to_pylist())
    assert names == {f"{label} q{k}" for label in ("urban", "nature") for k in range(1, 6)}
