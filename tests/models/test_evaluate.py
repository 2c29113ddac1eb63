"""Curves, AUC, mAP, intervals: equal to scikit-learn's, and covering what they say they cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from acoustic_env.stats.intervals import Estimate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics

from acoustic_env.models import evaluate
from acoustic_env.models.evaluate import Ranking


def drawn(seed: int, n: int = 200, ties: bool = False, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.4
    truth[:2] = [True, False]
    scores = random.normal(size=n) + shift * truth
    return truth, np.round(scores, 1) if ties else scores


@given(seed=st.integers(0, 10_000), ties=st.booleans(), weighted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_auc_and_average_precision_are_scikit_learns_with_ties_and_weights(
    seed: int, ties: bool, weighted: bool
) -> None:
    truth, scores = drawn(seed, n=80, ties=ties)
    weights = np.random.default_rng(seed + 1).integers(0, 4, len(truth)).astype(float) if weighted else None
    if weights is not None:
        weights[:2] = 1.0
    ranking = Ranking(truth, scores)
    assert ranking.auc(weights) == pytest.approx(metrics.roc_auc_score(truth, scores, sample_weight=weights))
    expected = metrics.average_precision_score(truth, scores, sample_weight=weights)
    assert ranking.average_precision(weights) == pytest.approx(expected)


def test_curves_are_scikit_learns() -> None:
    truth, scores = drawn(1, ties=True)
    roc = evaluate.roc_curve(truth, scores)
    x, y, thresholds = metrics.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc.x, x)
    np.testing.assert_allclose(roc.y, y)
    np.testing.assert_allclose(roc.thresholds, thresholds)
    precision, recall, cuts = metrics.precision_recall_curve(truth, scores)
    pr = evaluate.precision_recall_curve(truth, scores)
    np.testing.assert_allclose(pr.y, precision[:-1][::-1])
    np.testing.assert_allclose(pr.x, recall[:-1][::-1])
    np.testing.assert_allclose(pr.thresholds, cuts[::-1])


def test_a_thinned_curve_has_few_points_and_each_lies_on_the_whole_curve() -> None:
    truth, scores = drawn(1, n=5000, ties=True)
    for make in (evaluate.roc_curve, evaluate.precision_recall_curve):
        whole, thin = make(truth, scores), make(truth, scores, 50)
        assert len(thin.x) <= 52
        at = np.searchsorted(-whole.thresholds, -thin.thresholds)
        np.testing.assert_allclose(whole.thresholds[at], thin.thresholds)
        np.testing.assert_allclose((whole.x[at], whole.y[at]), (thin.x, thin.y))
        np.testing.assert_allclose((thin.x[[0, -1]], thin.y[[0, -1]]), (whole.x[[0, -1]], whole.y[[0, -1]]))


def test_delongs_variance_is_that_of_the_placements_compared_pair_by_pair() -> None:
    truth, scores = drawn(2, n=60, ties=True)
    wins = np.sign(scores[truth][:, None] - scores[~truth][None]) / 2 + 0.5
    variance = np.var(wins.mean(axis=1), ddof=1) / truth.sum() + np.var(wins.mean(axis=0), ddof=1) / (~truth).sum()
    interval = evaluate.auc_delong(truth, scores)
    assert interval.value == pytest.approx(wins.mean())
    half = special.logit(interval.high) - special.logit(interval.value)
    error = half * interval.value * (1 - interval.value) / 1.959964
    assert error == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_rows_of_one_kind_have_no_auc_rather_than_a_wrong_one() -> None:
    scores = np.arange(5.0)
    assert np.isnan(Ranking(np.ones(5, bool), scores).auc())
    assert np.isnan(evaluate.auc_delong(np.zeros(5, bool), scores).low)
    assert np.isnan(Ranking(np.zeros(5, bool), scores).average_precision())


def test_a_perfect_ranking_of_few_rows_is_not_said_to_be_certain() -> None:
    truth = np.array([True] * 10 + [False] * 10)
    interval = evaluate.auc_delong(truth, truth.astype(float))
    assert interval.value == 1.0
    assert interval.low == pytest.approx(stats.beta.ppf(0.025, 10, 1))


def test_rows_that_share_a_group_widen_the_interval() -> None:
    truth, scores = drawn(4, n=150)
    copies = [np.repeat(values, 4) for values in (truth, scores, np.arange(150))]
    alone = evaluate.auc_with_interval(truth, scores)
    grouped = evaluate.auc_with_interval(copies[0], copies[1], copies[2])
    as_if_independent = evaluate.auc_with_interval(copies[0], copies[1])
    width = {name: e.high - e.low for name, e in [("a", alone), ("g", grouped), ("i", as_if_independent)]}
    assert width["g"] == pytest.approx(width["a"], rel=0.15)
    assert width["i"] < 0.6 * width["a"]


def test_a_class_without_positives_is_left_out_of_the_mean() -> None:
    truth, scores = drawn(5)
    both = np.stack([truth, np.zeros_like(truth)], axis=1)
    statistic = evaluate.mean_over_classes(both, np.stack([scores, scores], axis=1), Ranking.average_precision)
    assert statistic(None) == pytest.approx(metrics.average_precision_score(truth, scores))


def _delong(random: np.random.Generator) -> tuple[Estimate, float]:
    truth = np.arange(120) < 50
    return evaluate.auc_delong(truth, random.normal(size=120) + 1.5 * truth), float(stats.norm.cdf(1.5 / np.sqrt(2)))


def _delong_near_one(random: np.random.Generator) -> tuple[Estimate, float]:
    truth = np.arange(80) < 30
    return evaluate.auc_delong(truth, random.normal(size=80) + 3 * truth), float(stats.norm.cdf(3 / np.sqrt(2)))


def _grouped(random: np.random.Generator) -> tuple[Estimate, float]:
    truth = np.repeat(np.arange(80) < 40, 3)
    scores = np.repeat(random.normal(size=80), 3) + random.normal(size=240) + 1.5 * truth
    interval = evaluate.auc_with_interval(truth, scores, np.repeat(np.arange(80), 3), repeats=150)
    return interval, float(stats.norm.cdf(1.5 / 2))


def _population_precision(shift: float, share: float) -> float:
    grid = np.linspace(-6, 10, 40_001)
    recall = stats.norm.sf(grid - shift)
    precision = share * recall / (share * recall + (1 - share) * stats.norm.sf(grid))
    return float(-np.trapezoid(precision, recall))


MEAN_PRECISION = float(np.mean([_population_precision(shift, 0.15) for shift in (0.8, 2.0)]))


def _mean_average_precision(random: np.random.Generator) -> tuple[Estimate, float]:
    truth = random.random((600, 2)) < 0.15
    scores = random.normal(size=(600, 2)) + np.array([0.8, 2.0]) * truth
    statistic = evaluate.mean_over_classes(truth, scores, Ranking.average_precision)
    return evaluate.bootstrap(statistic, np.arange(600), repeats=100), MEAN_PRECISION


INTERVALS = [_delong, _delong_near_one, _grouped, _mean_average_precision]


def coverage(draw: Callable[[np.random.Generator], tuple[Estimate, float]], repeats: int) -> float:
    held = 0
    for repeat in range(repeats):
        interval, expected = draw(np.random.default_rng(repeat))
        held += interval.low <= expected <= interval.high
    return held / repeats


@pytest.mark.slow
@pytest.mark.parametrize("draw", INTERVALS, ids=lambda draw: draw.__name__.strip("_"))
def test_an_interval_of_95_percent_covers_in_2000_repeats(draw: Callable) -> None:
    assert 0.925 <= coverage(draw, 2000) <= 0.97
