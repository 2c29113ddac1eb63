"""Neighbours that disagree: what the nearest clips of other folds are labelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats

Ints = npt.NDArray[np.int64]

# Beyond this many clips, neighbours are sought among a random subset: a vote needs near clips, not the nearest.
MOST_REFERENCES: Final = 10_000
QUERIES: Final = 1024  # rows of the similarity matrix held at once
SHARPNESS: Final = 3.0  # weight of a neighbour at cosine similarity s is exp(SHARPNESS (s - 1))


@dataclass(frozen=True)
class Neighbourhood:
    """Nearest clips of each clip among those of other folds.

    Attributes:
        index: [clips, k] rows of the neighbours.
        weight: [clips, k] weight of each in the vote, in (0, 1].
    """

    index: Ints
    weight: npt.NDArray[np.float32]

    def vote(self, target: Floats) -> Floats:
        """Share of the neighbours' weight behind each class, half a vote shared out beforehand.

        Args:
            target: [clips, classes] each clip's label as a distribution over the classes.

        Returns:
            [clips, classes], rows sum to 1.
        """
        votes = np.full(target.shape, 0.5 / target.shape[1])
        for start in range(0, len(target), 20 * QUERIES):
            rows = slice(start, start + 20 * QUERIES)
            votes[rows] += np.einsum("nk,nkc->nc", self.weight[rows], target[self.index[rows]])
        return np.asarray(votes / votes.sum(axis=1, keepdims=True))


def find_neighbours(features: npt.NDArray[np.float32], folds: Ints, k: int, seed: int) -> Neighbourhood:
    """Nearest clips by cosine similarity, never of the same fold (so never of the same group).

    Args:
        features: float32 [clips, features], scaled to mean 0 and standard deviation 1.
        folds: [clips].
        k: neighbours wanted; fewer where other folds hold fewer.
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
    return Neighbourhood(index, weight)
