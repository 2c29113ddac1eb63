"""How features differ between classes: Welch's t, false-discovery control, effect sizes.

Columns are compared one by one, missing values omitted. Clips of one recording (group) are no independent scorers:
they are averaged first, class by class, so a recording counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from acoustic_env.stats.intervals import Floats

Bools = npt.NDArray[np.bool_]

# Columns compared at once: bounds the float64 copy of a matrix of thousands of clips.
CHUNK: Final = 512
LEVEL: Final = 0.95


@dataclass(frozen=True)
class Contrast:
    """A class against the other clips, column by column; arrays [d]."""

    n: Floats  # recordings with a value, of the class and of the rest
    rest_n: Floats
    mean: Floats  # of the column, in its unit
    rest_mean: Floats
    t: Floats  # Welch's, positive where the class is higher; NaN where a side has fewer than two values
    degrees: Floats  # of freedom (Welch and Satterthwaite)
    p: Floats  # two-sided
    g: Floats  # Hedges' g, the difference in pooled standard deviations, corrected for few recordings
    g_low: Floats  # its 95 % interval
    g_high: Floats


def contrast(values: npt.NDArray[Any], member: Bools, groups: npt.NDArray[Any]) -> Contrast:
    """Compare the clips of a class with the others.

    Args:
        values: [n, d], NaN where undefined.
        member: bool [n], the clips of the class.
        groups: [n], recording of each clip.
    """
    keys = np.stack([np.unique(groups, return_inverse=True)[1], member], axis=1)
    units, unit = np.unique(keys, axis=0, return_inverse=True)
    of_class = units[:, 1].astype(bool)
    parts = []
    for start in range(0, values.shape[1], CHUNK):
        means = _unit_means(values[:, start : start + CHUNK].astype(np.float64), unit.ravel())
        parts.append(_welch(means[of_class], means[~of_class]))
    return Contrast(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _unit_means(values: Floats, unit: npt.NDArray[Any]) -> Floats:
    """Return the mean of each unit's finite values [units, d], NaN without one."""
    known = pd.DataFrame(np.where(np.isfinite(values), values, np.nan))
    return known.groupby(unit).mean().to_numpy()


def _welch(one: Floats, other: Floats) -> tuple[Floats, ...]:
    (n, mean, variance), (rest_n, rest_mean, rest_variance) = _moments(one), _moments(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        square, rest_square = variance / n, rest_variance / rest_n
        t = (mean - rest_mean) / np.sqrt(square + rest_square)
        degrees = (square + rest_square) ** 2 / (square**2 / (n - 1) + rest_square**2 / (rest_n - 1))
        # As scipy has it: two constant samples have no degrees of freedom, but they do differ or not.
        degrees = np.where(np.isnan(degrees) & ~np.isnan(t), 1.0, degrees)
        p = 2 * stats.t.sf(np.abs(t), degrees)
        pooled = np.sqrt(((n - 1) * variance + (rest_n - 1) * rest_variance) / (n + rest_n - 2))
        few = 1 - 3 / (4 * (n + rest_n - 2) - 1)
        g = np.where(pooled > 0, few * (mean - rest_mean) / pooled, np.nan)
        # Hedges and Olkin 1985, chapter 5: large-sample variance.
        error = np.sqrt((n + rest_n) / (n * rest_n) + g**2 / (2 * (n + rest_n)))
    half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * error
    return n, rest_n, mean, rest_mean, t, degrees, np.asarray(p, np.float64), g, g - half, g + half


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    known = np.isfinite(values)
    n = known.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=0) / n
        variance = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / (n - 1)
    return n, mean, np.where(n > 1, variance, np.nan)


def false_discovery(p: npt.NDArray[Any]) -> Floats:
    """Return the smallest false-discovery rate at which each test is called (Benjamini and Hochberg 1995).

    Args:
        p: p-values of one family, any shape; NaN stays NaN.

    >>> false_discovery(np.array([0.01, np.nan, 0.5]))
    array([0.02,  nan, 0.5 ])
    """
    found = np.full(np.shape(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        found[known] = stats.false_discovery_control(p[known])
    return found


def rank_correlation(values: npt.NDArray[Any]) -> Floats:
    """Return Spearman's correlation of columns [d, d]: how alike two order the clips, whatever their units.

    Missing values take the column's median; columns that are constant or empty have NaN.
    """
    columns = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    columns[:, np.isnan(columns).all(axis=0)] = 0.0
    columns = np.where(np.isnan(columns), np.nanmedian(columns, axis=0), columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.corrcoef(stats.rankdata(columns, axis=0), rowvar=False))


def cluster_order(correlation: Floats) -> npt.NDArray[np.int64]:
    """Return an order of columns that puts those alike side by side: average linkage on 1 - |correlation|."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if len(correlation) < 3:
        return np.arange(len(correlation))
    distance = 1.0 - np.abs(correlation)
    np.fill_diagonal(distance, 0.0)
    tree = hierarchy.linkage(squareform((distance + distance.T) / 2, checks=False), "average", optimal_ordering=True)
    return np.asarray(hierarchy.leaves_list(tree), np.int64)
