"""Intervals that stay valid however often one looks, and the rule that decides whether a version is published.

An ordinary 95 % interval looked at every week is wrong far more often than 5 % of the time. A confidence sequence
covers at every look at once: it may be watched, and listening may stop whenever it is narrow enough.

Source: Robbins 1970 (mixture martingales); Howard et al. 2021; Waudby-Smith & Ramdas 2024 (betting).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acoustic_env.audit.intervals import Floats, Interval, nothing_observed


def confidence_sequence(right: float, n: int, level: float = 0.95) -> Interval:
    """Beta-binomial mixture confidence sequence for a share, one look of it.

    All p for which the mixture martingale B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) / (p^k (1-p)^(n-k)) is below
    1 / (1 - level). With probability `level` the truth is inside at every n at once (Ville's inequality).

    Args:
        right: right answers k so far.
        n: answers so far, in the random order of the sample.
        level: coverage over all looks together.
    """
    method = "confidence sequence"
    if n <= 0:
        return nothing_observed(method)
    from scipy.optimize import brentq
    from scipy.special import betaln, xlog1py, xlogy

    wrong = n - right
    threshold = float(betaln(right + 0.5, wrong + 0.5) - betaln(0.5, 0.5)) + np.log(1.0 - level)

    def excess(p: float) -> float:
        return float(xlogy(right, p) + xlog1py(wrong, -p) - threshold)

    share, edge = right / n, 1e-12
    low = 0.0 if right == 0 else float(brentq(excess, edge, share))
    high = 1.0 if wrong == 0 else float(brentq(excess, share, 1.0 - edge))
    return Interval(share, low, high, method, n)


def looks(values: Floats, at: list[int], level: float = 0.95) -> list[Interval]:
    """The sequence at several looks, each intersected with those before it: it only ever narrows.

    Args:
        values: [n] answers (0 or 1) in the random order in which they were given.
        at: numbers of answers at which one looks, ascending.
        level: coverage over all looks together.
    """
    narrowed: list[Interval] = []
    low, high = 0.0, 1.0
    for n in at:
        now = confidence_sequence(float(values[:n].sum()), n, level)
        low, high = max(low, now.low), min(high, now.high)
        narrowed.append(Interval(now.estimate, min(low, now.estimate), max(high, now.estimate), now.method, n))
    return narrowed


@dataclass(frozen=True)
class Publication:
    """Whether a version of the labels goes out, and why."""

    publish: bool
    reason: str


def may_publish(candidate: Interval, previous: float | None, approved_by: str | None = None) -> Publication:
    """A version is published only if its lower bound beats the previous version's estimate, or a person approves.

    Args:
        candidate: label accuracy of the new version on a probability sample (a confidence sequence when looked at
            repeatedly).
        previous: the previous version's estimated accuracy; None when there is none.
        approved_by: name of the person who approves; None when nobody has.
    """
    if approved_by:
        return Publication(True, f"approved by {approved_by}")
    if previous is None:
        return Publication(False, "no estimate of a previous version to beat: a person has to approve the first one")
    if candidate.n == 0:
        return Publication(False, "nobody has listened to a sample of the new version")
    if candidate.low > previous:
        return Publication(True, f"lower bound {candidate.low:.3f} beats the previous version's {previous:.3f}")
    return Publication(False, f"lower bound {candidate.low:.3f} does not beat the previous version's {previous:.3f}")
