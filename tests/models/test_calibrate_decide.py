"""Thresholds, confusion, accuracy and calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from acoustic_env.models.validation.calibration import Calibrator
from acoustic_env.models.validation.reliability import brier, reliability
from acoustic_env.models.validation.thresholds import Calls, choose_f1_threshold, choose_threshold


def test_scores_of_calls_are_scikit_learns_with_every_class_counted() -> None:
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 3, 200), random.integers(0, 4, 200)
    calls, labels = Calls(np.eye(5, dtype=bool)[truth], np.eye(5, dtype=bool)[predicted]), range(5)
    expected = np.mean([np.mean(predicted[truth == c] == c) for c in range(3)])
    assert calls.balanced_accuracy() == pytest.approx(expected)
    weights = random.integers(0, 4, 200).astype(float)
    for own in (None, weights):
        scores = metrics.precision_recall_fscore_support(
            truth, predicted, labels=labels, zero_division=0, sample_weight=own
        )
        for found, theirs in zip(calls.precision_recall_f1(own), scores[:3], strict=True):
            np.testing.assert_allclose(found, theirs)
        # Two of five classes have nothing: they count as 0 and are not skipped.
        assert calls.macro_f1(own) == pytest.approx(np.sum(scores[2]) / 5)
        assert calls.micro_f1(own) == pytest.approx(metrics.accuracy_score(truth, predicted, sample_weight=own))


def test_the_threshold_is_the_best_of_all_and_lies_between_two_rows() -> None:
    random = np.random.default_rng(1)
    truth = random.random(80) < 0.3
    probabilities = special.expit(random.normal(size=80) + 2 * truth)
    found = choose_threshold(truth, probabilities)
    cuts = np.r_[0.0, np.unique(probabilities), 1.0]
    best = max(metrics.balanced_accuracy_score(truth, probabilities >= cut) for cut in cuts)
    assert metrics.balanced_accuracy_score(truth, probabilities >= found) == pytest.approx(best)
    assert np.abs(probabilities - found).min() > 0
    found = choose_f1_threshold(truth, probabilities)
    best = max(metrics.f1_score(truth, probabilities >= cut, zero_division=0) for cut in cuts)
    assert metrics.f1_score(truth, probabilities >= found) == pytest.approx(best)


def test_rows_of_one_kind_leave_the_threshold_at_a_half() -> None:
    assert choose_threshold(np.ones(5, bool), np.linspace(0, 1, 5)) == 0.5
    assert choose_f1_threshold(np.zeros(5, bool), np.linspace(0, 1, 5)) == 0.5


def overconfident(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logit = random.normal(size=n)
    truth = random.random(n) < special.expit(logit)
    return truth.astype(np.int64), special.expit(3 * logit + 1)


def test_platt_scaling_finds_slope_and_shift_and_repairs_the_error() -> None:
    y, positive = overconfident(0)
    probabilities = np.stack([1 - positive, positive], axis=1)
    calibration = Calibrator("binary").fit(probabilities, y)
    assert calibration.slope_ == pytest.approx(1 / 3, abs=0.03)
    assert calibration.shift_ == pytest.approx(-1 / 3, abs=0.08)
    y, positive = overconfident(1)
    repaired = calibration.predict_proba(np.stack([1 - positive, positive], axis=1))
    np.testing.assert_allclose(repaired.sum(axis=1), 1.0)
    before, after = reliability(y == 1, positive), reliability(y == 1, repaired[:, 1])
    assert before.expected_error > 0.1 > 0.04 > after.expected_error
    assert brier(y, repaired[:, 1]) < brier(y, positive)
    assert metrics.roc_auc_score(y, repaired[:, 1]) == pytest.approx(metrics.roc_auc_score(y, positive))


def test_temperature_scaling_repairs_a_softmax_that_is_too_sure() -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(3000, 4)) * 1.5
    y = np.array([random.choice(4, p=row) for row in special.softmax(logits, axis=1)])
    calibration = Calibrator("multiclass").fit(special.softmax(2.5 * logits, axis=1), y)
    assert calibration.slope_ == pytest.approx(0.4, abs=0.03)
    np.testing.assert_allclose(
        calibration.predict_proba(special.softmax(2.5 * logits, axis=1)), special.softmax(logits, axis=1), atol=0.03
    )


def test_each_label_is_calibrated_by_itself_where_it_has_rows() -> None:
    y, positive = overconfident(3)
    pair = np.stack([positive, 1 - positive], axis=1)
    calibration = Calibrator("multilabel").fit(pair, np.stack([y, 1 - y], axis=1).astype(bool))
    assert calibration.kind_ == "platt_by_label"
    assert calibration.slope_ == pytest.approx([1 / 3, 1 / 3], abs=0.03)
    assert calibration.shift_ == pytest.approx([-1 / 3, 1 / 3], abs=0.08)


SHARES = np.array([0.9, 0.08, 0.02])


def balanced(seed: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Clips of three classes, and what a classifier says of them that learned from as many of each."""
    random = np.random.default_rng(seed)
    y = random.choice(3, n, p=SHARES)
    return special.softmax(1.5 * (1.5 * np.eye(3)[y] + random.normal(size=(n, 3))), axis=1), y


