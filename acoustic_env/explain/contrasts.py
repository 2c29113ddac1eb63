"""How features differ between classes: Welch's t, false-discovery control, effect sizes, correlations.

Columns are compared one by one, missing values omitted. Clips of one recording (group) are no independent samples:
they are averaged first, class by class, so a recording counts once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from acoustic_env.stats.intervals import TAIL, Floats

Bools = npt.NDArray[np.bool_]

# Columns compared at once: bounds the float64 copy of a matrix of thousands of clips.
CHUNK: Final = 512


def contrast(values: npt.NDArray[Any], member: Bools, groups: npt.NDArray[Any]) -> pd.DataFrame:
    """Compare the clips of a class with the others, column by column.

    Args:
        values: [n, d], NaN where undefined.
        member: bool [n], the clips of the class.
        groups: [n], recording of each clip.

    Returns:
        A row for each column: `n` and `rest_n`, recordings with a value; `mean` and `rest_mean`, in the column's unit;
        `t`, Welch's, positive where the class is higher, NaN where a side has fewer than two values; its `degrees` of
        freedom (Welch and Satterthwaite) and two-sided `p`; `g`, Hedges', the difference in pooled standard deviations
        corrected for few recordings, with its 95 % interval from `g_low` to `g_high`; and `q`, the smallest
        false-discovery rate at which the column is called different, of all columns.
    """
    parts = []
    for start in range(0, values.shape[1], CHUNK):
        known = values[:, start : start + CHUNK].astype(np.float64)
        means = pd.DataFrame(np.where(np.isfinite(known), known, np.nan)).groupby([groups, member]).mean()
        of_class = means.index.get_level_values(1).to_numpy(bool)
        parts.append(_welch(means[of_class], means[~of_class]))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(q=false_discovery(found["p"].to_numpy()))


def _welch(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Compare means of recordings, column by column."""
    (n, mean, variance), (rest_n, rest_mean, rest_variance) = (
        (side.count().to_numpy(np.float64), side.mean().to_numpy(), side.var().to_numpy()) for side in (one, other)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.sqrt(variance), np.sqrt(rest_variance)
        t, p = stats.ttest_ind_from_stats(mean, deviations[0], n, rest_mean, deviations[1], rest_n, equal_var=False)
        square, rest_square = variance / n, rest_variance / rest_n
        degrees = (square + rest_square) ** 2 / (square**2 / (n - 1) + rest_square**2 / (rest_n - 1))
        pooled = np.sqrt(((n - 1) * variance + (rest_n - 1) * rest_variance) / (n + rest_n - 2))
        few = 1 - 3 / (4 * (n + rest_n - 2) - 1)
        g = np.where(pooled > 0, few * (mean - rest_mean) / pooled, np.nan)
        # Hedges and Olkin 1985, chapter 5: large-sample variance.
        half = float(stats.norm.ppf(TAIL)) * np.sqrt((n + rest_n) / (n * rest_n) + g**2 / (2 * (n + rest_n)))
    compared = {"n": n, "rest_n": rest_n, "mean": mean, "rest_mean": rest_mean, "t": t, "degrees": degrees, "p": p}
    return pd.DataFrame({**compared, "g": g, "g_low": g - half, "g_high": g + half})


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
    columns = pd.DataFrame(np.where(np.isfinite(values), values, np.nan).astype(np.float64))
    ranks = columns.fillna(columns.median()).fillna(0.0).rank().to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.corrcoef(ranks, rowvar=False))


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
