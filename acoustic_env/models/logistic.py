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
        large = train.x.size * (self._classes if self._task != "binary" else 1) > LARGE
        folds = min(FOLDS, len(np.unique(train.groups)))
        fold = grouped_folds(train.y, train.groups, folds, self._seed)
        parts = [(train.take(fold != f), train.take(fold == f)) for f in range(1 if large else folds)]
        losses = np.mean([self._held_out_losses(*part) for part in parts], axis=0)
        self.penalty_ = PENALTIES[int(np.nanargmin(losses))]
        self.weights_ = fit_weights(train.x, self._outcomes(train.y), self._task, self.penalty_)

    def _held_out_losses(self, train: Examples, held: Examples) -> Floats:
        losses, weights = np.full(len(PENALTIES), np.inf), None
        outcomes, held_outcomes = self._outcomes(train.y), self._outcomes(held.y)
        for i, penalty in enumerate(PENALTIES):
            weights = fit_weights(train.x, outcomes, self._task, penalty, weights)
            losses[i] = log_loss(_scores(held.x, weights), held_outcomes, self._task)
            if i - int(np.argmin(losses)) >= PATIENCE:
                break
        return losses

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


def _scores(x: npt.NDArray[np.float32], weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(x @ weights[:-1].astype(x.dtype, copy=False) + weights[-1])


def log_loss(scores: npt.NDArray[Any], outcomes: npt.NDArray[Any], task: Task) -> float:
    """Mean over rows of the log loss of scores [n, outputs], summed over outputs."""
    if task == "multiclass":
        return float(np.mean(special.logsumexp(scores, axis=1) - (scores * outcomes).sum(axis=1)))
    return float(np.mean((np.logaddexp(0, scores) - scores * outcomes).sum(axis=1)))


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
    targets: npt.NDArray[Any] = outcomes.astype(inputs.dtype)

    def loss_and_gradient(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape).astype(inputs.dtype, copy=False)
        scores = inputs @ weights[:-1] + weights[-1]
        loss = log_loss(scores, targets, task)
        expected = special.softmax(scores, axis=1) if task == "multiclass" else special.expit(scores)
        residual = (expected - targets) / n
        gradient = np.vstack([inputs.T @ residual, residual.sum(axis=0)]).astype(np.float64)
        free = flat.reshape(shape)[:-1]
        gradient[:-1] += penalty * free
        return loss + penalty / 2 * float((free**2).sum()), gradient.ravel()

    first = np.zeros(shape) if start is None else start
    # In single precision the last digits of the loss are rounding, and a search for them never ends.
    limits: Any = {"maxiter": 500, "gtol": 1e-6} if inputs.dtype == np.float64 else {"maxiter": 150, "ftol": 1e-6}
    found = optimize.minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=limits)
    return np.asarray(found.x, np.float64).reshape(shape)
