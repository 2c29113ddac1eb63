"""Calibration, thresholds and held-out metrics of what is shipped, each on rows that none of it was fitted on.

A bundle ships the mean of an ensemble, and the rows that trained it cannot tell what its probabilities are worth. So
the whole procedure (preprocessing, every member, stopping, averaging) is repeated without each part of the rows in turn
(`cross_val.out_of_fold`), and the calibration and the thresholds of the bundle are fitted on what these ensembles
predict for the parts they have not seen. The metrics come from calibrations and thresholds that are fitted without the
rows they are then applied to.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.config import Task
from acoustic_env.models.calibrate import fit_calibration
from acoustic_env.models.evaluate import Floats, Integers
from acoustic_env.models.folds import grouped_folds
from acoustic_env.models.thresholds import choose_f1_threshold, choose_threshold

# Each part is predicted by an ensemble of the other four: four fifths of the rows, near what the shipped one has.
PARTS: Final = 5
# Parts are predicted until so many rows are: more would cost training time and tell little more.
ENOUGH_ROWS: Final = 5_000


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
    """
    part = np.unique(folds, return_inverse=True)[1].astype(np.int64) % PARTS
    if y.ndim == 1 and any(len(np.unique(y[part != own])) < len(np.unique(y)) for own in np.unique(part)):
        part = grouped_folds(y, groups, max(2, min(PARTS, len(np.unique(groups)))), seed)
    counts = np.bincount(part)
    needed = int(np.searchsorted(np.cumsum(counts), min(ENOUGH_ROWS, len(part)))) + 1
    return part, np.arange(needed)


def choose_thresholds(task: Task, y: npt.NDArray[Any], probabilities: Floats) -> Floats:
    """Choose thresholds [classes]: best balanced accuracy (binary), best F1 of each class (multilabel).

    Args:
        task: of the study; multiclass needs none and gets zeros.
        y: int64 [n] class index, or bool [n, classes].
        probabilities: calibrated [n, classes], of rows that were not trained on.
    """
    if task == "binary":
        threshold = choose_threshold(y == 1, probabilities[:, 1])
        return np.array([1 - threshold, threshold])
    if task == "multiclass":
        return np.zeros(probabilities.shape[1])
    return np.array([choose_f1_threshold(y[:, c], probabilities[:, c]) for c in range(y.shape[1])])


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
    """
    calibrated, thresholds = np.empty_like(probabilities), np.empty_like(probabilities)
    fold = grouped_folds(y, groups, max(2, min(PARTS, len(np.unique(groups)))), seed)
    for held in np.unique(fold):
        rows, others = fold == held, fold != held
        calibration = fit_calibration(task, y[others], probabilities[others])
        calibrated[rows] = calibration.apply(probabilities[rows])
        thresholds[rows] = choose_thresholds(task, y[others], calibration.apply(probabilities[others]))
    return calibrated, thresholds
