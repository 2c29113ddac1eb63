"""Intervals of a share and of any metric, a difference of metrics included, over groups of rows that belong together.

Rows of a group (clips of one recording) are alike, so what is sampled is groups: every interval says what to expect of
new groups like these, with a probability of 95 %. Where there are too few groups to say so, it is withheld and the
estimate says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Weights = npt.NDArray[Any] | None  # of rows [n]; None for one each
Groups = Sequence[Any] | npt.NDArray[Any]  # of rows [n]
Statistic = Callable[[Weights], float]

LEVEL: Final = 0.95  # nominal coverage of every interval
TAIL: Final = 0.5 + LEVEL / 2
SEED: Final = 23
LEAST_GROUPS: Final = 5
LEAST_OF_A_KIND: Final = 3
LEAST_FREEDOM: Final = 2.0
LEAST_SPREAD: Final = 1e-9  # of a metric over groups; below, they differ by rounding
DECIDING: Final = 2.5  # degrees of freedom for each group that decides; chosen by the simulation of tests/stats
ALIKE: Final = 0.3  # intraclass correlation of rows of a group where nothing is known of it
# More groups than this are dealt to so many blocks at random: the jackknife then costs as many passes.
BLOCKS: Final = 100
# Of the largest of several t deviates: its 95 % quantile is known to about 0.5 %.
DEVIATES: Final = 20_000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: on the data at hand.
        low, high: the interval's ends; NaN where it is withheld.
        method: how the interval was made.
        withheld: why there is none, or an empty string.

    >>> str(Estimate(0.912, 0.871, 0.953, "Wilson"))
    '0.912 (0.871–0.953)'
    >>> str(no_interval(0.912, "3 groups"))
    '0.912 (no interval: 3 groups, too few)'
    >>> str(no_interval(0.912, ""))
    '0.912 (no interval)'
    """

    value: float
    low: float
    high: float
    method: str
    withheld: str = ""

    def __str__(self) -> str:
        if self.withheld:
            return f"{self.value:.3f} (no interval: {self.withheld}, too few)"
        if np.isnan(self.low):
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"

    def within_noise(self) -> bool:
        """Return whether a difference may be zero: its interval contains zero, or is withheld."""
        return not (self.low > 0.0 or self.high < 0.0)


def no_interval(value: float, reason: str) -> Estimate:
    """Return a value without an interval, for a reason such as "3 groups"."""
    return Estimate(value, float("nan"), float("nan"), "none", reason)


def of_share(hits: npt.NDArray[Any], groups: Groups | None = None) -> Estimate:
    """Return a share of rows with Wilson's interval (JASA 22, 1927) of as many rows as the groups are worth.

    The rows are worth n / (1 + (m - 1) r): m is the mean size of a row's group, r how alike the rows of a group are.
    Only groups that have the rarer outcome show r; it counts as 0.3 where none does, and one group has as much say as
    that. Quantiles are those of t.

    Args:
        hits: bool [n].
        groups: [n]; None for independent rows.

    >>> hits = np.array([True, True, False, True, True, True, True, False])
    >>> str(of_share(hits))
    '0.750 (0.409–0.929)'
    >>> str(of_share(hits, [0, 0, 1, 0, 2, 2, 3, 1]))
    '0.750 (no interval: 4 groups, too few)'
    """
    n, share = len(hits), float(np.mean(hits)) if len(hits) else float("nan")
    codes, count = _codes(np.arange(n) if groups is None else groups)
    if groups is not None and count < LEAST_GROUPS:
        return no_interval(share, _few(count))
    if count == n:
        return _wilson(share, n, float(stats.norm.ppf(TAIL)))
    sizes, found = np.bincount(codes).astype(np.float64), np.bincount(codes, weights=hits)
    alike, together = ALIKE, float(sizes @ sizes) / n
    if 0 < share < 1:
        variance = ((found - share * sizes) ** 2).sum() / n**2 * count / (count - 1)
        own = (n * variance / (share * (1 - share)) - 1) / (together - 1)
        known = int(((found if share <= 0.5 else sizes - found) > 0).sum())
        alike = (ALIKE + known * min(max(own, 0.0), 1.0)) / (1 + known)
    freedom = max((count + _worth(sizes)) / 2 - 1, LEAST_FREEDOM)
    return _wilson(share, n / (1 + (together - 1) * alike), float(stats.t.ppf(TAIL, freedom)))


