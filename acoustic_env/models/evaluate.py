"""How good a classifier is, and how sure one can be: curves, AUC, mAP and their intervals.

Pure functions on arrays. `truth` is bool [n], `scores` float [n] (higher = more likely positive), `groups` any labels
[n] of rows that belong together (clips of one recording) and are resampled together. Statistics take `weights` [n], so
that a bootstrap is one pass of counts over ranks sorted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Weights = npt.NDArray[Any] | None  # of rows [n]; None for one each
Groups = Sequence[Any] | npt.NDArray[Any]  # of rows [n]
Statistic = Callable[[Weights], float]

LEVEL: Final = 0.95  # nominal coverage of every interval
QUANTILE: Final = float(stats.norm.ppf(0.5 + LEVEL / 2))
REPEATS: Final = 1000
SEED: Final = 23
# Of the largest of several normal deviates: its 95 % quantile is known to about 0.5 %.
DEVIATES: Final = 20_000


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval.

    Attributes:
        value: the metric on the data at hand.
        low, high: the interval's ends.
        method: how the interval was made.
        level: its nominal coverage.

    >>> accuracy = Estimate(0.912, 0.871, 0.953, "Wilson")
    >>> str(accuracy)
    '0.912 (0.871–0.953)'
    >>> Estimate(0.01, -0.02, 0.04, "bootstrap over groups").within_noise()
    True
    """

    value: float
    low: float
    high: float
    method: str
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"

    def within_noise(self) -> bool:
        """Return whether the interval of a difference contains zero."""
        return self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Curve:
    """Points of a curve, from the strictest threshold to the loosest.

    Attributes:
        x, y: false and true positive rate (ROC) or recall and precision (PR), float64 [points].
        thresholds: a row is called positive at or above it; inf for the first point of the ROC curve.
    """

    x: Floats
    y: Floats
    thresholds: Floats


