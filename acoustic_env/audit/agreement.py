"""Measure how far annotators agree, beyond what chance would give, with intervals from resampling clips.

Answers come as `votes`: int [clips, annotators], a category 0..K-1 or -1 where an annotator did not answer.
"""

from __future__ import annotations

import numpy as np

from acoustic_env.audit.intervals import Floats, Interval, Ints, nothing_observed, percentile


def vote_counts(votes: Ints, categories: int) -> Floats:
    """Return [clips, categories] how many annotators gave each answer.

    >>> vote_counts(np.array([[1, 1, 0], [0, -1, 0]]), 2).tolist()
    [[1.0, 2.0], [2.0, 0.0]]
    """
    counts = [(votes == category).sum(axis=1) for category in range(categories)]
    return np.stack(counts, axis=1).astype(np.float64)


def krippendorff_alpha(counts: Floats, weights: Floats | None = None) -> Floats:
    """Return Krippendorff's alpha for nominal answers, 1 - D_observed / D_expected; NaN if all answers are equal.

    Args:
        counts: [clips, categories] from `vote_counts`; clips with fewer than two answers are ignored.
        weights: [draws, clips] how often each clip counts (bootstrap); None for one draw with every clip once.

    Returns:
        [draws] alpha.

    >>> counts = vote_counts(np.array([[1, 1], [0, 0], [1, 0], [1, 1], [1, -1]]), 2)
    >>> krippendorff_alpha(counts).round(3).tolist()
    [0.533]
    >>> krippendorff_alpha(counts, np.array([[1.0, 1.0, 0.0, 2.0, 0.0]])).tolist()  # a draw without the disputed clip
    [1.0]
    """
    counts, weights = _pairable(counts, weights)
    answers = counts.sum(axis=1)
    disagreeing = (answers**2 - (counts**2).sum(axis=1)) / (answers - 1.0)
    per_category = weights @ counts
    total = per_category.sum(axis=1)
    observed = (weights @ disagreeing) / np.maximum(total, 1.0)
    expected = (total**2 - (per_category**2).sum(axis=1)) / np.maximum(total * (total - 1.0), 1.0)
    return np.where(expected > 0.0, 1.0 - observed / np.where(expected > 0.0, expected, 1.0), np.nan)


def gwet_ac1(counts: Floats, weights: Floats | None = None) -> Floats:
    """Return Gwet's AC1, (agreement - chance) / (1 - chance), chance = sum p_k (1 - p_k) / (K - 1).

    Steadier than alpha or kappa when one answer is rare, as wrong labels are (Gwet 2008). Arguments and result as for
    `krippendorff_alpha`: a clip with a single answer does not count, in the shares p_k of chance either.

    >>> gwet_ac1(vote_counts(np.array([[1, 1], [0, 0], [1, 0], [1, 1]]), 2)).round(3).tolist()
    [0.529]
    """
    counts, weights = _pairable(counts, weights)
    answers = counts.sum(axis=1)
    agreeing = (counts * (counts - 1.0)).sum(axis=1) / (answers * (answers - 1.0))
    clips = weights.sum(axis=1)
    agreement = (weights @ agreeing) / np.maximum(clips, 1.0)
    shares = (weights @ (counts / answers[:, None])) / np.maximum(clips, 1.0)[:, None]
    chance = (shares * (1.0 - shares)).sum(axis=1) / (counts.shape[1] - 1)
    return np.where(clips > 0, (agreement - chance) / (1.0 - chance), np.nan)


def pairwise_agreement(counts: Floats, weights: Floats | None = None) -> Floats:
    """Return [draws] the share of pairs of annotators of the same clip who gave the same answer.

    >>> pairwise_agreement(vote_counts(np.array([[1, 1, 0], [1, 1, -1]]), 2)).tolist()  # two of four pairs agree
    [0.5]
    """
    counts, weights = _pairable(counts, weights)
    answers = counts.sum(axis=1)
    same = (counts * (counts - 1.0)).sum(axis=1)
    pairs = weights @ (answers * (answers - 1.0))
    return np.where(pairs > 0, (weights @ same) / np.maximum(pairs, 1.0), np.nan)


MEASURES = {
    "krippendorff_alpha": krippendorff_alpha,
    "gwet_ac1": gwet_ac1,
    "pairwise_agreement": pairwise_agreement,
}


def agreement(votes: Ints, categories: int, seed: int, draws: int = 2000, level: float = 0.95) -> dict[str, Interval]:
    """Return every measure of agreement with its clip-bootstrap interval.

    Args:
        votes: [clips, annotators], -1 for no answer.
        categories: K.
        seed: of the bootstrap.
        draws: bootstrap samples of clips.
        level: coverage.

    >>> votes = np.array([[1, 1], [0, 0], [1, 0], [1, 1], [0, 0], [1, 1]])
    >>> print(agreement(votes, 2, seed=0)["krippendorff_alpha"])
    0.686 (-0.100 to 1.000, n = 6, clip bootstrap)
    """
    counts = vote_counts(votes, categories)
    counts = counts[counts.sum(axis=1) >= 2]
    clips = len(counts)
    if clips < 2:
        return {name: nothing_observed("clip bootstrap") for name in MEASURES}
    weights = np.random.default_rng(seed).multinomial(clips, np.full(clips, 1.0 / clips), size=draws).astype(np.float64)
    return {
        name: percentile(measure(counts, weights), float(measure(counts)[0]), clips, "clip bootstrap", level)
        for name, measure in MEASURES.items()
    }


def _pairable(counts: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
    pairable = counts.sum(axis=1) >= 2
    kept = counts[pairable]
    return kept, np.ones((1, len(kept))) if weights is None else weights[:, pairable]
