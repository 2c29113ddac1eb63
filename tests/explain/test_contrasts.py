"""Welch's t, false discovery, effect sizes and correlations, held against scipy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from acoustic_env.explain.contrasts import cluster_order, contrast, false_discovery, rank_correlation


def two_samples(seed: int, n: int = 60, columns: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    member = random.random(n) < 0.4
    member[:4] = [True, True, False, False]
    values = random.normal(size=(n, columns)) * random.uniform(0.1, 1e3, columns)
    values[member] += random.normal(size=columns)
    return values, member


@given(seed=st.integers(0, 10**6), missing=st.floats(0, 0.5))
@settings(max_examples=25, deadline=None)
def test_t_and_p_are_those_of_scipy_with_missing_values_left_out(seed: int, missing: float) -> None:
    values, member = two_samples(seed)
    holes = np.random.default_rng(seed + 1).random(values.shape) < missing
    holes[:4] = False
    values[holes] = np.nan
    found = contrast(values, member, np.arange(len(values)))
    expected = stats.ttest_ind(values[member], values[~member], equal_var=False, nan_policy="omit")
    np.testing.assert_allclose(found.t, np.asarray(expected.statistic), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.p, np.asarray(expected.pvalue), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(found.degrees, np.asarray(expected.df), rtol=1e-9)


def test_infinite_values_count_as_missing_and_constant_columns_have_no_t() -> None:
    values, member = two_samples(3)
    spoiled = values.copy()
    spoiled[5, 0], spoiled[6, 1] = np.inf, np.nan
    spoiled[:, 2] = 4.0
    found = contrast(spoiled, member, np.arange(len(values)))
    keep = np.arange(len(values)) != 5
    alone = contrast(values[keep][:, :1], member[keep], np.arange(keep.sum()))
    assert found.t[0] == pytest.approx(alone.t[0])
    assert np.isnan(found.t[2])
    assert np.isnan(found.g[2])
    constant = np.where(member, 1.0, 0.0)[:, None]
    differs = contrast(constant, member, np.arange(len(values)))
    assert differs.t[0] == np.inf
    assert differs.p[0] == 0.0


def test_copies_of_a_clip_within_its_recording_change_nothing() -> None:
    values, member = two_samples(4)
    groups = np.arange(len(values))
    once = contrast(values, member, groups)
    thrice = contrast(np.repeat(values, 3, axis=0), np.repeat(member, 3), np.repeat(groups, 3))
    np.testing.assert_allclose(thrice.t, once.t)
    np.testing.assert_allclose(thrice.n, once.n)


def test_the_effect_size_is_hedges_g_as_statsmodels_has_it() -> None:
    from statsmodels.stats.meta_analysis import effectsize_smd

    values, member = two_samples(5)
    found = contrast(values, member, np.arange(len(values)))
    one, other = values[member], values[~member]
    expected, variance = effectsize_smd(
        one.mean(axis=0), one.std(axis=0, ddof=1), len(one), other.mean(axis=0), other.std(axis=0, ddof=1), len(other)
    )
    np.testing.assert_allclose(found.g, expected)
    np.testing.assert_allclose((found.g_high - found.g_low) / 2 / 1.959964, np.sqrt(variance), rtol=0.02)


@pytest.mark.parametrize("difference", [0.0, 0.8])
def test_the_effect_size_interval_covers(difference: float) -> None:
    random = np.random.default_rng(6)
    member = np.arange(50) < 20
    values = random.normal(size=(50, 2000)) + difference * member[:, None]
    found = contrast(values, member, np.arange(50))
    assert 0.93 <= np.mean((found.g_low <= difference) & (difference <= found.g_high)) <= 0.97


def test_false_discovery_is_benjamini_and_hochbergs_and_leaves_missing_tests_out() -> None:
    p = np.random.default_rng(7).random(200) ** 3
    np.testing.assert_allclose(false_discovery(p), stats.false_discovery_control(p))
    holed = np.insert(p, [3, 50], np.nan)
    found = false_discovery(holed)
    assert np.isnan(found[3])
    np.testing.assert_allclose(found[np.isfinite(holed)], stats.false_discovery_control(p))
    assert false_discovery(p.reshape(10, 20)).shape == (10, 20)


def test_false_discovery_keeps_its_rate_when_nothing_differs() -> None:
    random = np.random.default_rng(8)
    member = np.arange(40) < 20
    calls = [
        (false_discovery(contrast(random.normal(size=(40, 50)), member, np.arange(40)).p) <= 0.05).any()
        for _ in range(200)
    ]
    assert np.mean(calls) < 0.10


def test_rank_correlation_is_spearmans_and_blind_to_units() -> None:
    values = np.random.default_rng(9).normal(size=(80, 6))
    values[:, 3] = values[:, 2] + 0.1 * values[:, 3]
    expected = np.asarray(stats.spearmanr(values).statistic)
    np.testing.assert_allclose(rank_correlation(values), expected, atol=1e-12)
    np.testing.assert_allclose(rank_correlation(np.exp(3 * values) * 1e6), expected, atol=1e-12)
    values[:, 4] = 7.0
    values[:, 5] = np.nan
    values[3, 0] = np.nan
    found = rank_correlation(values)
    assert np.isnan(found[4]).all()
    assert np.isnan(found[5]).all()
    assert found[2, 3] > 0.9


def test_columns_that_are_alike_stand_side_by_side() -> None:
    base = np.random.default_rng(10).normal(size=(100, 4))
    noise = np.random.default_rng(11).normal(size=(100, 4))
    values = np.concatenate([base, -base + 0.01 * noise], axis=1)
    order = cluster_order(rank_correlation(values)).tolist()
    assert sorted(order) == list(range(8))
    assert all(abs(order.index(i) - order.index(i + 4)) == 1 for i in range(4))
