"""Thresholds, confusion, accuracy and calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from acoustic_env.models.calibrate import Calibrator, brier, reliability
from acoustic_env.models.evaluate import share_interval
from acoustic_env.models.thresholds import Calls, choose_f1_threshold, choose_threshold


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


def share_coverage(repeats: int, size: int) -> float:
    held = 0
    for repeat in range(repeats):
        random = np.random.default_rng(repeat)
        rates = random.beta(4.0, 1.0, 120)  # groups that differ: mean 0.8
        hits = np.concatenate([random.random(size) < rate for rate in rates])
        interval = share_interval(hits, np.repeat(np.arange(120), size))
        held += interval.low <= 0.8 <= interval.high
    return held / repeats


@pytest.mark.parametrize("size", [1, 5])
def test_the_interval_of_a_share_covers_with_and_without_groups(size: int) -> None:
    assert 0.90 <= share_coverage(200, size) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5])
def test_the_interval_of_a_share_covers_in_2000_repeats(size: int) -> None:
    assert 0.93 <= share_coverage(2000, size) <= 0.97


def test_a_share_of_all_rows_is_not_said_to_be_certain() -> None:
    interval = share_interval(np.ones(20, bool), np.arange(20))
    assert interval.value == 1.0
    assert 0.8 < interval.low < 0.9


@pytest.mark.parametrize("hits", [[True, False], [True, True, False], [True, True, True, False, False, False, False]])
def test_groups_of_one_share_count_as_one_row_each_whatever_the_share(hits: list[bool]) -> None:
    rows, groups = np.tile(np.array(hits), 6), np.repeat(np.arange(6), len(hits))
    share, alone = share_interval(rows, groups), share_interval(np.array(hits), np.zeros(len(hits), np.int64))
    z, p = 1.959963984540054, np.mean(hits)
    for interval, n in ((share, 6), (alone, 1)):
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        assert interval.high - interval.low == pytest.approx(2 * half)


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


def test_each_class_of_a_multilabel_study_is_calibrated_alike() -> None:
    y, positive = overconfident(3)
    pair = np.stack([positive, 1 - positive], axis=1)
    calibration = Calibrator("multilabel").fit(pair, np.stack([y, 1 - y], axis=1).astype(bool))
    assert calibration.kind_ == "platt_each"
    assert calibration.predict_proba(pair).shape == pair.shape


def test_too_few_rows_are_not_calibrated_on() -> None:
    calibration = Calibrator("binary").fit(np.full((55, 2), 0.5), np.array([0] * 50 + [1] * 5))
    assert (calibration.kind_, calibration.slope_, calibration.shift_) == ("none", 1.0, 0.0)
    probabilities = np.array([[0.3, 0.7]])
    np.testing.assert_array_equal(calibration.predict_proba(probabilities), probabilities)


def test_the_reliability_bins_hold_every_row_once() -> None:
    y, positive = overconfident(4, n=503)
    diagram = reliability(y == 1, np.round(positive, 2))
    assert diagram.count.sum() == 503
    assert (np.diff(diagram.predicted) > 0).all()
    assert ((diagram.low <= diagram.observed) & (diagram.observed <= diagram.high)).all()
