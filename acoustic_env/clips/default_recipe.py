"""The recipe of a clip list that comes without one: its labels are the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.config import ClassSettings, Recipe, SplitSettings, Task

# Of 240 clips, as in small studies, 256 rows a batch would be one step an epoch.
MODEL: Final = {"batch_size": 32}


def default_recipe(
    name: str,
    clips: pa.Table,
    blocks: Mapping[str, Mapping[str, Any]] | None = None,
    signals: Sequence[str] = (),
) -> Recipe:
    """Return a recipe that learns the labels of a list.

    Two labels, one a clip, are a binary task, the second in alphabetical order the positive class; more are classes;
    several labels a clip are learned one by one. Folds that the list gives are kept: the last tests, the one before it
    validates.

    Args:
        name: of the recipe.
        clips: a clip list.
        blocks: block -> its options; None for those of any recipe.
        signals: of each clip; empty for those of any recipe.

    >>> from acoustic_env.clips.table import clip_table
    >>> clips = clip_table([{"clip_id": n, "uri": n, "labels": [n[0]], "fold": None} for n in ("a1", "b1", "b2")])
    >>> recipe = default_recipe("letters", clips)
    >>> recipe.task, list(recipe.classes)
    ('binary', ['a', 'b'])
    """
    labels = sorted(set(pc.list_flatten(clips["labels"]).to_pylist()))
    several = (pc.max(pc.list_value_length(clips["labels"])).as_py() or 0) > 1
    task: Task = "multilabel" if several else "binary" if len(labels) == 2 else "multiclass"
    chosen: dict[str, Any] = {} if blocks is None else {"blocks": blocks}
    if signals:
        chosen["signals"] = tuple(signals)
    if task == "binary":
        chosen["classes"] = {label: ClassSettings(labels=(label,)) for label in labels}
    recipe = Recipe(name=name, task=task, split=_split(clips), **chosen)
    return recipe.replace(model=recipe.model.replace(**MODEL))


def _split(clips: pa.Table) -> SplitSettings:
    given = sorted(set(clips["fold"].drop_null().to_pylist()))
    if clips["fold"].null_count == 0 and len(given) > 2:
        return SplitSettings(folds=len(given), validation_folds=(given[-2],), test_folds=(given[-1],))
    folds = min(5, max(3, pc.count_distinct(clips["group"]).as_py()))
    return SplitSettings(folds=folds, validation_folds=(folds - 2,), test_folds=(folds - 1,))
