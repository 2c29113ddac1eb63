"""Logistic regression with a ridge penalty chosen by inner folds: the baseline every other model is shown beside."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from acoustic_env.config import ModelSettings, Task
from acoustic_env.models.classifier import Examples, State
from acoustic_env.models.evaluate import Floats
from acoustic_env.models.folds import grouped_folds

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


class LogisticClassifier:
    """Ridge logistic regression: one sigmoid (binary), one softmax (multiclass) or a sigmoid per class (multilabel)."""

    def __init__(self, settings: ModelSettings, task: Task, classes: int) -> None:
        self._task, self._classes = task, classes
        self._seed = settings.seed
        self.penalty_ = float("nan")
        self.weights_: Floats = np.empty((0, 0))

    def fit(self, train: Examples, validation: Examples) -> None:
        """Choose the penalty by log loss over inner grouped folds of `train`; `validation` stays unseen."""
        basis = row_space(train.x) if train.x.shape[1] > WIDE * len(train) else None
        if basis is not None:
            train = Examples((train.x @ basis).astype(np.float32), train.y, train.groups)
        large = train.x.size * (self._classes if self._task != "binary" else 1) > LARGE
        folds = min(FOLDS, len(np.unique(train.groups)))
        fold = grouped_folds(train.y, train.groups, folds, self._seed)
        parts = [(train.take(fold != f), train.take(fold == f)) for f in range(1 if large else folds)]
        paths = [self._path(*part) for part in parts]
        best = int(np.argmin(np.mean([losses for losses, _ in paths], axis=0)))
        self.penalty_ = PENALTIES[best]
        found = fit_weights(train.x, self._outcomes(train.y), self._task, self.penalty_, paths[0][1][best])
        self.weights_ = found if basis is None else np.vstack([basis @ found[:-1], found[-1:]])

    def _path(self, train: Examples, held: Examples) -> tuple[Floats, list[Floats]]:
        """Held-out loss of every penalty, infinite where the path ended before, and the weights as far as it went."""
        losses, weights = np.full(len(PENALTIES), np.inf), list[Floats]()
        outcomes, held_outcomes = self._outcomes(train.y), self._outcomes(held.y)
        for i, penalty in enumerate(PENALTIES):
            weights.append(fit_weights(train.x, outcomes, self._task, penalty, weights[-1] if weights else None))
            losses[i] = log_loss(_scores(held.x, weights[-1]), held_outcomes, self._task)
            if i - int(np.argmin(losses)) >= PATIENCE:
                break
        return losses, weights

    def _outcomes(self, y: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self._task == "multiclass":
            return np.asarray(np.eye(self._classes, dtype=np.float32)[y])
        return np.asarray(y if y.ndim == 2 else y[:, None], np.float32)

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Probabilities [n, classes]."""
        scores = _scores(x, self.weights_).astype(np.float64)
        if self._task == "multiclass":
            return np.asarray(special.softmax(scores, axis=1))
        positive = special.expit(scores)
        return np.hstack([1 - positive, positive]) if self._task == "binary" else np.asarray(positive)

    def state(self) -> State:
        """Weights [features + 1, outputs], the last row the intercept."""
        facts = {"kind": "logistic", "task": self._task, "classes": self._classes, "penalty": self.penalty_}
        return State({"weights": self.weights_}, facts)

    @classmethod
    def restore(cls, state: State) -> LogisticClassifier:
        """The classifier whose state this is."""
        facts: Any = state.facts
        made = cls(ModelSettings(kind="logistic"), facts["task"], facts["classes"])
        made.penalty_, made.weights_ = facts["penalty"], np.asarray(state.arrays["weights"])
        return made


def row_space(x: npt.NDArray[np.float32]) -> Floats:
    """Orthonormal basis [features, rows] of the rows' span; ridge weights have no part outside it."""
    return np.asarray(np.linalg.qr(x.T.astype(np.float64))[0])


def _scores(x: npt.NDArray[np.float32], weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(x @ weights[:-1].astype(x.dtype, copy=False) + weights[-1])


def log_loss(scores: npt.NDArray[Any], outcomes: npt.NDArray[Any], task: Task) -> float:
    """Mean over rows of the log loss of scores [n, outputs], summed over outputs."""
    return _loss_and_residual(scores, outcomes, task)[0] / len(scores)


def _loss_and_residual(
    scores: npt.NDArray[Any], outcomes: npt.NDArray[Any], task: Task
) -> tuple[float, npt.NDArray[Any]]:
    """Log loss, summed over all of [n, outputs], and expected minus true outcomes [n, outputs]."""
    if task == "multiclass":
        shifted = scores - scores.max(axis=1, keepdims=True)
        shares = np.exp(shifted)
        total = shares.sum(axis=1, keepdims=True)
        return float(np.log(total).sum() - (shifted * outcomes).sum()), shares / total - outcomes
    # By exp and log alone, which numpy computes several at a time; 1 + small loses what the sum would lose anyway.
    small = np.exp(-np.abs(scores))
    loss = (np.maximum(scores, 0) + np.log(1 + small) - scores * outcomes).sum()
    return float(loss), np.where(scores >= 0, 1, small) / (1 + small) - outcomes


def fit_weights(
    x: npt.NDArray[np.float32],
    outcomes: npt.NDArray[np.float32],
    task: Task,
    penalty: float,
    start: Floats | None = None,
) -> Floats:
    """Weights [features + 1, outputs] with the least mean log loss + penalty / 2 x squared weights; intercept free.

    Args:
        x: [n, features].
        outcomes: 0 or 1 [n, outputs].
        task: softmax over the outputs for multiclass, else a sigmoid each.
        penalty: per row; scikit-learn's 1 / (C n).
        start: weights to start from.
    """
    n, features = x.shape
    shape = (features + 1, outcomes.shape[1])
    inputs: npt.NDArray[Any] = x.astype(np.float64) if x.size * shape[1] <= DOUBLE else x
    targets: npt.NDArray[Any] = outcomes.astype(inputs.dtype, copy=False)
    chunk = max(1, CACHED // shape[1])

    def loss_and_gradient(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape).astype(inputs.dtype, copy=False)
        loss, gradient = 0.0, np.zeros(shape)
        for start in range(0, n, chunk):
            rows = inputs[start : start + chunk]
            own, residual = _loss_and_residual(_scores(rows, weights), targets[start : start + chunk], task)
            loss += own / n
            gradient[:-1] += rows.T @ residual
            gradient[-1] += residual.sum(axis=0)
        free = flat.reshape(shape)[:-1]
        gradient /= n
        gradient[:-1] += penalty * free
        return loss + penalty / 2 * float((free**2).sum()), gradient.ravel()

    first = np.zeros(shape) if start is None else start
    # In single precision the last digits of the loss are rounding, and a search for them never ends.
    limits: Any = {"maxiter": 500, "gtol": 1e-6} if inputs.dtype == np.float64 else {"maxiter": 150, "ftol": 1e-6}
    found = optimize.minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=limits)
    return np.asarray(found.x, np.float64).reshape(shape)
