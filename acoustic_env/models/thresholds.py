"""From probabilities to decisions: thresholds, confusion, accuracy and F1, with every class counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from acoustic_env.models.evaluate import LEVEL, Bools, Estimate, Floats, Integers


def confusion(
    truth: Integers, predicted: Integers, classes: int, weights: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.float64]:
    """Count clips [classes, classes]: rows what was given, columns what was predicted."""
    cells = truth * classes + predicted
    return np.bincount(cells, weights=weights, minlength=classes * classes).reshape(classes, classes).astype(np.float64)


def accuracy(matrix: Floats) -> float:
    """Return the share of rows on the diagonal of a confusion matrix."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def balanced_accuracy(matrix: Floats) -> float:
    """Return mean recall over the classes that have rows."""
    support = matrix.sum(axis=1)
    return float((np.diag(matrix)[support > 0] / support[support > 0]).mean()) if support.any() else float("nan")


def class_scores(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 [classes] of a confusion matrix; 0 where there is nothing to divide by.

    A class without a prediction or without a row counts as 0 and is not skipped: leaving it out flatters the mean.
    """
    return binary_scores(np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1))


def binary_scores(hits: Floats, calls: Floats, positives: Floats) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 [classes] from true positives, positive calls and positive rows [classes]."""
    precision = np.divide(hits, calls, out=np.zeros(len(hits)), where=calls > 0)
    recall = np.divide(hits, positives, out=np.zeros(len(hits)), where=positives > 0)
    both = calls + positives
    return precision, recall, np.divide(2 * hits, both, out=np.zeros(len(hits)), where=both > 0)


def mean_f1(f1: Floats, support: Floats, absent: Bools) -> float:
    """Return macro F1 of a (re)sample: the mean over its classes and those that the data lack, which count as 0.

    A class that a resample happens to leave out says nothing of the classifier; as 0 it would stretch the interval.

    Args:
        f1, support: [classes], of the sample.
        absent: bool [classes], those without a row in the data.
    """
    counted = (support > 0) | absent
    return float(f1[counted].mean()) if counted.any() else float("nan")


def choose_threshold(truth: Bools, probabilities: Floats) -> float:
    """Choose the threshold with the best balanced accuracy (Youden's J) on validation rows; never chosen on test rows.

    Halfway between the two neighboring probabilities, so that a rounding error does not flip a row. 0.5 when the rows
    are of one kind only.
    """
    if truth.all() or not truth.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, positive = probabilities[order], truth[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    gain = np.cumsum(positive)[last] / positive.sum() - np.cumsum(~positive)[last] / (~positive).sum()
    best = int(np.argmax(gain))
    below = ranked[last[best] + 1] if last[best] + 1 < len(ranked) else 0.0
    return float((ranked[last[best]] + below) / 2)


def choose_f1_threshold(truth: Bools, probabilities: Floats) -> float:
    """Choose the threshold with the best F1 on validation rows, for one class of many; 0.5 without positive rows."""
    if not truth.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, positive = probabilities[order], truth[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    f1 = 2 * np.cumsum(positive)[last] / (last + 1 + positive.sum())
    best = int(np.argmax(f1))
    below = ranked[last[best] + 1] if last[best] + 1 < len(ranked) else 0.0
    return float((ranked[last[best]] + below) / 2)


def share_interval(hits: npt.NDArray[Any], groups: Any = None, level: float = LEVEL) -> Estimate:
    """Return a share of rows with Wilson's interval (JASA 22, 1927), n divided by the design effect of the groups.

    Args:
        hits: bool [n].
        groups: [n] or None for independent rows.
        level: nominal coverage.
    """
    n, share = len(hits), float(np.mean(hits)) if len(hits) else float("nan")
    if not n:
        return Estimate(share, share, share, "Wilson", level)
    effective = float(n)
    if groups is not None:
        _, codes = np.unique(np.asarray(groups), return_inverse=True)
        count = int(codes.max()) + 1
        residual = np.bincount(codes, weights=hits - share)
        variance = (residual**2).sum() / n**2 * (count / max(count - 1, 1))
        effective = count if variance == 0 else min(share * (1 - share) / variance, float(n))
    z = float(stats.norm.ppf(0.5 + level / 2))
    center = share + z**2 / (2 * effective)
    half = z * np.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    scale = 1 + z**2 / effective
    return Estimate(share, float((center - half) / scale), float((center + half) / scale), "Wilson", level)
