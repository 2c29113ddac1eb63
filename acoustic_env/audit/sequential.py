"""Confidence sequences: intervals of a share that hold at all times together, for samples of several strata.

A finite frame consists of strata (lists of unequal size, rows that a version changed and rows that it did not), each
sampled without replacement. Later strata may depend on earlier answers in any way, and annotation may stop whenever the
interval is narrow enough.

For a stratum's answers y_1, y_2, ... in the order in which they came, N its rows and A its mean, the next answer has
the mean mu_j = (N A - y_1 - ... - y_(j-1)) / (N - j + 1) (Waudby-Smith & Ramdas 2020). The upper bound is the largest
mean of all rows at which the product of exp(-l w y_j) / (1 - mu_j (1 - exp(-l w))) over all answers of all strata,
averaged over bets l > 0 fixed in advance, stays below 2 / alpha (Ville 1939). Of the strata's unknown means with this
mean of all rows, those count that make it least (Spertus, Sridhar & Stark 2024). The lower bound is the upper bound of
1 - y. The proof is in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from acoustic_env.audit.intervals import Floats, Interval, nothing_observed

METHOD: Final = "confidence sequence"
BETS: Final = 2.0 ** np.arange(-18, 3)  # per row that an answer stands for; equally likely beforehand
MULTIPLIERS: Final = 128  # Lagrange multipliers tried; any of them gives a valid bound
TOLERANCE: Final = 1e-9  # of a bound


@dataclass(frozen=True)
class SampledStratum:
    """One part of a frame, sampled without replacement.

    Attributes:
        size: rows N of the stratum.
        drawn: rows of the sample, fixed before anyone answers.
        values: answers so far in [0, 1], in the order in which they came.
    """

    size: int
    drawn: int
    values: Floats


def confidence_sequence(strata: Sequence[SampledStratum], level: float = 0.95) -> Interval:
    """Return the confidence sequence's interval of the mean of all rows of all strata (see the module).

    Args:
        strata: answers and strata are only ever added. One without answers counts with everything that it may hold.
        level: coverage at all times together.

    >>> some = SampledStratum(size=500, drawn=100, values=np.array([1.0, 1.0, 0.0, 1.0] * 10))
    >>> print(confidence_sequence([some]))
    0.750 (0.481 to 0.930, n = 40, confidence sequence)
    >>> print(confidence_sequence([SampledStratum(4, 4, np.array([1.0, 1.0, 0.0, 1.0]))]))  # every row is known
    0.750 (0.750 to 0.750, n = 4, confidence sequence)
    """
    answers = sum(len(stratum.values) for stratum in strata)
    if answers == 0:
        return nothing_observed(METHOD)
    estimate = stratified_mean(strata)
    high = _upper(strata, level)
    low = 1.0 - _upper([SampledStratum(s.size, s.drawn, 1.0 - s.values) for s in strata], level)
    return Interval(estimate, min(low, estimate), max(high, estimate), METHOD, answers)


def stratified_mean(strata: Sequence[SampledStratum]) -> float:
    """Return the mean of all rows, each stratum by its size; 1/2 for a stratum without answers.

    >>> stratified_mean([SampledStratum(300, 10, np.array([1.0, 1.0])), SampledStratum(100, 10, np.array([]))])
    0.875
    """
    total = sum(stratum.size for stratum in strata)
    means = [stratum.values.mean() if len(stratum.values) else 0.5 for stratum in strata]
    return float(sum(stratum.size * mean for stratum, mean in zip(strata, means, strict=True)) / total)


def level_of_frame(number: int, level: float = 0.95) -> float:
    """Return the level for the n-th of endlessly many frames, so that all their intervals hold together.

    Its error is (1 - level) / (n (n + 1)); over all n these sum to 1 - level.

    Args:
        number: 1 for the first frame.
        level: coverage of all frames together.

    >>> round(level_of_frame(2, 0.94), 2)
    0.99
    """
    return 1.0 - (1.0 - level) / (number * (number + 1))


def _upper(strata: Sequence[SampledStratum], level: float) -> float:
    """Return the largest mean of all rows that the mixture of bets does not reject at 2 / (1 - level)."""
    from scipy.optimize import brentq

    share = np.array([stratum.size for stratum in strata], dtype=np.float64)
    share /= share.sum()
    weight = np.array([_bet_weight(stratum) for stratum in strata])
    slope, shift, lowest, highest = np.array([_conditional_means(stratum) for stratum in strata]).T
    answers = np.array([len(stratum.values) for stratum in strata], dtype=np.float64)
    right = np.array([stratum.values.sum() for stratum in strata])
    scaled = BETS[:, None] * weight
    caution = -np.expm1(-scaled)  # [bets, strata] 1 - exp(-l w)
    multipliers, dual = _dual(share, answers, caution, scaled, slope, shift, lowest, highest)
    gained = -(scaled @ right)
    threshold = np.log(2.0 / (1.0 - level))

    def excess(mean: float) -> float:
        """Return the log wealth above the threshold, which falls as the mean of all rows rises."""
        log_wealth = gained - (dual - multipliers * mean).min(axis=1) - np.log(len(BETS))
        return float(np.logaddexp.reduce(log_wealth) - threshold)

    low, high = float(share @ lowest), float(share @ highest)
    if excess(high) < 0.0:
        return high
    return low if excess(low) >= 0.0 else float(brentq(excess, low, high, xtol=TOLERANCE))


def _bet_weight(stratum: SampledStratum) -> float:
    """Return the weight of one answer: about N / n, less where the sample takes much of the stratum."""
    return 1.0 / float((1.0 / (stratum.size - np.arange(stratum.drawn))).sum())


def _conditional_means(stratum: SampledStratum) -> tuple[float, float, float, float]:
    """Return slope and shift of the answers' mean of mu_j = slope A - shift, and the least and largest possible A."""
    n, size = len(stratum.values), stratum.size
    known = float(stratum.values.sum())
    if n == 0:
        return 1.0, 0.0, 0.0, 1.0
    left = size - np.arange(n)
    before = np.cumsum(stratum.values) - stratum.values
    return float((size / left).mean()), float((before / left).mean()), known / size, (known + size - n) / size


def _dual(
    share: Floats,
    answers: Floats,
    caution: Floats,
    scaled: Floats,
    slope: Floats,
    shift: Floats,
    lowest: Floats,
    highest: Floats,
) -> tuple[Floats, Floats]:
    """Return multipliers eta and D(eta) [bets, multipliers]; min over eta of D(eta) - eta mean bounds the log product.

    D(eta) = max over A of sum m log(1 - caution (slope A - shift)) + eta share A, stratum by stratum in closed form.
    """
    answered = answers > 0
    price = (answers * caution * slope / share)[:, answered]  # [bets, strata] eta at which a stratum's A starts to rise
    least, most = price.min(axis=1), (price * np.exp(np.minimum(scaled[:, answered], 30.0))).max(axis=1)
    eta = np.exp(np.linspace(np.log(least), np.log(most), MULTIPLIERS, axis=1))
    c = caution[:, None, :]
    mean = (1.0 + c * shift - answers * c * slope / (eta[:, :, None] * share)) / (c * slope)
    mean = np.clip(mean, lowest, highest)
    remaining = np.maximum(1.0 - c * (slope * mean - shift), 1e-300)
    return eta, (answers * np.log(remaining) + eta[:, :, None] * share * mean).sum(axis=2)
