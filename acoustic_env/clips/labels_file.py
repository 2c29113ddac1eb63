"""Labels that lie in a table of their own, a row a file and label, put onto the clips of a list."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from acoustic_env.clips.records import read_rows
from acoustic_env.clips.table import CLIP_SCHEMA, split_labels
from acoustic_env.errors import UsageError

FILE: Final = ("file", "filename", "file_name", "path", "filepath", "fname", "clip_id", "uri", "recording", "audio")
LABEL: Final = ("label", "labels", "class", "class_name", "category", "species", "tag", "tags")
SHOWN: Final = 3
Log = Callable[[str], None]


def with_labels(clips: pa.Table, url: str, log: Log) -> pa.Table:
    """Return the clips with the labels of a table; a clip without a row has none.

    Args:
        clips: a clip list.
        url: CSV or TSV with a header: a column of files (`file`, `path`, `clip_id`, ...) and one of labels (`label`,
            `class`, `species`, ...), or two columns of any names, files first. A file may have several rows, and a cell
            several labels, separated by commas. Files are clip ids, paths, the last parts of one, or names, with or
            without the ending. Columns `group` and `fold` replace those of the list.
        log: is told how many clips have no row, and how many rows no clip.

    Raises:
        UsageError: the table cannot be read, has no such columns, or none of its files is in the list, or two clips
            have the name that a row gives.
    """
    rows = read_rows(url)
    file, label = _columns(list(rows[0]), url)
    found, strange = dict[int, dict[str, Any]](), list[str]()
    called = [row[file].replace("\\", "/").removeprefix("./") for row in rows]
    places = _places(clips, set(called))
    for row, name in zip(rows, called, strict=True):
        of = places.get(name, ())
        if len(of) > 1 and len({clips["uri"][number].as_py() for number in of}) > 1:
            names = ", ".join(clips["clip_id"][number].as_py() for number in of[:SHOWN])
            raise UsageError(f"{url}: {row[file]!r} is the name of several clips ({names}); write more of the path")
        if not of:
            strange.append(row[file])
        for number in of:
            entry = found.setdefault(number, {"labels": {}})
            entry["labels"] |= dict.fromkeys(_labels(row[label], url))
            entry |= {name: row[name] for name in ("group", "fold") if row.get(name)}
    if not found:
        raise UsageError(f"{url}: none of its {len(rows):,} files is in the list, the first: {rows[0][file]!r}")
    missing = [clips["clip_id"][n].as_py() for n in range(len(clips)) if n not in found]
    for what, some in (("clips have no row there and no label", missing), ("rows are of no clip", strange)):
        if some:
            log(f"{url}: {len(some):,} {what}: {', '.join(some[:SHOWN])}{', ...' if len(some) > SHOWN else ''}")
    return _replaced(clips, found, url)


def _columns(names: Sequence[str], url: str) -> tuple[str, str]:
    """Return the columns of files and of labels."""
    lower = {name.lower(): name for name in names}
    file, label = (next((lower[name] for name in known if name in lower), None) for known in (FILE, LABEL))
    if file and label:
        return file, label
    if len(names) == 2:
        return names[0], names[1]
    raise UsageError(f"{url}: which column is the file, which the label? Name them file and label; found {names}")


def _labels(cell: str, url: str) -> list[str]:
    try:
        return split_labels(cell)
    except csv.Error as error:
        raise UsageError(f"{url}: the labels {cell!r} have a stray quote ({error})") from error


def _places(clips: pa.Table, wanted: AbstractSet[str]) -> Mapping[str, list[int]]:
    """Return the wanted names of clips -> rows of the list.

    A name is the clip's id, its place, the last parts of its path, or these without the ending.
    """
    places = dict[str, list[int]]()
    for number, (clip_id, uri) in enumerate(zip(clips["clip_id"].to_pylist(), clips["uri"].to_pylist(), strict=True)):
        parts = PurePosixPath(uri.rpartition("://")[2]).parts
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        ending = PurePosixPath(parts[-1]).suffix if parts else ""
        own = {clip_id, uri, *ends}
        for name in (own | {one.removesuffix(ending) for one in own}) & wanted:
            places.setdefault(name, []).append(number)
    return places


def _replaced(clips: pa.Table, found: Mapping[int, Mapping[str, Any]], url: str) -> pa.Table:
    columns = {name: clips[name].to_pylist() for name in ("labels", "group", "fold")}
    columns["labels"] = [[] for _ in range(len(clips))]
    for number, entry in found.items():
        columns["labels"][number] = list(entry["labels"])
        columns["group"][number] = entry.get("group", columns["group"][number])
        if "fold" in entry:
            if not entry["fold"].isdecimal():
                raise UsageError(f"{url}: fold {entry['fold']!r}: expected a whole number")
            columns["fold"][number] = int(entry["fold"])
    for name, values in columns.items():
        field = CLIP_SCHEMA.field(name)
        clips = clips.set_column(clips.schema.get_field_index(name), field, pa.array(values, field.type))
    return clips
