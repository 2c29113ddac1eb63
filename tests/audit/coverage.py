"""How often an interval holds the truth, over seeded repeats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from acoustic_env.audit.intervals import Interval


def coverage(draw: Callable[[np.random.Generator], tuple[Interval, float]], repeats: int, seed: int) -> float:
    """Share of repeats whose interval contains the truth; `draw` makes data and returns (interval, truth)."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(repeats):
        interval, truth = draw(rng)
        held += interval.low <= truth <= interval.high
    return held / repeats