def _wilson(share: float, n: float, quantile: float) -> Estimate:
    if not n:
        return no_interval(share, "0 rows")
    center = share + quantile**2 / (2 * n)
    half = quantile * np.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2))
    scale = 1 + quantile**2 / n
    low, high = max(float(center - half) / scale, 0.0), min(float(center + half) / scale, 1.0)
    return Estimate(share, 0.0 if share == 0 else low, 1.0 if share == 1 else high, "Wilson")


def of_metric(
    statistic: Statistic,
    groups: Groups,
    truth: Bools | None = None,
    *,
    difference: bool = False,
    spread: Statistic | None = None,
) -> Estimate:
    """Return a metric with the interval of a jackknife over groups (Tukey, Annals of Mathematical Statistics 29, 1958).

    A metric between 0 and 1 has its interval on the logit scale, so that it stays inside. Quantiles are those of t,
    with fewer degrees of freedom where few groups decide: their sizes differ, or the rows of a rare class are in few
    of them. At exactly 0 or 1 no group shows an error: the open end is then that of as many successes in as many
    trials as there are groups of the rarest kind (Clopper-Pearson, one-sided). Elsewhere groups that are all alike show
    no spread, and there is no interval.

    Args:
        statistic: of the weights of the rows; None for weights of one. Between 0 and 1 unless `difference`.
        groups: [n]; every row its own group for independent rows.
        truth: bool [n, classes], which classes rows have, for metrics that need some of each.
        difference: whether the statistic is a difference of two, on the same rows.
        spread: a statistic beside it whose spread is taken instead.

    >>> random = np.random.default_rng(23)
    >>> hits, groups = random.random(200) < 0.9, np.arange(200) // 5
    >>> str(of_metric(lambda weights: float(np.average(hits, weights=weights)), groups))
    '0.910 (0.872–0.937)'
    """
    value, (codes, count) = statistic(None), _codes(groups)
    of_kinds = [len(np.unique(codes[own])) for own in (() if truth is None else truth.T)]
    rarest = min([count, *of_kinds])
    if not np.isfinite(value):
        return no_interval(value, "0 groups that define it")
    if count < LEAST_GROUPS or rarest < LEAST_OF_A_KIND:
        return no_interval(value, _few(count) if count < LEAST_GROUPS else f"{_few(rarest)} with rows of a class")
    _, left_out = jackknife([statistic if spread is None else spread], groups)
    blocks, squares = len(left_out), (left_out[:, 0] - left_out.mean()) ** 2
    error = float(np.sqrt(squares.sum() * (blocks - 1) / blocks))
    by_size = (blocks + min(_worth(np.bincount(codes).astype(np.float64)), blocks)) / 2 - 1
    freedom = max(min(DECIDING * _worth(squares) - 1, by_size), LEAST_FREEDOM)
    half = float(stats.t.ppf(TAIL, freedom)) * error
    method = "jackknife over groups, t"
    if error < LEAST_SPREAD and (difference or 0.0 < value < 1.0):
        return no_interval(value, "0 groups that differ")
    if difference:
        return Estimate(value, value - half, value + half, method)
    if not 0.0 < value < 1.0:
        reach = (1 - TAIL) ** (1 / rarest)
        low, high = (0.0, max(1 - reach, half)) if value <= 0.0 else (min(reach, 1 - half), 1.0)
        return Estimate(value, max(low, 0.0), min(high, 1.0), method)
    low, high = (float(special.expit(special.logit(value) + side * half / (value * (1 - value)))) for side in (-1, 1))
    return Estimate(value, low, high, method)