def test_a_rare_class_that_training_made_common_is_as_probable_as_it_is_frequent() -> None:
    said, y = balanced(0)
    new, y_new = balanced(1)
    assert said[:, 2].mean() > 0.15  # what was shipped as calibrated
    calibrator = Calibrator("multiclass").fit(said, y)
    calibrated = calibrator.predict_proba(new)
    for of_class, p in zip(np.eye(3)[y_new].T, calibrated.T, strict=True):
        assert p.mean() == pytest.approx(
            of_class.mean(), abs=0.2 * of_class.mean() + 2 * of_class.std() / len(y) ** 0.5
        )
        assert reliability(of_class == 1, p).expected_error < 0.02
    likely = calibrated[:, 2] >= 0.5
    assert likely.sum() < 10 or (y_new[likely] == 2).mean() > 0.3
    # Which class is called stays as the classifier was trained for.
    called = (calibrated / calibrator.thresholds_).argmax(axis=1)
    np.testing.assert_array_equal(called, new.argmax(axis=1))


@pytest.mark.parametrize("factor", [3.0, 30.0])
def test_rare_labels_that_training_made_common_are_as_probable_as_they_are_frequent(factor: float) -> None:
    random = np.random.default_rng(0)
    shares = np.geomspace(0.01, 0.4, 20)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = random.random((n, 20)) < shares
        evidence = 2 * (random.normal(size=(n, 20)) + 2 * y) - 2
        return special.expit(1.3 * (evidence + special.logit(shares)) + np.log(np.minimum(0.4 / shares, factor))), y

    calibrator = Calibrator("multilabel").fit(*drawn(4000))
    said, y = drawn(4000)
    assert np.abs(said.mean(axis=0) / y.mean(axis=0) - 1).max() > 0.5
    off = np.abs(calibrator.predict_proba(said).mean(axis=0) - y.mean(axis=0))
    assert (off <= 0.2 * y.mean(axis=0) + 2 * y.std(axis=0) / len(y) ** 0.5).all()


def test_a_calibration_that_does_not_gain_on_left_out_recordings_is_not_shipped() -> None:
    kept = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        logits = 1.5 * random.normal(size=(120, 10))
        right = special.softmax(logits, axis=1)
        y = np.array([random.choice(10, p=row) for row in right])
        kept += Calibrator("multiclass").fit(right, y, np.arange(120) // 4).kind_ != "none"
    assert kept <= 4  # of probabilities that are right already


def test_too_few_rows_are_not_calibrated_on() -> None:
    calibration = Calibrator("binary").fit(np.full((55, 2), 0.5), np.array([0] * 50 + [1] * 5))
    assert (calibration.kind_, calibration.slope_.tolist(), calibration.shift_.tolist()) == ("none", [1.0], [0.0])
    probabilities = np.array([[0.3, 0.7]])
    np.testing.assert_array_equal(calibration.predict_proba(probabilities), probabilities)


def test_the_reliability_bins_hold_every_row_once() -> None:
    y, positive = overconfident(4, n=503)
    diagram = reliability(y == 1, np.round(positive, 2))
    assert diagram.count.sum() == 503
    assert (np.diff(diagram.predicted) > 0).all()
    assert ((diagram.low <= diagram.observed) & (diagram.observed <= diagram.high)).all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_network_that_takes_a_class_to_be_commoner_than_its_like_do_is_right_by_its_own_held_out_rows(
    task: str,
) -> None:
    def drawn(seed: int, n: int, bias: float) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        logits = np.array([1.0, -1.0, -3.0]) + 1.5 * random.normal(size=(n, 3))
        own = 2 * logits + np.array([0.0, 0.0, bias])
        if task == "multilabel":
            return special.expit(own), random.random((n, 3)) < special.expit(logits)
        y = np.array([random.choice(3, p=row) for row in special.softmax(logits, axis=1)])
        return special.softmax(own, axis=1), y

    calibrator = Calibrator(task).fit(*drawn(0, 4000, bias=0.0))
    adapted = calibrator.adapted(*drawn(1, 3000, bias=1.0))
    said, y = drawn(2, 4000, bias=1.0)
    share = (y if task == "multilabel" else np.eye(3)[y]).mean(axis=0)
    before, after = (one.predict_proba(said).mean(axis=0) for one in (calibrator, adapted))
    assert before[2] > 1.25 * share[2]
    assert after[2] == pytest.approx(share[2], rel=0.12)


def test_a_calibration_is_not_adapted_to_few_clips_that_show_no_difference() -> None:
    adapted = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        p = special.expit(1.5 * random.normal(size=1040))
        said, y = np.stack([1 - p, p], axis=1), (random.random(1040) < p).astype(np.int64)
        calibrator = Calibrator("binary").fit(said[:1000], y[:1000])
        adapted += calibrator.adapted(said[1000:], y[1000:], np.arange(40) // 8) is not calibrator
    assert adapted <= 5
