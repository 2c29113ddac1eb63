"""Intervals of a proportion: equal to statsmodels, and covering as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from acoustic_env.audit import intervals
from acoustic_env.audit.intervals import Interval
from tests.audit.coverage import coverage

FORMS = {"wilson": "wilson", "clopper_pearson": "beta", "jeffreys": "jeffreys"}


@pytest.mark.parametrize(("ours", "theirs"), FORMS.items())
@given(n=st.integers(1, 2000), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_equal_statsmodels(ours: str, theirs: str, n: int, share: float, level: float) -> None:
    right = round(share * n)
    interval = getattr(intervals, ours)(right, n, level)
    low, high = proportion_confint(right, n, 1 - level, method=theirs)
    if theirs == "jeffreys":  # statsmodels leaves the open ends at the quantile
        low, high = (0.0 if right == 0 else low), (1.0 if right == n else high)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)


def test_the_source_systems_audit_is_wider_than_it_was_quoted() -> None:
    nature, urban = intervals.wilson(42, 50), intervals.wilson(32, 50)
    assert (nature.low, nature.high) == pytest.approx((0.715, 0.917), abs=5e-4)
    assert (urban.low, urban.high) == pytest.approx((0.501, 0.759), abs=5e-4)


def test_no_answer_is_the_whole_range() -> None:
    for form in FORMS:
        interval = getattr(intervals, form)(0, 0)
        assert (interval.low, interval.high, interval.n) == (0.0, 1.0, 0)
    assert intervals.wilson(0, 0).as_dict()["estimate"] is None


def test_more_right_answers_than_answers_are_rejected() -> None:
    with pytest.raises(ValueError, match="5 right answers of 4"):
        intervals.wilson(5, 4)


def draw_binomial(form: str, n: int, share: float):
    def draw(rng: np.random.Generator) -> tuple[Interval, float]:
        return getattr(intervals, form)(int(rng.binomial(n, share)), n), share

    return draw


@pytest.mark.parametrize("form", FORMS)
def test_binomial_intervals_cover(form: str) -> None:
    held = coverage(draw_binomial(form, 200, 0.74), 2000, seed=11)
    assert 0.93 <= held <= 0.97


def draw_clustered(rng: np.random.Generator) -> tuple[Interval, float]:
    # 120 videos of 3 clips; video-level Beta(3, 1) gives an intra-class correlation of 0.2.
    share = rng.beta(3.0, 1.0, 120)
    values = (rng.random((120, 3)) < share[:, None]).astype(float).ravel()
    effective = len(values) / intervals.design_effect(values, np.repeat(np.arange(120), 3))
    return intervals.wilson(float(values.mean()) * effective, effective), 0.75


def test_the_interval_with_a_design_effect_covers_where_the_plain_one_does_not() -> None:
    assert 0.93 <= coverage(draw_clustered, 1000, seed=2) <= 0.97

    def ignoring_groups(rng: np.random.Generator) -> tuple[Interval, float]:
        values = np.repeat(rng.random(60) < 0.75, 4)
        return intervals.wilson(float(values.sum()), 240), 0.75

    assert coverage(ignoring_groups, 500, seed=2) < 0.85


def test_the_design_effect_follows_the_intra_class_correlation() -> None:
    rng = np.random.default_rng(0)
    share = rng.beta(3.0, 1.0, 20_000)
    values = (rng.random((20_000, 4)) < share[:, None]).astype(float).ravel()
    assert intervals.design_effect(values, np.repeat(np.arange(20_000), 4)) == pytest.approx(1 + 3 * 0.2, abs=0.05)
    assert intervals.design_effect(values[:100], np.arange(100)) == 1.0


@pytest.mark.simulation
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.5, 0.64, 0.74, 0.84])
def test_binomial_intervals_cover_thoroughly(form: str, share: float) -> None:
    assert 0.93 <= coverage(draw_binomial(form, 300, share), 20_000, seed=1) <= 0.97


@pytest.mark.simulation
def test_the_interval_with_a_design_effect_covers_thoroughly() -> None:
    assert 0.93 <= coverage(draw_clustered, 10_000, seed=3) <= 0.97
