"""Pool the probabilities of several scorers with learned weights.

The weights are fitted to the given labels: noise shrinks every scorer's fit to them alike, so the scorer that predicts
the given labels better also predicts the true ones better. They are those of the logarithmic pool, in which the
probability of class k is proportional to exp(b_k + sum_w a_w log p_wk); for two classes, and for each label of a
multi-label study, that is logistic regression on log-odds. The ranking uses the mean of the probabilities with these
weights, averaged with equal ones: on planted errors it was better than the plain mean or equal to it
(tests/audit/bench_planted.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from acoustic_env.audit.intervals import Floats

CERTAIN: Final = 1e-3  # probabilities are kept this far from 0 and 1: no scorer may overrule all others
PULL: Final = 5.0  # strength of the pull towards equal weights, in clips
BIAS_PULL: Final = PULL / 10.0  # strength of the pull of the biases towards 0
NEWTON_STEPS: Final = 25  # most steps of the fit of labels; six are usual


@dataclass(frozen=True)
class Combination:
    """Learned weights.

    Attributes:
        weights: [scorers, labels] a_w, not negative; [scorers, 1] for exclusive classes.
        bias: [classes] b_k.
        exclusive: whether a clip has exactly one class.

    >>> combination = Combination(weights=np.array([[3.0], [1.0]]), bias=np.zeros(2), exclusive=True)
    >>> combination.shares.tolist()
    [[0.625], [0.375]]
    >>> combination.pool(np.array([[[1.0, 0.0]], [[0.0, 1.0]]])).tolist()  # two scorers, one clip, two classes
    [[0.625, 0.375]]
    """

    weights: Floats
    bias: Floats
    exclusive: bool

    @property
    def shares(self) -> Floats:
        """[scorers, labels or 1] weights of the mean: halfway between the learned ones and equal ones, sum 1."""
        equal, total = 1.0 / len(self.weights), self.weights.sum(axis=0)
        learned = np.where(total > 0.0, self.weights / np.where(total > 0.0, total, 1.0), equal)
        return np.asarray((learned + equal) / 2.0)

    def pool(self, probabilities: Floats) -> Floats:
        """Return the weighted mean [clips, classes] of [scorers, clips, classes]."""
        shares = np.broadcast_to(self.shares, (len(probabilities), probabilities.shape[2]))
        return np.asarray(np.einsum("wk,wnk->nk", shares, probabilities))

    def log_pool(self, probabilities: Floats) -> Floats:
        """Return the logarithmic pool [clips, classes] of [scorers, clips, classes]."""
        logs = _centered_logs(probabilities) if self.exclusive else _log_odds(probabilities)
        scores = np.einsum("wk,wnk->nk", np.broadcast_to(self.weights, (len(logs), logs.shape[2])), logs) + self.bias
        return np.asarray(special.softmax(scores, axis=1) if self.exclusive else special.expit(scores))


def fit_combination(probabilities: Floats, target: Floats, exclusive: bool) -> Combination:
    """Fit weights by penalized maximum likelihood of the given labels.

    Args:
        probabilities: [scorers, clips, classes], out of fold.
        target: [clips, classes] 0 or 1.
        exclusive: whether a clip has exactly one class; else every class gets weights of its own.

    >>> target = np.eye(2)[np.arange(40) % 2]
    >>> good, guess = np.where(target > 0, 0.9, 0.1), np.full((40, 2), 0.5)
    >>> fit_combination(np.stack([good, guess]), target, exclusive=True).weights.round(2).tolist()
    [[1.15], [0.5]]
    """
    return _fit_classes(probabilities, target) if exclusive else _fit_labels(probabilities, target)


def _fit_classes(probabilities: Floats, target: Floats) -> Combination:
    from scipy.optimize import minimize

    scorers, clips, classes = probabilities.shape
    logs, equal = _centered_logs(probabilities), 1.0 / scorers
    observed, counts = np.einsum("wnk,nk->w", logs, target), target.sum(axis=0)

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
    return Combination(found.x[:scorers, None], found.x[scorers:], True)


def _fit_labels(probabilities: Floats, target: Floats) -> Combination:
    """Fit the weights of all labels together by projected Newton steps; each label gets those of `_fit_classes`."""
    scorers, clips, labels = probabilities.shape
    odds = np.concatenate([_log_odds(probabilities), np.ones((1, clips, labels))])
    center = np.append(np.full(scorers, 1.0 / scorers), 0.0)[:, None]
    # Two classes share the bias of their log-odds, half each: b = b_1 - b_0, and b_0^2 + b_1^2 = b^2 / 2.
    pull = np.append(np.full(scorers, 2.0 * PULL), BIAS_PULL)[:, None]
    found = np.repeat(center, labels, axis=1)
    for _ in range(NEWTON_STEPS):
        expected = special.expit(np.einsum("wk,wnk->nk", found, odds))
        gradient = np.einsum("wnk,nk->wk", odds, expected - target) + pull * (found - center)
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
    return Combination(found[:-1], found[-1], False)


def _log_odds(probabilities: Floats) -> Floats:
    return np.asarray(special.logit(np.clip(probabilities, CERTAIN, 1.0 - CERTAIN).astype(np.float64)))


def _centered_logs(probabilities: Floats) -> Floats:
    logs = np.log(np.clip(probabilities, CERTAIN, 1.0 - CERTAIN))
    return np.asarray(logs - logs.mean(axis=2, keepdims=True))
