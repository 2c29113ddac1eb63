"""Many labels' regressions fitted together are those fitted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.models.classifiers.logistic import fit_weights
from acoustic_env.models.sigmoids import fit_sigmoids


@pytest.mark.parametrize("penalty", [0.03, 1e-3])
def test_labels_fitted_together_have_the_optimum_of_each_alone(penalty: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(800, 30)) @ rng.normal(size=(30, 30)) / 5).astype(np.float32)
    chance = 1 / (1 + np.exp(-(x @ rng.normal(size=(30, 4)) + [0.0, -2.0, -4.0, 3.0])))
    outcomes = (rng.random((800, 4)) < chance).astype(np.float64)
    outcomes[:, 0] = 0.5 * outcomes[:, 0] + 0.5 * chance[:, 0]  # a label may be a share
    together = fit_sigmoids(x, outcomes, penalty)
    for k in range(4):
        alone = fit_weights(x, outcomes[:, [k]].astype(np.float32), "binary", penalty)
        scores = [x @ weights[:-1, 0] + weights[-1, 0] for weights in (together[:, [k]], alone)]
        np.testing.assert_allclose(*(1 / (1 + np.exp(-score)) for score in scores), atol=3e-3)


def test_a_label_nobody_has_gets_a_small_finite_probability() -> None:
    x = np.random.default_rng(1).normal(size=(100, 5)).astype(np.float32)
    weights = fit_sigmoids(x, np.zeros((100, 2)), 0.03)
    assert np.isfinite(weights).all()
    assert (1 / (1 + np.exp(-(x @ weights[:-1] + weights[-1]))) < 1e-3).all()
