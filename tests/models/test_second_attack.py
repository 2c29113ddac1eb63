"""What a new user and a reader broke in learning at the second attack; each test failed before."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from acoustic_env.cli import main
from acoustic_env.config import Recipe, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.explain.plot import Entry, write_index
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.compare import _score
from acoustic_env.models.learn import prepare, train
from acoustic_env.models.validation.performance import performance
from acoustic_env.models.validation.thresholds import choose_f1_threshold
from acoustic_env.stats.intervals import behind_the_best
from tests.models.conftest import Disk
from tests.models.test_learn_commands import refused, study_options, trained


def test_predictions_do_not_replace_what_they_are_made_of(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, before = trained(disk, "--model", "logistic"), Path(disk.clips).read_bytes()
    command = ["predict", "--bundle", bundle, "--clips", disk.clips, "--store", disk.store, "--out", disk.clips]
    assert "would replace what it is made of" in refused(capsys, *command)
    assert Path(disk.clips).read_bytes() == before
    recording = disk.folder / "own.ogg"
    recording.write_bytes(b"a recording")
    for out in (recording, disk.folder / "other.ogg"):
        assert main(["predict", "--bundle", bundle, str(recording), "--out", str(out)]) == 2
    assert recording.read_bytes() == b"a recording"


def test_a_binary_recipe_of_three_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="task binary tells two classes apart, and classes names 3"):
        from_mapping(Recipe, {"name": "r", "classes": {name: {"labels": [name]} for name in "abc"}}, "r.yaml")


def test_a_class_that_is_named_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("name: r\nclasses:\n  dog: {labels: [Dog]}\n  dog: {labels: [Rain]}\n")
    with pytest.raises(UsageError, match="line 3: 'dog' is there twice"):
        load_recipe(str(file))


def test_the_brier_score_of_several_classes_is_that_of_all_of_them() -> None:
    random = np.random.default_rng(0)
    y, p = random.integers(4, size=200), random.dirichlet(np.ones(4), size=200)
    found = performance("multiclass", tuple("abcd"), y, p, np.arange(200), np.full(4, 0.25), p)
    expected = metrics.brier_score_loss(y, p, labels=np.arange(4), scale_by_half=False)
    assert found.calibration["brier_after"] == pytest.approx(expected)


def test_study_and_train_give_one_interval_for_the_same_predictions() -> None:
    y, p = np.tile(np.arange(4), 10), np.tile([0.4, 0.2, 0.2, 0.2], (40, 1))
    found = performance("multiclass", tuple("abcd"), y, p, np.arange(40) // 2, np.full(4, 0.25), p)
    assert str(_score(y, p, np.arange(40) // 2)) == str(found.metrics["macro_f1"])


def test_classes_without_a_clip_to_learn_from_are_named(disk: Disk) -> None:
    recipe = load_recipe(disk.recipe)
    plain = recipe.as_json()
    named = {**plain["classes"], "dog": {"labels": ["Dogg"]}}
    other = from_mapping(Recipe, {**plain, "task": "multiclass", "classes": named}, "r.yaml")
    lines: list[str] = []
    prepare(disk.table(), disk.feature_store(), other, log=lines.append)
    assert "without a clip to learn from, so never predicted: dog; check the labels of these classes" in lines


def test_a_score_that_is_not_defined_does_not_hide_the_others() -> None:
    right = np.random.default_rng(23).random((200, 2)) < [0.9, 0.6]
    shares = [lambda weights, own=own: float(np.average(own, weights=weights)) for own in right.T]
    alone = behind_the_best(shares, np.arange(200))
    *beside, undefined = behind_the_best([*shares, lambda weights: float("nan")], np.arange(200))
    assert beside == alone
    assert undefined.withheld


def test_a_threshold_between_two_neighbors_in_rounding_tells_them_apart() -> None:
    low, high = 0.5, float(np.nextafter(0.5, 1))
    assert low < choose_f1_threshold(np.array([True, False]), np.array([high, low])) <= high


def test_plots_of_an_earlier_model_leave_the_folder_of_an_explanation(tmp_path: Path) -> None:
    def entry(name: str) -> Entry:
        (tmp_path / f"{name}.png").write_bytes(b"a plot")
        return Entry(name, "", "", "", "", files={"png": f"{name}.png"})

    (tmp_path / "mine.png").write_bytes(b"a user's")
    write_index(tmp_path, [entry("shap-0"), entry("shap-1")], {})
    write_index(tmp_path, [entry("shap-0")], {})
    assert {place.name for place in tmp_path.iterdir()} == {"explain.json", "mine.png", "shap-0.png"}


def test_the_best_settings_have_what_the_search_left_as_it_was_given(disk: Disk) -> None:
    settings, out = disk.folder / "fixed.json", disk.folder / "tuned"
    settings.write_text('{"kind": "logistic", "per_class": 40}')
    command = ["tune", *study_options(disk), "--settings", str(settings), "--trials", "1", "--out", str(out)]
    assert main(command) == 0
    assert json.loads((out / "best.json").read_text())["per_class"] == 40


def test_a_terminated_command_ends_like_an_interrupted_one(capsys: pytest.CaptureFixture[str]) -> None:
    def terminated(namespace: argparse.Namespace) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("acoustic_env.commands.learn.run_train", terminated)
        assert main(["train", "--clips", "c", "--store", "s", "--recipe", "urban-nature", "--out", "o"]) == 130
    assert "interrupted; nothing finished is lost" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_classifier_that_tells_no_clips_apart_is_said_to(disk: Disk) -> None:
    for kind, told in (("gradient_boosting", True), ("logistic", False)):
        recipe = load_recipe(disk.write_recipe(model={"kind": kind}))
        lines: list[str] = []
        train(prepare(disk.table().slice(0, 40), disk.feature_store(), recipe, log=lines.append), lines.append)
        assert (
            any(line.startswith("all clips get the same probabilities: 32 clips are too few") for line in lines) == told
        )
