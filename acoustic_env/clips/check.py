"""Validate clip lists: cheaply, or by reading every clip."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.ontology import Ontology, audioset
from acoustic_env.clips.select import recipe_labels, select
from acoustic_env.clips.sources import MACROS, describe_source, listed_sources
from acoustic_env.clips.table import CLIP_SCHEMA, ValidationIssue, describe_clips, load_clips
from acoustic_env.config import Recipe
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.io.database import Database
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.location import local_path, split, split_shard
from acoustic_env.io.retry import StoreError

# Opens and decodes a clip: (uri, start_s, end_s, clip_id); raises ClipError.
ReadClip = Callable[[str, float | None, float | None, str], object]
Progress = Callable[[int, int], None]
In = TypeVar("In")
Out = TypeVar("Out")

AUDIOSET_ID: Final = re.compile(r"/[mgt]/\w+")
READERS: Final = 4
LOOKS: Final = 32  # files looked for at once
LISTED_FILES: Final = 100  # in one remote folder: one listing instead of a request each
SHOWN: Final = 20  # further columns
GONE: Final = "no such file"
CONTRADICTIONS: Final = """
SELECT one, other
FROM sources AS other JOIN (SELECT DISTINCT ON (clip_id) * FROM sources ORDER BY list, row) AS one USING (clip_id)
WHERE one.list < other.list
    AND NOT same_audio(one.uri, one.start_s, one.end_s, other.uri, other.start_s, other.end_s)
