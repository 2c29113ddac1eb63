"""Which clips are of one recording, as the paths of their files tell."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa

from acoustic_env.clips.table import CLIP_SCHEMA
from acoustic_env.errors import UsageError

PART: Final = r"(?:[-_. ]+[^-_. /]+)"  # of a name: what follows a sign that separates
MOST: Final = 0.2  # of the files in one group: more is a site or a class, not a recording
FEWEST: Final = 5  # groups, below which nothing can be split


@dataclass(frozen=True)
class Proposal:
    """A pattern of names that tells recordings apart.

    Attributes:
        pattern: for `--group-from`: its first (...) is the recording.
        groups: how many there would be.
        largest: files of the largest.
    """

    pattern: str
    groups: int
    largest: int


def propose_groups(names: Sequence[str]) -> Proposal | None:
    """Return the pattern that joins files whose names differ in their last parts only, None where none does.

    Of the patterns that leave out one, two or three parts of the name, it is the one that leaves out the least and
    joins a tenth of the files or more.

    Args:
        names: paths of files below their folder.

    >>> names = [f"rain/site{site}-{part}.wav" for site in range(6) for part in range(4)]
    >>> propose_groups(names)
    Proposal(pattern='([^/]+?)(?:[-_. ]+[^-_. /]+){1}\\\\.\\\\w+$', groups=6, largest=4)
    """
    for left_out in (1, 2, 3):
        pattern = rf"([^/]+?){PART}{{{left_out}}}\.\w+$"
        found = [re.search(pattern, name) for name in names]
        if not all(found):
            return None
        sizes = Counter(match[1] for match in found if match)
        joined = sum(size for size in sizes.values() if size > 1)
        if joined >= 0.1 * len(names) and len(sizes) >= FEWEST and max(sizes.values()) <= MOST * len(names):
            return Proposal(pattern, len(sizes), max(sizes.values()))
    return None


def paths_of(clips: pa.Table) -> list[str]:
    """Return the path of each clip's file, `/` first, below the folder that all are in."""
    paths = [PurePosixPath("/" + uri.rpartition("://")[2].lstrip("/")) for uri in clips["uri"].to_pylist()]
    common = PurePosixPath(os.path.commonpath([path.parent for path in paths]))
    return ["/" + path.relative_to(common).as_posix() for path in paths]


def grouped(clips: pa.Table, pattern: str) -> pa.Table:
    """Return the clips with what the first (...) of a pattern finds in the path of their file as groups.

    Raises:
        UsageError: the pattern is no regular expression, or does not match a path.
    """
    groups = [matched(pattern, path, "group") for path in paths_of(clips)]
    field = CLIP_SCHEMA.field("group")
    return clips.set_column(clips.schema.get_field_index("group"), field, pa.array(groups, field.type))


def matched(pattern: str, path: str, what: str) -> str:
    """Return what the first (...) of a pattern finds in a path; `what` it is, is named in messages.

    Raises:
        UsageError: the pattern is no regular expression, or does not match.
    """
    try:
        match = re.search(pattern, path)
    except re.error as error:
        raise UsageError(f"the {what} pattern {pattern!r} is no regular expression: {error}") from error
    if match is None or not match.groups() or match.group(1) is None:
        msg = f"{path}: the {what} pattern {pattern!r} does not match (the value is what the first (...) matches)"
        raise UsageError(msg)
    return match.group(1)


def torn(clips: pa.Table) -> list[str]:
    """Return the files whose clips are in several groups, which a split may put into training and test."""
    groups: dict[str, set[str]] = {}
    for uri, group in zip(clips["uri"].to_pylist(), clips["group"].to_pylist(), strict=True):
        groups.setdefault(uri, set()).add(group)
    return [uri for uri, found in groups.items() if len(found) > 1]
