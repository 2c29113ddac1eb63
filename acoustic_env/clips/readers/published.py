"""What readers of published data sets share: their tables, their audio files, and what the publication promises."""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from acoustic_env.clips.naming import require_unique
from acoustic_env.clips.readers import Log
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, read_if_there
from acoustic_env.io.location import join, local_path, url

SHOWN: Final = 5


def add_root(parser: argparse.ArgumentParser, layout: str) -> None:
    """Add the folder of the data set and what to do when it is not whole."""
    parser.add_argument("folder", type=url, metavar="DIR", help=f"Folder of the data set, with {layout}.")
    partial = "Take what is there when rows or audio files that the publication has are missing. Default: exit 2."
    parser.add_argument("--partial", action="store_true", help=partial)


def chosen_parts(text: str, known: Collection[str]) -> list[str]:
    """Return the parts of a data set that `--parts` names.

    Raises:
        UsageError: a part that the data set does not have.

    >>> chosen_parts("dev, eval", ("dev", "eval"))
    ['dev', 'eval']
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"--parts {text}: no part {name!r}; expected one of: {', '.join(known)}")
    return names


def table_rows(root: str, path: str, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a table of the data set, `path` below its folder, which must have the columns.

    Raises:
        UsageError: no such file, not UTF-8, a column missing, or a row with another number of cells.
    """
    place = join(root, path)
    data = read_if_there(place)
    if data is None:
        raise UsageError(f"{place}: no such file; expected the layout of the publication, with {path} below the folder")
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=delimiter)
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not UTF-8 text: {error}") from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(f"{place}: no column {missing[0]!r}; expected {', '.join(columns)}")
    rows = []
    for number, row in enumerate(reader, start=1):
        if None in row or None in row.values():
            raise UsageError(f"{place}: row {number:,} has another number of cells than the header")
        rows.append(row)
    return rows


def fold_of(row: dict[str, Any]) -> str:
    return f"fold {row['fold']}"


def subset_of(row: dict[str, Any]) -> str:
    """Return the last word of the source, as in `FSD50K train`."""
    return str(row["source"]).rpartition(" ")[2]


def published_clips(
    root: str,
    rows: Iterable[dict[str, Any]],
    promised: Mapping[str, int],
    part_of: Callable[[dict[str, Any]], str],
    log: Log,
    *,
    partial: bool,
) -> pa.Table:
    """Return the clip list of a data set, checked against what its publication promises.

    Args:
        root: folder of the data set.
        rows: of the clip list; `uri` is the path of the audio below the folder.
        promised: part of the set -> its number of clips.
        part_of: names the part of a row: `fold_of` or `subset_of`.
        log: is told what is missing where `partial` allows it.
        partial: take what is there.

    Raises:
        UsageError: rows or files that the publication has are missing, unless `partial`, or no file is there.
    """
    rows = list(rows)
    there = set(files_below(root) or ())
    absent = [row["uri"] for row in rows if row["uri"] not in there]
    issues = []
    counts = Counter(map(part_of, rows))
    for part, expected in promised.items():
        if counts[part] != expected:
            issues.append(f"{part}: {counts[part]:,} rows, the publication has {expected:,}")
    if absent:
        shown = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
        issues.append(f"{len(absent):,} of {len(rows):,} audio files are missing: {shown}")
    if issues and not partial:
        msg = "\n".join(
            [f"{root}: not the whole data set:", *issues, "complete it, or take what is there with --partial"]
        )
        raise UsageError(msg)
    for issue in issues:
        log(issue)
    kept = [row for row in rows if row["uri"] in there]
    if not kept:
        raise UsageError(
            f"{root}: none of the {len(rows):,} audio files of the data set is below it; expected {rows[0]['uri']} "
            "and so on (links to folders are not followed)"
        )
    folder = local_path(root)
    base = root if folder is None else str(folder.absolute())
    return require_unique(clip_table({**row, "uri": join(base, row["uri"])} for row in kept), root)
