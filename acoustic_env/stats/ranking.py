"""How well scores rank rows: ROC and precision-recall curves, AUC and mAP.

Pure functions on arrays. `truth` is bool [n], `scores` float [n] (higher = more likely positive). Statistics take
`weights` [n], so that `stats.intervals` leaves out groups in one pass of sums over ranks sorted once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acoustic_env.stats.intervals import Bools, Floats, Statistic, Weights


@dataclass(frozen=True)
class Curve:
    """Points of a curve, from the strictest threshold to the loosest.

    Attributes:
        x, y: false and true positive rate (ROC) or recall and precision (PR), float64 [points].
        thresholds: a row is called positive at or above it; inf for the first point of the ROC curve.
    """

    x: Floats
    y: Floats
    thresholds: Floats


class Ranking:
    """The rows of one class sorted once by score, so that weighted AUC and average precision are a pass of sums.

    Args:
        truth: bool [n].
        scores: float [n], finite.

    >>> Ranking(np.array([True, False, True]), np.array([0.9, 0.4, 0.3])).auc()
    0.5
    """

    def __init__(self, truth: Bools, scores: npt.NDArray[Any]) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked, positive = scores[order], truth[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(order) else np.empty(0, np.int64)
        ends = np.r_[starts[1:], len(order)]
        tie = np.searchsorted(starts, np.flatnonzero(positive), side="right") - 1
        self._order: npt.NDArray[np.int32] = order.astype(np.int32)
        self._positives = np.flatnonzero(positive)
        # For each positive in rank order: how many rows, and how many positives, come before and up to its tie's end.
        self._before, self._upto = starts[tie], ends[tie]
        self._positives_before = np.searchsorted(self._positives, self._before)
        self._positives_upto = np.searchsorted(self._positives, self._upto)

    def _sums(self, weights: Weights) -> tuple[Floats, Floats, Floats]:
        ordered = np.ones(len(self._order)) if weights is None else np.asarray(weights, np.float64)[self._order]
        of_positives = ordered[self._positives]
        return of_positives, np.r_[0.0, np.cumsum(ordered)], np.r_[0.0, np.cumsum(of_positives)]

    def auc(self, weights: Weights = None) -> float:
        """Return the area under the ROC curve, ties counted half; NaN without rows of both kinds."""
        own, rows, positives = self._sums(weights)
        negatives = rows[-1] - positives[-1]
        if positives[-1] <= 0 or negatives <= 0:
            return float("nan")
        upto = rows[self._upto] - positives[self._positives_upto]
        before = rows[self._before] - positives[self._positives_before]
        return float(own @ (negatives - (upto + before) / 2) / (positives[-1] * negatives))

    def average_precision(self, weights: Weights = None) -> float:
        """Return mean precision over the positives (not interpolated); NaN without positives."""
        own, rows, positives = self._sums(weights)
        if positives[-1] <= 0:
            return float("nan")
        upto = rows[self._upto]
        precision = np.divide(positives[self._positives_upto], upto, out=np.zeros_like(own), where=upto > 0)
        return float(own @ precision / positives[-1])


def roc_curve(truth: Bools, scores: npt.NDArray[Any], most: int | None = None) -> Curve:
    """Return the ROC curve: x false positive rate, y true positive rate, from (0, 0) to (1, 1).

    One point per distinct score, or of more rows than `most` about so many of these points, even in both rates.

    >>> curve = roc_curve(np.array([True, False, True, False]), np.array([0.9, 0.7, 0.6, 0.1]))
    >>> curve.x.tolist(), curve.y.tolist(), curve.thresholds.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0], [inf, 0.9, 0.7, 0.6, 0.1])
    """
    hits, calls, thresholds = _cumulated(truth, scores, most)
    positives, negatives = max(int(truth.sum()), 1), max(int((~truth).sum()), 1)
    return Curve(np.r_[0.0, (calls - hits) / negatives], np.r_[0.0, hits / positives], np.r_[np.inf, thresholds])


def precision_recall_curve(truth: Bools, scores: npt.NDArray[Any], most: int | None = None) -> Curve:
    """Return the precision-recall curve: x recall, y precision, from few calls to all; points as in `roc_curve`.

    >>> curve = precision_recall_curve(np.array([True, False, True, False]), np.array([0.9, 0.7, 0.6, 0.1]))
    >>> curve.x.tolist(), curve.y.round(2).tolist()
    ([0.5, 0.5, 1.0, 1.0], [1.0, 0.5, 0.67, 0.5])
    """
    hits, calls, thresholds = _cumulated(truth, scores, most)
    return Curve(hits / max(int(truth.sum()), 1), hits / calls, thresholds)


def _cumulated(truth: Bools, scores: npt.NDArray[Any], most: int | None) -> tuple[Floats, Floats, Floats]:
    """Count positive rows and all rows at or above each threshold, and the thresholds, strictest first."""
    thresholds = _thresholds(truth, scores, most)
    reached = np.searchsorted(thresholds, scores, side="right")
    size = len(thresholds) + 1
    hits, calls = (
        np.cumsum(np.bincount(rows, minlength=size)[:0:-1]).astype(np.float64) for rows in (reached[truth], reached)
    )
    return hits, calls, thresholds[::-1].astype(np.float64)


def _thresholds(truth: Bools, scores: npt.NDArray[Any], most: int | None) -> npt.NDArray[Any]:
    """Return ascending thresholds: every score, or so many of the positive and of the negative rows' at even ranks."""
    if most is None or len(scores) <= most:
        return np.unique(scores)
    even = np.linspace(0.0, 1.0, max(most // 2, 2))
    kinds = [part for part in (scores[truth], scores[~truth]) if len(part)]
    return np.unique(np.concatenate([np.quantile(part, even, method="nearest") for part in kinds]))


def finite_mean(values: Floats) -> Floats:
    """Return the mean of the finite values over the last axis; NaN where there is none.

    >>> finite_mean(np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]]))
    array([ 2., nan])
    """
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


def mean_over_classes(
    truth: Bools, scores: npt.NDArray[Any], measure: Callable[[Ranking, Weights], float]
) -> Statistic:
    """Return the mean of a ranking measure over classes, as a statistic of weights.

    Args:
        truth: bool [n, classes].
        scores: float [n, classes].
        measure: `Ranking.average_precision` (gives mAP) or `Ranking.auc`. A class where it is not defined (no positive
            row, or no negative one) cannot enter the mean; `performance` names such classes.

    >>> truth = np.array([[True, False, False], [False, True, False]])
    >>> scores = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.1]])
    >>> mean_over_classes(truth, scores, Ranking.average_precision)(None)
    1.0
    """
    rankings = [Ranking(truth[:, c], scores[:, c]) for c in range(truth.shape[1])]

    def statistic(weights: Weights) -> float:
        return float(finite_mean(np.array([measure(ranking, weights) for ranking in rankings])))

    return statistic
