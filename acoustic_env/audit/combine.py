"""Several scorers' probabilities made one, with learned weights.

The weights are fitted to the given labels: noise shrinks every scorer's fit to them alike, so who predicts the given
labels better also knows the truth better. They are those of the logarithmic pool, in which the probability of class k
is proportional to exp(b_k + sum_w a_w log p_wk); for two classes, and for each label of a multi-label study, that is
logistic regression on log-odds. What ranks is the mean of the probabilities with these weights, halfway pulled to
equal ones: on planted errors it was ahead of the plain mean or level with it (tests/audit/bench_planted.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from acoustic_env.audit.intervals import Floats

Ints = npt.NDArray[np.int64]

CERTAIN: Final = 1e-3  # probabilities are kept this far from 0 and 1: no scorer may overrule all others
PULL: Final = 5.0  # strength of the pull towards equal weights, in clips
BIAS_PULL: Final = PULL / 10.0  # of the pull of the biases towards 0
NEWTON: Final = 25  # most steps of the labels' fit; six are usual


@dataclass(frozen=True)
class Combination:
    """Learned weights of exclusive classes.

    Attributes:
        weights: [scorers] a_w, not negative.
        bias: [classes] b_k.
    """

    weights: Floats
    bias: Floats

    @property
    def shares(self) -> Floats:
        """[scorers] weights of the mean: halfway between the learned ones and equal ones, sum 1."""
        return _shares(self.weights[:, None])[:, 0]

    def pool(self, probabilities: Floats) -> Floats:
        """[clips, classes] weighted mean of [scorers, clips, classes]."""
        return np.asarray(np.einsum("w,wnk->nk", self.shares, probabilities))

    def log_pool(self, probabilities: Floats) -> Floats:
        """[clips, classes] logarithmic pool of [scorers, clips, classes]."""
        scores = np.einsum("w,wnk->nk", self.weights, _logs(probabilities)) + self.bias
        return np.asarray(np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)))


@dataclass(frozen=True)
class LabelCombination:
    """Learned weights of each label of a multi-label study.

    Attributes:
        weights: [scorers, labels] a_w, not negative.
        bias: [labels].
    """

    weights: Floats
    bias: Floats

    @property
    def shares(self) -> Floats:
        """[scorers, labels] weights of the mean: halfway between the learned ones and equal ones, sum 1."""
        return _shares(self.weights)

    def pool(self, probabilities: Floats) -> Floats:
        """[clips, labels] weighted mean of [scorers, clips, labels]."""
        return np.asarray(np.einsum("wk,wnk->nk", self.shares, probabilities))

    def log_pool(self, probabilities: Floats) -> Floats:
        """[clips, labels] logarithmic pool of [scorers, clips, labels]."""
        scores = np.einsum("wk,wnk->nk", self.weights, _log_odds(probabilities)) + self.bias
        return np.asarray(special.expit(scores))


def fit_combination(probabilities: Floats, given: Ints) -> Combination:
    """Weights by penalised maximum likelihood of the given labels.

    Args:
        probabilities: [scorers, clips, classes], out of fold.
        given: [clips].
    """
    from scipy.optimize import minimize

    scorers, clips, classes = probabilities.shape
    logs, rows, equal = _logs(probabilities), np.arange(clips), 1.0 / scorers
    observed = logs[:, rows, given].sum(axis=1)
    counts = np.bincount(given, minlength=classes)

    def loss_and_gradient(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:scorers], parameters[scorers:]
        scores = np.einsum("w,wnk->nk", weights, logs) + bias
        norm = np.logaddexp.reduce(scores, axis=1, keepdims=True)
        expected = np.exp(scores - norm)
        loss = norm.sum() - weights @ observed - counts @ bias
        away = weights - equal
        gradient_weights = np.einsum("wnk,nk->w", logs, expected) - observed + 2.0 * PULL * away
        gradient_bias = expected.sum(axis=0) - counts + 2.0 * BIAS_PULL * bias
        penalty = PULL * away @ away + BIAS_PULL * bias @ bias
        return float(loss + penalty) / clips, np.concatenate([gradient_weights, gradient_bias]) / clips

    start = np.concatenate([np.full(scorers, equal), np.zeros(classes)])
    bounds = [(0.0, None)] * scorers + [(None, None)] * classes
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return Combination(found.x[:scorers], found.x[scorers:])


def fit_label_combination(probabilities: Floats, given: Floats) -> LabelCombination:
    """Fit the weights of all labels together, by projected Newton steps; for each label those of `fit_combination`.

    Args:
        probabilities: [scorers, clips, labels], out of fold.
        given: [clips, labels] 0 or 1.
    """
    scorers, clips, labels = probabilities.shape
    odds = np.concatenate([_log_odds(probabilities), np.ones((1, clips, labels))])
    center = np.append(np.full(scorers, 1.0 / scorers), 0.0)[:, None]
    # Two classes share the bias of their log-odds, half each: b = b_1 - b_0, and b_0^2 + b_1^2 = b^2 / 2.
    pull = np.append(np.full(scorers, 2.0 * PULL), BIAS_PULL)[:, None]
    found = np.repeat(center, labels, axis=1)
    for _ in range(NEWTON):
        expected = special.expit(np.einsum("wk,wnk->nk", found, odds))
        gradient = np.einsum("wnk,nk->wk", odds, expected - given) + pull * (found - center)
        weighted = odds * (expected * (1.0 - expected))
        curvature = np.einsum("wnk,vnk->kwv", weighted, odds, optimize=True) + np.diag(pull[:, 0])
        held = (found <= 0.0) & (gradient > 0.0)
        held[-1] = False
        free = ~held.T
        curvature = np.where(free[:, :, None] & free[:, None, :], curvature, np.eye(scorers + 1))
        step = np.linalg.solve(curvature, np.where(held, 0.0, gradient).T[:, :, None])[:, :, 0].T
        reached = found - step
        reached[:-1] = np.maximum(reached[:-1], 0.0)
        moved, found = float(np.abs(reached - found).max()), reached
        if moved < 1e-6:
            break
    return LabelCombination(found[:-1], found[-1])


def _shares(weights: Floats) -> Floats:
    """[scorers, labels] halfway between weights with sum 1 and equal ones."""
    equal, total = 1.0 / len(weights), weights.sum(axis=0)
    return np.asarray((np.where(total > 0.0, weights / np.where(total > 0.0, total, 1.0), equal) + equal) / 2.0)


def _log_odds(probabilities: Floats) -> Floats:
    return np.asarray(special.logit(np.clip(probabilities, CERTAIN, 1.0 - CERTAIN).astype(np.float64)))


def _logs(probabilities: Floats) -> Floats:
    logs = np.log(np.clip(probabilities, CERTAIN, 1.0 - CERTAIN))
    return np.asarray(logs - logs.mean(axis=2, keepdims=True))
