"""Principal components of centerd rows that are read in chunks; the solver follows the size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy import linalg

from acoustic_env.models.evaluate import Floats

CHUNK: Final = 2048
# Up to this many columns the exact covariance is cheap: 3,000 x 3,000 doubles are 72 MB, their eigenvectors a minute.
EXACT: Final = 3000
OVERSAMPLE: Final = 10
PASSES: Final = 6
# A share of variance is searched for with twice as many components each time.
FIRST_GUESS: Final = 64
# Components below this share of the first one's variance are rounding.
NEGLIGIBLE: Final = 1e-10

Rows = Callable[[int, int], Floats]


def principal_components(rows: Rows, n: int, features: int, wanted: float, seed: int) -> tuple[Floats, Floats, float]:
    """Leading principal components.

    Args:
        rows: rows(start, stop) gives centerd rows [stop - start, features], float64; called once or more per chunk.
        n: number of rows.
        features: number of columns.
        wanted: a number of components (int), or a share of variance in (0, 1).
        seed: of the randomised solver (Halko, Martinsson and Tropp 2011, with power iterations), which serves more than
            3,000 columns and rows; below, the covariance (or, of fewer rows than columns, the Gram matrix) is exact.

    Returns:
        Components [c, features] of unit length, the largest weight of each positive; their variances [c] (dividing by
        n); the total variance. Fewer components than wanted where the rows have no more.
    """
    if min(n, features) <= EXACT:
        components, variances, total = _exact(rows, n, features)
    elif isinstance(wanted, int) or wanted >= 1:
        components, variances, total = _randomised(rows, n, features, int(wanted), seed)
    else:
        size = FIRST_GUESS
        components, variances, total = _randomised(rows, n, features, size, seed)
        while variances.sum() < wanted * total and size < min(n, features):
            size *= 2
            components, variances, total = _randomised(rows, n, features, size, seed)
    real = variances > NEGLIGIBLE * variances.max(initial=0)
    components, variances = components[real], variances[real]
    reached = int(np.searchsorted(np.cumsum(variances), wanted * total * (1 - 1e-12))) + 1
    count = reached if wanted < 1 else int(wanted)
    components, variances = components[:count], variances[:count]
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return components * signs[:, None], variances, total


def _exact(rows: Rows, n: int, features: int) -> tuple[Floats, Floats, float]:
    if features <= n:
        covariance = np.zeros((features, features))
        for start in range(0, n, CHUNK):
            chunk = rows(start, min(start + CHUNK, n))
            covariance += chunk.T @ chunk
        total = float(np.trace(covariance) / n)
        variances, vectors = linalg.eigh(covariance / n, overwrite_a=True)
        return vectors.T[::-1], np.maximum(variances[::-1], 0), total
    everything = rows(0, n)
    gram = everything @ everything.T
    values, vectors = linalg.eigh(gram)
    order = np.flatnonzero(values > NEGLIGIBLE * values[-1])[::-1]
    components = (vectors[:, order] / np.sqrt(values[order])).T @ everything
    return components, values[order] / n, float(np.trace(gram) / n)


def _randomised(rows: Rows, n: int, features: int, wanted: int, seed: int) -> tuple[Floats, Floats, float]:
    size = min(wanted + OVERSAMPLE, n, features)
    projected: Floats = np.random.default_rng(seed).normal(size=(features, size))
    total, previous = 0.0, projected
    for _ in range(PASSES):
        previous = np.asarray(linalg.qr(projected, mode="economic")[0], np.float64)
        total, projected = 0.0, np.zeros((features, size))
        for start in range(0, n, CHUNK):
            chunk = rows(start, min(start + CHUNK, n))
            total += float(np.einsum("ij,ij->", chunk, chunk))
            projected += chunk.T @ (chunk @ previous)
    # Rayleigh-Ritz on the last subspace: its covariance is previous' C previous.
    small = previous.T @ projected / n
    variances, turn = linalg.eigh((small + small.T) / 2)
    components = (previous @ turn[:, ::-1]).T
    return components[:wanted], np.maximum(variances[::-1][:wanted], 0), total / n
