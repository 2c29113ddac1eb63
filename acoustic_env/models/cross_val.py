"""Out-of-fold probabilities: every row judged by a model that has not seen it, nor any row of its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from acoustic_env.config import ModelKind, ModelSettings, Task
from acoustic_env.errors import UsageError
from acoustic_env.models.classifier import Examples, fit_ensemble
from acoustic_env.models.evaluate import Floats, Integers
from acoustic_env.models.folds import grouped_folds

# Of each training part, one of so many inner folds is held out to stop training on.
INNER_FOLDS: Final = 8


class Reduction(Protocol):
    """What is fitted on training rows and applied to others (`reduce.Reducer`, `reduce.Scaler`)."""

    def fit(self, values: npt.NDArray[np.float32]) -> Any:
        """Learn from training rows [n, features]."""

    def transform(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Reduced features [n, reduced]."""


class Scaler:
    """Missing values to the mean, then mean 0 and standard deviation 1; constant and empty columns become 0."""

    def fit(self, values: npt.NDArray[np.float32]) -> Scaler:
        """Learn mean and standard deviation of each column of [n, features], ignoring what is missing."""
        finite = np.isfinite(values)
        count = np.maximum(finite.sum(axis=0), 1)
        known = np.where(finite, values, 0)
        self.mean_ = (known.sum(axis=0, dtype=np.float64) / count).astype(np.float32)
        centerd = np.where(finite, values - self.mean_, 0)
        deviation = np.sqrt(np.einsum("ij,ij->j", centerd, centerd, dtype=np.float64) / count)
        self.scale_ = np.where(deviation > 1e-6 * np.maximum(np.abs(self.mean_), 1e-30), deviation, np.inf)
        return self

    def transform(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scaled columns, float32, the same shape."""
        scaled = (values - self.mean_) / self.scale_.astype(np.float32)
        return np.asarray(np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0))


def out_of_fold(
    X: npt.NDArray[np.float32],
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    kind: ModelKind,
    settings: ModelSettings,
    folds: int | Integers = 5,
    seed: int = 23,
    *,
    classes: int | None = None,
    reduction: Callable[[], Reduction] = Scaler,
    judged: npt.NDArray[Any] | None = None,
    trainer: Callable[..., Any] | None = None,
) -> Floats:
    """Probabilities [n, classes] of each row by the mean of an ensemble trained on the other folds.

    All that is fitted is fitted on the other folds: the reduction and each of the `settings.ensemble` members, which
    stop on an inner fold of them.

    Args:
        X: float32 [n, features]; missing values as NaN.
        y: int64 [n] class index, or bool [n, classes] for multilabel.
        groups: [n], rows that stay in one fold.
        kind: of the model; overrides the one in `settings`.
        settings: of the model.
        folds: how many grouped and stratified folds, or the fold of each row [n].
        seed: of the folds and the models.
        classes: how many; needed when the last class has no row. Two classes are binary.
        reduction: makes what is fitted on each training part and applied to all (default: impute and scale).
        judged: folds to judge; rows of the others are NaN. None for all.
        trainer: where an MLP trains; None for this process.

    Raises:
        UsageError: fewer groups than folds (or one besides a fold), one class only, or given folds that split a group.
    """
    count = y.shape[1] if y.ndim == 2 else (classes or int(y.max()) + 1)
    task: Task = "multilabel" if y.ndim == 2 else "binary" if count == 2 else "multiclass"
    if y.ndim == 1 and len(np.unique(y)) < 2:
        msg = "all rows are of one class; out-of-fold predictions need two or more"
        raise UsageError(msg)
    fold = grouped_folds(y, groups, folds, seed) if isinstance(folds, int) else np.asarray(folds)
    _refuse_split_groups(fold, groups)
    chosen = settings.replace(kind=kind, seed=seed)
    found = np.full((len(X), count), np.nan)
    for held in np.unique(fold) if judged is None else judged:
        rows = fold == held
        fitted = reduction()
        fitted.fit(X[~rows])
        seen = Examples(fitted.transform(X[~rows]), y[~rows], groups[~rows])
        inner = grouped_folds(seen.y, seen.groups, max(2, min(INNER_FOLDS, len(np.unique(seen.groups)))), seed)
        model = fit_ensemble(chosen, task, count, seen, inner, (0,), trainer)
        found[rows] = model.predict_proba(fitted.transform(X[rows]))
    return found


def _refuse_split_groups(fold: npt.NDArray[Any], groups: npt.NDArray[Any]) -> None:
    _, codes = np.unique(groups, return_inverse=True)
    low, high = np.full(codes.max() + 1, np.iinfo(np.int64).max), np.full(codes.max() + 1, np.iinfo(np.int64).min)
    np.minimum.at(low, codes, fold)
    np.maximum.at(high, codes, fold)
    if (low != high).any():
        split = groups[np.flatnonzero((low != high)[codes])[0]]
        msg = f"group {split} lies in more than one fold; give all its clips the same fold"
        raise UsageError(msg)
