"""Logistic regression, ridge or elastic net, its penalty chosen by inner folds: the baseline of every other model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import optimize
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.config import ClassifierSettings, Task
from acoustic_env.models.data.arrays import dump_arrays, load_arrays
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.folds import grouped_folds
from acoustic_env.models.estimators.contract import TaskClassifier, in_double, probabilities
from acoustic_env.stats.intervals import Floats

# Per row: the penalty scikit-learn calls 1 / (C n). From strong to weak, each fit starting from the one before.
PENALTIES: Final = tuple(10.0 ** (exponent / 2) for exponent in range(2, -11, -1))
FOLDS: Final = 5
# Above this many products a row pass, one held-out fold chooses the penalty.
LARGE: Final = 10**9
# Up to here double precision costs nothing worth saving.
DOUBLE: Final = 2 * 10**7
# Scores worked on at once: what a processor's cache holds.
CACHED: Final = 2**19
# Above so many features a row, the search goes on in the space of the rows, where the best weights lie.
WIDE: Final = 2
# The path ends after this many penalties without a better held-out loss.
PATIENCE: Final = 2


class LogisticClassifier(TaskClassifier):
    """Penalized logistic regression: a sigmoid (binary), a softmax (multiclass) or a sigmoid per class (multilabel).

    Args:
        penalty: per row, scikit-learn's 1 / (C n); None chooses it by log loss over inner grouped folds.
        l1_ratio: share of the penalty that is absolute weights, as in scikit-learn: 0 for ridge, 1 for lasso.
        random_state: seed of the inner folds.

    Attributes:
        penalty_: the penalty used.
        coef_, intercept_: [outputs, features] and [outputs].

    >>> random = np.random.default_rng(23)
    >>> y = np.repeat([0, 1], 50)
    >>> X = random.normal(size=(100, 3)) + 2 * y[:, None] * [1, 0, 0]
    >>> fitted = LogisticClassifier(penalty=0.01).fit(X, y)
    >>> fitted.coef_.shape, int(np.abs(fitted.coef_[0]).argmax()), fitted.predict_proba(X).shape
    ((1, 3), 0, (100, 2))
    """

    file_suffix: ClassVar = "safetensors"

    def __init__(self, penalty: float | None = None, l1_ratio: float = 0.0, random_state: Any = None) -> None:
        self.penalty = penalty
        self.l1_ratio = l1_ratio
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None) -> LogisticClassifier:
        """Fit weights, and the penalty unless it is given.

        Args:
            X: [n, features].
            y: [n] classes, or bool [n, classes] for multilabel.
            sample_weight: [n].
            groups: [n], rows that inner folds do not split.
        """
        rows, _ = self.check_rows(X, y, sample_weight, groups=groups)
        outputs = 1 if self.task_ == "binary" else len(self.classes_)
        wide = rows.x.shape[1] > WIDE * len(rows) and not self.l1_ratio
        basis = row_space(rows.x) if wide else None
        train = rows if basis is None else replace(rows, x=(rows.x @ basis).astype(np.float32))
        penalty, start = self.penalty, None
        if penalty is None:
            folds = min(FOLDS, len(np.unique(train.groups)))
            penalty = PENALTIES[len(PENALTIES) // 2]
            if folds > 1:
                fold = grouped_folds(train.y, train.groups, folds, self.seed())
                tried = 1 if train.x.size * outputs > LARGE else folds
                paths = [self._path(train.take(fold != f), train.take(fold == f)) for f in range(tried)]
                best = int(np.argmin(np.mean([losses for losses, _ in paths], axis=0)))
                penalty, start = PENALTIES[best], paths[0][1][best]
        found = fit_weights(
            train.x, self._outcomes(train.y), self.task_, penalty, start, train.weights, l1_ratio=self.l1_ratio
        )
        self.penalty_ = penalty
        self.coef_ = (found[:-1] if basis is None else basis @ found[:-1]).T
        self.intercept_ = found[-1]
        return self

    def _path(self, train: Examples, held: Examples) -> tuple[Floats, list[Floats]]:
        """Return each penalty's held-out loss, infinite where the path ended before, and the weights up to there."""
        losses, weights = np.full(len(PENALTIES), np.inf), list[Floats]()
        outcomes, held_outcomes = self._outcomes(train.y), self._outcomes(held.y)
        for i, penalty in enumerate(PENALTIES):
            start = weights[-1] if weights else None
            weights.append(
                fit_weights(train.x, outcomes, self.task_, penalty, start, train.weights, l1_ratio=self.l1_ratio)
            )
            scores = _scores(held.x, weights[-1])
            losses[i] = _loss_and_residual(scores, held_outcomes, self.task_, _mean_one(held.weights))[0] / len(held)
            if i - int(np.argmin(losses)) >= PATIENCE:
                break
        return losses, weights

    def _outcomes(self, y: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self.task_ == "multiclass":
            return np.asarray(np.eye(len(self.classes_), dtype=np.float32)[y])
        return np.asarray(y if y.ndim == 2 else y[:, None], np.float32)

    def decision_function(self, X: Any) -> npt.NDArray[Any]:
        """Return log odds [n, outputs], [n] for binary."""
        check_is_fitted(self, "coef_")
        x: npt.NDArray[np.float32] = validate_data(self, X, dtype=np.float32, reset=False)
        scores = in_double(lambda rows: np.asarray(rows @ self.coef_.T + self.intercept_), x)
        return np.asarray(scores[:, 0] if self.task_ == "binary" else scores)

    def predict_proba(self, X: Any) -> Floats:
        """Return probabilities [n, classes]."""
        scores = self.decision_function(X)
        return probabilities(scores[:, None] if scores.ndim == 1 else scores, self.task_)

    def dump_fitted(self) -> bytes:
        """Return what `fit` learned as safetensors."""
        arrays = {"coef": self.coef_, "intercept": self.intercept_, "classes": np.asarray(self.classes_)}
        return dump_arrays(arrays, {"task": self.task_, "penalty": self.penalty_})

    def load_fitted(self, data: bytes) -> LogisticClassifier:
        """Take over what `dump_fitted` returned."""
        arrays, described = load_arrays(data)
        self.coef_, self.intercept_, self.classes_ = arrays["coef"], arrays["intercept"], arrays["classes"]
        self.task_, self.penalty_ = described["task"], described["penalty"]
        self.n_features_in_ = self.coef_.shape[1]
        return self


class LogisticSettings(ClassifierSettings):
    """Logistic regression, ridge or elastic net: the baseline every other classifier is compared with."""

    kind: Literal["logistic"] = "logistic"

    penalty: float | None = Field(None, gt=0)
    """Penalty per row, scikit-learn's 1 / (C n); None chooses it by inner grouped folds."""

    l1_ratio: float = Field(0.0, ge=0, le=1)
    """Share of the penalty that is absolute weights: 0 for ridge, 1 for lasso, between them elastic net."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `LogisticClassifier`."""
        return LogisticClassifier(self.penalty, self.l1_ratio, random_state)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest the penalty and its share of absolute weights."""
        trial.suggest_float("penalty", PENALTIES[-1], PENALTIES[0], log=True)
        trial.suggest_float("l1_ratio", 0.0, 1.0)


def row_space(x: npt.NDArray[np.float32]) -> Floats:
    """Return an orthonormal basis [features, rows] of the rows' span; ridge weights have no part outside it.

    >>> x = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], np.float32)
    >>> basis = row_space(x)
    >>> basis.shape, (basis @ basis.T @ x[0]).round(6).tolist()
    ((3, 2), [1.0, 1.0, 0.0])
    """
    return np.asarray(np.linalg.qr(x.T.astype(np.float64))[0])


def _scores(x: npt.NDArray[np.float32], weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(x @ weights[:-1].astype(x.dtype, copy=False) + weights[-1])


def _loss_and_residual(
    scores: npt.NDArray[Any], outcomes: npt.NDArray[Any], task: Task, weights: Floats | None = None
) -> tuple[float, npt.NDArray[Any]]:
    """Compute the weighted log loss, summed over all of [n, outputs], and its derivative [n, outputs]."""
    own: Any = 1 if weights is None else weights[:, None].astype(scores.dtype)
    if task == "multiclass":
        shifted = scores - scores.max(axis=1, keepdims=True)
        shares = np.exp(shifted)
        total = shares.sum(axis=1, keepdims=True)
        loss = own * (np.log(total) - (shifted * outcomes).sum(axis=1, keepdims=True))
        return float(loss.sum()), own * (shares / total - outcomes)
    # By exp and log alone, which numpy computes several at a time; 1 + small loses what the sum would lose anyway.
    small = np.exp(-np.abs(scores))
    loss = own * (np.maximum(scores, 0) + np.log(1 + small) - scores * outcomes)
    return float(loss.sum()), own * (np.where(scores >= 0, 1, small) / (1 + small) - outcomes)


def fit_weights(
    x: npt.NDArray[np.float32],
    outcomes: npt.NDArray[np.float32],
    task: Task,
    penalty: float,
    start: Floats | None = None,
    sample_weight: npt.NDArray[Any] | None = None,
    *,
    l1_ratio: float = 0.0,
) -> Floats:
    """Find weights [features + 1, outputs] of least mean log loss + penalty x size of the weights; intercept free.

    The intercepts are the last row.
    The size is (1 - l1_ratio) / 2 x squared + l1_ratio x absolute weights. With absolute ones, a weight is searched for
    as the difference of two that are at least 0, which makes the loss smooth and unused weights exactly 0.

    Args:
        x: [n, features].
        outcomes: 0 or 1 [n, outputs].
        task: softmax over the outputs for multiclass, else a sigmoid each.
        penalty: per row; scikit-learn's 1 / (C n).
        start: weights to start from.
        sample_weight: [n], scaled to a mean of 1.
        l1_ratio: share of absolute weights in the penalty.

    >>> x, outcomes = np.array([[-1], [1], [-1], [1]], np.float32), np.array([[0], [1], [0], [1]], np.float32)
    >>> abs(fit_weights(x, outcomes, "binary", penalty=0.1)).round(2).tolist()
    [[1.63], [0.0]]
    >>> abs(fit_weights(x, outcomes, "binary", penalty=10.0, l1_ratio=1.0)).round(2).tolist()
    [[0.0], [0.0]]
    """
    n, features = x.shape
    row_weights = _mean_one(sample_weight)
    shape = (features + 1, outcomes.shape[1])
    inputs: npt.NDArray[Any] = x.astype(np.float64) if x.size * shape[1] <= DOUBLE else x
    targets: npt.NDArray[Any] = outcomes.astype(inputs.dtype, copy=False)
    chunk = max(1, CACHED // shape[1])

    def loss_and_gradient(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape).astype(inputs.dtype, copy=False)
        loss, gradient = 0.0, np.zeros(shape)
        for start in range(0, n, chunk):
            rows = inputs[start : start + chunk]
            of_rows = None if row_weights is None else row_weights[start : start + chunk]
            own, residual = _loss_and_residual(_scores(rows, weights), targets[start : start + chunk], task, of_rows)
            loss += own / n
            gradient[:-1] += rows.T @ residual
            gradient[-1] += residual.sum(axis=0)
        free = flat.reshape(shape)[:-1]
        gradient /= n
        gradient[:-1] += penalty * (1 - l1_ratio) * free
        return loss + penalty * (1 - l1_ratio) / 2 * float((free**2).sum()), gradient.ravel()

    first = np.zeros(shape) if start is None else start
    # In single precision the last digits of the loss are rounding, and a search for them never ends.
    limits: Any = {"maxiter": 500, "gtol": 1e-6} if inputs.dtype == np.float64 else {"maxiter": 150, "ftol": 1e-6}
    if not l1_ratio:
        found = optimize.minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=limits)
        return np.asarray(found.x, np.float64).reshape(shape)
    split, absolute = features * shape[1], penalty * l1_ratio

    def of_halves(halves: Floats) -> tuple[float, Floats]:
        above, below, intercept = np.split(halves, [split, 2 * split])
        loss, gradient = loss_and_gradient(np.r_[above - below, intercept])
        return loss + absolute * float((above + below).sum()), np.r_[
            gradient[:split] + absolute, absolute - gradient[:split], gradient[split:]
        ]

    flat = first.ravel()
    halves = np.r_[np.maximum(flat[:split], 0), np.maximum(-flat[:split], 0), flat[split:]]
    bounds = [(0, None)] * (2 * split) + [(None, None)] * shape[1]
    found = optimize.minimize(of_halves, halves, jac=True, method="L-BFGS-B", bounds=bounds, options=limits)
    above, below, intercept = np.split(np.asarray(found.x, np.float64), [split, 2 * split])
    return np.asarray(np.r_[above - below, intercept].reshape(shape))


def _mean_one(weights: npt.NDArray[Any] | None) -> Floats | None:
    return None if weights is None else np.asarray(weights / weights.mean(), np.float64)
