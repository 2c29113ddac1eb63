"""Has the sound of new clips moved away from what a model was trained on?

An energy test (Szekely & Rizzo 2004) on embeddings, its p-value from a seeded permutation of clips; and the share of
new clips farther from training than training clips are from each other, which says how much has moved.
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
    """What the test found.

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

    def drifted(self, level: float = 0.01) -> bool:
        """Whether the difference is beyond chance at this level: listen to more of the new clips."""
        return self.p_value < level


def drift_test(new: Features, training: Features, seed: int, permutations: int = 999) -> Drift:
    """Compare new clips with those trained on.

    Args:
        new: float32 [clips, features]; one clip of each group, or the p-value is too small.
        training: float32 [clips, features]; at least two clips.
        seed: of subsamples and permutations.
        permutations: of the test.
    """
    rng = np.random.default_rng(seed)
    center, spread = np.nanmean(training, axis=0), np.nanstd(training, axis=0)
    spread = np.where(spread > 0.0, spread, np.inf)
    one = _standard(new[rng.permutation(len(new))[:MOST_CLIPS]], center, spread)
    two = _standard(training[rng.permutation(len(training))[:MOST_CLIPS]], center, spread)
    distances = _distances(np.vstack([one, two]))
    member = np.zeros((permutations + 1, len(distances)))
    member[0, : len(one)] = 1.0
    for row in range(1, permutations + 1):
        member[row, rng.permutation(len(distances))[: len(one)]] = 1.0
    energy = _energy(distances, member, len(one))
    p_value = float((energy[1:] >= energy[0] - 1e-12).sum() + 1) / (permutations + 1)
    within = distances[len(one) :, len(one) :].copy()
    np.fill_diagonal(within, np.inf)
    limit = float(np.quantile(within.min(axis=1), FAR))
    far = int((distances[: len(one), len(one) :].min(axis=1) > limit).sum())
    return Drift(float(energy[0]), p_value, wilson(far, len(one)), (len(one), len(two)))


def _energy(distances: Floats, member: Floats, size: int) -> Floats:
    """[draws] 2 mean d(x, y) - mean d(x, x') - mean d(y, y') for each membership [draws, clips]."""
    other = len(distances) - size
    towards = member @ distances
    inside = (towards * member).sum(axis=1)
    across = towards.sum(axis=1) - inside
    rest = distances.sum() - inside - 2.0 * across
    return np.asarray(2.0 * across / (size * other) - inside / size**2 - rest / other**2)


def _standard(values: Features, center: Features, spread: Features) -> Floats:
    return np.asarray(np.nan_to_num((values - center) / spread), dtype=np.float64)


def _distances(points: Floats) -> Floats:
    squares = (points**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * points @ points.T, 0.0)))
