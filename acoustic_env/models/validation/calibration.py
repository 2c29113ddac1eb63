"""Calibration of probabilities class by class, with the thresholds on them, fitted on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import optimize, special
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from acoustic_env.config import Task
from acoustic_env.models.data.folds import grouped_folds
from acoustic_env.models.validation.thresholds import choose_thresholds
from acoustic_env.stats.intervals import Bools, Floats

SMALLEST: Final = 1e-7
# Below this many rows of the rarer kind in every class a fitted calibration adds more noise than it removes.
MIN_ROWS: Final = 10
PARTS: Final = 5  # left out in turn to choose the strength
# Standard errors: of simulated models of 120 to 192 clips that are right already, 0.10 to 0.19 get a calibration, which
# costs 0.003 of log loss; of those that are unsure by a factor of 1.6, 0.85 (0.70 with 1).
GAIN: Final = 0.5
LEAST_SLOPE: Final = 0.02  # ranks stay as they are
NEWTON_STEPS: Final = 25
HALVINGS: Final = 8
TOLERANCE: Final = 1e-6  # of a label's log loss, summed over rows


@dataclass(frozen=True)
class Strength:
    """How far a calibration may go: standard deviations of its normal priors, around 1 and 0.

    Attributes:
        slope, shift: of the map that all classes share (of a multiclass study, each class's shift).
        own: what a label's own slope and shift may differ from those that all labels share, as a share of these; 0 for
            none.
    """

    slope: float
    shift: float
    own: float = 0.0


# From none to free; the shift of a class that a recipe made ten times commoner is 2.3.
STRENGTHS: Final = (Strength(0.3, 0.5), Strength(1.0, 3.0))
LABEL_STRENGTHS: Final = (Strength(1.0, 3.0), Strength(1.0, 3.0, 0.2), Strength(1.0, 3.0, 1.0))
# Of one model around those of its recipe.
ADAPTING: Final = Strength(0.1, 0.5)
Map = tuple[Floats, Floats]  # slope and shift, of each class or [1] for all
Fit = Callable[[Floats, Bools], Map]  # of scores and outcomes


class Calibrator(ClassifierMixin, BaseEstimator):
    """Calibrated probabilities, class by class, and thresholds, fitted on rows that the model was not trained on.

    - binary: Platt scaling, a slope and a shift of the positive class's logit.
    - multiclass: bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar, ICML 2020), one slope of the
      log probabilities and a shift for each class. One temperature alone cannot undo what balancing classes does.
    - multilabel: Platt scaling of each label, shrunken toward the one of all labels, since rare labels have few rows.

    Slopes and shifts are those of largest posterior under normal priors around no change. How wide these are, or
    whether nothing is changed, is what gives the least log loss on rows that were left out, group by group; a
    calibration must gain more than half the standard error of its gain. The targets are (N+ + 1) / (N+ + 2) and
    1 / (N- + 2) instead of 1 and 0 (Platt 1999; Lin, Lin and Weng, Machine Learning 68, 2007): what N rows of one
    outcome can prove of the next.

    Which class is called does not change: a multiclass study that balances its classes calls them as balanced
    (`thresholds_`).

    Args:
        task: of the study.
        seed: of the folds on which the strength is chosen.

    Attributes:
        kind_: none, platt (binary), bias_corrected_temperature (multiclass) or platt_by_label (multilabel).
        slope_, shift_: of the logit (binary [1], multilabel [classes]), or of the log probabilities (multiclass: slope
            [1], shift [classes] of mean 0).
        thresholds_: [classes] on calibrated probabilities (`choose_thresholds`); of a multiclass study the class is
            called whose probability is the largest multiple of its threshold.

    >>> random = np.random.default_rng(23)
    >>> p = random.random(2_000)
    >>> y = (random.random(2_000) < p**2).astype(int)
    >>> calibrator = Calibrator("binary").fit(np.stack([1 - p, p], axis=1), y)
    >>> calibrator.kind_, calibrator.predict_proba(np.array([[0.5, 0.5]])).round(1).tolist()
    ('platt', [[0.8, 0.2]])
    """

    kind_: str
    slope_: Floats
    shift_: Floats
    thresholds_: Floats

    def __init__(self, task: Task = "binary", seed: int = 23) -> None:
        self.task = task
        self.seed = seed

    def fit(self, X: Floats, y: npt.NDArray[Any], groups: npt.NDArray[Any] | None = None) -> Calibrator:
        """Choose the strength, and fit slopes, shifts and thresholds.

        Args:
            X: probabilities [n, classes].
            y: int64 [n] class index, or bool [n, classes] for multilabel.
            groups: [n], rows that are left out together; None for independent rows.
        """
        z, truth = self._scores(X), _outcomes(self.task, y, X.shape[1])
        self.classes_ = np.arange(X.shape[1])
        self.kind_, self.slope_, self.shift_ = "none", np.ones(1), np.zeros(1)
        strengths = LABEL_STRENGTHS if self.task == "multilabel" else STRENGTHS
        fits = [partial(FITS[self.task], strength=strength) for strength in strengths]
        fit = self._gaining(z, truth, y, groups, fits)
        if fit is not None:
            self.kind_ = KINDS[self.task]
            self.slope_, self.shift_ = fit(z, truth)
        self.thresholds_ = choose_thresholds(self.task, y, self.predict_proba(X))
        if self.task == "multiclass":
            self.thresholds_ = special.softmax(np.broadcast_to(self.shift_, X.shape[1]))
        return self

    def adapted(self, X: Floats, y: npt.NDArray[Any], groups: npt.NDArray[Any] | None = None) -> Calibrator:
        """Return a calibration of one model of many that this one was fitted on, from rows the model did not learn.

        Models of one recipe differ in how common they take a class to be: slopes and shifts are those of largest
        posterior under normal priors around the ones here, which stay where that gains nothing on left-out rows, as in
        `fit`. Thresholds stay, but for those of a multiclass study.

        Args:
            X: the model's probabilities [n, classes].
            y: int64 [n] class index, or bool [n, classes] for multilabel.
            groups: [n], rows that are left out together; None for independent rows.
        """
        z, truth = self._scores(X), _outcomes(self.task, y, X.shape[1])
        fit = self._gaining(z, truth, y, groups, [self._fit_around_own])
        if fit is None:
            return self
        made: Calibrator = clone(self)
        made.kind_, made.classes_, made.thresholds_ = KINDS[self.task], self.classes_, self.thresholds_
        made.slope_, made.shift_ = fit(z, truth)
        if self.task == "multiclass":
            made.thresholds_ = special.softmax(made.shift_)
        return made

    def _fit_around_own(self, z: Floats, truth: Bools) -> Map:
        shift = np.broadcast_to(self.shift_, z.shape[1])
        if self.task == "multiclass":
            return _fit_classes(z, truth, ADAPTING, (self.slope_, shift))
        center = (np.broadcast_to(self.slope_, z.shape[1]), shift)
        return _newton(z, _targets(truth), center, ADAPTING.slope, ADAPTING.shift)

    def _gaining(
        self, z: Floats, truth: Bools, y: npt.NDArray[Any], groups: npt.NDArray[Any] | None, fits: Sequence[Fit]
    ) -> Fit | None:
        """Return the fit of least log loss on left-out rows; None where none gains over the present slope and shift."""
        rarer = np.minimum(truth.sum(axis=0), (~truth).sum(axis=0)).max(initial=0)
        codes = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        parts = min(PARTS, int(codes.max(initial=-1)) + 1)
        if rarer < MIN_ROWS or parts < 2:
            return None
        fold = grouped_folds(y, codes, parts, self.seed)
        before = self._losses(z, truth, (self.slope_, self.shift_))
        gains = np.zeros((len(fits), len(z)))
        for held in range(parts):
            rows = fold == held
            for own, fit in zip(gains, fits, strict=True):
                own[rows] = before[rows] - self._losses(z[rows], truth[rows], fit(z[~rows], truth[~rows]))
        best = int(gains.mean(axis=1).argmax())
        by_group = np.bincount(codes, weights=gains[best])
        error = np.sqrt(len(by_group) * by_group.var(ddof=1))
        return fits[best] if by_group.sum() > GAIN * error else None

    def _losses(self, z: Floats, truth: Bools, found: Map) -> Floats:
        """Return the log loss of each row [n]."""
        slope, shift = found
        scaled = slope * z + shift
        if self.task == "multiclass":
            return np.asarray(special.logsumexp(scaled, axis=1) - scaled[truth])
        return np.asarray((np.logaddexp(0, scaled) - truth * scaled).sum(axis=1))

    def _scores(self, X: Floats) -> Floats:
        """Return what is scaled: log probabilities [n, classes], or logits [n, 1] or [n, labels]."""
        if self.task == "multiclass":
            return np.asarray(np.log(np.clip(X, SMALLEST, 1.0)))
        return np.asarray(special.logit(np.clip(X[:, 1:] if self.task == "binary" else X, SMALLEST, 1 - SMALLEST)))

    def predict_proba(self, X: Floats) -> Floats:
        """Return calibrated probabilities [n, classes]; rows of several classes still sum to one."""
        if self.kind_ == "none":
            return X
        scaled = self.slope_ * self._scores(X) + self.shift_
        if self.task == "multiclass":
            return np.asarray(special.softmax(scaled, axis=1))
        positive = special.expit(scaled)
        return np.hstack([1 - positive, positive]) if self.task == "binary" else np.asarray(positive)

    def as_json(self) -> dict[str, Any]:
        """Return what was learned as plain data."""
        learned = {"kind": self.kind_, "slope": self.slope_.tolist(), "shift": self.shift_.tolist()}
        return {"calibration": learned, "thresholds": self.thresholds_.tolist()}

    @classmethod
    def from_json(cls, task: Task, learned: Mapping[str, Any]) -> Calibrator:
        """Return the fitted estimator of `as_json`."""
        made, own = cls(task), learned["calibration"]
        made.kind_, made.slope_, made.shift_ = own["kind"], np.array(own["slope"]), np.array(own["shift"])
        made.thresholds_ = np.array(learned["thresholds"])
        made.classes_ = np.arange(len(made.thresholds_))
        return made


def _outcomes(task: Task, y: npt.NDArray[Any], classes: int) -> Bools:
    """Return outcomes beside the scores that are scaled: bool [n, classes], [n, 1] or [n, labels]."""
    if task == "multiclass":
        return np.asarray(np.eye(classes, dtype=bool)[y])
    return np.asarray(y if y.ndim == 2 else y[:, None] == 1)


def _targets(truth: Bools) -> Floats:
    """Return Platt's targets of outcomes bool [n, labels], by label."""
    positives = truth.sum(axis=0)
    negatives = len(truth) - positives
    return np.asarray(np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2)))


