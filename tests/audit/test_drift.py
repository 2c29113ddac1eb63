"""New clips against training."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.audit.drift import drift_test
from acoustic_env.audit.intervals import Interval


def draw_sides(rng: np.random.Generator, shift: float) -> tuple[np.ndarray, np.ndarray]:
    new, old = rng.normal(size=(80, 8)).astype(np.float32), rng.normal(size=(150, 8)).astype(np.float32)
    return new + np.float32(shift), old


def test_drift_keeps_its_level_and_finds_a_shift() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([drift_test(*draw_sides(rng, 0.0), seed=i, permutations=99).p_value for i in range(200)])
    assert (p_values <= 0.05).mean() <= 0.08
    assert 0.4 < p_values.mean() < 0.6
    shifted = drift_test(*draw_sides(rng, 0.8), seed=0)
    assert shifted.p_value <= 0.001
    assert shifted.drifted()
    assert shifted.far.estimate > 0.1


def test_drift_is_seeded_and_bounded_in_size() -> None:
    rng = np.random.default_rng(0)
    new, old = rng.normal(size=(2500, 4)).astype(np.float32), rng.normal(size=(3000, 4)).astype(np.float32)
    old[0, 0] = np.nan
    one, two = (drift_test(new, old, seed=3, permutations=19) for _ in range(2))
    assert one == two
    assert one.clips == (1000, 1000)
    assert isinstance(one.far, Interval)
    assert one.far.estimate == pytest.approx(0.05, abs=0.03)
