"""Identities of label noise against counts done by hand, against each other and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acoustic_env.audit import noise
from acoustic_env.audit.noise import Contamination
from tests.audit.planted import plant_errors

rates = st.floats(0.0, 0.45)


def test_the_accuracy_of_labels_equals_a_count_by_hand() -> None:
    # 1000 clips, 200 positive; 10 % of the positives and 20 % of the negatives flipped.
    contamination = Contamination(160 / 340, 20 / 660)
    assert noise.label_accuracy(contamination, 0.34) == pytest.approx(0.82)


@given(rates, rates, st.floats(0.5, 1.0))
def test_adjusting_undoes_the_noise(alpha: float, beta: float, auc: float) -> None:
    noisy = 0.5 + (1 - alpha - beta) * (auc - 0.5)
    assert noise.adjusted_auc(noisy, Contamination(alpha, beta)) == pytest.approx(auc)


def test_the_source_systems_auc_corrects_to_an_impossible_value() -> None:
    assert noise.adjusted_auc(0.766, Contamination(8 / 50, 18 / 50)) == pytest.approx(1.0542, abs=1e-4)


def test_the_source_systems_balanced_accuracy_corrects_to_what_inverting_the_noise_matrix_gives() -> None:
    corrected = (0.721 - 0.26) / (1 - 2 * 0.26)
    assert corrected == pytest.approx(0.9604, abs=1e-4)
    assert noise.adjusted_auc(0.721, Contamination(0.26, 0.26)) == pytest.approx(corrected)


def test_the_identity_holds_in_simulated_independent_noise() -> None:
    rng = np.random.default_rng(3)
    n = 400_000
    truth = rng.random(n) < 0.35
    predicted = np.where(truth, rng.random(n) < 0.9, rng.random(n) < 0.2)
    labels = truth ^ (rng.random(n) < np.where(truth, 0.15, 0.3))
    contamination = Contamination(float((~truth)[labels].mean()), float(truth[~labels].mean()))
    balanced = (predicted[labels].mean() + (~predicted)[~labels].mean()) / 2
    assert noise.adjusted_auc(balanced, contamination) == pytest.approx((0.9 + 0.8) / 2, abs=0.01)
    assert noise.label_accuracy(contamination, labels.mean()) == pytest.approx((labels == truth).mean())


def test_labels_without_information_are_rejected() -> None:
    with pytest.raises(ValueError, match="no information"):
        noise.adjusted_auc(0.7, Contamination(0.5, 0.5))


@given(st.integers(0, 100_000))
def test_frechet_bounds_hold_whatever_the_dependence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.full(8, 0.3)).reshape(2, 2, 2)  # truth, given, predicted
    agreement = joint[:, 0, 0].sum() + joint[:, 1, 1].sum()
    labels = joint[0, 0].sum() + joint[1, 1].sum()
    accuracy = joint[0, :, 0].sum() + joint[1, :, 1].sum()
    low, high = noise.frechet_bounds(agreement, labels)
    assert low - 1e-9 <= accuracy <= high + 1e-9


def test_frechet_bounds_of_the_source_system() -> None:
    assert noise.frechet_bounds(0.721, 0.74) == pytest.approx((0.461, 0.981))
    assert noise.frechet_bounds(0.721, 0.80) == pytest.approx((0.521, 0.921))


def test_planted_errors_are_exactly_as_many_as_asked_and_fall_on_ambiguous_examples() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 5000)
    ambiguity = np.repeat([0.0, 1.0], 2500)
    given_labels, wrong = plant_errors(labels, 0.2, rng, ambiguity)
    assert wrong.sum() == 1000
    assert wrong[:2500].sum() == 0
    np.testing.assert_array_equal(given_labels != labels, wrong)
    assert set(given_labels) == {0, 1, 2, 3}
    uniform = plant_errors(labels, 0.2, rng)[1]
    assert abs(int(uniform[:2500].sum()) - 500) < 80
