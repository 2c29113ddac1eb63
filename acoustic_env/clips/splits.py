"""Folds that do not leak: given ones kept, others stratified by class with groups kept whole.

The method is greedy: groups, the largest and those of rare classes first, each go to the fold that lacks most of theirs
(Sechidis, Tsoumakas and Vlahavas 2011, with a fixed order instead of a recomputed one), so it serves one label a clip
and many alike. Ties are broken by a hash of seed and group: the order of rows does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from acoustic_env.clips.sources import SAME_TIME_S, listed_sources
from acoustic_env.config import SplitSettings
from acoustic_env.errors import UsageError

Folds = npt.NDArray[np.int32]  # [clips]
Rows = npt.NDArray[np.int64]

SHOWN_GROUPS: Final = 5


@dataclass(frozen=True)
class Split:
    """Which clips train, validate and test."""

    folds: Folds  # int32 [clips], the fold of each row
    train: Rows  # row numbers; the three together hold every row once
    validation: Rows
    test: Rows


def split(clips: pa.Table, settings: SplitSettings) -> Split:
    """Assign the folds of a study's clips and their roles, checked for leaks.

    Args:
        clips: a selection's clips: `clip_id`, `uri`, `start_s`, `end_s`, `group`, `fold`, `class`.
        settings: number of folds, which of them validate and test, seed.

    Raises:
        UsageError: a fold that validates and tests, a group in two folds, too few groups, or a role without clips.
    """
    both = sorted(set(settings.validation_folds) & set(settings.test_folds))
    if both:
        raise UsageError(f"split: fold {both[0]} is in validation_folds and in test_folds; validation is never test")
    folds = assign_folds(clips, settings.folds, settings.seed)
    leak_check(clips, folds)
    validates = np.isin(folds, settings.validation_folds)
    tests = np.isin(folds, settings.test_folds)
    roles = {"validation": validates, "test": tests, "training": ~validates & ~tests}
    wanted = {"validation": settings.validation_folds, "test": settings.test_folds, "training": (0,)}
    for role, rows in roles.items():
        if wanted[role] and not rows.any():
            there = ", ".join(map(str, np.unique(folds)))
            raise UsageError(
                f"split: no clip for {role} (the recipe's folds {wanted[role]}); the clips are in folds {there}. "
                "Name some of these in a copy of the recipe (`split: validation_folds, test_folds`; the rest trains)"
            )
    made = Split(folds, *(np.flatnonzero(roles[role]) for role in ("training", "validation", "test")))
    assert not set(folds[made.validation]) & set(folds[made.test])
    return made


def assign_folds(clips: pa.Table, folds: int, seed: int) -> Folds:
    """Assign a fold to every clip.

    Args:
        clips: `clip_id`, `group`, `fold` and `class`. A clip's given fold is kept, and its group follows it.
        folds: how many the other groups are spread over, numbered from 0.
        seed: of the ties.

    Raises:
        UsageError: fewer groups than folds, or a group given two folds.
    """
    given = clips["fold"].to_pylist()
    assigned = np.array([-1 if fold is None else fold for fold in given], dtype=np.int32)
    if (assigned >= 0).all():
        return assigned
    codes = pc.dictionary_encode(clips["group"].combine_chunks())
    group_of = codes.indices.to_numpy(zero_copy_only=False)
    names = codes.dictionary.to_pylist()
    fold_of_group = _given_folds(group_of, assigned, names)
    if len(names) < folds:
        raise UsageError(
            f"split: {clips.num_rows:,} clips in {len(names):,} groups cannot fill {folds} folds; "
            "lower `split: folds`, with `validation_folds` and `test_folds` from 0 to below it: 3 or more groups must "
            "train and validate"
        )
    _spread(fold_of_group, _group_counts(clips, group_of, len(names)), _tie_breaks(names, seed), folds)
    return np.asarray(fold_of_group[group_of], dtype=np.int32)


def leak_check(clips: pa.Table, folds: Folds) -> None:
    """Raise when folds share a group, a clip id or audio: the same file at overlapping times.

    Raises:
        UsageError: names what appears in more than one fold.
    """
    sources = listed_sources(clips)
    for kind, names in (("group", clips["group"]), ("clip", clips["clip_id"]), ("audio", sources["uri"])):
        encoded = pc.dictionary_encode(names.combine_chunks())
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        pairs = np.unique(np.stack([codes, folds], axis=1), axis=0)
        torn = np.unique(pairs[1:, 0][pairs[1:, 0] == pairs[:-1, 0]])
        if kind == "audio" and len(torn):
            torn = _overlapping(sources, codes, folds, np.isin(codes, torn))
        if len(torn):
            shown = [
                f"{encoded.dictionary[code].as_py()!r} in folds {pairs[pairs[:, 0] == code, 1].tolist()}"
                for code in torn[:SHOWN_GROUPS].tolist()
            ]
            more = f" and {len(torn) - SHOWN_GROUPS:,} more" if len(torn) > SHOWN_GROUPS else ""
            remedy = "; give clips of one recording one `group`" if kind == "audio" else ""
            raise UsageError(
                f"split: {len(torn):,} {kind}s appear in more than one fold: {'; '.join(shown)}{more}{remedy}"
            )


def _overlapping(sources: pa.Table, codes: npt.NDArray[np.int32], folds: Folds, among: npt.NDArray[np.bool_]) -> Rows:
    """Return the codes of files of which overlapping segments are in different folds."""
    starts, ends = (
        np.asarray(pc.fill_null(sources[name], null)) for name, null in (("start_s", 0.0), ("end_s", np.inf))
    )
    order = np.lexsort((starts, codes))
    torn, latest = set[int](), dict[int, tuple[float, int]]()
    for row in order[among[order]].tolist():
        end, fold = latest.get(codes[row], (0.0, folds[row]))
        if starts[row] < end - SAME_TIME_S and fold != folds[row]:
            torn.add(codes[row])
        if ends[row] > end:
            latest[codes[row]] = (ends[row], folds[row])
    return np.array(sorted(torn), np.int64)


def _given_folds(group_of: npt.NDArray[np.int32], assigned: Folds, names: Sequence[str]) -> Folds:
    fold_of_group = np.full(len(names), -1, dtype=np.int32)
    for row in np.flatnonzero(assigned >= 0):
        group, fold = group_of[row], assigned[row]
        if fold_of_group[group] not in (-1, fold):
            raise UsageError(
                f"split: group {names[group]!r} is given folds {fold_of_group[group]} and {fold}; a group has one fold"
            )
        fold_of_group[group] = fold
    return fold_of_group


def _group_counts(clips: pa.Table, group_of: npt.NDArray[np.int32], groups: int) -> csr_array:
    """Return [groups, classes] how many clips of each class are in each group."""
    column = clips["class"].combine_chunks()
    classes = pc.dictionary_encode(pc.list_flatten(column))
    rows = group_of[pc.list_parent_indices(column).to_numpy(zero_copy_only=False)]
    cells = (rows, classes.indices.to_numpy(zero_copy_only=False))
    return csr_array((np.ones(len(rows)), cells), shape=(groups, len(classes.dictionary)))


def _tie_breaks(names: Sequence[str], seed: int) -> list[bytes]:
    return [hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest() for name in names]


def _spread(fold_of_group: Folds, counts: csr_array, ties: list[bytes], folds: int) -> None:
    """Give every group without a fold (-1) one, in place."""
    classes_of, clips_of = (np.split(values, counts.indptr[1:-1]) for values in (counts.indices, counts.data))
    totals = np.asarray(counts.sum(axis=0))
    filled = np.stack([np.asarray(counts[np.flatnonzero(fold_of_group == fold)].sum(axis=0)) for fold in range(folds)])
    clips_in = filled.sum(axis=1)
    most = [own.max(initial=0) for own in clips_of]
    rarest = [totals[classes].min(initial=np.inf) for classes in classes_of]
    waiting = np.flatnonzero(fold_of_group < 0).tolist()
    for group in sorted(waiting, key=lambda group: (-most[group], rarest[group], ties[group])):
        classes, number = classes_of[group], clips_of[group]
        # What the fold still lacks of the group's classes, rare classes weighing more.
        lacking = ((totals[classes] / folds - filled[:, classes]) * (number / totals[classes])).sum(axis=1)
        best = np.flatnonzero(lacking >= lacking.max() - 1e-9)
        chosen = int(best[np.lexsort(((best + ties[group][0]) % folds, clips_in[best]))[0]])
        fold_of_group[group] = chosen
        filled[chosen, classes] += number
        clips_in[chosen] += number.sum()
