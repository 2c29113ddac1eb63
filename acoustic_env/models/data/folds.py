"""Folds inside a training set: stratified by class, groups never split."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from acoustic_env.errors import UsageError
from acoustic_env.stats.intervals import Integers


def strata(y: Any) -> Integers:
    """Return the stratum of each row [n]: its class, of several the rarest (one past the last where there is none).

    Args:
        y: int64 [n] class index, or bool [n, classes], an array or a `scipy.sparse.csr_array`.

    >>> strata(np.array([2, 0, 1])).tolist()
    [2, 0, 1]
    >>> strata(np.array([[True, True], [True, False], [False, False]])).tolist()
    [1, 0, 2]
    """
    if y.ndim == 1:
        return np.asarray(y, np.int64)
    carried = csr_array(y, dtype=np.bool_)
    counts, classes = carried.sum(axis=0), y.shape[1]
    found, some = np.full(y.shape[0], classes, np.int64), np.flatnonzero(np.diff(carried.indptr))
    if len(some):
        by_count = counts[carried.indices] * classes + carried.indices
        found[some] = np.minimum.reduceat(by_count, carried.indptr[some]) % classes
    return found


def grouped_folds(y: Any, groups: npt.NDArray[Any], folds: int, seed: int) -> Integers:
    """Assign rows to folds, 0 to folds - 1: int64 [n].

    Groups are dealt, those of the rarest class first and the largest first, to the fold that has fewest rows of the
    group's class, then fewest rows.

    Args:
        y: int64 [n] class index, or bool [n, classes], an array or a `scipy.sparse.csr_array`.
        groups: [n].
        folds: at least 2.
        seed: of the order among equals.

    Raises:
        UsageError: fewer groups than folds.

    >>> y, groups = np.array([0, 0, 1, 1, 0, 1]), np.array(["a", "a", "b", "b", "c", "d"])
    >>> fold = grouped_folds(y, groups, 2, seed=23)
    >>> bool(fold[0] == fold[1] and fold[2] == fold[3]), np.bincount(fold).tolist()
    (True, [3, 3])
    """
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max()) + 1 if len(codes) else 0
    if count < folds:
        raise UsageError(f"{count} groups of clips cannot be split into {folds} folds; take fewer folds or more clips")
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
