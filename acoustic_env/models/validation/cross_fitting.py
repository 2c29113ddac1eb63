"""Out-of-fold probabilities, calibration and thresholds: every row by what was fitted without it and its group.

A bundle ships the mean of an ensemble, and the rows that trained it cannot tell what its probabilities are worth. So
the whole procedure (preprocessing, every member, stopping, averaging) is repeated without each part of the rows in turn
(`out_of_fold`), and the bundle's calibration and thresholds are fitted on what these ensembles predict for the parts
they have not seen. Metrics come from calibrations and thresholds that are fitted without the rows they are then applied
to (`cross_fit`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acoustic_env.config import ClassifierSettings, Task
from acoustic_env.errors import UsageError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.folds import grouped_folds
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.data.preprocessing import MeanImputer
from acoustic_env.models.data.windows import per_row
from acoustic_env.models.estimators.fitting import fit_ensemble
from acoustic_env.models.validation.calibration import Calibrator
from acoustic_env.stats.intervals import Floats, Integers

# Of each training part, one of so many inner folds is held out to stop training on.
INNER_FOLDS: Final = 8
# Each part is predicted by an ensemble of the other four: four fifths of the rows, near what the shipped one has.
PARTS: Final = 5
# Parts are predicted until so many rows are: more would cost training time and tell little more.
ENOUGH_ROWS: Final = 5_000


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of rows by models of the other folds, and the time they took on this machine.

    Attributes:
        probabilities: float64 [n, classes]; NaN for rows of folds that were not predicted.
        train_seconds: mean over the folds of preprocessing and training an ensemble.
        predict_seconds: of 1,000 rows, preprocessing included.
    """

    probabilities: Floats
    train_seconds: float
    predict_seconds: float


