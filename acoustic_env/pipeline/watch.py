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


@dataclass
class FailureWatch:
    """Decide from the counts of finished and failed clips whether a run should stop.

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
    def exceeded(self) -> bool:
        """Whether the run should stop: a failing share of at most `allowed` is rejected at the 5 % level."""
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
