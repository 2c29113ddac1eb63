"""Ridge logistic regressions of many labels on the same features, fitted together.

Each label has its own weights, its own search direction and its own step; the labels share the matrix products. The
result is the optimum that `logistic.fit_weights` finds for each label alone, in a fraction of the time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.models.evaluate import Floats

Singles = npt.NDArray[np.float32]

# Steps the search remembers; more need fewer passes over the rows and more memory.
MEMORY: Final = 6
PASSES: Final = 60
# The search ends where the predicted decrease of every label's loss is this small beside its starting curvature.
TOLERANCE: Final = 1e-3
# A label without positive rows (or with nothing else) starts from this share of them.
RAREST: Final = 1e-6


def fit_sigmoids(x: npt.NDArray[np.float32], outcomes: Floats | Singles, penalty: float) -> Singles:
    """Fit one ridge logistic regression per label by L-BFGS (Nocedal and Wright 2006, algorithm 7.4).

    The search runs in the basis of the principal axes of `x`, where p (1 - p) variance + penalty is close to the
    curvature of each label's loss, p being the label's mean outcome. It needs about a dozen passes over the rows.

    Args:
        x: float32 [n, features].
        outcomes: [n, labels] in 0 to 1.
        penalty: per row; scikit-learn's 1 / (C n). The intercepts are free.

    Returns:
        Weights [features + 1, labels], the last row the intercepts.

    >>> x = np.array([[-1.0], [1.0], [-1.0], [1.0]], np.float32)
    >>> weights = fit_sigmoids(x, np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]), 0.1)
    >>> weights[0].round(2)
    array([1.63, 0.  ], dtype=float32)
    """
    n, features = x.shape
    targets = np.asarray(outcomes, np.float32)
    variances, axes = np.linalg.eigh((x.T @ x / np.float32(n)).astype(np.float64))
    turned = np.ones((n, features + 1), np.float32)
    turned[:, :features] = x @ axes.astype(np.float32)
    share = np.clip(targets.mean(axis=0, dtype=np.float64), RAREST, 1 - RAREST)
    penalties = np.append(np.full(features, penalty), 0.0)[:, None]
    loss = _Loss(turned, targets, penalties)
    weights = np.zeros((features + 1, targets.shape[1]))
    weights[-1] = np.log(share / (1 - share))
    spread = share * (1 - share)
    scale = 1 / (spread * np.append(np.maximum(variances, 0.0), 1.0)[:, None] + penalties)
    value, gradient = loss(weights)
    steps, changes = list[Floats](), list[Floats]()
    passes = 1
    while passes < PASSES and (np.einsum("ij,ij,ij->j", gradient, gradient, scale) > TOLERANCE**2 * spread).any():
        direction = _direction(gradient, scale, steps, changes)
        slope = np.einsum("ij,ij->j", direction, gradient)
        length = np.ones(len(share))
        while True:
            reached = weights - length * direction
            lower, new_gradient = loss(reached)
            passes += 1
            # In single precision the last digits of the loss are rounding.
            short = lower > value - 1e-4 * length * slope + 1e-6 * np.abs(value)
            if not short.any() or passes >= PASSES:
                break
            length = np.where(short, length / 2, length)
        steps, changes = [*steps, reached - weights][-MEMORY:], [*changes, new_gradient - gradient][-MEMORY:]
        weights, value, gradient = reached, lower, new_gradient
    return np.vstack([axes @ weights[:-1], weights[-1:]]).astype(np.float32)


class _Loss:
    """Mean log loss plus penalty / 2 x squared weights of each label, and its gradient."""

    def __init__(self, x: Singles, targets: Singles, penalties: Floats) -> None:
        self._x, self._targets, self._penalties = x, targets, penalties

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """Losses [labels] and gradients [features + 1, labels] at weights [features + 1, labels]."""
        scores = self._x @ weights.astype(np.float32)
        small = np.exp(-np.abs(scores))
        losses = np.maximum(scores, 0) + np.log1p(small) - scores * self._targets
        residual = np.where(scores >= 0, np.float32(1), small) / (1 + small) - self._targets
        value = losses.mean(axis=0, dtype=np.float64) + (self._penalties * weights**2).sum(axis=0) / 2
        return value, (self._x.T @ residual) / len(residual) + self._penalties * weights


def _direction(gradient: Floats, scale: Floats, steps: list[Floats], changes: list[Floats]) -> Floats:
    """Each label's quasi-Newton direction [features + 1, labels] by the two-loop recursion, `scale` its start."""
    direction = gradient.copy()
    done = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        inverse = 1 / np.maximum(np.einsum("ij,ij->j", step, change), 1e-30)
        amount = inverse * np.einsum("ij,ij->j", step, direction)
        direction -= amount * change
        done.append((step, change, inverse, amount))
    direction *= scale
    if done:
        step, change, _, _ = done[0]
        curvature = np.einsum("ij,ij,ij->j", change, change, scale)
        direction *= np.einsum("ij,ij->j", step, change) / np.maximum(curvature, 1e-30)
    for step, change, inverse, amount in reversed(done):
        direction += step * (amount - inverse * np.einsum("ij,ij->j", change, direction))
    return direction
