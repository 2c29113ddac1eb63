"""Watch the share of failing clips while a run goes, so that a wrong bucket is noticed after a hundred clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.95
MIN_FAILURES: Final = 10  # before a run is stopped, whatever the rate allowed


def log_evidence(failed: int, finished: int, allowed: float) -> float:
    """Return the log of a test martingale against "at most this share of the clips fails".

    The likelihood of the clips so far under failure rates above `allowed` (mixed uniformly), over their likelihood at
    `allowed`. Whatever rate up to `allowed` is true, it ever exceeds 1 / a with probability a at most, at all looks
    together (Ville's inequality; Robbins, Annals of Mathematical Statistics 41, 1970).

    >>> log_evidence(0, 100, 0.05) < 0 < log_evidence(20, 100, 0.05)
    True

    Args:
        failed: clips that failed so far.
        finished: clips so far.
        allowed: share, 0 to 1.
    """
    from scipy.special import betaln, xlog1py, xlogy
    from scipy.stats import beta

    good = finished - failed
    if allowed >= 1.0:
        return -math.inf
    if allowed <= 0.0 and failed:
        return math.inf
    mixed = betaln(failed + 1, good + 1) + beta.logsf(allowed, failed + 1, good + 1) - math.log1p(-allowed)
    return float(mixed - xlogy(failed, allowed) - xlog1py(good, -allowed))


def lower_bound(failed: int, finished: int, confidence: float = CONFIDENCE) -> float:
    """Return the lower confidence bound of the failing share, valid at every look at once.

    The largest rate that `log_evidence` rejects.

    >>> lower_bound(0, 10)
    0.0
    >>> 0.85 < lower_bound(100, 100) < 1.0
    True

    Args:
        failed: clips that failed so far.
        finished: clips so far.
        confidence: probability that the bound lies below the truth at all looks together.
    """
    from scipy.optimize import brentq

    def excess(rate: float) -> float:
        return log_evidence(failed, finished, rate) + math.log(1 - confidence)

    share = failed / finished if finished else 0.0
    if failed == 0 or excess(1e-12) <= 0:
        return 0.0
    top = min(share, 1.0 - 1e-12)
    return top if excess(top) > 0 else float(brentq(excess, 1e-12, top))


@dataclass
class FailureWatch:
    """A count of finished and failed clips that decides when to stop.

    Attributes:
        allowed: share of the pending clips that may fail, 0 to 1.
        in_work: clips that may be in work at once. A clip that fails is finished sooner than its neighbors, so all
            clips in work count as good; the bound then holds in whatever order clips finish.
        finished, failed: clips so far.
    """

    allowed: float
    in_work: int = 0
    finished: int = 0
    failed: int = 0

    def add(self, finished: int, failed: int) -> None:
        """Count some more clips."""
        self.finished += finished
        self.failed += failed

    @property
    def share(self) -> float:
        """The lower confidence bound of the failing share."""
        return lower_bound(self.failed, self.finished + self.in_work)

    @property
    def exceeded(self) -> bool:
        """Whether the lower confidence bound has passed the allowed share."""
        if self.failed < MIN_FAILURES:
            return False
        return log_evidence(self.failed, self.finished + self.in_work, self.allowed) > -math.log(1 - CONFIDENCE)


def allowed_of_pending(max_error_rate: float, clips: int, pending: int, failed_before: int) -> float:
    """Return the share of the pending clips that may fail before the whole list has more failures than allowed.

    At least `max_error_rate` itself: clips that failed for good in earlier runs do not stop the others.

    >>> allowed_of_pending(0.05, clips=1000, pending=100, failed_before=10)
    0.4
    >>> allowed_of_pending(0.05, clips=1000, pending=100, failed_before=100)
    0.05

    Args:
        max_error_rate: share of the list's clips that may fail.
        clips: on the list.
        pending: of them, to be done by this run.
        failed_before: of them, failed for good and not tried again.
    """
    return max(max_error_rate, (max_error_rate * clips - failed_before) / max(1, pending))
