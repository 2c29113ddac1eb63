"""What a first study ran into: numbers as YAML 1.2 has them, settings that do not go together, a few recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acoustic_env.cli import main
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.knn import KNNClassifier
from acoustic_env.models.validation.cross_fitting import out_of_fold
from acoustic_env.models.validation.performance import performance
from acoustic_env.stats.intervals import of_metric, of_share
from acoustic_env.stats.ranking import Ranking
from tests.models.conftest import Disk, write_study


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return write_study(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("written", ["1e-3", "1E-03", "1.0e-3", ".1e-2"])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, written: str) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"blocks: {{mfcc: {{}}}}\nmodel: {{kind: mlp, learning_rate: {written}}}\n")
    assert load_recipe(str(recipe)).model.own()["learning_rate"] == 1e-3


def test_settings_that_do_not_go_with_the_recipe_are_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = disk.write_recipe(task="multilabel")
    settings = disk.folder / "settings.json"
    settings.write_text('{"kind": "logistic", "per_class": 50}')
    study = ("--clips", disk.clips, "--store", disk.store, "--recipe", recipe)
    message = refused(capsys, "train", *study, "--settings", str(settings), "--out", str(disk.folder / "b"))
    assert "model.per_class draws rows of one class each; a multilabel clip has several. Leave it out" in message


def test_two_recordings_to_learn_from_are_said_to_be_too_few() -> None:
    y = np.arange(20) % 2
    rows = Examples(np.random.default_rng(0).normal(size=(20, 3)), y, np.arange(20) // 10)
    with pytest.raises(UsageError, match="need 3 groups or more"):
        out_of_fold(rows, KNNClassifier(), folds=2)


def test_predictions_of_knn_do_not_depend_on_the_rows_beside() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(1000, 300)).astype(np.float32), random.random((1000, 2)) < [0.5, 0.1]
    fitted = KNNClassifier(25, weights="distance", metric="cosine").fit(X, y)
    one_by_one = [fitted.predict_proba(X[[row]]) for row in range(50)]
    np.testing.assert_allclose(np.stack(fitted.predict_proba(X))[:, :50], np.concatenate(one_by_one, axis=1), atol=1e-9)


def test_groups_that_are_all_alike_are_no_certainty() -> None:
    groups, truth = np.repeat(np.arange(10), 5), np.tile([True, False, True, False, False], 10)
    tied = Ranking(truth, np.zeros(50)).auc
    assert str(of_metric(tied, groups, np.stack([truth, ~truth], axis=1))) == (
        "0.500 (no interval: 0 groups that differ, too few)"
    )
    same = of_metric(lambda weights: float(np.average(truth, weights=weights)), groups)
    assert same.withheld == "0 groups that differ"
    assert of_metric(lambda _: 0.0, groups, difference=True).within_noise()


def test_a_metric_without_a_value_does_not_count_groups_for_its_reason() -> None:
    assert of_metric(lambda _: float("nan"), np.arange(10)).withheld == "0 groups that define it"
    assert of_share(np.zeros(0, bool)).withheld == "0 rows"


def test_calibration_errors_without_a_value_are_not_printed() -> None:
    random = np.random.default_rng(0)
    y, p = np.repeat([0, 1], 10), random.random(20)
    both = np.stack([1 - p, p], axis=1)
    lines = performance("binary", ["quiet", "loud"], y, both, np.arange(20), np.array([0.5, 0.5]), both).lines()
    assert not [line for line in lines if "nan" in line]
    assert "class ece of         0 of 2 classes, 20 clips or more each" in lines
