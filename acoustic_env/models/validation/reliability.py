"""How far probabilities are from what is observed: reliability diagrams, calibration errors, the Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.stats.intervals import Bools, Floats, Integers, of_share

BINS: Final = 10
# Below this many positive rows the calibration error of a class is mostly chance.
CLASS_POSITIVES: Final = 20


@dataclass(frozen=True)
class Reliability:
    """Observed share of positives per bin of predicted probability, bins of equal weight.

    Attributes:
        predicted, observed: mean probability and share of positives [bins].
        low, high: interval of `observed` [bins] (`stats.intervals.of_share`); NaN where the rows are of too few groups.
        count: rows [bins].
        weight: the bin's part of the expected error [bins], in all 1.
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    count: Integers
    weight: Floats

    @property
    def expected_error(self) -> float:
        """Expected calibration error: mean distance of observed from predicted, weighted."""
        return float(np.abs(self.observed - self.predicted) @ self.weight)


def reliability(
    truth: Bools,
    probabilities: Floats,
    bins: int = BINS,
    weights: npt.NDArray[Any] | None = None,
    groups: npt.NDArray[Any] | None = None,
) -> Reliability:
    """Return the reliability diagram of bool [n] and probabilities [n]; rows of one probability stay in one bin.

    Args:
        truth: bool [n].
        probabilities: [n].
        bins: at most so many, of equal weight.
        weights: of the rows [n]; None for one each, so that bins hold equal numbers of rows.
        groups: [n], rows that belong together; None for independent rows.

    >>> random = np.random.default_rng(23)
    >>> probabilities = random.random(1_000)
    >>> diagram = reliability(random.random(1_000) < probabilities**2, probabilities, bins=4)
    >>> diagram.predicted.round(2).tolist(), diagram.observed.round(2).tolist()
    ([0.13, 0.38, 0.63, 0.87], [0.02, 0.14, 0.41, 0.77])
    >>> round(diagram.expected_error, 2)
    0.17
    """
    order = np.argsort(probabilities, kind="stable")
    ranked = probabilities[order]
    own = np.ones(len(order)) if weights is None else np.asarray(weights, np.float64)
    upto = np.cumsum(own[order])
    total = float(upto[-1]) if len(order) else 0.0
    cuts = np.searchsorted(upto, total * np.arange(1, bins) / bins, side="right")
    edges = np.searchsorted(ranked, ranked[np.minimum(cuts, len(order) - 1)]) if len(order) else cuts[:0]
    parts = [part for part in np.split(order, edges) if len(part)]
    shares = [of_share(truth[part], None if groups is None else groups[part]) for part in parts]
    return Reliability(
        predicted=np.array([probabilities[part].mean() for part in parts]),
        observed=np.array([share.value for share in shares]),
        low=np.array([share.low for share in shares]),
        high=np.array([share.high for share in shares]),
        count=np.array([len(part) for part in parts], np.int64),
        weight=np.array([own[part].sum() / total if total else 0.0 for part in parts]),
    )


def positive_mass(truth: npt.NDArray[np.bool_], probabilities: Floats) -> Floats:
    """Return weights of a diagram of rare classes: the probability plus the outcome, of the same shape.

    A row that is predicted absent and is absent weighs nothing. In a study of hundreds of labels such rows are more
    than 99 of 100; by numbers of rows they would fill every bin and make any error small.

    >>> positive_mass(np.array([True, False, False]), np.array([0.9, 0.2, 0.0])).tolist()
    [1.9, 0.2, 0.0]
    """
    return np.asarray(probabilities + truth)


def class_errors(truth: npt.NDArray[np.bool_], probabilities: Floats) -> Floats:
    """Return the expected calibration error of each class by itself [classes]; NaN without enough positive rows.

    Adaptive calibration error by class (Nixon et al., CVPR Workshops 2019), with bins of equal positive mass.

    Args:
        truth: bool [n, classes].
        probabilities: [n, classes].

    >>> random = np.random.default_rng(23)
    >>> probabilities = random.random((1_000, 2)) * [1.0, 0.001]
    >>> class_errors(random.random((1_000, 2)) < probabilities, probabilities).round(1).tolist()
    [0.0, nan]
    """
    errors = np.full(truth.shape[1], np.nan)
    for number, (own, predicted) in enumerate(zip(truth.T, probabilities.T, strict=True)):
        positives = int(own.sum())
        if positives >= CLASS_POSITIVES:
            bins = min(BINS, 2 * positives // CLASS_POSITIVES)
            errors[number] = reliability(own, predicted, bins, positive_mass(own, predicted)).expected_error
    return errors


def brier(truth: npt.NDArray[Any], probabilities: Floats) -> float:
    """Return the mean squared distance of probability from outcome, of several classes summed over them.

    Args:
        truth: bool [n], or [n, classes].
        probabilities: of the same shape.

    >>> brier(np.eye(3)[:1], np.array([[0.5, 0.25, 0.25]]))
    0.375
    >>> brier(np.array([True, False]), np.array([0.75, 0.25]))
    0.0625
    """
    squares = (probabilities - truth) ** 2
    return float((squares.sum(axis=1) if squares.ndim == 2 else squares).mean())
