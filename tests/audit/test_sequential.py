"""Confidence sequences hold at every look; versions go out only when they are better or approved."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.audit import intervals
from acoustic_env.audit.intervals import Interval
from acoustic_env.audit.sequential import confidence_sequence, looks, may_publish

WEEKS = list(range(20, 401, 20))


def share_always_covered(repeats: int, seed: int, form) -> float:
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(repeats):
        answers = rng.random(400) < 0.74
        held += all(i.low <= 0.74 <= i.high for i in (form(float(answers[:n].sum()), n) for n in WEEKS))
    return held / repeats


def test_the_sequence_covers_at_all_looks_together_where_wilson_does_not() -> None:
    assert share_always_covered(200, 3, confidence_sequence) >= 0.95
    assert share_always_covered(200, 3, intervals.wilson) < 0.85


@pytest.mark.slow
def test_the_sequence_covers_thoroughly_looked_at_after_every_answer() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        right = np.cumsum(rng.random(300) < 0.7)
        held += all(
            i.low <= 0.7 <= i.high for i in (confidence_sequence(float(right[n - 1]), n) for n in range(1, 301, 3))
        )
    assert held / 1000 >= 0.95


def test_the_price_of_looking_is_bounded() -> None:
    ratio = confidence_sequence(296, 400).half_width / intervals.wilson(296, 400).half_width
    assert 1.2 < ratio < 1.8


def test_looks_only_narrow_and_hold_the_estimate() -> None:
    answers = (np.random.default_rng(1).random(400) < 0.74).astype(float)
    found = looks(answers, WEEKS)
    widths = [interval.half_width for interval in found]
    assert widths[-1] < widths[0]
    assert all(interval.low <= interval.estimate <= interval.high for interval in found)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (0, 1), (1000, 1000), (0, 0)])
def test_extreme_answers_stay_within_0_and_1(right: int, n: int) -> None:
    interval = confidence_sequence(right, n)
    assert 0.0 <= interval.low <= interval.high <= 1.0


def test_a_version_is_published_only_when_it_beats_the_last_or_is_approved() -> None:
    better, equal = Interval(0.85, 0.81, 0.89, "m", 300), Interval(0.85, 0.70, 0.95, "m", 40)
    assert may_publish(better, 0.80).publish
    assert not may_publish(equal, 0.80).publish
    assert not may_publish(better, None).publish
    assert may_publish(equal, 0.80, approved_by="Ada").reason == "approved by Ada"
    assert "nobody has listened" in may_publish(intervals.nothing_observed("m"), 0.8).reason
