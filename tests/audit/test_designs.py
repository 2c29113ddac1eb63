"""Estimators from designed samples: unbiased, covering, and better than a simple sample when the proxy is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from acoustic_env.audit import designs
from acoustic_env.audit.intervals import Interval, from_variance
from acoustic_env.audit.sample import inclusion_probabilities, systematic
from tests.audit.coverage import coverage

N, n = 5000, 200


@dataclass
class Frame:
    truth: np.ndarray
    proxy: np.ndarray


def frame() -> Frame:
    """5,000 labels, 26 % wrong, and a badly calibrated score whose AUC for being wrong is about 0.8."""
    rng = np.random.default_rng(8)
    truth = (rng.random(N) >= 0.26).astype(float)
    proxy = 1 / (1 + np.exp(-(1.6 + 1.2 * (truth - 0.5) + rng.normal(0, 0.7, N))))
    return Frame(truth, proxy)


FRAME = frame()
STRATA = np.digitize(FRAME.proxy, np.quantile(FRAME.proxy, [0.2, 0.4, 0.6, 0.8]))


def stratified(rng: np.random.Generator) -> tuple[float, float]:
    counts = []
    for stratum in range(5):
        rows = rng.choice(np.flatnonzero(stratum == STRATA), n // 5, replace=False)
        counts.append(((stratum == STRATA).sum(), n // 5, FRAME.truth[rows].sum()))
    return designs.stratified(*np.array(counts, dtype=float).T)


def difference(rng: np.random.Generator) -> tuple[float, float]:
    rows = rng.choice(N, n, replace=False)
    return designs.difference(FRAME.truth[rows], FRAME.proxy[rows], float(FRAME.proxy.mean()), N)


def ppi(rng: np.random.Generator) -> tuple[float, float]:
    rows = rng.choice(N, n, replace=False)
    rest = np.delete(FRAME.proxy, rows)
    return designs.ppi_plus_plus(FRAME.truth[rows], FRAME.proxy[rows], float(rest.mean()), float(rest.var()), len(rest))


def unequal(rng: np.random.Generator) -> tuple[float, float]:
    inclusion = inclusion_probabilities(FRAME.proxy, n)
    rows = systematic(inclusion, rng)
    shift, variance = designs.ratio(FRAME.truth[rows] - FRAME.proxy[rows], np.ones(len(rows)), inclusion[rows])
    return float(FRAME.proxy.mean()) + shift, variance


def domain(rng: np.random.Generator) -> tuple[float, float]:
    inclusion = inclusion_probabilities(FRAME.proxy, n)
    rows = systematic(inclusion, rng)
    part = (rows % 2 == 0).astype(float)
    return designs.ratio(FRAME.truth[rows] * part, part, inclusion[rows])


DESIGNS: dict[str, Callable[[np.random.Generator], tuple[float, float]]] = {
    "stratified": stratified,
    "difference": difference,
    "ppi++": ppi,
    "unequal": unequal,
    "domain": domain,
}


def draw(design: str) -> Callable[[np.random.Generator], tuple[Interval, float]]:
    truth = float(FRAME.truth[::2].mean() if design == "domain" else FRAME.truth.mean())

    def one(rng: np.random.Generator) -> tuple[Interval, float]:
        estimate, variance = DESIGNS[design](rng)
        return from_variance(estimate, variance, n, design), truth

    return one


@pytest.mark.parametrize("design", DESIGNS)
def test_designed_samples_cover(design: str) -> None:
    assert 0.93 <= coverage(draw(design), 400, seed=6) <= 0.97


@pytest.mark.simulation
@pytest.mark.parametrize("design", DESIGNS)
def test_designed_samples_cover_thoroughly(design: str) -> None:
    assert 0.93 <= coverage(draw(design), 4000, seed=1) <= 0.97


@pytest.mark.parametrize("design", ["stratified", "difference", "ppi++", "unequal"])
def test_a_useful_proxy_narrows_the_interval_and_leaves_the_estimate_unbiased(design: str) -> None:
    rng = np.random.default_rng(4)
    pairs = np.array([DESIGNS[design](rng) for _ in range(300)])
    truth = FRAME.truth.mean()
    assert pairs[:, 0].mean() == pytest.approx(truth, abs=4 * pairs[:, 0].std() / np.sqrt(300))
    assert np.sqrt(pairs[:, 1]).mean() < 0.97 * np.sqrt(truth * (1 - truth) / n)
    assert np.sqrt(pairs[:, 1].mean()) == pytest.approx(pairs[:, 0].std(), rel=0.15)


def test_a_useless_proxy_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    values, proxy = (rng.random(400) < 0.7).astype(float), rng.random(400)
    _, variance = designs.difference(values, proxy, 0.5, 10**9)
    assert variance == pytest.approx(values.var() / 400, rel=0.02)


def test_ppi_with_no_slope_is_the_plain_mean() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    estimate, variance = designs.ppi_plus_plus(values, np.full(4, 0.5), 0.5, 0.0, 100)
    assert (estimate, variance) == (0.75, pytest.approx(values.var(ddof=1) / 4))


def test_a_stratum_without_answers_widens_the_interval_instead_of_vanishing() -> None:
    answered = designs.stratified(*np.array([[500.0, 500], [50, 50], [40, 40]]))
    unanswered = designs.stratified(*np.array([[500.0, 500], [50, 0], [40, 0]]))
    assert answered[0] == pytest.approx(0.8)
    assert unanswered[1] > 10 * answered[1]


def test_a_ratio_over_everything_is_the_truth_without_error() -> None:
    estimate, variance = designs.ratio(FRAME.truth, np.ones(N), np.ones(N))
    assert estimate == pytest.approx(FRAME.truth.mean())
    assert variance == 0.0