ORDER BY other.list, other.row
"""


@dataclass(frozen=True)
class Checked:
    """Outcome of a validation."""

    clips: int  # rows of the list
    issues: list[ValidationIssue]  # what is wrong
    notes: list[str]  # what the recipe makes of the list, and what is worth knowing
    table: pa.Table  # the list, of `CLIP_SCHEMA` and `row`, counted from 1 in the file


def check_clips(
    url: str, recipe: Recipe | None = None, read: ReadClip | None = None, progress: Progress | None = None
) -> Checked:
    """Validate a clip list: columns, ids, times, labels, that local files exist, and with `read` every clip.

    Labels that neither the recipe nor the AudioSet ontology knows are issues; without a recipe, only unknown ones with
    the form of an AudioSet id. `progress` is called with clips read and clips in all.

    Raises:
        UsageError: the list itself cannot be read.
    """
    clips, rows, issues = load_clips(url)
    table = clips.select(CLIP_SCHEMA.names).append_column("row", pa.array(rows))
    issues += _label_issues(table, recipe, audioset()) + _place_issues(table)
    notes = _notes(clips)
    if recipe is not None and not issues:
        try:
            notes += [f"recipe {recipe.name}: {line}" for line in select(clips, recipe).summary()]
        except UsageError as error:
            issues.append(ValidationIssue(None, "labels", str(error)))
    if read is not None:
        skipped = {issue.row for issue in issues}
        issues += _read_issues(table, read, skipped, progress)
    return Checked(clips.num_rows, issues, notes, table)


def compare_lists(lists: Mapping[str, pa.Table]) -> dict[str, list[ValidationIssue]]:
    """Find ids that are of different audio in two lists, tables of `Checked` by name.

    Returns:
        The issues of each list that contradicts an earlier one, by name.
    """
    names = list(lists)
    tables = [_sources(table, number) for number, table in enumerate(lists.values())]
    pairs = Database().sql(MACROS + CONTRADICTIONS, sources=pa.concat_tables(tables)).to_pylist()
    issues: dict[str, list[ValidationIssue]] = {}
    for pair in pairs:
        one, other = pair["one"], pair["other"]
        message = (
            f"{other['clip_id']!r} is {describe_source(other)} here, and in {names[one['list']]}, "
            f"row {one['row']:,}, {describe_source(one)}"
        )
        issues.setdefault(names[other["list"]], []).append(ValidationIssue(other["row"], "clip_id", message))
    return issues


def _sources(table: pa.Table, number: int) -> pa.Table:
    """Return the sources of the clips that have an id and a location, with their `row` and the number of their list."""
    table = table.filter(pc.and_(pc.is_valid(table["clip_id"]), pc.is_valid(table["uri"])))
    return listed_sources(table).append_column("row", table["row"]).append_column("list", pa.repeat(number, len(table)))


def _label_issues(clips: pa.Table, recipe: Recipe | None, ontology: Ontology) -> list[ValidationIssue]:
    labels = {*pc.unique(pc.list_flatten(clips["labels"])).to_pylist()} - {None, ""}
    unknown, where = labels - {*ontology.names, *ontology.names.values()}, "not a known AudioSet id"
    if recipe is not None and recipe.classes:
        unknown -= set(recipe.exclude.labels).union(*recipe_labels(recipe, ontology).values())
        where = f"neither of recipe {recipe.name} nor of the AudioSet ontology"
    else:
        unknown = set(filter(AUDIOSET_ID.fullmatch, unknown))
    if not unknown:
        return []
    return [
        ValidationIssue(row, "labels", f"unknown label {label!r}: {where}")
        for row, of in zip(clips["row"].to_pylist(), clips["labels"].to_pylist(), strict=True)
        for label in dict.fromkeys(of or [])
        if label in unknown
    ]


def _place_issues(clips: pa.Table) -> list[ValidationIssue]:
    """Find local files that do not exist; locations behind a protocol are left to `read`."""
    outer = {uri: split_shard(uri)[1] for uri in clips["uri"].to_pylist() if uri}
    wrong = _look_at(location for location in set(outer.values()) if local_path(location) is not None)
    return [
        ValidationIssue(row, "uri", f"{outer[uri]}: {wrong[outer[uri]]}")
        for row, uri in zip(clips["row"].to_pylist(), clips["uri"].to_pylist(), strict=True)
        if uri and outer[uri] in wrong
    ]


def drop_missing(clips: pa.Table, where: str, progress: Progress | None = None) -> tuple[pa.Table, list[str]]:
    """Return the clips whose audio is there, and the locations, local or remote, that are gone for good.

    Raises:
        UsageError: of some clips it cannot be told, since a disk, a network or a permission is missing, or the audio of
            every clip of `where` is gone.
    """
    outer = [split_shard(uri)[1] for uri in clips["uri"].to_pylist()]
    wrong = _look_at(set(outer), progress)
    if unsure := {location: why for location, why in wrong.items() if why != GONE}:
        location, why = min(unsure.items())
        msg = f"{where}: of {len(unsure):,} files it cannot be told whether they are gone: {location}: {why}"
        raise UsageError(f"{msg}; nothing is written. Mend this and run the command again")
    kept = clips.filter(pa.array([location not in wrong for location in outer]))
    if not len(kept):
        raise UsageError(
            f"{where}: the audio of all {len(clips):,} clips is gone, {outer[0]} first; nothing is written"
        )
    return kept, sorted(wrong)


def _look_at(locations: Iterable[str], progress: Progress | None = None) -> dict[str, str]:
    """Return what is wrong with files: `GONE`, or why they cannot be seen. Folders with many of them are listed."""
    folders: dict[str, list[str]] = {}
    for location in sorted(locations):
        listed = local_path(location) is None and not location.startswith(("http://", "https://"))
        folders.setdefault(split(location)[0] if listed else location, []).append(location)
    wrong: dict[str, str] = {}
    singly: list[str] = []
    for folder, inside in folders.items():
        if len(inside) < LISTED_FILES:
            singly += inside
            continue
        try:
            there = {entry.path for entry in open_filesystem(folder).entries("")}
            wrong |= {location: GONE for location in inside if split(location)[1] not in there}
        except StoreError as error:
            wrong |= dict.fromkeys(inside, str(error))
    return wrong | {location: why for location, why in _each(_look, singly, LOOKS, progress) if why is not None}


def _each(
    call: Callable[[In], Out], items: Sequence[In], threads: int, progress: Progress | None
) -> Iterator[tuple[In, Out]]:
    with ThreadPoolExecutor(threads) as pool:
        for done, found in enumerate(zip(items, pool.map(call, items), strict=True), start=1):
            yield found
            if progress is not None:
                progress(done, len(items))


def _look(location: str) -> str | None:
    path = local_path(location)
    try:
        if path is None:
            open_filesystem(location).size("")
        elif path.is_dir():
            return "a folder, not a file"
        elif not path.exists():
            return GONE if path.parent.is_dir() else f"no folder {path.parent}; is its disk mounted?"
    except FileNotFoundError as error:  # fsspec raises it over HTTP for every failure, with what failed as the cause
        cause = error.__cause__
        gone = cause is None or getattr(cause, "status", None) in (404, 410)
        return GONE if gone else f"{type(cause).__name__}: {cause}"
    except (StoreError, OSError) as error:
        return str(error)
    return None


def _read_issues(
    clips: pa.Table, read: ReadClip, skipped: set[int | None], progress: Progress | None
) -> Iterator[ValidationIssue]:
    def attempt(row: dict[str, object]) -> tuple[str, str] | None:
        try:
            read(row["uri"], row["start_s"], row["end_s"], row["clip_id"])  # type: ignore[arg-type]
        except ClipError as error:
            return ("start_s" if error.code == "no_such_segment" else "uri"), str(error)
        return None

    rows = [row for row in clips.to_pylist() if row["row"] not in skipped]
    for row, outcome in _each(attempt, rows, READERS, progress):
        if outcome is not None:
            yield ValidationIssue(row["row"], *outcome)


def _notes(clips: pa.Table) -> list[str]:
    notes = [describe_clips(clips)]
    unlabeled = pc.sum(pc.equal(pc.list_value_length(clips["labels"]), 0)).as_py() or 0
    if unlabeled:
        notes.append(f"{unlabeled:,} clips without labels")
    further = [name for name in clips.column_names if name not in CLIP_SCHEMA.names]
    if further:
        more = f" and {len(further) - SHOWN:,} more" if len(further) > SHOWN else ""
        notes.append(f"further columns, carried through: {', '.join(further[:SHOWN])}{more}")
    return notes
