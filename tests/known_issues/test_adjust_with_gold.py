"""`audit adjust` could not reach the test of its assumption on gold clips, which the code had."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from acoustic_env.cli import main

NUMBERS = [
    "--auc",
    "0.80",
    "--rates",
    "0.75,0.75",
    "--num-clips",
    "2000,2000",
    "--positive",
    "450/500",
    "--negative",
    "440/500",
]


def gold_file(folder: Path, dependent: bool, clips: int = 2000) -> tuple[str, np.ndarray, np.ndarray]:
    """Gold clips whose label errors fall on ambiguous clips, or anywhere; returns the file, truths and scores."""
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, clips)
    score = truth + rng.normal(0, 1, clips)
    doubt = np.exp(-4 * np.abs(score - 0.5)) if dependent else np.full(clips, 0.15)
    given = np.where(rng.random(clips) < doubt, 1 - truth, truth)
    rows = zip((score > 0.5).astype(int), given, truth, score, strict=True)
    file = folder / "gold.csv"
    file.write_text("predicted,given,truth,score\n" + "\n".join(f"{p},{g},{t},{s:.6f}" for p, g, t, s in rows) + "\n")
    return str(file), truth, score


def adjust(capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, object]]:
    assert main(["audit", "adjust", *NUMBERS, *more, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_gold_clips_refute_a_correction_whose_assumption_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {one["status"] for one in adjust(capsys)} == {"not refuted"}
    file, truth, score = gold_file(tmp_path, dependent=True)
    found = adjust(capsys, "--gold", file)
    assert {one["status"] for one in found} == {"refused"}
    assert all(one["independence_p"] < 0.01 for one in found)  # type: ignore[operator]
    assert "not independent" in str(found[0]["reason"])
    auc, balanced = (one["gold"] for one in found)
    assert auc["estimate"] == pytest.approx(roc_auc_score(truth, score), abs=1e-6)  # type: ignore[index]
    assert balanced["estimate"] == pytest.approx(balanced_accuracy_score(truth, score > 0.5))  # type: ignore[index]
    assert balanced["low"] < balanced["estimate"] < balanced["high"]  # type: ignore[index]


def test_gold_clips_that_do_not_contradict_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _, _ = gold_file(tmp_path, dependent=False)
    assert {one["status"] for one in adjust(capsys, "--gold", file)} == {"not refuted"}
    assert main(["audit", "adjust", *NUMBERS, "--gold", file]) == 0
    said = capsys.readouterr().out
    assert "on gold clips" in said
    assert "not tested" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("predicted,given\n1,1\n", "no column 'truth'"),
        ("predicted,given,truth\n1,1,1\n1,0,2\n", "row 2, column 'truth': 2 is not 0 or 1"),
        ("predicted,given,truth,score\n1,1,1,0.5\n1,0,1,\n", "row 2, column 'score': empty"),
    ],
)
def test_a_wrong_gold_table_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    file = tmp_path / "gold.csv"
    file.write_text(text)
    assert main(["audit", "adjust", *NUMBERS, "--gold", str(file)]) == 2
    assert said in capsys.readouterr().err
