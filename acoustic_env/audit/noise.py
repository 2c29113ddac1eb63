"""Identities of label noise: each function is one closed form, exact for exact inputs.

Notation: Y the true label, G the given label, P a prediction. *Contamination* is what listening measures,
alpha = P(Y=0 | G=1) and beta = P(Y=1 | G=0). *Flip rates* are another thing, rho1 = P(G=0 | Y=1) and
rho0 = P(G=1 | Y=0). The corrections hold only if P and G are independent given Y and every true label is in the
vocabulary; `acoustic_env.audit.adjusted` decides whether they may be shown. Nothing here divides by a label accuracy.

Sources: Menon et al. 2015 (ICML 37:125-134); Natarajan et al. 2013; Lam & Stork 2003 (bounds).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Contamination:
    """Share of given labels that are wrong, by given class, each in [0, 1].

    Attributes:
        alpha: P(Y=0 | G=1).
        beta: P(Y=1 | G=0).
    """

    alpha: float
    beta: float

    @property
    def information(self) -> float:
        """1 - alpha - beta, the factor by which noise shrinks AUC - 1/2; 0 is labels without information."""
        return 1.0 - self.alpha - self.beta


@dataclass(frozen=True)
class FlipRates:
    """Share of true labels that were given wrongly, by true class, each in [0, 1].

    Attributes:
        rho1: P(G=0 | Y=1).
        rho0: P(G=1 | Y=0).
    """

    rho1: float
    rho0: float


def given_prior(flips: FlipRates, prior: float) -> float:
    """P(G=1) = (1 - rho1) P(Y=1) + rho0 P(Y=0), from `prior` = P(Y=1)."""
    return (1.0 - flips.rho1) * prior + flips.rho0 * (1.0 - prior)


def true_prior(contamination: Contamination, prior_given: float) -> float:
    """P(Y=1) = (1 - alpha) P(G=1) + beta P(G=0), from `prior_given` = P(G=1)."""
    return (1.0 - contamination.alpha) * prior_given + contamination.beta * (1.0 - prior_given)


def contamination_from_flips(flips: FlipRates, prior: float) -> Contamination:
    """alpha = P(Y=0 | G=1) and beta = P(Y=1 | G=0) by Bayes from the flip rates and `prior` = P(Y=1).

    Raises:
        ValueError: one given class is empty, so its contamination is undefined.
    """
    given = given_prior(flips, prior)
    if not 0.0 < given < 1.0:
        msg = f"P(G=1) is {given:g}: the contamination of an empty given class is undefined"
        raise ValueError(msg)
    return Contamination(flips.rho0 * (1.0 - prior) / given, flips.rho1 * prior / (1.0 - given))


def flips_from_contamination(contamination: Contamination, prior_given: float) -> FlipRates:
    """rho1 = P(G=0 | Y=1) and rho0 = P(G=1 | Y=0) by Bayes from the contamination and `prior_given` = P(G=1).

    Raises:
        ValueError: one true class is empty.
    """
    prior = true_prior(contamination, prior_given)
    if not 0.0 < prior < 1.0:
        msg = f"P(Y=1) is {prior:g}: the flip rate of an empty true class is undefined"
        raise ValueError(msg)
    rho1 = contamination.beta * (1.0 - prior_given) / prior
    rho0 = contamination.alpha * prior_given / (1.0 - prior)
    return FlipRates(rho1, rho0)


def label_accuracy(contamination: Contamination, prior_given: float) -> float:
    """P(G = Y) = (1 - alpha) P(G=1) + (1 - beta) P(G=0)."""
    return (1.0 - contamination.alpha) * prior_given + (1.0 - contamination.beta) * (1.0 - prior_given)


def noisy_auc(auc: float, contamination: Contamination) -> float:
    """P(score | G=1 above score | G=0) from `auc` = P(score | Y=1 above score | Y=0)."""
    return 0.5 + contamination.information * (auc - 0.5)


def adjusted_auc(auc: float, contamination: Contamination) -> float:
    """P(score | Y=1 above score | Y=0) from the AUC against given labels; above 1 when the assumption is broken.

    The same identity turns balanced accuracy against given labels into balanced accuracy against true ones.

    Raises:
        ValueError: labels without information (alpha + beta = 1).
    """
    return 0.5 + (auc - 0.5) / _informative(contamination)


def noisy_rates(tpr: float, tnr: float, contamination: Contamination) -> tuple[float, float]:
    """(P(P=1 | G=1), P(P=0 | G=0)) from `tpr` = P(P=1 | Y=1) and `tnr` = P(P=0 | Y=0)."""
    alpha, beta = contamination.alpha, contamination.beta
    return (1.0 - alpha) * tpr + alpha * (1.0 - tnr), (1.0 - beta) * tnr + beta * (1.0 - tpr)


def adjusted_rates(tpr: float, tnr: float, contamination: Contamination) -> tuple[float, float]:
    """(P(P=1 | Y=1), P(P=0 | Y=0)) from `tpr` = P(P=1 | G=1) and `tnr` = P(P=0 | G=0): the 2 x 2 system solved.

    Raises:
        ValueError: labels without information (alpha + beta = 1).
    """
    alpha, beta, information = contamination.alpha, contamination.beta, _informative(contamination)
    positive = ((1.0 - beta) * (tpr - alpha) + alpha * (tnr - beta)) / information
    negative = ((1.0 - alpha) * (tnr - beta) + beta * (tpr - alpha)) / information
    return positive, negative


def adjusted_accuracy(tpr: float, tnr: float, contamination: Contamination, prior_given: float) -> float:
    """P(P = Y) from per-class rates against given labels, the contamination and `prior_given` = P(G=1)."""
    positive, negative = adjusted_rates(tpr, tnr, contamination)
    prior = true_prior(contamination, prior_given)
    return prior * positive + (1.0 - prior) * negative


def adjusted_accuracy_symmetric(accuracy: float, error: float) -> float:
    """P(P = Y) = (P(P = G) - e) / (1 - 2e) for two classes with P(G != Y) = e, independent of prediction and class.

    Raises:
        ValueError: e = 1/2, labels without information.
    """
    return (accuracy - error) / _informative(Contamination(error, error))


def frechet_bounds(agreement: float, accuracy_of_labels: float, classes: int = 2) -> tuple[float, float]:
    """What P(P = Y) can be, whatever the dependence, from A = P(P = G) and B = P(G = Y).

    Two classes: [|A + B - 1|, 1 - |A - B|] (two wrongs make a right). More: the lower bound is max(0, A + B - 1).
    """
    lower = agreement + accuracy_of_labels - 1.0
    lower = abs(lower) if classes == 2 else max(0.0, lower)
    return lower, 1.0 - abs(agreement - accuracy_of_labels)


def adjusted_joint(noisy_joint: Floats, transition: Floats) -> tuple[Floats, float]:
    """P(P=j, Y=k) for K classes by inverting the transition matrix.

    Args:
        noisy_joint: [K, K], P(P=j, G=i).
        transition: [K, K], T[k, i] = P(G=i | Y=k), rows sum to 1.

    Returns:
        [K, K] joint of prediction and true label (its trace is the accuracy; cells below 0 refute the assumption),
        and the condition number of T, by which sampling error may be multiplied.

    Raises:
        ValueError: T is singular.
    """
    condition = float(np.linalg.cond(transition))
    if not np.isfinite(condition) or condition > 1e12:
        msg = f"the transition matrix is singular (condition number {condition:g}): some classes cannot be told apart"
        raise ValueError(msg)
    solved: Floats = np.linalg.solve(transition.T, noisy_joint.T).T.astype(np.float64)
    return solved, condition


def transition_from_contamination(contamination: Floats, priors_given: Floats) -> tuple[Floats, Floats]:
    """T[k, i] = P(G=i | Y=k) and P(Y=k) by Bayes.

    Args:
        contamination: [K, K], C[i, k] = P(Y=k | G=i), rows sum to 1.
        priors_given: [K], P(G=i).

    Raises:
        ValueError: a true class is empty.
    """
    joint = priors_given[:, None] * contamination
    priors: Floats = np.asarray(joint.sum(axis=0), dtype=np.float64)
    if (priors <= 0).any():
        msg = f"true class {int(np.argmin(priors))} is empty: its row of the transition matrix is undefined"
        raise ValueError(msg)
    transition: Floats = (joint / priors).T.astype(np.float64)
    return transition, priors


def true_probability(noisy: Floats, flips: FlipRates) -> Floats:
    """P(Y=1 | x) from `noisy` = P(G=1 | x): (noisy - rho0) / (1 - rho0 - rho1), clipped to [0, 1]."""
    factor = _informative(Contamination(flips.rho1, flips.rho0))
    return np.clip((np.asarray(noisy, dtype=np.float64) - flips.rho0) / factor, 0.0, 1.0)


def plant_errors(
    labels: Ints, rate: float, rng: np.random.Generator, ambiguity: Floats | None = None
) -> tuple[Ints, Bools]:
    """Labels with a known share of errors, for tests and benchmarks.

    Args:
        labels: [n] true classes 0..K-1.
        rate: share of examples whose label becomes another class; exactly round(rate n) of them.
        rng: source of randomness.
        ambiguity: [n] non-negative; errors fall in proportion to it. None: uniformly.

    Returns:
        [n] given labels and [n] which of them are wrong.
    """
    labels = np.asarray(labels, dtype=np.int64)
    classes = int(labels.max()) + 1
    weights = None if ambiguity is None else np.asarray(ambiguity, dtype=np.float64) + 1e-12
    chosen = rng.choice(
        len(labels), round(rate * len(labels)), replace=False, p=None if weights is None else weights / weights.sum()
    )
    given = labels.copy()
    given[chosen] = (labels[chosen] + rng.integers(1, max(classes, 2), size=len(chosen))) % max(classes, 2)
    return given, given != labels


def _informative(contamination: Contamination) -> float:
    if abs(contamination.information) < 1e-12:
        msg = f"alpha + beta = 1 (alpha {contamination.alpha:g}): the given labels hold no information about the truth"
        raise ValueError(msg)
    return contamination.information
