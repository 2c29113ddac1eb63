"""Rank the labels of a study: from clip list, feature store and recipe to ranked tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from acoustic_env.audit.check import duplicate_sets
from acoustic_env.audit.intervals import Floats
from acoustic_env.audit.rank import prepare, rank_exclusive, rank_multilabel, reduce_blocks
from acoustic_env.audit.scorers import load_scorer
from acoustic_env.audit.table import require_columns
from acoustic_env.audit.tags import tag_scores
from acoustic_env.clips.ontology import audioset
from acoustic_env.clips.select import class_targets, recipe_labels, select
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json
from acoustic_env.store.feature_store import FeatureStore

TAGGERS: Final = ("panns", "yamnet", "mn04")  # embedders whose column `scores` holds tags
_DUPLICATES: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string()),
    ]
)


def rank_study(
    clips: pa.Table,
    store: FeatureStore,
    recipe: Recipe,
    *,
    blocks: Sequence[str] = (),
    signals: Sequence[str] = (),
    duplicates: pa.Table | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[pa.Table, dict[str, Json]]]:
    """Yield ranked tables (see `ranking`) with their summaries: one in all, or one per label of a multi-label study.

    Args:
        clips: clip list.
        store: with the features of its clips.
        recipe: classes, reduction, and `audit`: scorers, folds, neighbors, seed.
        blocks, signals: to learn from; empty takes the recipe's.
        duplicates: of `clips duplicates`: clip_id, group, duplicate_of.
        log: receives which clips are used.

    Raises:
        UsageError: no such scorer, too few clips or groups, or features are missing altogether.
    """
    from acoustic_env.models.matrix import load_matrix

    for name in recipe.audit.scorers:
        load_scorer(name)
    selection = select(clips, recipe)
    targets = class_targets(selection.clips, recipe)
    matrix = load_matrix(store, targets.clip_ids, list(blocks or recipe.blocks), signals or recipe.signals)
    for line in [*selection.summary(), *matrix.summary()]:
        log(line)
    complete = matrix.complete()
    clip_ids = [clip_id for clip_id, has_features in zip(targets.clip_ids, complete, strict=True) if has_features]
    groups, sets = selection.clips.column("group").to_pylist(), None
    if duplicates is not None:
        columns = require_columns(duplicates, _DUPLICATES, "duplicates", "a table of clips duplicates").to_pydict()
        original = zip(columns["clip_id"], columns["duplicate_of"], strict=True)
        sets = duplicate_sets({clip_id: first for clip_id, first in original if first}, clip_ids)
        joined = dict(zip(columns["clip_id"], columns["group"], strict=True))
        groups = [joined.get(clip_id, group) for clip_id, group in zip(targets.clip_ids, groups, strict=True)]
    y, settings = targets.y[complete], recipe.audit
    features = reduce_blocks(matrix.values[complete], matrix.columns, recipe.reduction)
    tags = _read_tags(store, recipe, clip_ids, targets.classes)
    ready = prepare(clip_ids, features, y, np.asarray(groups)[complete], settings, sets, tags)
    if recipe.task == "multilabel":
        yield from rank_multilabel(ready, y.astype(bool), targets.classes, settings)
    else:
        yield rank_exclusive(ready, y.astype(np.int64), targets.classes, settings)


def _read_tags(
    store: FeatureStore, recipe: Recipe, clip_ids: Sequence[str], classes: Sequence[str]
) -> dict[str, Floats]:
    """Return the tag scores of the store's embedders that have them, as tags_<block>."""
    labels = recipe_labels(recipe, audioset()) if recipe.classes else {}
    wanted = [labels.get(name) or audioset().spellings([name]) for name in classes]
    found = {}
    for block in TAGGERS:
        try:
            rows = store.read(block, signals=["raw"], columns=["scores"], clip_ids=clip_ids)
        except UsageError:  # the store has no such block, or several versions of it: no scorer
            continue
        names = json.loads((rows.schema.metadata or {}).get(b"acoustic_env.class_names", b"[]"))
        scores = tag_scores(rows, names, clip_ids, wanted)
        if scores is not None:
            found[f"tags_{block}"] = scores
    return found