def _fit_labels(z: Floats, truth: Bools, strength: Strength) -> Map:
    """Fit a slope and a shift of all labels together, then each label's own around them."""
    targets = _targets(truth)
    slope, shift = _newton(
        z.reshape(-1, 1), targets.reshape(-1, 1), (np.ones(1), np.zeros(1)), strength.slope, strength.shift
    )
    if not strength.own:
        return slope, shift
    center = (np.repeat(slope, z.shape[1]), np.repeat(shift, z.shape[1]))
    return _newton(z, targets, center, strength.own * strength.slope, strength.own * strength.shift)


def _newton(z: Floats, targets: Floats, center: Map, slope_sd: float, shift_sd: float) -> Map:
    """Return slope and shift of each column of logits, by Newton's method under normal priors around `center`.

    Args:
        z, targets: [n, columns].
        center: slope and shift that the priors lie around [columns].
        slope_sd, shift_sd: of the priors.
    """
    slope, shift = (own.copy() for own in center)

    def loss(slope: Floats, shift: Floats) -> Floats:
        scaled = slope * z + shift
        prior = ((slope - center[0]) / slope_sd) ** 2 + ((shift - center[1]) / shift_sd) ** 2
        return np.asarray((np.logaddexp(0, scaled) - targets * scaled).sum(axis=0) + prior / 2)

    now = loss(slope, shift)
    for _ in range(NEWTON_STEPS):
        p = special.expit(slope * z + shift)
        residual, weight = p - targets, p * (1 - p)
        g0 = (residual * z).sum(axis=0) + (slope - center[0]) / slope_sd**2
        g1 = residual.sum(axis=0) + (shift - center[1]) / shift_sd**2
        h00 = (weight * z * z).sum(axis=0) + 1 / slope_sd**2
        h01, h11 = (weight * z).sum(axis=0), weight.sum(axis=0) + 1 / shift_sd**2
        determinant = h00 * h11 - h01**2
        step_slope, step_shift = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        size = np.ones(len(slope))
        for _ in range(HALVINGS):
            new_slope, new_shift = np.maximum(slope - size * step_slope, LEAST_SLOPE), shift - size * step_shift
            after = loss(new_slope, new_shift)
            worse = after > now + 1e-9
            if not worse.any():
                break
            size[worse] /= 2
        better = after <= now
        slope, shift = np.where(better, new_slope, slope), np.where(better, new_shift, shift)
        if np.max(now - np.where(better, after, now), initial=0.0) < TOLERANCE:
            break
        now = np.where(better, after, now)
    return slope, shift


