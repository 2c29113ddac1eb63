"""Calibration of probabilities and the thresholds on them, measured and fitted on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special
from sklearn.base import BaseEstimator, ClassifierMixin

from acoustic_env.config import Task
from acoustic_env.models.evaluate import share_interval
from acoustic_env.models.thresholds import choose_thresholds
from acoustic_env.stats.intervals import Bools, Floats, Integers

BINS: Final = 10
SMALLEST: Final = 1e-7
# Below this many rows of the rarer kind a fitted calibration adds more noise than it removes.
MIN_ROWS: Final = 10
# Below this many positive rows the calibration error of a class is mostly chance.
CLASS_POSITIVES: Final = 20


@dataclass(frozen=True)
class Reliability:
    """Observed share of positives per bin of predicted probability, bins of equal weight.

    Attributes:
        predicted, observed: mean probability and share of positives [bins].
        low, high: Wilson's interval of `observed` [bins].
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
    truth: Bools, probabilities: Floats, bins: int = BINS, weights: npt.NDArray[Any] | None = None
) -> Reliability:
    """Return the reliability diagram of bool [n] and probabilities [n]; rows of one probability stay in one bin.

    Args:
        truth: bool [n].
        probabilities: [n].
        bins: at most so many, of equal weight.
        weights: of the rows [n]; None for one each, so that bins hold equal numbers of rows.

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
    shares = [share_interval(truth[part]) for part in parts]
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


def class_error(truth: npt.NDArray[np.bool_], probabilities: Floats) -> tuple[float, int]:
    """Return the expected calibration error of each class by itself, averaged over those with enough positive rows.

    Adaptive calibration error by class (Nixon et al., CVPR Workshops 2019), with bins of equal positive mass.

    Args:
        truth: bool [n, classes].
        probabilities: [n, classes].

    Returns:
        The mean over classes (NaN without one), and how many had `CLASS_POSITIVES` positive rows.

    >>> random = np.random.default_rng(23)
    >>> probabilities = random.random((1_000, 2)) * [1.0, 0.001]
    >>> error, classes = class_error(random.random((1_000, 2)) < probabilities, probabilities)
    >>> round(error, 1), classes
    (0.0, 1)
    """
    errors = []
    for own, predicted in zip(truth.T, probabilities.T, strict=True):
        positives = int(own.sum())
        if positives >= CLASS_POSITIVES:
            bins = min(BINS, 2 * positives // CLASS_POSITIVES)
            errors.append(reliability(own, predicted, bins, positive_mass(own, predicted)).expected_error)
    return (float(np.mean(errors)) if errors else float("nan")), len(errors)


def brier(truth: npt.NDArray[Any], probabilities: Floats) -> float:
    """Return the mean squared distance of probability from outcome.

    >>> brier(np.array([True, False]), np.array([0.75, 0.25]))
    0.0625
    """
    return float(np.mean((probabilities - truth) ** 2))


class Calibrator(ClassifierMixin, BaseEstimator):
    """Calibrated probabilities and thresholds, fitted on a model's probabilities of rows it was not trained on.

    The map is monotone: ranks, and so AUC, stay as they are. Its parameters have the least log loss against Platt's
    targets: Platt scaling for binary and multilabel (one slope and shift for all classes: rare classes have too few
    rows for their own), temperature (Guo et al. 2017) for multiclass; none where there are under 10 rows of one kind.

    The targets are (N+ + 1) / (N+ + 2) and 1 / (N- + 2) instead of 1 and 0 (Platt 1999; Lin, Lin and Weng, Machine
    Learning 68, 2007): what N rows of one outcome can prove of the next. Against 1 and 0, rows that the model separates
    have their least loss at an infinite slope.

    Args:
        task: of the study.

    Attributes:
        kind_: platt (binary: slope and shift of the positive class's logit), platt_each (multilabel: the same of every
            class's logit), temperature (multiclass: one factor of all log probabilities), or none.
        slope_: of the logit, > 0.
        shift_: of the logit.
        thresholds_: [classes] on calibrated probabilities (`choose_thresholds`).

    >>> random = np.random.default_rng(23)
    >>> p = random.random(2_000)
    >>> y = (random.random(2_000) < p**2).astype(int)
    >>> calibrator = Calibrator("binary").fit(np.stack([1 - p, p], axis=1), y)
    >>> calibrator.kind_, calibrator.predict_proba(np.array([[0.5, 0.5]])).round(1).tolist()
    ('platt', [[0.8, 0.2]])
    """

    kind_: Literal["none", "platt", "platt_each", "temperature"]
    slope_: float
    shift_: float
    thresholds_: Floats

    def __init__(self, task: Task = "binary") -> None:
        self.task = task

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> Calibrator:
        """Fit slope, shift and thresholds.

        Args:
            X: probabilities [n, classes].
            y: int64 [n] class index, or bool [n, classes] for multilabel.
        """
        self.kind_, self.slope_, self.shift_ = "none", 1.0, 0.0
        self.classes_ = np.arange(X.shape[1])
        if self.task == "multiclass":
            self._fit_temperature(X, y)
        else:
            self._fit_platt(X, y)
        self.thresholds_ = choose_thresholds(self.task, y, self.predict_proba(X))
        return self

    def _fit_platt(self, X: Floats, y: npt.NDArray[Any]) -> None:
        truth = (y if y.ndim == 2 else y == 1).ravel()
        positives, negatives = int(truth.sum()), int((~truth).sum())
        if min(positives, negatives) < MIN_ROWS:
            return
        logit = _logit(X if y.ndim == 2 else X[:, 1]).ravel()
        targets = np.where(truth, _target(positives), 1 - _target(negatives))

        def loss_and_gradient(parameters: Floats) -> tuple[float, Floats]:
            slope = np.exp(parameters[0])
            z = slope * logit + parameters[1]
            residual = special.expit(z) - targets
            value = float(np.mean(np.logaddexp(0, z) - targets * z))
            return value, np.array([np.mean(residual * logit) * slope, residual.mean()])

        limits: Any = {"ftol": 1e-12, "gtol": 1e-8}
        found = optimize.minimize(
            loss_and_gradient, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-4, 4), (-20, 20)], options=limits
        )
        self.kind_ = "platt_each" if self.task == "multilabel" else "platt"
        self.slope_, self.shift_ = float(np.exp(found.x[0])), float(found.x[1])

    def _fit_temperature(self, X: Floats, y: npt.NDArray[Any]) -> None:
        """Fit the factor; the event is "of the given class", its target Platt's for that class."""
        if len(y) < MIN_ROWS:
            return
        given = np.eye(X.shape[1], dtype=bool)[y]
        logits, targets = _log(X), _target(np.bincount(y))[y]

        def loss(log_slope: float) -> float:
            scaled = np.exp(log_slope) * logits
            own = scaled[given]
            other = special.logsumexp(np.where(given, -np.inf, scaled), axis=1)
            return float(np.mean(np.logaddexp(own, other) - targets * own - (1 - targets) * other))

        best = optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded")
        self.kind_, self.slope_ = "temperature", float(np.exp(best.x))

    def predict_proba(self, X: Floats) -> Floats:
        """Return calibrated probabilities [n, classes]; rows of several classes still sum to one."""
        if self.kind_ == "none":
            return X
        if self.kind_ == "temperature":
            return np.asarray(special.softmax(self.slope_ * _log(X), axis=1))
        if self.kind_ == "platt":
            positive = special.expit(self.slope_ * _logit(X[:, 1]) + self.shift_)
            return np.stack([1 - positive, positive], axis=1)
        return np.asarray(special.expit(self.slope_ * _logit(X) + self.shift_))

    def as_json(self) -> dict[str, Any]:
        """Return what was learned as plain data."""
        learned = {"kind": self.kind_, "slope": self.slope_, "shift": self.shift_}
        return {"calibration": learned, "thresholds": self.thresholds_.tolist()}

    @classmethod
    def from_json(cls, task: Task, learned: Mapping[str, Any]) -> Calibrator:
        """Return the fitted estimator of `as_json`."""
        made, own = cls(task), learned["calibration"]
        made.kind_, made.slope_, made.shift_ = own["kind"], own["slope"], own["shift"]
        made.thresholds_ = np.array(learned["thresholds"])
        made.classes_ = np.arange(len(made.thresholds_))
        return made


def _target(count: Any) -> Any:
    """Return Platt's target of an outcome that `count` rows have."""
    return (count + 1) / (count + 2)


def _logit(probabilities: Floats) -> Floats:
    return np.asarray(special.logit(np.clip(probabilities, SMALLEST, 1 - SMALLEST)))


def _log(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.clip(probabilities, SMALLEST, 1.0)))
