"""The page's section on what the clips sound and look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from acoustic_env.clips.select import select
from acoustic_env.clips.splits import split
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.explain.style import class_name
from acoustic_env.report import clip_plots
from acoustic_env.report.clip_sample import CLASSES, SEED, ClipSample, draw_clips
from acoustic_env.report.page import PlotFolder, Section
from acoustic_env.report.parts import Text

ROLES: Final = {"training": "train", "validation": "validation", "test": "test"}  # part of a split -> its field
SAME_LENGTH: Final = 1.1  # ratio of the longest to the shortest clip up to which lengths are not drawn


def clip_section(clips: pa.Table, recipe: Recipe | None, folder: PlotFolder) -> Section | None:
    """Draw a sample of the clips, their labels and their tags; None where there is nothing to draw."""
    section = Section("Clips")
    column = "labels"
    if recipe is not None:
        clips, column = select(clips, recipe).clips, "class"
    names = [[class_name(name) for name in own] for own in clips[column].to_pylist()]
    if not any(names):
        return None
    roles = split_rows(clips, recipe) if recipe is not None else None
    roles = roles or {"clips": range(len(names))}
    parts = {role: [names[row] for row in rows] for role, rows in roles.items() if rows}
    section.add(folder.draw(clip_plots.labels_plot(parts)))
    together = clip_plots.cooccurrence_plot(parts)
    if together is not None:
        section.add(folder.draw(together))
    tags = tags_of(clips)
    if any(tags):
        section.add(folder.draw(clip_plots.tags_plot(tags)))
    _add_sample(section, draw_clips(clips, names), folder)
    return section


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


def _add_sample(section: Section, sample: ClipSample, folder: PlotFolder) -> None:
    if sample.failed:
        first, message = next(iter(sample.failed.items()))
        text = f"{len(sample.failed):,} of {sample.tried:,} sampled clips could not be read, such as {first}: {message}"
        section.add(Text(text, "note", lead="Audio not drawn"))
    if not sample.clips:
        return
    name, found = next(iter(sample.clips.items()))
    section.add(folder.draw(clip_plots.example_plot(name, found[0])))
    lead = f"Mel spectrograms by class (the {CLASSES} largest at most), clips chosen by seed {SEED}:"
    shown = {name: found[: clip_plots.GALLERY] for name, found in sample.clips.items()}
    section.add(folder.draw(clip_plots.gallery_plot(shown, "clip-gallery", "Mel spectrograms of each class", lead)))
    seconds = [clip.seconds for found in sample.clips.values() for clip in found]
    shortest, longest = f"{min(seconds):.2f}", f"{max(seconds):.2f}"
    if max(seconds) > SAME_LENGTH * min(seconds):
        section.add(folder.draw(clip_plots.lengths_plot(sample.clips)))
    else:
        span = shortest if shortest == longest else f"{shortest} to {longest}"
        section.add(Text(f"All {len(seconds):,} sampled clips are {span} s long."))
    section.add(folder.draw(clip_plots.levels_plot(sample.clips)))
