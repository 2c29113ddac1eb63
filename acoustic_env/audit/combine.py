"""Several witnesses' probabilities made one, with learned weights.

The weights are fitted to the given labels: noise shrinks every witness's fit to them alike, so who predicts the given
labels better also knows the truth better. They are those of the logarithmic pool, in which the probability of class k
is proportional to exp(b_k + sum_w a_w log p_wk); for two classes that is logistic regression on log-odds. What ranks
is the mean of the probabilities with these weights, halfway pulled to equal ones: on planted errors it was ahead of
the plain mean, of the logarithmic pool and of every single witness, or level with them (tests/audit/bench_planted.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats

Ints = npt.NDArray[np.int64]

CERTAIN: Final = 1e-3  # probabilities are kept this far from 0 and 1: no witness may overrule all others
PULL: Final = 5.0  # strength of the pull towards equal weights, in clips


@dataclass(frozen=True)
class Combination:
    """Learned weights.

    Attributes:
        weights: [witnesses] a_w, not negative.
        bias: [classes] b_k.
    """

    weights: Floats
    bias: Floats

    @property
    def shares(self) -> Floats:
        """[witnesses] weights of the mean: halfway between the learned ones and equal ones, sum 1."""
        equal = np.full(len(self.weights), 1.0 / len(self.weights))
        total = float(self.weights.sum())
        return equal if total == 0.0 else (self.weights / total + equal) / 2.0

    def pool(self, probabilities: Floats) -> Floats:
        """[clips, classes] weighted mean of [witnesses, clips, classes]."""
        return np.asarray(np.einsum("w,wnk->nk", self.shares, probabilities))

    def log_posterior(self, probabilities: Floats) -> Floats:
        """[clips, classes] log of the logarithmic pool of [witnesses, clips, classes]."""
        scores = np.einsum("w,wnk->nk", self.weights, _logs(probabilities)) + self.bias
        return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))


def fit_combination(probabilities: Floats, given: Ints) -> Combination:
    """Weights by penalised maximum likelihood of the given labels.

    Args:
        probabilities: [witnesses, clips, classes], out of fold.
        given: [clips].
    """
    from scipy.optimize import minimize

    witnesses, clips, classes = probabilities.shape
    logs, rows, equal = _logs(probabilities), np.arange(clips), 1.0 / witnesses
    observed = logs[:, rows, given].sum(axis=1)
    counts = np.bincount(given, minlength=classes)

    def loss_and_gradient(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:witnesses], parameters[witnesses:]
        scores = np.einsum("w,wnk->nk", weights, logs) + bias
        norm = np.logaddexp.reduce(scores, axis=1, keepdims=True)
        expected = np.exp(scores - norm)
        loss = norm.sum() - weights @ observed - counts @ bias
        away = weights - equal
        gradient_weights = np.einsum("wnk,nk->w", logs, expected) - observed + 2.0 * PULL * away
        gradient_bias = expected.sum(axis=0) - counts + 2.0 * PULL * bias / 10.0
        penalty = PULL * (away @ away + bias @ bias / 10.0)
        return float(loss + penalty) / clips, np.concatenate([gradient_weights, gradient_bias]) / clips

    start = np.concatenate([np.full(witnesses, equal), np.zeros(classes)])
    bounds = [(0.0, None)] * witnesses + [(None, None)] * classes
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return Combination(found.x[:witnesses], found.x[witnesses:])


def _logs(probabilities: Floats) -> Floats:
    logs = np.log(np.clip(probabilities, CERTAIN, 1.0 - CERTAIN))
    return np.asarray(logs - logs.mean(axis=2, keepdims=True))
