"""Out-of-fold probabilities: every row predicted by a model that has not seen it, nor any row of its group."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acoustic_env.config import ClassifierSettings
from acoustic_env.errors import UsageError
from acoustic_env.models.classifier import Examples, fit_ensemble
from acoustic_env.models.evaluate import Floats, Integers
from acoustic_env.models.folds import grouped_folds
from acoustic_env.models.preprocess import MeanImputer

# Of each training part, one of so many inner folds is held out to stop training on.
INNER_FOLDS: Final = 8


def out_of_fold(
    X: npt.NDArray[np.float32],
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    classifier: ClassifierSettings | Any,
    folds: int | Integers = 5,
    seed: int = 23,
    *,
    classes: int | None = None,
    preprocessor: Any = None,
    size: int = 1,
    predicted: npt.NDArray[Any] | None = None,
    checkpoints: str | None = None,
) -> Floats:
    """Return probabilities [n, classes] of each row by the mean of an ensemble trained on the other folds.

    All that is fitted is fitted on the other folds: the preprocessing and each member, which stops on an inner fold of
    them.

    Args:
        X: float32 [n, features]; missing values as NaN.
        y: int64 [n] class index, or bool [n, classes] for multilabel.
        groups: [n], rows that stay in one fold.
        classifier: settings of a kind, or any scikit-learn classifier with `predict_proba`.
        folds: how many grouped and stratified folds, or the fold of each row [n].
        seed: of the folds and the models.
        classes: how many; needed when the last class has no row.
        preprocessor: an unfitted transformer, copied for each training part (default: impute and scale).
        size: members of each ensemble.
        predicted: folds to predict; rows of the others are NaN. None for all.
        checkpoints: where estimators that can keep checkpoints.

    Raises:
        UsageError: fewer groups than folds (or one besides a fold), one class only, or given folds that split a group.
    """
    count = y.shape[1] if y.ndim == 2 else (classes or int(y.max()) + 1)
    if y.ndim == 1 and len(np.unique(y)) < 2:
        msg = "all rows are of one class; out-of-fold predictions need two or more"
        raise UsageError(msg)
    fold = grouped_folds(y, groups, folds, seed) if isinstance(folds, int) else np.asarray(folds)
    _refuse_split_groups(fold, groups)
    if preprocessor is None:
        preprocessor = make_pipeline(MeanImputer(), StandardScaler())
    found = np.full((len(X), count), np.nan)
    for held in np.unique(fold) if predicted is None else predicted:
        rows = fold == held
        fitted = clone(preprocessor).fit(X[~rows])
        seen = Examples(fitted.transform(X[~rows]).astype(np.float32), y[~rows], groups[~rows])
        inner = grouped_folds(seen.y, seen.groups, max(2, min(INNER_FOLDS, len(np.unique(seen.groups)))), seed)
        model = fit_ensemble(classifier, count, seen, inner, (0,), size=size, seed=seed, checkpoints=checkpoints)
        found[rows] = model.predict_proba(fitted.transform(X[rows]).astype(np.float32))
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
