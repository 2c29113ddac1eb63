"""Nearest neighbors that carry another label: the labels of the nearest clips of other folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Bools, Floats, Ints

if TYPE_CHECKING:
    from acoustic_env.audit.scorers import LabeledClips


# Beyond this many clips, neighbors are sought among a random subset: a vote needs near clips, not the nearest.
MOST_REFERENCES: Final = 10_000
PRIOR_WEIGHT: Final = 0.5  # weight of the prior beside the neighbors
SHARPNESS: Final = 3.0  # weight of a neighbor at cosine similarity s is exp(SHARPNESS (s - 1))


@dataclass(frozen=True)
class Neighborhood:
    """Nearest clips of each clip among those of other folds.

    Attributes:
        index: [clips, k] rows of the neighbors.
        weight: [clips, k] weight of each in the vote, in (0, 1].
    """

    index: Ints
    weight: npt.NDArray[np.float32]


def find_neighbors(features: npt.NDArray[np.float32], folds: Ints, k: int, seed: int) -> Neighborhood:
    """Find the nearest clips by cosine similarity, never of the same fold (so never of the same group).

    Args:
        features: float32 [clips, features], scaled to mean 0 and standard deviation 1.
        folds: [clips].
        k: neighbors wanted; fewer where other folds hold fewer.
        seed: of the references where there are more than `MOST_REFERENCES` clips.

    >>> features = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    >>> found = find_neighbors(features, folds=np.array([0, 1, 0, 1]), k=1, seed=0)
    >>> found.index.tolist(), found.weight.ravel().round(2)
    ([[1], [0], [3], [2]], array([0.99, 0.99, 0.99, 0.99], dtype=float32))
    """
    return References(features, folds, k, seed).neighbors(features, folds)


class References:
    """The clips among which neighbors are sought; arguments as for `find_neighbors`."""

    def __init__(self, features: npt.NDArray[np.float32], folds: Ints, k: int, seed: int) -> None:
        self._rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST_REFERENCES])
        self._unit, self._folds = _unit(features[self._rows]), folds[self._rows]
        self._k = min(k, *(int((self._folds != fold).sum()) for fold in np.unique(folds)))

    def neighbors(self, features: npt.NDArray[np.float32], folds: Ints) -> Neighborhood:
        """Find the nearest references of other folds; numbers are rows of the clips the references are from."""
        from sklearn.neighbors import NearestNeighbors

        unit = _unit(features)
        index, distance = np.empty((len(unit), self._k), np.int64), np.empty((len(unit), self._k), np.float32)
        for fold in np.unique(folds):
            others, own = np.flatnonzero(self._folds != fold), folds == fold
            search = NearestNeighbors(n_neighbors=self._k, algorithm="brute").fit(self._unit[others])
            distance[own], nearest = search.kneighbors(unit[own])
            index[own] = self._rows[others[nearest]]
        return Neighborhood(index, np.exp(-SHARPNESS / 2.0 * distance**2))  # s - 1 = -d^2 / 2 on the unit sphere


def _unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))


def score_by_neighbors(clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
    """Return each class's share of the weight of the neighbors in `train`, with some weight for the prior.

    Args:
        clips: all clips.
        train: [clips] whose labels count.
        held_out: [clips] whose neighbors vote.

    Returns:
        [held out, classes] in 0 to 1.
    """
    from scipy import sparse

    index, weight = clips.neighborhood.index, clips.neighborhood.weight
    count, k = index.shape
    rows = np.arange(0, count * k + 1, k)
    weights = sparse.csr_matrix((weight.ravel(), index.ravel(), rows), shape=(count, count))[held_out][:, train]
    support, total = np.asarray(weights @ clips.target[train]), np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    return np.asarray((PRIOR_WEIGHT * clips.prior + support) / (PRIOR_WEIGHT + total))
