"""The recipe of a clip list that comes without one: its labels are the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import yaml

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


def commented(recipe: Recipe) -> str:
    """Return what a default recipe says, as YAML with comments."""
    split, model = recipe.split, recipe.model.as_json()
    comments = {
        "task": "binary, multiclass (one label a clip) or multilabel",
        "signals": "raw, fg (foreground), bg (background), ...",
        "split": "folds of whole groups; the rest trains",
        "model": "the classifier; acoustic-env train --help lists the kinds",
    }
    document: dict[str, Any] = {"name": recipe.name, "task": recipe.task}
    if recipe.classes:
        document["classes"] = {label: {"labels": list(of.labels)} for label, of in recipe.classes.items()}
    document["signals"] = list(recipe.signals)
    document["blocks"] = {block: dict(options) for block, options in recipe.blocks.items()}
    document["split"] = {
        "folds": split.folds,
        "validation_folds": list(split.validation_folds),
        "test_folds": list(split.test_folds),
    }
    document["model"] = {key: model[key] for key in ("kind", "batch_size")}
    lines = []
    for key, value in document.items():
        if key in comments:
            lines.append(f"# {comments[key]}")
        if key in ("classes", "blocks"):
            lines += [f"{key}:", *(f"  {_flow(name)}: {_flow(of)}" for name, of in value.items())]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
