"""Scores of audio taggers as scorers: embedders that know AudioSet's classes learned without the study's list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from acoustic_env.audit.intervals import Floats


def tag_scores(
    rows: pa.Table, tags: Sequence[str], clip_ids: Sequence[str], wanted: Sequence[frozenset[str]]
) -> Floats | None:
    """[clips, classes] largest score among the tags that make each class; NaN for a clip without a row.

    Args:
        rows: `clip_id` and `scores` (vectors in the order of `tags`) of one signal.
        tags: names of the tagger's classes.
        clip_ids: [clips].
        wanted: for each class of the study, every spelling of the labels that make it.

    Returns:
        None when the tagger knows no tag of some class: it cannot choose between the classes then.
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
