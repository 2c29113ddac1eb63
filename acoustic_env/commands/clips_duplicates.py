"""`acoustic-env clips duplicates`: the same recording listed more than once."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from acoustic_env.commands.arguments import add_command, add_paths, log, show, url

if TYPE_CHECKING:
    import pyarrow as pa

    from acoustic_env.clips.duplicates.search import Found

SHOWN: Final = 10


def add_parser(commands: Any, progress: Callable[[int, int], None]) -> None:
    """Add the `duplicates` command; `progress` shows how many clips of how many are read."""
    line, run = "find the same recording listed more than once", partial(find, progress=progress)
    parser = add_command(commands, "duplicates", run, line=line)
    add = parser.add_argument
    add("--apply", type=url, metavar="LIST", help="Also write the clip list with these groups, each in one fold.")
    add_paths(parser, "clips", out="duplicates")


def find(arguments: argparse.Namespace, progress: Callable[[int, int], None]) -> None:
    """Find clips that are the same recording: the same samples (exact), the same up to gain and silence around them
    (scaled), or the same sound shifted, trimmed, coded or louder, sharing at least one audible second (near). Writes,
    for every clip:
      clip_id, group    the list's groups, joined where duplicates link them
      duplicate_of      the clip it was confirmed against; empty for the first of its set
      kind              exact, scaled, near
      lag_s             second of duplicate_of at which this clip starts
      correlation       of the two spectrograms at that lag, band and frame means removed
    Lists on standard output the sets that span several folds or sources, and those whose labels differ. Silent clips
    are excluded from matching.

    Examples:
        acoustic-env clips duplicates --clips clips.parquet --out groups.parquet

        # and the list with the joined groups, so that no splitter tears duplicates apart
        acoustic-env clips duplicates --clips clips.parquet --out groups.parquet --apply grouped.parquet
    """
    from acoustic_env.audit.table import write_table
    from acoustic_env.clips.duplicates.search import apply_groups, find_duplicates
    from acoustic_env.clips.table import check_output, read_clips, write_clips

    check_output(arguments.out, [arguments.clips])
    if arguments.apply:
        check_output(arguments.apply, [arguments.clips, arguments.out])
    clips = read_clips(arguments.clips)
    found = find_duplicates(clips, progress)
    write_table(found.table, arguments.out)
    moved: list[str] = []
    if arguments.apply:
        applied, moved = apply_groups(clips, found)
        write_clips(applied, arguments.apply)
    for clip_id, why in list(found.failed.items())[:SHOWN]:
        log(f"not read: {clip_id}: {why}")
    lines = _describe(clips, found, arguments)
    if arguments.apply:
        lines.append(f"{arguments.apply}: {clips.num_rows:,} clips with their joined groups")
    if moved:
        lines.append(f"  {len(moved):,} clips are now in the fold of most of their group: {_names(moved)}")
    show(arguments, _document(clips, found, moved), *lines)


def _conflicts(clips: pa.Table, found: Found) -> dict[str, list[Sequence[int]]]:
    from acoustic_env.clips.duplicates.search import disagreeing

    labels = [frozenset(names) or None for names in clips["labels"].to_pylist()]
    return {
        "folds": disagreeing(found.sets, clips["fold"].to_pylist()),
        "sources": disagreeing(found.sets, clips["source"].to_pylist()),
        "labels": disagreeing(found.sets, labels),
    }


def _document(clips: pa.Table, found: Found, moved: list[str]) -> dict[str, Any]:
    ids = clips["clip_id"].to_pylist()
    conflicts = _conflicts(clips, found)
    return {
        "clips": len(ids),
        "sets": len(found.sets),
        "duplicates": sum(len(some) - 1 for some in found.sets),
        "links": dict(Counter(one.kind for one in found.links)),
        "candidates": found.candidates,
        "silent": len(found.silent),
        "failed": found.failed,
        **{f"across_{name}": [[ids[n] for n in some] for some in conflicts[name]] for name in ("folds", "sources")},
        "contradicting_labels": [[ids[n] for n in some] for some in conflicts["labels"]],
        "moved": moved,
    }


def _describe(clips: pa.Table, found: Found, arguments: argparse.Namespace) -> list[str]:
    kinds = Counter(one.kind for one in found.links)
    links = ", ".join(f"{kind} {kinds[kind]:,}" for kind in ("exact", "scaled", "near"))
    members = sum(len(some) for some in found.sets)
    lines = [
        f"{arguments.out}: {members:,} of {clips.num_rows:,} clips in {len(found.sets):,} sets of duplicates",
        f"  pairs confirmed: {links}; {found.candidates:,} candidates",
    ]
    if found.silent:
        lines.append(f"  {len(found.silent):,} silent clips, excluded from matching: {_names(found.silent)}")
    if found.failed:
        lines.append(f"  {len(found.failed):,} clips could not be read and keep their group")
    ids = clips["clip_id"].to_pylist()
    values = {"folds": clips["fold"].to_pylist(), "sources": clips["source"].to_pylist()}
    values["labels"] = [", ".join(sorted(names)) for names in clips["labels"].to_pylist()]
    titles = {"folds": "in several folds", "sources": "from several sources", "labels": "with contradicting labels"}
    for name, sets in _conflicts(clips, found).items():
        if not sets:
            continue
        lines.append(f"duplicates {titles[name]}: {len(sets):,} sets")
        for some in sets[:SHOWN]:
            shown = "; ".join(f"{ids[n]} ({values[name][n]})" for n in some[:4])
            lines.append(f"  {shown}{f'; and {len(some) - 4:,} more' if len(some) > 4 else ''}")
        if len(sets) > SHOWN:
            lines.append(f"  and {len(sets) - SHOWN:,} more sets; all of them with --json")
    return lines


def _names(ids: Sequence[str]) -> str:
    return f"{', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}"
