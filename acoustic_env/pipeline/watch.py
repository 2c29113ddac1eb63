"""Watch the share of failing clips while a run goes, so that a wrong bucket is noticed after some dozens of clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIN_FAILURES: Final = 25  # before a run is stopped, whatever the share allowed
FACTOR: Final = 2.0  # of the allowed share, at which a run is stopped


@dataclass
class FailureWatch:
    """Decide from the counts of finished and failed clips whether a run should stop.

    It stops when `MIN_FAILURES` clips or more have failed, and more than `FACTOR` times the share allowed. At the share
    allowed that is rare: fewer than one run in a hundred.

    Attributes:
        allowed: share of the pending clips that may fail, 0 to 1.
        in_work: clips that may be in work at once. A clip that fails is finished sooner than its neighbors, so all
            clips in work count as good.
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
        """Whether the run should stop.

        >>> FailureWatch(0.05, finished=100, failed=30).exceeded
        True
        >>> FailureWatch(0.05, finished=1_000, failed=60).exceeded
        False
        """
        if self.failed < MIN_FAILURES:
            return False
        return self.failed > FACTOR * self.allowed * (self.finished + self.in_work)


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
