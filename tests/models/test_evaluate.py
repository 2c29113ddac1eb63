"""Curves, AUC and mAP: equal to scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from acoustic_env.stats import ranking as evaluate
from acoustic_env.stats.ranking import Ranking


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


def test_rows_of_one_kind_have_no_auc_rather_than_a_wrong_one() -> None:
    scores = np.arange(5.0)
    assert np.isnan(Ranking(np.ones(5, bool), scores).auc())
    assert np.isnan(Ranking(np.zeros(5, bool), scores).average_precision())


def test_a_class_without_positives_is_left_out_of_the_mean() -> None:
    truth, scores = drawn(5)
    both = np.stack([truth, np.zeros_like(truth)], axis=1)
    statistic = evaluate.mean_over_classes(both, np.stack([scores, scores], axis=1), Ranking.average_precision)
    assert statistic(None) == pytest.approx(metrics.average_precision_score(truth, scores))
