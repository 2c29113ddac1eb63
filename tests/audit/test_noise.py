"""Identities of label noise against Bayes done by hand, against each other and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acoustic_env.audit import noise
from acoustic_env.audit.noise import Contamination, FlipRates

rates = st.floats(0.0, 0.45)
priors = st.floats(0.05, 0.95)


@given(rates, rates, priors)
def test_contamination_and_flip_rates_are_inverse_to_each_other(rho1: float, rho0: float, prior: float) -> None:
    flips = FlipRates(rho1, rho0)
    prior_given = noise.given_prior(flips, prior)
    contamination = noise.contamination_from_flips(flips, prior)
    assert noise.true_prior(contamination, prior_given) == pytest.approx(prior)
    back = noise.flips_from_contamination(contamination, prior_given)
    assert (back.rho1, back.rho0) == pytest.approx((rho1, rho0), abs=1e-12)


def test_contamination_is_not_the_flip_rate() -> None:
    # 1000 clips, 200 positive; 10 % of the positives and 20 % of the negatives flipped, counted by hand.
    contamination = noise.contamination_from_flips(FlipRates(0.1, 0.2), 0.2)
    assert contamination.alpha == pytest.approx(160 / 340)
    assert contamination.beta == pytest.approx(20 / 660)
    assert noise.label_accuracy(contamination, 0.34) == pytest.approx(0.82)


@given(rates, rates, st.floats(0.5, 1.0), priors)
def test_adjusting_undoes_the_noise(alpha: float, beta: float, auc: float, prior_given: float) -> None:
    contamination = Contamination(alpha, beta)
    assert noise.adjusted_auc(noise.noisy_auc(auc, contamination), contamination) == pytest.approx(auc)
    tpr, tnr = noise.adjusted_rates(*noise.noisy_rates(auc, 0.8, contamination), contamination)
    assert (tpr, tnr) == pytest.approx((auc, 0.8))


def test_per_class_rates_agree_with_the_balanced_accuracy_identity() -> None:
    contamination = Contamination(0.16, 0.36)
    tpr, tnr = noise.adjusted_rates(0.7, 0.6, contamination)
    assert (tpr + tnr) / 2 == pytest.approx(noise.adjusted_auc(0.65, contamination))


def test_the_source_systems_auc_corrects_to_an_impossible_value() -> None:
    assert noise.adjusted_auc(0.766, Contamination(8 / 50, 18 / 50)) == pytest.approx(1.0542, abs=1e-4)


def test_symmetric_accuracy_equals_the_binary_matrix_inversion() -> None:
    symmetric = noise.adjusted_accuracy_symmetric(0.721, 0.26)
    assert symmetric == pytest.approx(0.9604, abs=1e-4)
    assert noise.adjusted_accuracy(0.721, 0.721, Contamination(0.26, 0.26), 0.5) == pytest.approx(symmetric)


def test_identities_hold_in_simulated_independent_noise() -> None:
    rng = np.random.default_rng(3)
    n, flips, prior = 400_000, FlipRates(0.15, 0.3), 0.35
    truth = rng.random(n) < prior
    predicted = np.where(truth, rng.random(n) < 0.9, rng.random(n) < 0.2)
    flipped = rng.random(n) < np.where(truth, flips.rho1, flips.rho0)
    given_labels = truth ^ flipped
    contamination = noise.contamination_from_flips(flips, prior)
    assert contamination.alpha == pytest.approx((~truth)[given_labels].mean(), abs=0.005)
    tpr, tnr = predicted[given_labels].mean(), (~predicted)[~given_labels].mean()
    assert noise.adjusted_rates(tpr, tnr, contamination) == pytest.approx((0.9, 0.8), abs=0.01)
    accuracy = noise.adjusted_accuracy(tpr, tnr, contamination, given_labels.mean())
    assert accuracy == pytest.approx((predicted == truth).mean(), abs=0.01)


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_k_classes_invert_exactly(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.dirichlet(np.ones(classes**2)).reshape(classes, classes)
    transition = 0.7 * np.eye(classes) + 0.3 * rng.dirichlet(np.ones(classes), size=classes)
    recovered, condition = noise.adjusted_joint(clean @ transition, transition)
    np.testing.assert_allclose(recovered, clean, atol=1e-9)
    assert condition >= 1.0


def test_k_classes_from_contamination_agree_with_two() -> None:
    contamination = np.array([[0.64, 0.36], [0.16, 0.84]])
    transition, priors_true = noise.transition_from_contamination(contamination, np.array([0.5, 0.5]))
    flips = noise.flips_from_contamination(Contamination(0.16, 0.36), 0.5)
    assert transition[1, 0] == pytest.approx(flips.rho1)
    assert transition[0, 1] == pytest.approx(flips.rho0)
    assert priors_true[1] == pytest.approx(noise.true_prior(Contamination(0.16, 0.36), 0.5))


def test_labels_without_information_are_refused() -> None:
    with pytest.raises(ValueError, match="no information"):
        noise.adjusted_auc(0.7, Contamination(0.5, 0.5))
    with pytest.raises(ValueError, match="singular"):
        noise.adjusted_joint(np.full((2, 2), 0.25), np.full((2, 2), 0.5))


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


def test_true_probability_inverts_the_forward_noise() -> None:
    clean = np.linspace(0, 1, 11)
    noisy = 0.1 + (1 - 0.1 - 0.2) * clean
    np.testing.assert_allclose(noise.true_probability(noisy, FlipRates(0.2, 0.1)), clean)


def test_planted_errors_are_exactly_as_many_as_asked_and_fall_on_ambiguous_examples() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 5000)
    ambiguity = np.repeat([0.0, 1.0], 2500)
    given_labels, wrong = noise.plant_errors(labels, 0.2, rng, ambiguity)
    assert wrong.sum() == 1000
    assert wrong[:2500].sum() == 0
    np.testing.assert_array_equal(given_labels != labels, wrong)
    assert set(given_labels) == {0, 1, 2, 3}
    uniform = noise.plant_errors(labels, 0.2, rng)[1]
    assert abs(int(uniform[:2500].sum()) - 500) < 80