class Ranking:
    """The rows of one class sorted once by score, so that weighted AUC and average precision are a pass of sums.

    Args:
        truth: bool [n].
        scores: float [n], finite.

    >>> Ranking(np.array([True, False, True]), np.array([0.9, 0.4, 0.3])).auc()
    0.5
    """

    def __init__(self, truth: Bools, scores: npt.NDArray[Any]) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked, positive = scores[order], truth[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(order) else np.empty(0, np.int64)
        ends = np.r_[starts[1:], len(order)]
        tie = np.searchsorted(starts, np.flatnonzero(positive), side="right") - 1
        self._order: npt.NDArray[np.int32] = order.astype(np.int32)
        self._positives = np.flatnonzero(positive)
        # For each positive in rank order: how many rows, and how many positives, come before and up to its tie's end.
        self._before, self._upto = starts[tie], ends[tie]
        self._positives_before = np.searchsorted(self._positives, self._before)
        self._positives_upto = np.searchsorted(self._positives, self._upto)

    def _sums(self, weights: Weights) -> tuple[Floats, Floats, Floats]:
        ordered = np.ones(len(self._order)) if weights is None else np.asarray(weights, np.float64)[self._order]
        of_positives = ordered[self._positives]
        return of_positives, np.r_[0.0, np.cumsum(ordered)], np.r_[0.0, np.cumsum(of_positives)]

    def auc(self, weights: Weights = None) -> float:
        """Return the area under the ROC curve, ties counted half; NaN without rows of both kinds."""
        own, rows, positives = self._sums(weights)
        negatives = rows[-1] - positives[-1]
        if positives[-1] <= 0 or negatives <= 0:
            return float("nan")
        upto = rows[self._upto] - positives[self._positives_upto]
        before = rows[self._before] - positives[self._positives_before]
        return float(own @ (negatives - (upto + before) / 2) / (positives[-1] * negatives))

    def average_precision(self, weights: Weights = None) -> float:
        """Return mean precision over the positives (not interpolated); NaN without positives."""
        own, rows, positives = self._sums(weights)
        if positives[-1] <= 0:
            return float("nan")
        upto = rows[self._upto]
        precision = np.divide(positives[self._positives_upto], upto, out=np.zeros_like(own), where=upto > 0)
        return float(own @ precision / positives[-1])


def roc_curve(truth: Bools, scores: npt.NDArray[Any], most: int | None = None) -> Curve:
    """Return the ROC curve: x false positive rate, y true positive rate, from (0, 0) to (1, 1).

    One point per distinct score, or of more rows than `most` about so many of these points, even in both rates.

    >>> curve = roc_curve(np.array([True, False, True, False]), np.array([0.9, 0.7, 0.6, 0.1]))
    >>> curve.x.tolist(), curve.y.tolist(), curve.thresholds.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0], [inf, 0.9, 0.7, 0.6, 0.1])
    """
    hits, calls, thresholds = _cumulated(truth, scores, most)
    positives, negatives = max(int(truth.sum()), 1), max(int((~truth).sum()), 1)
    return Curve(np.r_[0.0, (calls - hits) / negatives], np.r_[0.0, hits / positives], np.r_[np.inf, thresholds])


def precision_recall_curve(truth: Bools, scores: npt.NDArray[Any], most: int | None = None) -> Curve:
    """Return the precision-recall curve: x recall, y precision, from few calls to all; points as in `roc_curve`.

    >>> curve = precision_recall_curve(np.array([True, False, True, False]), np.array([0.9, 0.7, 0.6, 0.1]))
    >>> curve.x.tolist(), curve.y.round(2).tolist()
    ([0.5, 0.5, 1.0, 1.0], [1.0, 0.5, 0.67, 0.5])
    """
    hits, calls, thresholds = _cumulated(truth, scores, most)
    return Curve(hits / max(int(truth.sum()), 1), hits / calls, thresholds)


def _cumulated(truth: Bools, scores: npt.NDArray[Any], most: int | None) -> tuple[Floats, Floats, Floats]:
    """Count positive rows and all rows at or above each threshold, and the thresholds, strictest first."""
    thresholds = _thresholds(truth, scores, most)
    reached = np.searchsorted(thresholds, scores, side="right")
    size = len(thresholds) + 1
    hits, calls = (
        np.cumsum(np.bincount(rows, minlength=size)[:0:-1]).astype(np.float64) for rows in (reached[truth], reached)
    )
    return hits, calls, thresholds[::-1].astype(np.float64)


def _thresholds(truth: Bools, scores: npt.NDArray[Any], most: int | None) -> npt.NDArray[Any]:
    """Return ascending thresholds: every score, or so many of the positive and of the negative rows' at even ranks."""
    if most is None or len(scores) <= most:
        return np.unique(scores)
    even = np.linspace(0.0, 1.0, max(most // 2, 2))
    kinds = [part for part in (scores[truth], scores[~truth]) if len(part)]
    return np.unique(np.concatenate([np.quantile(part, even, method="nearest") for part in kinds]))


def auc_delong(truth: Bools, scores: npt.NDArray[Any]) -> Estimate:
    """Return the AUC with DeLong's variance (Biometrics 44, 1988) and a logit interval, for rows that are independent.

    One row of a kind says nothing of the variance of that kind, which then counts as 0: with a single positive row the
    interval is that of the negative rows alone, and too short.

    By mid-ranks (Sun and Xu, IEEE SPL 21, 2014). The interval is made on the logit scale, so it stays inside 0 to 1 and
    keeps its coverage near 1; see `bounded_interval` for an AUC of exactly 0 or 1.

    >>> random = np.random.default_rng(23)
    >>> truth = np.repeat([True, False], 100)
    >>> str(auc_delong(truth, random.normal(size=200) + truth))
    '0.710 (0.634–0.776)'
    >>> str(auc_delong(truth, truth.astype(float)))
    '1.000 (0.964–1.000)'
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return Estimate(float("nan"), float("nan"), float("nan"), "DeLong, logit")
    ranks = stats.rankdata(scores)
    of_positives = (ranks[truth] - stats.rankdata(scores[truth])) / negatives
    of_negatives = 1.0 - (ranks[~truth] - stats.rankdata(scores[~truth])) / positives
    variance = sum(
        ((own - own.mean()) ** 2).sum() / max(len(own) - 1, 1) / len(own) for own in (of_positives, of_negatives)
    )
    auc = float(of_positives.mean())
    low, high = bounded_interval(auc, float(np.sqrt(variance)), min(positives, negatives))
    return Estimate(auc, low, high, "DeLong, logit")


def bounded_interval(value: float, error: float, n: int) -> tuple[float, float]:
    """Return the interval of a metric between 0 and 1 from its standard error, symmetric on the logit scale.

    At exactly 0 or 1 the error is 0 and says nothing: the open end is then that of n successes in n trials
    (Clopper-Pearson, one-sided), n being the number of independent rows that could have shown otherwise.

    >>> [round(end, 3) for end in bounded_interval(0.9, 0.05, 100)]
    [0.752, 0.964]
    >>> [round(end, 3) for end in bounded_interval(1.0, 0.0, 100)]
    [0.964, 1.0]
    """
    if not np.isfinite(value):
        return float("nan"), float("nan")
    if value <= 0.0 or value >= 1.0:
        reach = ((1 - LEVEL) / 2) ** (1 / max(n, 1))
        return (0.0, 1.0 - reach) if value <= 0.0 else (reach, 1.0)
    center = np.log(value / (1 - value))
    half = QUANTILE * error / (value * (1 - value))
    return float(1 / (1 + np.exp(-(center - half)))), float(1 / (1 + np.exp(-(center + half))))


def share_interval(hits: npt.NDArray[Any], groups: Any = None) -> Estimate:
    """Return a share of rows with Wilson's interval (JASA 22, 1927), n divided by the design effect of the groups.

    Args:
        hits: bool [n].
        groups: [n] or None for independent rows. Where all groups have the same share, each counts as one row.

    >>> hits = np.array([True, True, False, True, True, True, True, False])
    >>> str(share_interval(hits))
    '0.750 (0.409–0.929)'
    >>> str(share_interval(hits, [0, 0, 1, 0, 2, 2, 3, 1]))
    '0.750 (0.250–0.964)'
    """
    n, share = len(hits), float(np.mean(hits)) if len(hits) else float("nan")
    if not n:
        return Estimate(share, share, share, "Wilson")
    effective = float(n)
    if groups is not None:
        _, codes = np.unique(np.asarray(groups), return_inverse=True)
        count = int(codes.max()) + 1
        # Whole numbers until the division: groups of equal shares have a variance of exactly zero.
        sizes, found = np.bincount(codes), np.bincount(codes, weights=hits)
        residual = (found * n - found.sum() * sizes) / n
        variance = (residual**2).sum() / n**2 * (count / max(count - 1, 1))
        effective = count if variance == 0 else min(share * (1 - share) / variance, float(n))
    z = QUANTILE
    center = share + z**2 / (2 * effective)
    half = z * np.sqrt(share * (1 - share) / effective + z**2 / (4 * effective**2))
    scale = 1 + z**2 / effective
    return Estimate(share, float((center - half) / scale), float((center + half) / scale), "Wilson")


def group_weights(groups: Groups, repeats: int, seed: int = SEED) -> Iterator[Floats]:
    """Yield weights [n] of each bootstrap resample: how often each row's group was drawn with replacement.

    >>> weights = next(group_weights(["a", "a", "b", "c"], 1))
    >>> weights.shape, bool(weights[0] == weights[1])
    ((4,), True)
    """
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    count = int(codes.max()) + 1 if len(codes) else 0
    random = np.random.default_rng(seed)
    for _ in range(repeats):
        yield random.multinomial(count, np.full(count, 1 / count)).astype(np.float64)[codes]


def bootstrap(statistic: Statistic, groups: Groups, *, difference: bool = False, repeats: int = REPEATS) -> Estimate:
    """Return a statistic with an interval from its standard error over resampled groups.

    The interval is centered on the statistic of the data, on the logit scale unless it is a `difference`: percentiles
    of resamples would sit too high for average precision, which repeated rows push up.

    Args:
        statistic: of the weights of the rows; None for weights of one. Between 0 and 1 unless `difference`.
        groups: [n]; every row its own group for independent rows.
        difference: whether the statistic is a difference of two, on the same rows.
        repeats: resamples; those where the statistic is not defined are left out.

    >>> random = np.random.default_rng(23)
    >>> groups = np.repeat(np.arange(40), 5)
    >>> truth = np.repeat(random.random(40) < 0.5, 5)
    >>> ranking = Ranking(truth, random.normal(size=200) + truth)
    >>> str(bootstrap(ranking.average_precision, groups, repeats=200))
    '0.687 (0.526–0.812)'
    """
    value = statistic(None)
    with np.errstate(all="ignore"):
        drawn = np.array([statistic(weights) for weights in group_weights(groups, repeats)])
    drawn = drawn[np.isfinite(drawn)]
    error = float(drawn.std(ddof=1)) if len(drawn) > 1 else float("nan")
    if difference:
        half = QUANTILE * error
        low, high = value - half, value + half
    else:
        low, high = bounded_interval(value, error, len(set(np.asarray(groups).tolist())))
    return Estimate(value, low, high, f"bootstrap over groups, {repeats} repeats")


def auc_with_interval(
    truth: Bools, scores: npt.NDArray[Any], groups: Groups | None = None, *, repeats: int = REPEATS
) -> Estimate:
    """Return AUC with its interval: DeLong's for independent rows, bootstrap over groups where rows share a group.

    >>> random = np.random.default_rng(23)
    >>> groups = np.repeat(np.arange(40), 5)
    >>> truth = np.repeat(random.random(40) < 0.5, 5)
    >>> scores = random.normal(size=200) + truth
    >>> auc_with_interval(truth, scores).method
    'DeLong, logit'
    >>> auc_with_interval(truth, scores, groups, repeats=200).method
    'bootstrap over groups, 200 repeats'
    """
    if groups is None or len(set(np.asarray(groups).tolist())) == len(truth):
        return auc_delong(truth, scores)
    return bootstrap(Ranking(truth, scores).auc, groups, repeats=repeats)


def behind_the_best(statistics: Sequence[Statistic], groups: Groups, *, repeats: int = REPEATS) -> list[Estimate]:
    """Estimate how far each of several statistics on the same rows lies behind the truly best of them.

    The best of the data was selected, so its differences from the others are no differences of two that were named
    beforehand. Multiple comparisons with the best (Hsu, Annals of Statistics 12, 1984): the differences of all others
    from one statistic get simultaneous intervals, whose width follows from the largest of them (max |t|, Hothorn, Bretz
    and Westfall, Biometrical Journal 50, 2008), and the statistic lies behind the best by the largest difference. The
    covariance is that of a bootstrap over groups, shared by all statistics. An interval that begins at 0 says that the
    statistic may be the best; with probability `LEVEL` the truly best one has such an interval, equals included.

    Args:
        statistics: of the weights of the rows; None for weights of one.
        groups: [n]; every row its own group for independent rows.
        repeats: resamples; those where a statistic is not defined are left out.

    >>> random = np.random.default_rng(23)
    >>> truth = np.repeat([True, False], 100)
    >>> good, bad = (Ranking(truth, random.normal(size=200) + shift * truth).auc for shift in (2.0, 0.1))
    >>> found = behind_the_best([good, bad], np.arange(200), repeats=100)
    >>> [(estimate.value > 0, estimate.low > 0) for estimate in found]
    [(False, False), (True, True)]
    """
    values = np.array([statistic(None) for statistic in statistics])
    with np.errstate(all="ignore"):
        drawn = np.array([[one(weights) for one in statistics] for weights in group_weights(groups, repeats)])
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    method = f"simultaneous with all others, bootstrap over groups, {repeats} repeats"
    if len(drawn) < 2:
        return [Estimate(float(values.max() - value), 0.0, float("inf"), method) for value in values]
    centered = (drawn - drawn.mean(axis=0)) / np.sqrt(len(drawn) - 1)
    random = np.random.default_rng(SEED)
    # Normal deviates with the bootstrap's covariance, over a chi that accounts for few groups: multivariate t.
    freedom = max(len(set(np.asarray(groups).tolist())) - 1, 1)
    deviates = random.standard_normal((DEVIATES, len(centered))) @ centered
    deviates /= np.sqrt(random.chisquare(freedom, (DEVIATES, 1)) / freedom)
    found = []
    for own in range(len(values)):
        ahead = np.delete(values, own) - values[own]
        if not len(ahead):
            found.append(Estimate(0.0, 0.0, 0.0, method))
            continue
        errors = np.sqrt(((np.delete(centered, own, axis=1) - centered[:, [own]]) ** 2).sum(axis=0))
        differences = np.abs(np.delete(deviates, own, axis=1) - deviates[:, [own]])
        largest = np.divide(differences, errors, out=np.zeros_like(differences), where=errors > 0).max(axis=1)
        half = float(np.quantile(largest, LEVEL)) * errors
        low, value, high = (max(0.0, float(end.max())) for end in (ahead - half, ahead, ahead + half))
        found.append(Estimate(value, low, high, method))
    return found


def mean_over_classes(
    truth: Bools, scores: npt.NDArray[Any], measure: Callable[[Ranking, Weights], float]
) -> Statistic:
    """Return the mean of a ranking measure over classes, as a statistic of weights for `bootstrap`.

    Args:
        truth: bool [n, classes].
        scores: float [n, classes].
        measure: `Ranking.average_precision` (gives mAP) or `Ranking.auc`. A class where it is not defined (no positive
            row, or no negative one) cannot enter the mean; `performance` names such classes.

    >>> truth = np.array([[True, False, False], [False, True, False]])
    >>> scores = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.1]])
    >>> mean_over_classes(truth, scores, Ranking.average_precision)(None)
    1.0
    """
    rankings = [Ranking(truth[:, c], scores[:, c]) for c in range(truth.shape[1])]

    def statistic(weights: Weights) -> float:
        values = np.array([measure(ranking, weights) for ranking in rankings])
        defined = np.isfinite(values)
        return float(values[defined].mean()) if defined.any() else float("nan")

    return statistic
