"""Neighbors that disagree: what the nearest clips of other folds are labelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from acoustic_env.audit.intervals import Floats

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Beyond this many clips, neighbors are sought among a random subset: a vote needs near clips, not the nearest.
MOST_REFERENCES: Final = 10_000
QUERIES: Final = 1024  # rows of the similarity matrix held at once
HALF: Final = 0.5  # weight of the prior beside the neighbors
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

    def vote(self, target: Floats, voters: Bools, judged: Bools, prior: float) -> Floats:
        """Share of the voting neighbors' weight behind each class, half a vote given to `prior` beforehand.

        Args:
            target: [clips, classes] each clip's label as a distribution over the classes, or yes and no per label.
            voters: [clips] whose labels count.
            judged: [clips] whose neighbors are asked.
            prior: probability of each class without any neighbor.

        Returns:
            [judged, classes] in 0 to 1.
        """
        clips, k = self.index.shape
        rows = np.arange(0, clips * k + 1, k)
        weights = sparse.csr_matrix((self.weight.ravel(), self.index.ravel(), rows), shape=(clips, clips))
        asked = weights[judged][:, voters]
        behind, weight = np.asarray(asked @ target[voters]), np.asarray(asked.sum(axis=1))
        return np.asarray((HALF * prior + behind) / (HALF + weight.reshape(-1, 1)))


def find_neighbors(features: npt.NDArray[np.float32], folds: Ints, k: int, seed: int) -> Neighborhood:
    """Nearest clips by cosine similarity, never of the same fold (so never of the same group).

    Args:
        features: float32 [clips, features], scaled to mean 0 and standard deviation 1.
        folds: [clips].
        k: neighbors wanted; fewer where other folds hold fewer.
        seed: of the references where there are more than `MOST_REFERENCES` clips.
    """
    clips = len(features)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rng = np.random.default_rng(seed)
    references = np.sort(rng.permutation(clips)[:MOST_REFERENCES])
    smallest = min(int((folds[references] != fold).sum()) for fold in np.unique(folds))
    k = min(k, smallest)
    index = np.empty((clips, k), dtype=np.int64)
    weight = np.empty((clips, k), dtype=np.float32)
    for fold in np.unique(folds):
        others = references[folds[references] != fold]
        queries, targets = np.flatnonzero(folds == fold), unit[others].T
        for start in range(0, len(queries), QUERIES):
            rows = queries[start : start + QUERIES]
            similarity = unit[rows] @ targets
            nearest = np.argpartition(similarity, -k, axis=1)[:, -k:] if k < len(others) else np.arange(k)[None]
            nearest = np.broadcast_to(nearest, (len(rows), k))
            index[rows] = others[nearest]
            weight[rows] = np.exp(SHARPNESS * (np.take_along_axis(similarity, nearest, axis=1) - 1.0))
    return Neighborhood(index, weight)
