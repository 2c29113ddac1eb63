"""Clips in the plane by PCA and t-SNE, and how often near clips share a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.models.data.preprocessing import PrincipalComponents
from acoustic_env.stats.intervals import Floats

PERPLEXITY: Final = 30.0
COMPONENTS: Final = 50
NEIGHBORS: Final = 10
SEED: Final = 23

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipMap:
    """Clips in the plane."""

    pca: Floats  # [n, 2] scores of the first two components of the standardized features
    explained: Floats  # their shares of the variance [2]
    tsne: Floats  # [n, 2], no unit: only nearness means something
    agreement: float  # share of the 10 nearest neighbors (other recordings, all components) that share the class
    chance: float  # that share had the neighbors been any clips


def stratified_rows(label: Rows, most: int) -> Rows:
    """Return at most `most` rows, each label with its share (at least one), in row order.

    >>> label = np.repeat([0, 1], [6, 3])
    >>> label[stratified_rows(label, 3)]
    array([0, 0, 1])
    """
    if len(label) <= most:
        return np.arange(len(label))
    random = np.random.default_rng(SEED)
    shuffled = random.permutation(len(label))
    ordered = shuffled[np.argsort(label[shuffled], kind="stable")]
    # Every k-th row of the rows sorted by label: shares are kept to within one row.
    return np.sort(ordered[np.linspace(0, len(ordered) - 1, most).round().astype(int)])


def clip_map(features: Floats, label: Rows, groups: Rows) -> ClipMap:
    """Map clips to the plane by PCA and t-SNE.

    Args:
        features: [n, d], centered; distances between rows count.
        label: [n] class of each clip.
        groups: [n] recording of each clip.
    """
    from sklearn.manifold import TSNE

    pca = PrincipalComponents(COMPONENTS, SEED)
    scores = pca.fit_transform(features)
    tsne = TSNE(perplexity=perplexity(len(features)), init="pca", random_state=SEED, max_iter=750)
    two = ((0, 0), (0, 2))  # zeros where there is one component only
    return ClipMap(
        np.pad(scores, two)[:, :2],
        np.pad(pca.explained_variance_ratio_, two[1])[:2],
        tsne.fit_transform(scores).astype(np.float64),
        *neighbor_agreement(scores, label, groups),
    )


def perplexity(clips: int) -> float:
    """Return t-SNE's perplexity for a number of clips."""
    return min(PERPLEXITY, max(2.0, (clips - 1) / 3))


def neighbor_agreement(scores: Floats, label: Rows, groups: Rows) -> tuple[float, float]:
    """Return the share of each clip's nearest neighbors from other recordings with its label, and that by chance."""
    squares = (scores**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * scores @ scores.T
    foreign = groups[:, None] != groups[None]
    distance = np.where(foreign, distance, np.inf)
    same = label[:, None] == label[None]
    count = min(NEIGHBORS, int(foreign.sum(axis=1).min()))
    if count < 1:
        return float("nan"), float("nan")
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    agreement = float(np.take_along_axis(same, nearest, axis=1).mean())
    return agreement, float((same & foreign).sum() / foreign.sum())
