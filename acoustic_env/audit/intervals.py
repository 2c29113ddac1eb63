"""Intervals of a proportion: Wilson, Clopper-Pearson, Jeffreys, and the design effect of clustered answers.

Estimators for designed samples are in `designs`, intervals that stay valid when computed every week in `sequential`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: point estimate; NaN where nothing was observed.
        low, high: bounds of the interval.
        method: how it was made.
        n: number of answers.

    >>> found = Interval(0.84, 0.715, 0.917, "wilson", 50)
    >>> round(found.half_width, 3), found.as_dict()["method"]
    (0.101, 'wilson')
    """

    estimate: float
    low: float
    high: float
    method: str
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2.0

    def as_dict(self) -> dict[str, float | str | int | None]:
        """Return plain values for JSON; NaN becomes None."""
        return asdict(self) | {"estimate": None if math.isnan(self.estimate) else self.estimate}

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.n}, {self.method})"


def z_value(level: float) -> float:
    """Return the two-sided standard normal quantile: 1.96 for level 0.95.

    >>> round(z_value(0.95), 2), round(z_value(0.99), 2)
    (1.96, 2.58)
    """
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2.0))


def nothing_observed(method: str) -> Interval:
    """Return the interval without any answer: 0 to 1.

    >>> print(nothing_observed("wilson"))
    nan (0.000 to 1.000, n = 0, wilson)
    >>> nothing_observed("wilson").as_dict()["estimate"] is None
    True
    """
    return Interval(math.nan, 0.0, 1.0, method, 0)


def wilson(right: float, n: float, level: float = 0.95) -> Interval:
    """Return Wilson's interval (1927): (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    Args:
        right: right answers k; need not be whole (effective counts of weighted or clustered samples).
        n: answers, or the effective sample size.
        level: coverage.

    >>> print(wilson(42, 50))
    0.840 (0.715 to 0.917, n = 50, wilson)
    """

    def bounds() -> tuple[float, float]:
        z, p = z_value(level), right / n
        center, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (center - half) / (1 + z * z / n), (center + half) / (1 + z * z / n)

    return _of_counts("wilson", right, n, bounds)


def clopper_pearson(right: float, n: float, level: float = 0.95) -> Interval:
    """Return the interval of Clopper & Pearson (1934), which never covers less than the level.

    Beta quantiles B(a/2; k, n-k+1) and B(1-a/2; k+1, n-k). With effective counts of a clustered or weighted sample it
    is the interval of Korn & Graubard 1998, which SciPy's `binomtest`, for whole counts, does not have.

    >>> print(clopper_pearson(42, 50))
    0.840 (0.709 to 0.928, n = 50, clopper-pearson)
    >>> print(clopper_pearson(50, 50))
    1.000 (0.929 to 1.000, n = 50, clopper-pearson)
    """
    return _of_counts("clopper-pearson", right, n, lambda: _beta_bounds(right, n, level, 0.0, 1.0))


def jeffreys(right: float, n: float, level: float = 0.95) -> Interval:
    """Return quantiles of Beta(k + 1/2, n - k + 1/2), which cover the level on average over the proportion.

    The lower bound is 0 without a right answer, the upper one is 1 without a wrong one (Brown, Cai & DasGupta 2001).

    >>> print(jeffreys(42, 50))
    0.840 (0.721 to 0.921, n = 50, jeffreys)
    """
    return _of_counts("jeffreys", right, n, lambda: _beta_bounds(right, n, level, 0.5, 0.5))


def _beta_bounds(right: float, n: float, level: float, least: float, most: float) -> tuple[float, float]:
    """Quantiles of Beta(k + least, n - k + most) and Beta(k + most, n - k + least), open ends at 0 and 1."""
    from scipy.special import betaincinv

    tail = (1.0 - level) / 2.0
    low = 0.0 if right == 0 else float(betaincinv(right + least, n - right + most, tail))
    high = 1.0 if right == n else float(betaincinv(right + most, n - right + least, 1.0 - tail))
    return low, high


def _of_counts(method: str, right: float, n: float, bounds: Callable[[], tuple[float, float]]) -> Interval:
    if n <= 0:
        return nothing_observed(method)
    if not 0 <= right <= n * (1 + 1e-12):
        raise ValueError(f"{right:g} right answers of {n:g}: the count must lie between 0 and n")
    low, high = bounds()
    return Interval(right / n, max(0.0, low), min(1.0, high), method, round(n))


def from_variance(estimate: float, variance: float, n: int, method: str, level: float = 0.95) -> Interval:
    """Return the interval of a share whose estimator has this variance: Wilson's with effective size p(1-p)/variance.

    Near 0 and 1 this keeps its coverage where the symmetric normal interval loses it (Korn & Graubard's idea with
    Wilson in place of Clopper-Pearson). Where the estimated variance is 0 the answers themselves (n) are the size.

    Args:
        estimate: the estimated share; clipped to [0, 1].
        variance: of the estimator.
        n: number of answers.
        method: name of the estimator.
        level: coverage.

    >>> print(from_variance(0.9, 0.03**2, 60, "stratified"))
    0.900 (0.826 to 0.945, n = 60, stratified)
    >>> print(from_variance(1.0, 0.0, 60, "stratified"))
    1.000 (0.940 to 1.000, n = 60, stratified)
    """
    if n == 0 or math.isnan(estimate):
        return nothing_observed(method)
    p = min(1.0, max(0.0, estimate))
    binomial = p * (1.0 - p)
    effective = binomial / variance if variance > 0.0 and binomial > 0.0 else float(n)
    core = wilson(p * effective, effective, level)
    return Interval(p, core.low, core.high, method, n)


def design_effect(values: Floats, groups: npt.NDArray[np.int64]) -> float:
    """Return the variance of the mean of clustered clips over that of independent clips, at least 1.

    For equal groups of m with intra-class correlation r it is 1 + (m - 1) r.

    Args:
        values: [n] answers.
        groups: [n] group of each answer (video, recording).

    >>> answers, videos = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), np.array([0, 0, 1, 1, 2, 2])
    >>> round(design_effect(answers, videos), 2), round(design_effect(answers, np.arange(6)), 2)
    (1.67, 1.0)
    """
    n = len(values)
    groups_present, index = np.unique(groups, return_inverse=True)
    simple = float(values.var(ddof=1)) / n if n > 1 else 0.0
    if simple == 0.0 or len(groups_present) < 2:
        return 1.0
    totals = np.bincount(index, weights=values - values.mean())
    m = len(groups_present)
    clustered = float((totals**2).sum()) * m / (m - 1) / n**2
    return max(1.0, clustered / simple)


def percentile(draws: Floats, estimate: float, n: int, method: str, level: float = 0.95) -> Interval:
    """Return the percentile interval of bootstrap or posterior draws, NaN excluded; 0 to 1 without an estimate.

    >>> print(percentile(np.linspace(0.5, 0.7, 101), 0.6, 40, "bootstrap"))
    0.600 (0.505 to 0.695, n = 40, bootstrap)
    """
    finite = draws[np.isfinite(draws)]
    if n == 0 or finite.size == 0 or math.isnan(estimate):
        return nothing_observed(method)
    low, high = np.quantile(finite, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(estimate, float(low), float(high), method, n)
