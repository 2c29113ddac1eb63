"""Apply a recipe to a clip list: which clips take part, and of which class each is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from acoustic_env.clips.ontology import Ontology, audioset
from acoustic_env.clips.sources import listed_sources
from acoustic_env.clips.table import CLASS_COLUMN
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError

EXCLUDED: Final = "carry an excluded label"
NO_CLASS: Final = "carry no label of a class"
SEVERAL_CLASSES: Final = "carry labels of more than one class"
CONTRADICTING: Final = "the same audio is listed with contradicting classes"
REPEATED: Final = "the same audio is listed again"


@dataclass(frozen=True)
class Selection:
    """The clips of a study."""

    clips: pa.Table  # the rows kept, in their order, with a column `class` (list of class names)
    classes: tuple[str, ...]  # in the order of the targets
    left_out: dict[str, list[str]]  # reason -> ids of the clips left out for it

    def summary(self) -> list[str]:
        """Describe how many clips each class has, how many are left out and why, with examples."""
        counts = Counter(pc.list_flatten(self.clips[CLASS_COLUMN]).to_pylist())
        shown = [f"{name} {counts[name]:,}" for name in self.classes[:12]]
        more = f" and {len(self.classes) - 12} more classes" if len(self.classes) > 12 else ""
        lines = [f"{self.clips.num_rows:,} clips: {', '.join(shown)}{more}"]
        for reason, ids in self.left_out.items():
            examples = f" ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
            lines.append(f"left out: {len(ids):,} {reason}{examples}")
        return lines


@dataclass(frozen=True)
class Targets:
    """What a classifier is to learn."""

    clip_ids: list[str]  # [n]
    classes: tuple[str, ...]  # class names; of a binary task the first is the negative
    # int64 [n], index into classes; multilabel: bool [n, classes], sparse if asked for
    y: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | Any


def select(clips: pa.Table, recipe: Recipe) -> Selection:
    """Return the clips that take part in a study.

    Args:
        clips: of `CLIP_SCHEMA`; ids may repeat (a raw list with contradictions in it).
        recipe: its classes and exclusions; labels may be ids or display names.

    Raises:
        UsageError: a label whose descendants are wanted is unknown, or no clip is left.
    """
    known = audioset()
    labels = clips["labels"].combine_chunks()
    excluded = _carries(labels, _excluded_labels(recipe, known))
    classes, assigned = _assign(labels, recipe, known)
    per_clip = pc.list_value_length(assigned).to_numpy(zero_copy_only=False)
    contradicting, repeated = _duplicates(clips, assigned)
    reasons = {
        EXCLUDED: excluded,
        NO_CLASS: per_clip == 0,
        SEVERAL_CLASSES: (per_clip > 1) & (recipe.task != "multilabel"),
        CONTRADICTING: contradicting,
        REPEATED: repeated,
    }
    taken, left_out = np.ones(len(clips), np.bool_), dict[str, list[str]]()
    for reason, concerned in reasons.items():  # a clip is left out for the first of its reasons
        if (concerned & taken).any():
            left_out[reason] = clips["clip_id"].filter(pa.array(concerned & taken)).to_pylist()
            taken &= ~concerned
    kept = clips.append_column(CLASS_COLUMN, assigned).filter(pa.array(taken))
    if kept.num_rows == 0:
        why = "; ".join(f"{len(out):,} {reason}" for reason, out in left_out.items())
        raise UsageError(
            f"recipe {recipe.name}: no clip is left of {len(clips):,}: {why}. Are the labels of the list the recipe's?"
        )
    return Selection(kept, classes, left_out)


def class_targets(
    clips: pa.Table, recipe: Recipe, classes: Sequence[str] | None = None, *, sparse: bool = False
) -> Targets:
    """Return the targets of a study's clips.

    Args:
        clips: a clip list (the recipe is applied, what it leaves out is left out) or a selection's clips.
        recipe: the study.
        classes: the classes of an existing model, None for those of the clips.
        sparse: return the labels of a multilabel task as a `scipy.sparse.csr_array`: millions of clips carry few of
            hundreds of labels each.

    Raises:
        UsageError: a clip is of a class outside `classes`, or with `classes` None fewer than two classes have clips.
    """
    chosen = tuple(classes or recipe.classes)
    if CLASS_COLUMN not in clips.schema.names:
        selection = select(clips, recipe)
        clips, chosen = selection.clips, chosen or selection.classes
    column = clips[CLASS_COLUMN].combine_chunks()
    names = pc.list_flatten(column)
    present = pc.unique(names).to_pylist()
    chosen = chosen or _ordered(present, audioset())
    outside = sorted(set(present) - set(chosen))
    if outside:
        raise UsageError(
            f"recipe {recipe.name}: clips of class {', '.join(map(repr, outside[:5]))}, unknown to the model's classes"
        )
    if classes is None and len(present) < 2:
        msg = f"recipe {recipe.name}: every clip is of one class, {present[0]!r}; two are needed to learn a difference"
        raise UsageError(msg)
    index = pc.index_in(names, value_set=pa.array(chosen)).to_numpy(zero_copy_only=False).astype(np.int64)
    clip_ids = clips["clip_id"].to_pylist()
    if recipe.task != "multilabel":
        return Targets(clip_ids, chosen, index)
    rows, shape = pc.list_parent_indices(column).to_numpy(zero_copy_only=False), (len(clips), len(chosen))
    y = csr_array((np.ones(len(rows), np.bool_), (rows, index)), shape)
    return Targets(clip_ids, chosen, y if sparse else y.toarray())


def recipe_labels(recipe: Recipe, ontology: Ontology) -> dict[str, frozenset[str]]:
    """Return class name -> every label that makes it, as ids and display names."""
    return {
        name: ontology.spellings(settings.labels)
        | ontology.spellings(label for root in settings.descendants_of for label in ontology.descendants(root))
        for name, settings in recipe.classes.items()
    }


def _excluded_labels(recipe: Recipe, ontology: Ontology) -> frozenset[str]:
    labels = set(recipe.exclude.labels)
    if recipe.exclude.descendants:
        labels |= {kind for label in recipe.exclude.labels if label in ontology for kind in ontology.descendants(label)}
    return ontology.spellings(labels)


def _carries(labels: pa.ListArray, wanted: frozenset[str]) -> npt.NDArray[np.bool_]:
    """Return bool [clips]: which carry one of the labels."""
    carries = np.zeros(len(labels), dtype=np.bool_)
    hits = pc.is_in(pc.list_flatten(labels), value_set=pa.array(sorted(wanted), pa.string()))
    carries[pc.list_parent_indices(labels).filter(hits).to_numpy(zero_copy_only=False)] = True
    return carries


def _assign(labels: pa.ListArray, recipe: Recipe, ontology: Ontology) -> tuple[tuple[str, ...], pa.ListArray]:
    if not recipe.classes:
        return _ordered(pc.unique(pc.list_flatten(labels)).to_pylist(), ontology), labels
    wanted = recipe_labels(recipe, ontology)
    members = [np.flatnonzero(_carries(labels, wanted[name])) for name in recipe.classes]
    rows, index = np.concatenate(members), np.repeat(np.arange(len(members)), [len(own) for own in members])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(labels)))]).astype(np.int32)
    names = pa.array(list(recipe.classes)).take(pa.array(index[np.argsort(rows, kind="stable")]))
    return tuple(recipe.classes), pa.ListArray.from_arrays(pa.array(offsets), names)


def _ordered(classes: Sequence[str], ontology: Ontology) -> tuple[str, ...]:
    """Sort classes: AudioSet's in AudioSet's order, others after them by name."""
    rank = {name: number for number, name in enumerate(ontology.class_order)}
    return tuple(sorted(classes, key=lambda name: (rank.get(name, len(rank)), name)))


def _duplicates(clips: pa.Table, assigned: pa.ListArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return bool [clips]: audio listed with contradicting classes, and repetitions that agree with the first."""
    frame = listed_sources(clips).to_pandas().fillna({"start_s": 0.0})
    contradicting, repeated = np.zeros(len(clips), np.bool_), np.zeros(len(clips), np.bool_)
    for columns in (["clip_id"], ["uri", "start_s", "end_s"]):
        if frame.duplicated(columns).any():
            frame["classes"] = [tuple(sorted(names)) for names in assigned.to_pylist()]
            same = frame.groupby(columns, dropna=False)["classes"]
            several = same.transform("nunique").to_numpy() > 1
            contradicting |= several
            repeated |= ~several & (same.cumcount().to_numpy() > 0)
    return contradicting, repeated