def jackknife(statistics: Sequence[Statistic], groups: Groups) -> tuple[Floats, Floats]:
    """Return statistics of all rows [k], and without each group, or each of 100 blocks of groups, [blocks, k].

    A statistic that is not defined without some group counts there as it is of all rows.

    >>> hits = np.array([1.0, 1.0, 0.0, 0.0])
    >>> values, left_out = jackknife([lambda weights: float(np.average(hits, weights=weights))], ["a", "a", "b", "c"])
    >>> values.tolist(), left_out[:, 0].round(2).tolist()
    ([0.5], [0.0, 0.67, 0.67])
    """
    codes, count = _codes(groups)
    if count > BLOCKS:
        codes, count = (np.random.default_rng(SEED).permutation(count) % BLOCKS)[codes], BLOCKS
    values = np.array([statistic(None) for statistic in statistics])
    with np.errstate(all="ignore"):
        left_out = np.array([[one((codes != own).astype(np.float64)) for one in statistics] for own in range(count)])
    return values, np.where(np.isfinite(left_out), left_out, values)


def behind_the_best(statistics: Sequence[Statistic], groups: Groups) -> list[Estimate]:
    """Estimate how far each of several statistics on the same rows lies behind the truly best of them.

    The best of the data was selected, so its differences from the others are no differences of two that were named
    beforehand. Multiple comparisons with the best (Hsu, Annals of Statistics 12, 1984): the differences of all others
    from one statistic get simultaneous intervals, whose width follows from the largest of them (max |t|, Hothorn, Bretz
    and Westfall, Biometrical Journal 50, 2008), and the statistic lies behind the best by the largest difference. The
    covariance is that of a jackknife over groups, shared by all statistics. An interval that begins at 0 says that the
    statistic may be the best; with probability `LEVEL` the truly best one has such an interval, equals included.

    Args:
        statistics: of the weights of the rows; None for weights of one.
        groups: [n]; every row its own group for independent rows.

    >>> right = np.random.default_rng(23).random((200, 2)) < [0.9, 0.6]
    >>> shares = [lambda weights, own=own: float(np.average(own, weights=weights)) for own in right.T]
    >>> found = behind_the_best(shares, np.arange(200))
    >>> [(estimate.value > 0, estimate.low > 0) for estimate in found]
    [(False, False), (True, True)]
    """
    count = _codes(groups)[1]
    values, left_out = jackknife(statistics, groups)
    blocks = len(left_out)
    defined = np.isfinite(values)
    if not defined.all():
        undefined = no_interval(float("nan"), "0 groups that define it")
        found = iter(behind_the_best([one for one, has in zip(statistics, defined, strict=True) if has], groups))
        return [next(found) if has else undefined for has in defined]
    if len(values) <= 1:
        return [Estimate(0.0, 0.0, 0.0, "alone")] * len(values)
    if count < LEAST_GROUPS:
        return [no_interval(float(values.max() - value), _few(count)) for value in values]
    centered = (left_out - left_out.mean(axis=0)) * np.sqrt((blocks - 1) / blocks)
    random = np.random.default_rng(SEED)
    # Normal deviates with the jackknife's covariance, over a chi that accounts for few groups: multivariate t.
    deviates = random.standard_normal((DEVIATES, blocks)) @ centered
    deviates /= np.sqrt(random.chisquare(blocks - 1, (DEVIATES, 1)) / (blocks - 1))
    behind = []
    for own in range(len(values)):
        ahead = np.delete(values, own) - values[own]
        errors = np.sqrt(((np.delete(centered, own, axis=1) - centered[:, [own]]) ** 2).sum(axis=0))
        differences = np.abs(np.delete(deviates, own, axis=1) - deviates[:, [own]])
        largest = np.divide(differences, errors, out=np.zeros_like(differences), where=errors > 0).max(axis=1)
        half = float(np.quantile(largest, LEVEL)) * errors
        low, value, high = (max(0.0, float(end.max())) for end in (ahead - half, ahead, ahead + half))
        behind.append(Estimate(value, low, high, "simultaneous with all others, jackknife over groups"))
    return behind


def _codes(groups: Groups) -> tuple[Integers, int]:
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    return codes, int(codes.max(initial=-1)) + 1


def _few(count: int) -> str:
    return f"{count} group{'' if count == 1 else 's'}"


def _worth(parts: Floats) -> float:
    """Return how many equal parts these are worth (Kish 1965): the square of their sum over the sum of squares."""
    squares = float(parts @ parts)
    return float(parts.sum()) ** 2 / squares if squares else float(len(parts))
