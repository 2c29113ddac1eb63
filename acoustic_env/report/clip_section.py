"""The page's section on what the clips sound and look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from acoustic_env.clips.select import select
from acoustic_env.clips.splits import split
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.explain.style import class_name, span
from acoustic_env.report.clip_plots import (
    cooccurrence_plot,
    counts_plot,
    example_plot,
    gallery_plot,
    lengths_plot,
    levels_plot,
)
from acoustic_env.report.clip_sample import (
    CLASSES,
    SEED,
    ClipSample,
    draw_clips,
)
from acoustic_env.report.page import Section
from acoustic_env.report.parts import Part, Text

ROLES: Final = {"training": "train", "validation": "validation", "test": "test"}  # part of a split -> its field
SAME_LENGTH: Final = 1.1  # ratio of the longest to the shortest clip up to which lengths are not drawn


def clip_section(clips: pa.Table, recipe: Recipe | None) -> Section | None:
    """Draw a sample of the clips, their labels and their tags; None where there is nothing to draw."""
    column, roles = "labels", None
    if recipe is not None:
        clips, column = select(clips, recipe).clips, "class"
        roles = split_rows(clips, recipe)
    names = [[class_name(name) for name in own] for own in clips[column].to_pylist()]
    if not any(names):
        return None
    roles = roles or {"clips": range(len(names))}
    parts = {role: [names[row] for row in rows] for role, rows in roles.items() if rows}
    tags, together = tags_of(clips), cooccurrence_plot(parts)
    further = [*([together] if together else []), *([counts_plot("tag", {"clips": tags})] if any(tags) else [])]
    return Section("Clips", [counts_plot("label", parts), *further, *_sample(draw_clips(clips, names))])


def split_rows(clips: pa.Table, recipe: Recipe) -> dict[str, Sequence[int]] | None:
    """Return part of a recipe's split -> rows of selected clips; None where the list cannot be split."""
    try:
        parts = split(clips, recipe.split)
    except UsageError:
        return None
    return {role: getattr(parts, field).tolist() for role, field in ROLES.items()}


def tags_of(clips: pa.Table) -> list[list[str]]:
    """Return the tags of each clip: of a column `tags`, a list or a text with commas; empty without one.

    >>> tags_of(pa.table({"tags": ["wind, bird", None]}))
    [['wind', 'bird'], []]
    """
    if "tags" not in clips.column_names:
        return [[] for _ in range(clips.num_rows)]
    found = []
    for value in clips["tags"].to_pylist():
        own = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
        found.append([text for tag in own if (text := str(tag).strip())])
    return found


def _sample(sample: ClipSample) -> list[Part]:
    found: list[Part] = []
    if sample.failed:
        first, message = next(iter(sample.failed.items()))
        text = f"{len(sample.failed):,} of {sample.tried:,} sampled clips could not be read, such as {first}: {message}"
        found.append(Text(text, "note", lead="Audio not drawn"))
    if not sample.clips:
        return found
    name, (example, *_) = next(iter(sample.clips.items()))
    lead = f"Mel spectrograms by class (the {CLASSES} largest at most), clips chosen by seed {SEED}:"
    gallery = gallery_plot(sample.clips, "clip-gallery", "Mel spectrograms of each class", lead)
    seconds = [clip.seconds for found in sample.clips.values() for clip in found]
    lengths: Part = Text(f"All {len(seconds):,} sampled clips are {span(seconds, '.2f')} s long.")
    if max(seconds) > SAME_LENGTH * min(seconds):
        lengths = lengths_plot(sample.clips)
    return [*found, example_plot(name, example), gallery, lengths, levels_plot(sample.clips)]
