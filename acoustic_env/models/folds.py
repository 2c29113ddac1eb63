"""Folds inside a training set: stratified by class, groups never split."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.models.evaluate import Integers

CHUNK: Final = 16_384  # rows whose strata are found at once


def strata(y: npt.NDArray[Any]) -> Integers:
    """One stratum per row: its class, or for multilabel its rarest class (one past the last when it has none).

    Args:
        y: int64 [n] class index, or bool [n, classes].
    """
    if y.ndim == 1:
        return np.asarray(y, np.int64)
    counts, found = y.sum(axis=0), np.empty(len(y), np.int64)
    for start in range(0, len(y), CHUNK):
        own = y[start : start + CHUNK]
        rarest = np.where(own, counts, len(y) + 1).argmin(axis=1)
        found[start : start + CHUNK] = np.where(own.any(axis=1), rarest, y.shape[1])
    return found


def grouped_folds(y: npt.NDArray[Any], groups: npt.NDArray[Any], folds: int, seed: int) -> Integers:
    """Fold [n] of each row, 0 to folds - 1.

    Groups are dealt, those of the rarest class first and the largest first, to the fold that has fewest rows of the
    group's class, then fewest rows.

    Args:
        y: int64 [n] class index, or bool [n, classes].
        groups: [n].
        folds: at least 2.
        seed: of the order among equals.

    Raises:
        UsageError: fewer groups than folds.
    """
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max()) + 1 if len(codes) else 0
    if count < folds:
        msg = f"{count} groups of clips cannot be split into {folds} folds; take fewer folds or more clips"
        raise UsageError(msg)
    row_strata = strata(y)
    frequency = np.bincount(row_strata)
    by_rarity = np.lexsort((frequency[row_strata], codes))
    first_of_group = by_rarity[np.flatnonzero(np.r_[True, np.diff(codes[by_rarity]) > 0])]
    group_stratum, size = row_strata[first_of_group], np.bincount(codes)
    order = np.lexsort((np.random.default_rng(seed).random(count), -size, group_stratum, frequency[group_stratum]))
    in_stratum, in_fold = np.zeros((len(frequency), folds)), np.zeros(folds)
    fold_of_group = np.empty(count, np.int64)
    for group in order:
        fewest = np.lexsort((in_fold, in_stratum[group_stratum[group]]))[0]
        fold_of_group[group] = fewest
        in_stratum[group_stratum[group], fewest] += size[group]
        in_fold[fewest] += size[group]
    return fold_of_group[codes]