def out_of_fold(
    data: Examples,
    classifier: ClassifierSettings | Any,
    folds: int | Integers = 5,
    seed: int = 23,
    *,
    classes: int | None = None,
    preprocessor: Any = None,
    size: int = 1,
    predicted: npt.NDArray[Any] | None = None,
    checkpoints: str | None = None,
) -> OutOfFold:
    """Predict each row by the mean of an ensemble trained on the other folds.

    All that is fitted is fitted on the other folds: the preprocessing and each member. One that stops on rows stops on
    the next of nine folds or more (fold 2 validates when fold 1 is predicted); of fewer, on an eighth of the other
    folds' rows.

    Args:
        data: rows, missing values as NaN; their copies (`Examples.variants`) are learned from with the other folds.
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

    >>> from sklearn.linear_model import LogisticRegression
    >>> random = np.random.default_rng(23)
    >>> y = np.repeat([0, 1], 50)
    >>> rows = Examples(random.normal(size=(100, 3)) + 3 * y[:, None], y, np.arange(100) // 2)
    >>> found = out_of_fold(rows, LogisticRegression(), folds=5).probabilities
    >>> found.shape, round(float((found.argmax(axis=1) == y).mean()), 1)
    ((100, 2), 1.0)
    """
    y, groups = data.y, data.groups
    count = y.shape[1] if y.ndim == 2 else (classes or int(y.max()) + 1)
    if y.ndim == 1 and len(np.unique(y)) < 2:
        raise UsageError("all rows are of one class; out-of-fold predictions need two or more")
    fold = grouped_folds(y, groups, folds, seed) if isinstance(folds, int) else np.asarray(folds)
    _refuse_split_groups(fold, groups)
    if preprocessor is None:
        preprocessor = make_pipeline(MeanImputer(), StandardScaler())
    found = np.empty((0, count))
    training = predicting = 0.0
    there = np.unique(fold)
    wanted = there if predicted is None else predicted
    for held in wanted:
        started = time.perf_counter()
        rows = fold == held
        fitted = clone(preprocessor).fit(data.x[~rows])
        seen = data.take(~rows).map(partial(_preprocessed, fitted))
        if len(there) > INNER_FOLDS:
            inner, stop = fold[~rows], int(there[(np.searchsorted(there, held) + 1) % len(there)])
        else:
            inner, stop = _folds_up_to(INNER_FOLDS, seen.y, seen.groups, seed), 0
        model = fit_ensemble(classifier, count, seen, inner, (stop,), size=size, seed=seed, checkpoints=checkpoints)
        trained = time.perf_counter()
        said = model.predict_proba(_preprocessed(fitted, data.x[rows]))
        if not len(found):
            found = np.full((len(data) * (len(said) // int(rows.sum())), count), np.nan)
        found[per_row(rows, found)] = said
        training, predicting = training + trained - started, predicting + time.perf_counter() - trained
    known = int(np.isin(fold, wanted).sum())
    return OutOfFold(found, training / len(wanted), predicting / known * 1000)


def _preprocessed(preprocessor: Any, x: Any) -> Any:
    """Return preprocessed rows: an array as float32, sequences as they are."""
    found = preprocessor.transform(x)
    return found if isinstance(found, Sequences) else found.astype(np.float32)


def predicted_parts(
    y: npt.NDArray[Any], groups: npt.NDArray[Any], folds: Integers, seed: int
) -> tuple[Integers, Integers]:
    """Return the part [n] of each row and the parts to predict, as many as hold `ENOUGH_ROWS` rows.

    Parts are unions of the study's folds; new folds by class where a class would lie in one part only.

    Args:
        y: int64 [n] class index, or bool [n, classes].
        groups: [n], rows that stay in one part.
        folds: the study's fold of each row [n].
        seed: of new folds.

    Raises:
        UsageError: fewer than two groups.

    >>> y, groups = np.arange(20) % 2, np.arange(20) // 2
    >>> part, predicted = predicted_parts(y, groups, grouped_folds(y, groups, 10, seed=23), seed=23)
    >>> np.unique(part).tolist(), predicted.tolist()
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    part = np.unique(folds, return_inverse=True)[1].astype(np.int64) % PARTS
    if y.ndim == 1 and any(len(np.unique(y[part != own])) < len(np.unique(y)) for own in np.unique(part)):
        part = _folds_up_to(PARTS, y, groups, seed)
    counts = np.bincount(part)
    needed = int(np.searchsorted(np.cumsum(counts), min(ENOUGH_ROWS, len(part)))) + 1
    return part, np.arange(needed)


def cross_fit(
    task: Task, y: npt.NDArray[Any], probabilities: Floats, groups: npt.NDArray[Any], seed: int
) -> tuple[Floats, Floats]:
    """Calibrate each row, and choose its thresholds, on the other folds of the same rows.

    Args:
        task: of the study.
        y: int64 [n] class index, or bool [n, classes].
        probabilities: uncalibrated [n, classes], of rows that were not trained on.
        groups: [n], rows that stay in one fold.
        seed: of the folds.

    Returns:
        Calibrated probabilities and thresholds, both [n, classes].

    >>> random = np.random.default_rng(23)
    >>> p = random.random(500)
    >>> y = (random.random(500) < p).astype(np.int64)
    >>> calibrated, thresholds = cross_fit("binary", y, np.stack([1 - p, p], axis=1), np.arange(500), seed=23)
    >>> calibrated.shape, thresholds.shape
    ((500, 2), (500, 2))
    """
    calibrated, thresholds = np.empty_like(probabilities), np.empty_like(probabilities)
    fold = _folds_up_to(PARTS, y, groups, seed)
    for held in np.unique(fold):
        rows = fold == held
        calibrator = Calibrator(task, seed).fit(probabilities[~rows], y[~rows], groups[~rows])
        calibrated[rows], thresholds[rows] = calibrator.predict_proba(probabilities[rows]), calibrator.thresholds_
    return calibrated, thresholds


def _folds_up_to(most: int, y: npt.NDArray[Any], groups: npt.NDArray[Any], seed: int) -> Integers:
    """Return grouped folds, `most` or as many as there are groups."""
    return grouped_folds(y, groups, max(2, min(most, len(np.unique(groups)))), seed)


def _refuse_split_groups(fold: npt.NDArray[Any], groups: npt.NDArray[Any]) -> None:
    names, codes = np.unique(groups, return_inverse=True)
    pairs = np.unique(np.stack([codes, fold], axis=1), axis=0)
    repeated = pairs[1:][pairs[1:, 0] == pairs[:-1, 0]]
    if len(repeated):
        raise UsageError(f"group {names[repeated[0, 0]]} lies in more than one fold; give all its clips the same fold")
