"""Scores of audio taggers as scorers: embedders that learned AudioSet's classes without the study's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from acoustic_env.audit.combine import Combination, fit_combination
from acoustic_env.audit.intervals import Bools, Floats

if TYPE_CHECKING:
    from acoustic_env.audit.scorers import LabeledClips


SMOOTHING: Final = 1e-3  # added to every tag score


def tag_scores(
    rows: pa.Table, tags: Sequence[str], clip_ids: Sequence[str], wanted: Sequence[frozenset[str]]
) -> Floats | None:
    """Return the largest score [clips, classes] among the tags that make each class; NaN for a clip without a row.

    Args:
        rows: `clip_id` and `scores` (vectors in the order of `tags`) of one signal.
        tags: names of the tagger's classes.
        clip_ids: [clips].
        wanted: for each class of the study, every spelling of the labels that make it.

    Returns:
        None when the tagger knows no tag of some class: it cannot choose between the classes then.

    >>> vectors = pa.array([[0.9, 0.2, 0.6], None], pa.list_(pa.float32(), 3))
    >>> rows, tags = pa.table({"clip_id": ["a", "b"], "scores": vectors}), ["Rain", "Wind", "Thunder"]
    >>> tag_scores(rows, tags, ["b", "a"], [frozenset({"Rain", "Thunder"}), frozenset({"Wind"})]).round(1).tolist()
    [[nan, nan], [0.9, 0.2]]
    >>> tag_scores(rows, tags, ["a"], [frozenset({"Snow"})]) is None
    True
    """
    columns = [[place for place, tag in enumerate(tags) if tag in spellings] for spellings in wanted]
    if not all(columns):
        return None
    row_of: Mapping[str, int] = {clip_id: row for row, clip_id in enumerate(rows.column("clip_id").to_pylist())}
    vectors = rows.column("scores").combine_chunks()
    known = np.flatnonzero(np.asarray(vectors.is_valid()))
    scores = np.full((rows.num_rows, len(tags)), np.nan)
    scores[known] = np.asarray(vectors.drop_null().flatten(), dtype=np.float64).reshape(len(known), len(tags))
    per_class = np.stack([scores[:, places].max(axis=1) for places in columns], axis=1)
    place = np.array([row_of.get(clip_id, -1) for clip_id in clip_ids])
    found = np.where((place >= 0)[:, None], per_class[place] if len(per_class) else np.nan, np.nan)
    return np.asarray(np.clip(found, 0.0, 1.0))


def score_by_tags(name: str, scores: Floats, clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
    """Calibrate a tagger's scores to the labels of `train` by a slope and biases.

    Args:
        name: of the tagger.
        scores: [clips, classes] in [0, 1], NaN where unknown; those clips get the prior.
        clips: all clips.
        train: [clips] whose labels may be used.
        held_out: [clips] to score.

    Returns:
        [held out, classes] probabilities.
    """

    def fit() -> Combination:
        shares, _ = _shares(scores[train], clips)
        return fit_combination(shares[None], clips.target[train], clips.exclusive)

    combination: Combination = clips.fit_once(name, train, fit)
    shares, known = _shares(scores[held_out], clips)
    return np.asarray(np.where(known, combination.log_pool(shares[None]), clips.prior))


def _shares(scores: Floats, clips: LabeledClips) -> tuple[Floats, Bools]:
    """Return probabilities [clips, classes], the prior where scores are unknown, and where they are known."""
    known: Bools = np.asarray(np.isfinite(scores))
    if clips.exclusive:
        known = np.repeat(known.all(axis=1, keepdims=True), scores.shape[1], axis=1)
    shares = np.where(known, np.nan_to_num(scores), clips.prior) + SMOOTHING
    return shares / (shares.sum(axis=1, keepdims=True) if clips.exclusive else 1.0 + 2.0 * SMOOTHING), known
