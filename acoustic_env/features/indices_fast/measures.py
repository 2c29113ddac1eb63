"""Measures the indices share, as scikit-maad 1.5.2 defines them (`maad.util`), along the last axis of any array."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_TINY: Final = float(np.finfo(np.float64).tiny)


def without_zero(x: Array) -> Array:
    """Return x with its zeros replaced by the smallest normal double, so that logarithms and ratios stay finite.

    >>> bool((without_zero(np.array([0.0, 1.0])) > 0).all())
    True
    """
    return np.where(x == 0, _TINY, x)


def power_to_db(x: Array) -> Array:
    """Compute 10 log10 |x|, finite for zero.

    >>> power_to_db(np.array([1.0, 0.01, 0.0])).round().tolist()
    [0.0, -20.0, -3077.0]
    """
    return 10 * np.log10(without_zero(np.abs(x)))


def amplitude_to_db(x: Array) -> Array:
    """Compute 20 log10 |x|, finite for zero.

    >>> amplitude_to_db(np.array([1.0, 0.01, 0.0])).round().tolist()
    [0.0, -40.0, -6153.0]
    """
    return 20 * np.log10(without_zero(np.abs(x)))


def median(x: Array) -> Array:
    """Compute the median along the last axis of finite values.

    By a full sort: NumPy sorts short rows with vector instructions, as fast as it partitions them, and three times as
    fast where many values are equal.

    >>> median(np.array([[3.0, 1.0, 2.0, 9.0], [4.0, 4.0, 4.0, 0.0]])).tolist()
    [2.5, 4.0]
    """
    middle = x.shape[-1] // 2
    ordered: Array = np.sort(x, axis=-1)
    if x.shape[-1] % 2:
        return ordered[..., middle]
    return (ordered[..., middle - 1] + ordered[..., middle]) / 2


def variance(x: Array) -> tuple[Array, Array]:
    """Compute the mean and population variance along the last axis.

    >>> mean, squares = variance(np.array([[1.0, 3.0], [5.0, 5.0]]))
    >>> mean.tolist(), squares.tolist()
    ([2.0, 5.0], [1.0, 0.0])
    """
    mean = x.mean(axis=-1)
    centered = x - mean[..., None]
    return mean, mean_product(centered, centered)


def moments(x: Array) -> tuple[Array, Array, Array, Array]:
    """Compute mean, variance, skewness and kurtosis, the last two with n - 1 and powers of the population deviation.

    >>> [float(moment) for moment in moments(np.array([1.0, 2.0, 3.0]))][:3]
    [2.0, 0.6666666666666666, 0.0]
    """
    mean = x.mean(axis=-1)
    centered = x - mean[..., None]
    square = centered * centered
    count = x.shape[-1]
    var = square.mean(axis=-1)
    std = np.sqrt(var)
    skewness = mean_product(square, centered) * count / (count - 1) / std**3
    kurtosis = mean_product(square, square) * count / (count - 1) / std**4
    return mean, var, skewness, kurtosis


def mean_product(x: Array, y: Array) -> Array:
    """Compute the mean of x * y along the last axis.

    >>> mean_product(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])).tolist()
    [5.5]
    """
    return np.asarray(np.einsum("...i,...i->...", x, y) / x.shape[-1])


def entropy(x: Array) -> Array:
    """Compute the Shannon entropy of x >= 0 as a distribution over n, in units of log n; 1 where all is zero.

    >>> entropy(np.array([[1.0, 1.0]]))
    array([1.])
    """
    if x.shape[-1] == 1:
        return np.zeros(x.shape[:-1])
    p = without_zero(x / x.sum(axis=-1, keepdims=True))
    h = -(p * np.log(p)).sum(axis=-1) / np.log(x.shape[-1])
    return np.asarray(np.where(x.any(axis=-1), h, np.ones_like(h)))


def gini(x: Array) -> Array:
    """Compute the Gini coefficient without correction; 0 where all is zero.

    >>> gini(np.array([[1.0, 1.0], [0.0, 2.0]]))
    array([0. , 0.5])
    """
    n = x.shape[-1]
    total = x.sum(axis=-1)
    weighted = (np.sort(x, axis=-1) * np.arange(1, n + 1)).sum(axis=-1)
    coefficient = (2 * weighted / total - (n + 1)) / n
    return np.asarray(np.where(total == 0, 0, coefficient))


def runs(active: npt.NDArray[np.bool_], shortest: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the runs of True along the last axis that last `shortest` or longer: how many, and how long together.

    The opening of each row by a bar of that length. The starts at which a bar fits form one run per run that is kept,
    shorter by one less than the bar.

    >>> count, length = runs(np.array([[True, True, False, True]]), 2)
    >>> int(count[0]), int(length[0])
    (1, 2)
    """
    starts = active
    fits = 1
    while fits < shortest:
        more = min(fits, shortest - fits)
        starts = starts[..., :-more] & starts[..., more:]
        fits += more
    if starts.shape[-1] == 0:
        none = np.zeros(active.shape[:-1], np.int64)
        return none, none
    rising = starts[..., 1:] > starts[..., :-1]
    count = count_true(rising) + starts[..., 0]
    return count, count_true(starts) + (shortest - 1) * count


def count_true(x: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return how many are True along the last axis.

    >>> count_true(np.array([[True, False, True], [False, False, False]])).tolist()
    [2, 0]
    """
    return np.asarray(np.count_nonzero(x, axis=-1).astype(np.int64))
