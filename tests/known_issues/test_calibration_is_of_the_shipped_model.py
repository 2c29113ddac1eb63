"""Calibration, thresholds and held-out figures were of single members while the bundle shipped their mean.

The mean of ten overconfident members needs another calibration than each of them; reductions were fitted on folds that
members held out; and the figures came from thresholds and calibrations that had been chosen on the very same clips.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin

from acoustic_env.clips.select import Targets
from acoustic_env.clips.splits import Split
from acoustic_env.clips.table import clip_table
from acoustic_env.config import Recipe, ReductionSettings, SplitSettings, classifier_settings
from acoustic_env.models.data.matrix import FeatureColumn, FeatureMatrix
from acoustic_env.models.data.preprocessing import Preprocessor
from acoustic_env.models.learn import Study, train
from acoustic_env.models.validation import cross_fitting as cross_val
from acoustic_env.models.validation.calibration import Calibrator
from acoustic_env.models.validation.reliability import reliability

FOLDS = 10


class NoisyMember(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A model that knows the signal and adds much noise of its own, another for every seed; it learns nothing."""

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> NoisyMember:
        self.classes_ = np.arange(2)
        return self

    def predict_proba(self, x: Any) -> Any:
        direction = np.random.default_rng(self.random_state).normal(size=8) * 20
        positive = special.expit(1.5 * x[:, 0] + 4.0 * np.sin(x @ direction))
        return np.stack([1 - positive, positive], axis=1)


def rows(n: int, seed: int, signal: float = 1.5) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 8)).astype(np.float32)
    return x, (random.random(n) < special.expit(signal * x[:, 0])).astype(np.int64)


def matrix(x: Any) -> FeatureMatrix:
    columns = [FeatureColumn("b", "raw", f"f{i}") for i in range(x.shape[1])]
    return FeatureMatrix([f"c{i}" for i in range(len(x))], x, columns, {"b": {"raw": "0"}}, {})


def study(x: Any, y: Any, **model: Any) -> Study:
    recipe = Recipe(
        name="study",
        blocks={"b": {}},
        model=classifier_settings({"kind": "logistic", **model}),
        split=SplitSettings(folds=FOLDS, validation_folds=(FOLDS - 1,), test_folds=()),
        reduction=ReductionSettings(default_components=0),
    )
    features = matrix(x)
    ids, folds = features.clip_ids, np.arange(len(x)) % FOLDS
    last = folds == FOLDS - 1
    parts = Split(folds.astype(np.int32), np.flatnonzero(~last), np.flatnonzero(last), np.array([], np.int64))
    clips = clip_table([{"clip_id": one, "uri": f"{one}.wav"} for one in ids])
    return Study(recipe, clips, Targets(ids, ("a", "b"), y), features, parts, np.arange(len(x)))


def silent(_: str) -> None:
    pass


def test_the_calibration_is_right_for_the_mean_of_the_members() -> None:
    bundle, judged = train(study(*rows(2000, 0), ensemble=10), silent, classifier=NoisyMember())
    x, y = rows(20_000, 1)
    raw = bundle.raw_proba(matrix(x))
    best = Calibrator("binary").fit(raw, y)
    single = Calibrator("binary").fit(NoisyMember(0).predict_proba(x), y)
    assert best.slope_ > 2 * single.slope_  # else there is nothing to tell apart
    assert bundle.calibrator.slope_ == pytest.approx(best.slope_, rel=0.15)
    calibrated = bundle.calibrator.predict_proba(raw)[:, 1]
    assert reliability(y == 1, calibrated).expected_error < 0.03
    # Figures that are said of held-out clips are those of new ones.
    accuracy = np.mean((calibrated >= bundle.calibrator.thresholds_[1]) == (y == 1))
    assert judged.metrics["accuracy"].low < accuracy < judged.metrics["accuracy"].high
    assert judged.clips == 2000


def test_no_reduction_that_judges_a_clip_was_fitted_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(200, 2)
    fitted: list[set[float]] = []
    fit = Preprocessor.fit

    def recorded(self: Preprocessor, values: Any) -> Preprocessor:
        fitted.append(set(values[:, 0].tolist()))
        return fit(self, values)

    monkeypatch.setattr(Preprocessor, "fit", recorded)
    _, judged = train(study(x, y, ensemble=3), silent)
    assert judged.clips == 200
    shipped, *judging = fitted
    assert len(shipped) == 200
    left_out = [shipped - own for own in judging]
    assert set().union(*left_out) == shipped
    assert sum(map(len, left_out)) == 200


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [1, 3])
def test_thresholds_do_not_flatter_the_figures_they_are_chosen_for(
    ensemble: int,
) -> None:
    found = []
    for seed in range(20):
        x, y = rows(120, seed, signal=0.0)  # nothing to learn
        found.append(
            train(study(x, y, ensemble=ensemble), silent, classifier=NoisyMember())[1]
            .metrics["balanced_accuracy"]
            .value
        )
    assert abs(np.mean(found) - 0.5) < 0.03


def test_calibration_error_is_measured_on_clips_that_the_calibration_was_not_fitted_on() -> None:
    random = np.random.default_rng(0)
    errors, own = [], []
    for _ in range(40):
        y = random.integers(0, 2, 60)
        said = np.stack([1 - (p := random.random(60)), p], axis=1)
        calibrated, _ = cross_val.cross_fit("binary", y, said, np.arange(60), 1)
        errors.append(np.mean((calibrated[:, 1] - y) ** 2))
        own.append(np.mean((Calibrator("binary").fit(said, y).predict_proba(said)[:, 1] - y) ** 2))
    assert np.mean(own) < np.mean(errors) - 0.002


def test_from_enough_clips_on_not_every_part_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_val, "ENOUGH_ROWS", 150)
    _, judged = train(study(*rows(400, 3)), silent)
    assert judged.clips == 160  # two of five parts


def test_a_fold_with_all_clips_of_a_class_does_not_leave_a_part_without_it() -> None:
    x, y = rows(100, 4)
    whole = study(x, np.sort(y))
    folds = np.repeat(np.arange(FOLDS), 10).astype(np.int32)
    folds[[0, -1]] = 9, 0
    last = folds == 9
    split = Split(folds, np.flatnonzero(~last), np.flatnonzero(last), np.array([], np.int64))
    _, judged = train(replace(whole, split=split), silent)
    assert judged.clips == 100
