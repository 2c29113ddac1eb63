"""Confidence sequences hold at every look, for lists of unequal size and answers that depend on earlier ones."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.audit import intervals
from acoustic_env.audit.intervals import Interval
from acoustic_env.audit.sequential import SampledStratum, confidence_sequence, level_of_frame

WEEKS = list(range(20, 401, 20))


def one_list(answers: np.ndarray, size: int = 1_000_000, drawn: int = 400, level: float = 0.95) -> Interval:
    return confidence_sequence([SampledStratum(size, drawn, answers.astype(float))], level)


def share_always_covered(repeats: int, seed: int, form) -> float:
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(repeats):
        answers = rng.random(400) < 0.74
        held += all(i.low <= 0.74 <= i.high for i in (form(answers[:n]) for n in WEEKS))
    return held / repeats


@pytest.mark.slow
def test_the_sequence_covers_at_all_looks_together_where_wilson_does_not() -> None:
    assert share_always_covered(100, 3, one_list) >= 0.95
    assert share_always_covered(200, 3, lambda seen: intervals.wilson(float(seen.sum()), len(seen))) < 0.85


def lists_always_covered(repeats: int, seed: int, level: float, weeks: int = 8) -> float:
    """Lists of 30 to 30,000 rows; the next one is worse whenever the answers so far were too good, and the reverse."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(repeats):
        strata, truths, holds, share = list[SampledStratum](), list[float](), True, 0.8
        for _ in range(weeks):
            size = int(np.exp(rng.uniform(np.log(30), np.log(30_000))))
            answers = rng.permutation(np.arange(size) < round(share * size)).astype(float)
            strata.append(SampledStratum(size, min(50, size), answers[: min(50, size)]))
            truths.append(float(answers.mean()))
            share = 0.6 if strata[-1].values.mean() > truths[-1] else 0.95
            sizes = np.array([stratum.size for stratum in strata])
            found = confidence_sequence(strata, level)
            holds &= found.low <= float(sizes @ truths) / sizes.sum() <= found.high
        held += holds
    return held / repeats


@pytest.mark.slow
def test_lists_of_unequal_size_that_react_to_the_answers_are_covered_at_every_look() -> None:
    assert lists_always_covered(40, 7, 0.95) >= 0.95
    assert lists_always_covered(60, 7, 0.5) >= 0.5


@pytest.mark.simulation
def test_lists_that_react_are_covered_thoroughly() -> None:
    assert lists_always_covered(200, 8, 0.95, weeks=20) >= 0.95
    assert lists_always_covered(200, 9, 0.5, weeks=20) >= 0.5  # far below 95 %, so that a sequence too narrow shows


@pytest.mark.parametrize(
    "repeats", [pytest.param(20, marks=pytest.mark.slow), pytest.param(150, marks=pytest.mark.simulation)]
)
def test_the_sequence_covers_looked_at_after_every_answer(repeats: int) -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(repeats):
        answers = rng.permutation(np.arange(600) < 420)[:300]
        held += all(i.low <= 0.7 <= i.high for i in (one_list(answers[:n], 600, 300) for n in range(1, 301, 3)))
    assert held / repeats >= 0.95


def test_the_price_of_looking_is_bounded() -> None:
    ratio = one_list(np.arange(400) < 296).half_width / intervals.wilson(296, 400).half_width
    assert 1.2 < ratio < 1.9


def test_a_list_counts_by_its_size_not_by_its_answers() -> None:
    right, wrong = np.ones(100), np.zeros(100)
    small, large = SampledStratum(100, 100, wrong), SampledStratum(10_000, 100, right)
    found = confidence_sequence([small, large])
    assert found.estimate == pytest.approx(10_000 / 10_100)
    assert found.low > 0.85


def test_a_list_heard_whole_is_known() -> None:
    found = one_list(np.arange(80) < 60, size=80, drawn=80)
    assert (found.low, found.high) == (pytest.approx(0.75), pytest.approx(0.75))


def test_a_stratum_without_answers_may_hold_anything() -> None:
    complete = SampledStratum(600, 600, np.ones(600))
    found = confidence_sequence([complete, SampledStratum(400, 50, np.zeros(0))])
    assert found.low == pytest.approx(0.6)
    assert found.high == pytest.approx(1.0)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (0, 1), (1000, 1000), (0, 0)])
def test_extreme_answers_stay_within_0_and_1(right: int, n: int) -> None:
    interval = one_list(np.arange(n) < right, drawn=1000)
    assert 0.0 <= interval.low <= interval.high <= 1.0


def test_the_errors_of_all_frames_together_are_the_error_asked_for() -> None:
    assert sum(1.0 - level_of_frame(number) for number in range(1, 100_000)) == pytest.approx(0.05, abs=1e-5)
