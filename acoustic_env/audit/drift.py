"""Test whether the features of new clips differ from those of the training clips.

An energy test (Szekely & Rizzo 2004) with a seeded permutation p-value, and the share of new clips that are farther
from training clips than those are from each other, which measures how many moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats, Interval, wilson

Features = npt.NDArray[np.float32]

MOST_CLIPS: Final = 1000  # of each side; the distance matrix is of their sum
FAR: Final = 0.95  # quantile of training's own nearest-neighbor distances beyond which a clip is far


@dataclass(frozen=True)
class Drift:
    """Result of the test.

    Attributes:
        statistic: energy distance between the two samples, 0 for equal distributions.
        p_value: share of permutations at least as far apart.
        far: share of new clips farther from training than 95 % of training clips are from each other; 0.05 is none.
        clips: new and training clips compared.
    """

    statistic: float
    p_value: float
    far: Interval
    clips: tuple[int, int]

    def drifted(self) -> bool:
        """Return whether the difference is significant at 0.01: annotate more of the new clips."""
        return self.p_value < 0.01


def drift_test(new: Features, training: Features, seed: int, permutations: int = 999) -> Drift:
    """Compare new clips with training clips.

    Args:
        new: float32 [clips, features]; one clip of each group, or the p-value is too small.
        training: float32 [clips, features]; at least two clips.
        seed: of subsamples and permutations.
        permutations: of the test.

    >>> training = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    >>> found = drift_test(training[:30] + 1.0, training[30:], seed=0)
    >>> found.p_value, found.drifted(), found.clips
    (0.001, True, (30, 30))
    """
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(seed)
    center, std = np.nanmean(training, axis=0), np.nanstd(training, axis=0)
    std = np.where(std > 0.0, std, np.inf)
    both = [side[rng.permutation(len(side))[:MOST_CLIPS]] for side in (new, training)]
    points, count = np.nan_to_num((np.vstack(both) - center) / std), len(both[0])
    distances = cdist(points, points)
    member = np.zeros((permutations + 1, len(distances)))
    member[0, :count] = 1.0
    for row in range(1, permutations + 1):
        member[row, rng.permutation(len(distances))[:count]] = 1.0
    energy = _energy(distances, member, count)
    p_value = float((energy[1:] >= energy[0] - 1e-12).sum() + 1) / (permutations + 1)
    within = distances[count:, count:].copy()
    np.fill_diagonal(within, np.inf)
    limit = float(np.quantile(within.min(axis=1), FAR))
    far = int((distances[:count, count:].min(axis=1) > limit).sum())
    return Drift(float(energy[0]), p_value, wilson(far, count), (count, len(points) - count))


def _energy(distances: Floats, member: Floats, size: int) -> Floats:
    """Return [draws] 2 mean d(x, y) - mean d(x, x') - mean d(y, y') for each membership [draws, clips]."""
    other = len(distances) - size
    towards = member @ distances
    inside = (towards * member).sum(axis=1)
    across = towards.sum(axis=1) - inside
    rest = distances.sum() - inside - 2.0 * across
    return np.asarray(2.0 * across / (size * other) - inside / size**2 - rest / other**2)
