"""Noise-adjusted metrics: right where the assumption holds, refused where it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.audit.adjusted import (
    AnnotatedCounts,
    GoldClips,
    adjusted_auc,
    adjusted_balanced_accuracy,
    gold_auc,
    gold_balanced_accuracy,
    hanley_mcneil,
    independence_test,
)
from acoustic_env.audit.intervals import Interval
from tests.audit.coverage import coverage

NATURE, URBAN, CLIPS = AnnotatedCounts(42, 50), AnnotatedCounts(32, 50), (122, 121)


def test_the_source_systems_numbers_are_refused() -> None:
    found = adjusted_auc(0.766, CLIPS, NATURE, URBAN)
    assert found.corrected == pytest.approx(1.054, abs=5e-4)
    assert found.status == "refused"
    assert "impossible" in found.reason
    assert found.impossible == pytest.approx(0.72, abs=0.03)
    assert found.interval == pytest.approx((0.88, 1.43), abs=0.03)
    balanced = adjusted_balanced_accuracy((0.721, 0.721), CLIPS, NATURE, URBAN)
    assert balanced.corrected == pytest.approx(0.960, abs=1e-3)
    assert balanced.status == "refused"
    assert balanced.bounds == pytest.approx((0.461, 0.981), abs=0.002)
    assert "REFUSED" in str(balanced)


def test_a_possible_value_from_a_large_audit_is_shown_but_not_called_confirmed() -> None:
    observed = 0.5 + (1 - 0.1 - 0.2) * (0.85 - 0.5)
    found = adjusted_auc(observed, (5000, 5000), AnnotatedCounts(900, 1000), AnnotatedCounts(800, 1000))
    assert found.corrected == pytest.approx(0.85)
    assert found.status == "not refuted"
    assert "not tested on gold" in found.reason
    assert adjusted_auc(
        observed, (5000, 5000), AnnotatedCounts(900, 1000), AnnotatedCounts(800, 1000), independence_p=0.001
    ).status == ("refused")


def test_labels_without_information_are_refused_not_divided_by_zero() -> None:
    found = adjusted_auc(0.6, (100, 100), AnnotatedCounts(10, 20), AnnotatedCounts(10, 20))
    assert found.status == "refused"
    assert found.impossible > 0.3


def simulated(n: int, dependent: bool, rng: np.random.Generator):
    truth = rng.integers(0, 2, n)
    score = truth + rng.normal(0, 1, n)
    doubt = np.exp(-4 * np.abs(score - 0.5)) if dependent else np.full(n, 0.2)
    given = np.where(rng.random(n) < doubt, 1 - truth, truth)
    return truth, (score > 0.5).astype(int), given, score


def test_the_assumption_is_tested_on_gold_clips() -> None:
    rng = np.random.default_rng(4)
    truth, predicted, given, _ = simulated(2000, True, rng)
    assert independence_test(predicted, given, truth) < 0.01
    rejected = 0
    for _ in range(200):
        truth, predicted, given, _ = simulated(200, False, rng)
        rejected += independence_test(predicted, given, truth) < 0.05
    assert rejected / 200 <= 0.06


def test_dependent_noise_inflates_the_correction_and_gold_does_not() -> None:
    rng = np.random.default_rng(6)
    truth, predicted, given, _ = simulated(20_000, True, rng)
    annotated = [AnnotatedCounts(int((truth == k)[given == k].sum()), int((given == k).sum())) for k in (1, 0)]
    tpr, tnr = predicted[given == 1].mean(), 1 - predicted[given == 0].mean()
    accuracy = (predicted == truth).mean()
    inflated = adjusted_balanced_accuracy(
        (tpr, tnr), (annotated[0].answers, annotated[1].answers), annotated[0], annotated[1]
    )
    assert inflated.corrected > accuracy + 0.05
    gold = rng.choice(20_000, 400, replace=False)
    direct = gold_balanced_accuracy(
        GoldClips(predicted[gold], given[gold], truth[gold], None, np.ones(400), np.arange(400))
    )
    assert direct.low <= accuracy <= direct.high


def draw_gold_auc(rng: np.random.Generator) -> tuple[Interval, float]:
    truth, _, _, score = simulated(150, False, rng)
    from scipy.stats import norm

    return gold_auc(score, truth, np.ones(150), np.arange(150), int(rng.integers(2**31)), draws=200), float(
        norm.cdf(1 / np.sqrt(2))
    )


def test_the_gold_auc_covers_and_weights_undo_unequal_sampling() -> None:
    assert 0.92 <= coverage(draw_gold_auc, 200, seed=5) <= 0.98
    rng = np.random.default_rng(1)
    truth, _, _, score = simulated(40_000, False, rng)
    inclusion = np.where(np.abs(score - 0.5) < 0.5, 0.1, 0.02)
    rows = np.flatnonzero(rng.random(40_000) < inclusion)
    from sklearn.metrics import roc_auc_score

    weighted = gold_auc(score[rows], truth[rows], inclusion[rows], rows, 0, draws=100)
    assert weighted.low <= roc_auc_score(truth, score) <= weighted.high
    plain = gold_auc(score[rows], truth[rows], np.ones(len(rows)), rows, 0, draws=100)
    assert plain.high < roc_auc_score(truth, score)


@pytest.mark.simulation
def test_the_gold_auc_covers_thoroughly() -> None:
    assert 0.93 <= coverage(draw_gold_auc, 1500, seed=5) <= 0.97


def draw_gold_accuracy(rng: np.random.Generator) -> tuple[Interval, float]:
    truth, predicted, given, _ = simulated(3000, True, rng)
    gold = rng.choice(3000, 200, replace=False)
    clips = GoldClips(predicted[gold], given[gold], truth[gold], None, np.ones(200), np.arange(200))
    right = predicted == truth
    return gold_balanced_accuracy(clips), float((right[truth == 0].mean() + right[truth == 1].mean()) / 2.0)


def test_the_gold_accuracy_covers() -> None:
    assert 0.93 <= coverage(draw_gold_accuracy, 1000, seed=5) <= 0.97


def draw_rare_class(rng: np.random.Generator) -> tuple[Interval, float]:
    truth = (np.arange(300) < 30).astype(int)
    right = rng.random(300) < np.where(truth == 1, 0.8, 0.9)
    clips = GoldClips(np.where(right, truth, 1 - truth), truth, truth, None, np.ones(300), np.arange(300))
    return gold_balanced_accuracy(clips), 0.85


def test_the_gold_accuracy_covers_when_one_class_is_rare() -> None:
    assert 0.93 <= coverage(draw_rare_class, 1000, seed=5) <= 0.97


def test_a_rare_class_without_an_error_still_widens_the_gold_accuracy() -> None:
    truth = (np.arange(1000) < 10).astype(int)
    clips = GoldClips(truth, truth, truth, None, np.full(1000, 0.01), np.arange(1000))
    assert gold_balanced_accuracy(clips).low < 0.95


def test_the_standard_error_of_an_auc_is_hanley_and_mcneils() -> None:
    # Hanley & McNeil 1982, section on sample size: AUC 0.893 on 51 and 58 images has a standard error of 0.032.
    assert hanley_mcneil(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)