def _fit_classes(z: Floats, truth: Bools, strength: Strength, center: Map | None = None) -> Map:
    """Fit one slope and each class's shift; the event is "of the given class", its target Platt's for that class."""
    start = np.r_[1.0, np.zeros(z.shape[1])] if center is None else np.concatenate(center)
    counts = truth.sum(axis=0)
    targets = ((counts + 1) / (counts + 2))[truth.argmax(axis=1)]

    def loss_and_gradient(parameters: Floats) -> tuple[float, Floats]:
        slope, shift = parameters[0], parameters[1:]
        scaled = slope * z + shift
        own = scaled[truth]
        other = special.logsumexp(np.where(truth, -np.inf, scaled), axis=1)
        away = (parameters - start) / deviations
        loss = float((np.logaddexp(own, other) - targets * own - (1 - targets) * other).sum() + away @ away / 2)
        residual = special.expit(own - other) - targets
        among_others = np.exp(np.where(truth, -np.inf, scaled) - other[:, None])
        of_scores = residual[:, None] * (truth - among_others)
        return loss, np.r_[(of_scores * z).sum(), of_scores.sum(axis=0)] + away / deviations

    deviations = np.r_[strength.slope, np.full(z.shape[1], strength.shift)]
    bounds = [(LEAST_SLOPE, None)] + [(None, None)] * z.shape[1]
    found = optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:1], found[1:] - found[1:].mean()


KINDS: Final = {"binary": "platt", "multiclass": "bias_corrected_temperature", "multilabel": "platt_by_label"}
FITS: Final = {"binary": _fit_labels, "multiclass": _fit_classes, "multilabel": _fit_labels}
