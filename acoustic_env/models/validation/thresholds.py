"""From probabilities to decisions: thresholds, and the scores of what was called, with every class counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from acoustic_env.config import Task
from acoustic_env.stats.intervals import Bools, Floats, Statistic, Weights
from acoustic_env.stats.ranking import Ranking, mean_over_classes


class Calls:
    """The classes that rows have and those they are called, so that each weighted score is a pass of sums.

    A score is a statistic of the rows' weights [n], None for weights of one, as `stats.intervals.of_metric` takes it.

    Args:
        truth, called: bool [n, classes].

    >>> truth, called = np.eye(3, dtype=bool)[[0, 1, 1]], np.eye(3, dtype=bool)[[0, 1, 0]]
    >>> Calls(truth, called).balanced_accuracy()
    0.75
    """

    def __init__(self, truth: Bools, called: Bools) -> None:
        masks = np.hstack([truth & called, called, truth])
        self._rows = len(truth)
        self._masks = sparse.csr_array(masks.T, dtype=np.float64)  # a row a count: one product a statistic
        self._absent = ~truth.any(axis=0)

    @classmethod
    def less_certain(cls, truth: Bools, called: Bools) -> Calls:
        """Return the calls with one row of each class changed whose calls are all wrong, or all right.

        Whatever group is left out, such a class scores 0, or 1, as if that were certain: the spread of its score
        would be zero.

        >>> truth = np.array([[True], [True], [False]])
        >>> Calls.less_certain(truth, truth).precision_recall_f1()[1].tolist()
        [0.5]
        """
        called, hits = called.copy(), (truth & called).sum(axis=0)
        for own in np.flatnonzero((hits == 0) | (truth == called).all(axis=0)):
            first = np.flatnonzero(truth[:, own])[:1]
            called[first, own] = hits[own] == 0
        return cls(truth, called)

    def _counts(self, weights: Weights) -> list[Floats]:
        """Return true positives, positive calls and positive rows [classes]."""
        counts: Floats = np.asarray(self._masks @ (np.ones(self._rows) if weights is None else weights))
        return np.split(counts, 3)

    def precision_recall_f1(self, weights: Weights = None) -> tuple[Floats, Floats, Floats]:
        """Return precision, recall and F1 [classes]; 0 where there is nothing to divide by.

        A class without a call or without a row counts as 0 and is not skipped: leaving it out flatters the mean.
        """
        hits, calls, positives = self._counts(weights)
        return _ratio(hits, calls), _ratio(hits, positives), _ratio(2 * hits, calls + positives)

    def balanced_accuracy(self, weights: Weights = None) -> float:
        """Return mean recall over the classes that have rows."""
        hits, _, positives = self._counts(weights)
        return _mean(_ratio(hits, positives)[positives > 0])

    def macro_f1(self, weights: Weights = None) -> float:
        """Return the mean F1 over the classes of rows with a weight, and those that the data lack, which count as 0.

        A class that lies in the one group left out says nothing of the classifier; as 0 it would stretch the interval.
        """
        hits, calls, positives = self._counts(weights)
        return _mean(_ratio(2 * hits, calls + positives)[(positives > 0) | self._absent])

    def micro_f1(self, weights: Weights = None) -> float:
        """Return F1 of all pairs of a row and a class; NaN without a call and a positive row."""
        hits, calls, positives = (float(counts.sum()) for counts in self._counts(weights))
        return 2 * hits / (calls + positives) if calls + positives else float("nan")


def main_score(y: npt.NDArray[Any], probabilities: Floats) -> Statistic:
    """Return the score that classifiers are compared by, as a statistic of the rows' weights.

    Args:
        y: int64 [n] class index, or bool [n, classes].
        probabilities: [n, classes].

    Returns:
        AUC (two classes), macro F1 of the likeliest class (more classes) or mAP (multilabel).

    >>> main_score(np.array([0, 1, 2]), np.eye(3))(None)
    1.0
    """
    if y.ndim == 2:
        return mean_over_classes(y, probabilities, Ranking.average_precision)
    if probabilities.shape[1] == 2:
        return Ranking(y == 1, probabilities[:, 1]).auc
    classes = np.eye(probabilities.shape[1], dtype=bool)
    return Calls(classes[y], classes[probabilities.argmax(axis=1)]).macro_f1


def main_spread(y: npt.NDArray[Any], probabilities: Floats) -> Statistic | None:
    """Return the statistic whose spread `main_score` has (`Calls.less_certain`); None for its own."""
    if y.ndim == 2 or probabilities.shape[1] == 2:
        return None
    classes = np.eye(probabilities.shape[1], dtype=bool)
    return Calls.less_certain(classes[y], classes[probabilities.argmax(axis=1)]).macro_f1


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def choose_thresholds(task: Task, y: npt.NDArray[Any], probabilities: Floats) -> Floats:
    """Choose thresholds [classes]: best balanced accuracy (binary), best F1 of each class (multilabel).

    Args:
        task: of the study; multiclass needs none and gets equal ones.
        y: int64 [n] class index, or bool [n, classes].
        probabilities: calibrated [n, classes], of rows that were not trained on.

    >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> choose_thresholds("binary", np.array([0, 0, 1]), probabilities).round(2).tolist()
    [0.4, 0.6]
    """
    if task == "binary":
        threshold = choose_threshold(y == 1, probabilities[:, 1])
        return np.array([1 - threshold, threshold])
    if task == "multiclass":
        return np.full(probabilities.shape[1], 1 / probabilities.shape[1])
    return np.array([choose_f1_threshold(y[:, c], probabilities[:, c]) for c in range(y.shape[1])])


def choose_threshold(truth: Bools, probabilities: Floats) -> float:
    """Choose the threshold with the best balanced accuracy (Youden's J); 0.5 when the rows are of one kind only.

    >>> choose_threshold(np.array([False, False, True]), np.array([0.1, 0.4, 0.8]))
    0.6000000000000001
    """
    if truth.all() or not truth.any():
        return 0.5
    positives, negatives = truth.sum(), (~truth).sum()
    return _best_cut(truth, probabilities, lambda hits, calls: hits / positives - (calls - hits) / negatives)


def choose_f1_threshold(truth: Bools, probabilities: Floats) -> float:
    """Choose the threshold with the best F1, for one class of many; 0.5 without positive rows.

    >>> choose_f1_threshold(np.array([True, False, True, False]), np.array([0.8, 0.5, 0.3, 0.1]))
    0.2
    >>> choose_f1_threshold(np.array([False, False]), np.array([0.8, 0.5]))
    0.5
    """
    if not truth.any():
        return 0.5
    positives = truth.sum()
    return _best_cut(truth, probabilities, lambda hits, calls: 2 * hits / (calls + positives))


def _best_cut(truth: Bools, probabilities: Floats, score: Callable[[Any, Any], Any]) -> float:
    """Return the best threshold, halfway between two neighboring probabilities: a rounding error flips no row."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = np.r_[probabilities[order], 0.0]
    last = np.flatnonzero(np.r_[ranked[1:-1] != ranked[:-2], True])
    best = last[np.argmax(score(np.cumsum(truth[order])[last], last + 1))]
    halfway = (ranked[best] + ranked[best + 1]) / 2
    return float(halfway if halfway > ranked[best + 1] else ranked[best])
