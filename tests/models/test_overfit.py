"""The deliberate over-fit tells a network that can learn from one that cannot."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.config import classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.overfit import overfit

NOISE = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
ROWS = Examples(NOISE, np.random.default_rng(1).integers(0, 3, 200), np.arange(200))


def test_a_network_learns_labels_of_noise_by_heart() -> None:
    found = overfit(classifier_settings({"kind": "mlp", "batch_size": 16}), "multiclass", 3, ROWS, 2)
    assert (found.rows, found.learned) == (32, True)
    assert len(found.losses) == 200


def test_a_network_whose_rate_is_too_small_does_not() -> None:
    settings = classifier_settings({"kind": "mlp", "batch_size": 16, "learning_rate": 1e-9})
    assert not overfit(settings, "multiclass", 3, ROWS, 1).learned


def test_other_kinds_are_refused() -> None:
    with pytest.raises(UsageError, match="logistic is none"):
        overfit(classifier_settings({"kind": "logistic"}), "multiclass", 3, ROWS, 1)  # type: ignore[arg-type]
