"""The clip list: what to process, one row a clip, as CSV or Parquet at any fsspec URL."""

from __future__ import annotations

import csv
import difflib
import functools
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.records import read_blocks
from acoustic_env.clips.sources import respelled
from acoustic_env.errors import UsageError
from acoustic_env.io.files import check_place, for_arrow, is_folder, open_file, read_bytes, write_bytes
from acoustic_env.io.location import same_place

CLIP_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),  # unique, stable
        pa.field("uri", pa.string(), nullable=False),  # where the audio is; see audio/fetch.py for the forms
        pa.field("start_s", pa.float64()),  # null: from the beginning
        pa.field("end_s", pa.float64()),  # null: to the end
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # what must not be split: video, recording
        pa.field("fold", pa.int32()),
        pa.field("source", pa.string()),
    ]
)
# Where in its tar shard or Parquet file a clip's bytes are (audio/shards.py). A list without them is read more slowly.
PLACE_SCHEMA: Final = pa.schema([("byte_offset", pa.int64()), ("byte_size", pa.int64())])
# Further columns of a fixed type: these, and how long a clip is in s, where a reader knows it.
KNOWN_SCHEMA: Final = pa.schema([*PLACE_SCHEMA, ("duration_s", pa.float64())])
REQUIRED: Final = ("clip_id", "uri")
CLASS_COLUMN: Final = "class"  # added by clips.select: no further column of a list may have this name
SIMILAR: Final = 0.81  # ratio above which a name is a misspelling: "label" is, "folder" is none of "fold"
MAX_SHOWN_ISSUES: Final = 20
SHOWN_NAMES: Final = 200  # characters
PARQUET_MAGIC: Final = b"PAR1"
BATCH_CLIPS: Final = 2**17
BREAKS: Final = r"[\r\n\x00]"

Rows = npt.NDArray[np.int64]  # [clips], rows of a file, counted from 1


@dataclass(frozen=True)
class ValidationIssue:
    """One thing wrong with a clip list."""

    row: int | None  # counted from 1, a CSV header not counted; None for an issue of the whole file
    column: str | None  # the column, None when the issue is of the row or of the file
    message: str  # what is wrong

    def __str__(self) -> str:
        place = [f"row {self.row:,}"] if self.row is not None else []
        if self.column is not None:
            place.append(f"column {self.column}")
        return f"{', '.join(place)}: {self.message}" if place else self.message


NO_CLIPS: Final = ValidationIssue(None, None, "the list holds no clips")


def raise_issues(url: str, issues: Sequence[ValidationIssue]) -> None:
    """Raise UsageError with the first issues and their number; nothing when there is none."""
    if issues:
        raise UsageError(describe_issues(url, issues))


def describe_issues(url: str, issues: Sequence[ValidationIssue]) -> str:
    """List the issues of a file, at most `MAX_SHOWN_ISSUES`, one a line, each with file, row and column."""
    ordered = sorted(issues, key=lambda issue: (issue.row or 0, issue.column or ""))
    lines = [f"{url}: {issue}" for issue in ordered[:MAX_SHOWN_ISSUES]]
    if len(ordered) > MAX_SHOWN_ISSUES:
        lines.append(f"{url}: and {len(ordered) - MAX_SHOWN_ISSUES:,} more issues")
    return "\n".join(lines)


def read_clips(url: str) -> pa.Table:
    """Read and validate a clip list.

    Args:
        url: a folder of audio, listed as `clips from-folder` does (labels from its subfolders), or a file, CSV or
            Parquet, told apart by content. `clip_id` and `uri` must be there; a missing `labels`, `start_s`,
            `end_s`, `fold` or `source` column is filled with empty values, a missing or empty `group` with the clip's
            id. In CSV a line is a clip, blanks around cells do not count, and the labels of a clip are
            comma-separated in one quoted cell; a label that itself holds a comma is quoted once more inside the cell.
            Further columns (site, recorder, license) are kept: as they are in Parquet, as text in CSV. One that looks
            like a misspelling of a missing column is an issue.

    Returns:
        A table of `CLIP_SCHEMA` and the further columns, rows in the file's order. Relative local paths are made
        absolute, from the current folder: the processes that open them may run elsewhere.

    Raises:
        UsageError: the file is missing or damaged, or rows are wrong; lists the issues with file, row and column.
    """
    table, _, issues = load_clips(url)
    raise_issues(url, issues)
    return absolute_uris(table)


def read_clip_batches(url: str) -> Iterator[pa.Table]:
    """Yield the clips of a list as `read_clips` returns them, batch by batch, without a Parquet file's further columns.

    An id that is in two batches is not noticed.

    Raises:
        UsageError: as `read_clips`; names the issues of the first batch that has any.
    """
    if is_folder(url):
        yield read_clips(url)
        return
    with open_file(url) as file:
        for table, rows, issues in _batches(file, url, (*CLIP_SCHEMA.names, *KNOWN_SCHEMA.names)):
            raise_issues(url, issues + duplicate_issues(table["clip_id"], rows))
            yield absolute_uris(table)


def load_clips(url: str) -> tuple[pa.Table, Rows, list[ValidationIssue]]:
    """Read a clip list as `read_clips`, but return the issues of its rows; they hold nulls where the value is bad.

    Returns:
        The table, the row of each clip in the file (the table lacks rows with a wrong number of cells), the issues.

    Raises:
        UsageError: the file or folder is missing, damaged or without clips, lacks a column, or has lines that are no
            CSV record.
    """
    if is_folder(url):
        from acoustic_env.clips.readers.folder import clips_of_folder

        clips = clips_of_folder(url)
        return clips, np.arange(1, len(clips) + 1), []
    data = read_bytes(url)
    file = for_arrow(data) if data.startswith(PARQUET_MAGIC) else io.BytesIO(data)
    tables, numbers, issues = [], [], list[ValidationIssue]()
    for table, rows, found in _batches(file, url):
        tables.append(table)
        numbers.append(rows)
        issues += found
    table, rows = pa.concat_tables(tables), np.concatenate(numbers)
    return table, rows, issues + duplicate_issues(table["clip_id"], rows)


def _batches(
    file: BinaryIO, url: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[pa.Table, Rows, list[ValidationIssue]]]:
    """Yield a list's clips with their rows in the file and all issues but duplicates; `columns` of Parquet only."""
    parquet = file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    file.seek(0)
    for raw, rows, ragged in _parquet_batches(file, url, columns) if parquet else _csv_batches(file, url):
        table, bad = _to_schema(raw)
        found = bad + _value_issues(table)
        yield table, rows, ragged + [replace(issue, row=int(rows[issue.row - 1])) for issue in found if issue.row]


def write_clips(table: pa.Table, url: str) -> None:
    """Write a clip list: CSV when the URL ends in .csv, else Parquet; whole or not at all. Further columns come last.

    Raises:
        UsageError: rows are wrong (as in `read_clips`), or the place cannot be written.
    """
    table, issues = _to_schema(table)
    issues += _value_issues(table) + duplicate_issues(table["clip_id"], np.arange(1, len(table) + 1))
    raise_issues(url, issues if len(table) else [NO_CLIPS])
    if url.lower().endswith(".csv"):
        write_bytes(url, _csv_bytes(table, url))
        return
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(url, buffer.getvalue())


def check_output(url: str, inputs: Iterable[str], endings: Sequence[str] = (".parquet", ".csv")) -> str:
    """Check before long work that a table can be written to a place, and that this is none of the files it is made of.

    Returns:
        The ending that says the format; of a name without one, .parquet.

    Raises:
        UsageError: it is an input, a folder, has another ending, or cannot be written.
    """
    if any(same_place(url, place) for place in inputs):
        raise UsageError(f"{url}: would replace what it is made of; give another file")
    ending = PurePosixPath(url).suffix.lower() or ".parquet"
    if ending not in endings:
        raise UsageError(f"{url}: the ending says the format; give a name that ends in {' or '.join(endings)}")
    check_place(url, folder=False)
    return ending


def clip_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Make a table of `CLIP_SCHEMA` from rows as dictionaries; absent keys are null, `group` the clip's id.

    >>> clip_table([{"clip_id": "a", "uri": "/a.wav", "site": "dune"}]).to_pylist()[0]["site"]
    'dune'
    """
    filled = [{"labels": [], "group": row["clip_id"], **row} for row in rows]
    try:
        table = pa.Table.from_pylist(filled, schema=CLIP_SCHEMA)
        for name in dict.fromkeys(name for row in filled for name in row if name not in CLIP_SCHEMA.names):
            table = table.append_column(name, _one_type([row.get(name) for row in filled]))
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!r}: not UTF-8 text, which a clip list holds; rename it") from error
    return table


def _one_type(values: Sequence[Any]) -> pa.Array:
    """Return the values as they are, as text where they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def further_name(name: str) -> str:
    """Return the name under which a clip list carries a column of a data set's own table.

    >>> further_name("site"), further_name("fold")
    ('site', 'original_fold')
    """
    return f"original_{name}" if name in (*CLIP_SCHEMA.names, *KNOWN_SCHEMA.names, CLASS_COLUMN) else name


def group_by(clips: pa.Table, column: str, where: str) -> pa.Table:
    """Return the clips with the values of a column as groups; a clip without a value is a group of its own.

    >>> clips = clip_table([{"clip_id": "a", "uri": "/a.wav", "site": "dune"}, {"clip_id": "b", "uri": "/b.wav"}])
    >>> group_by(clips, "site", "clips.csv")["group"].to_pylist()
    ['dune', 'b']

    Raises:
        UsageError: no such column in `where`, or one of lists.
    """
    if column not in clips.schema.names or pa.types.is_nested(clips.schema.field(column).type):
        able = [field.name for field in clips.schema if not pa.types.is_nested(field.type)]
        raise UsageError(f"{where}: --group-by {column}: expected one of its columns {', '.join(able)}")
    values = clips[column].cast(pa.string())
    groups = pc.coalesce(pc.if_else(pc.equal(values, ""), None, values), clips["clip_id"])
    return clips.set_column(clips.schema.get_field_index("group"), CLIP_SCHEMA.field("group"), groups)


def join_lists(lists: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of clip lists, one list after the other; a further column that one lacks is null there.

    Raises:
        UsageError: a further column is of different types in two lists; names it.
    """
    try:
        return pa.concat_tables(lists, promote_options="default")
    except pa.ArrowException as error:
        msg = f"the clip lists cannot be joined: {error}; write the column with one type in every list"
        raise UsageError(msg) from error


def describe_clips(clips: pa.Table) -> str:
    """Return how many clips, groups and labels there are as text.

    >>> describe_clips(clip_table([{"clip_id": "a", "uri": "/a.wav", "labels": ["rain"]}]))
    '1 clips in 1 groups, 1 labels'
    """
    columns = (clips["group"], pc.list_flatten(clips["labels"]))
    groups, labels = (pc.count_distinct(column).as_py() for column in columns)
    return f"{clips.num_rows:,} clips in {groups:,} groups, {labels:,} labels"


def absolute_uris(table: pa.Table) -> pa.Table:
    """Make local paths absolute and resolve `..`, also in those of tar shards and Parquet files."""

    @functools.cache
    def real(folder: str) -> str:
        place = str(Path.cwd() / folder)
        plain = os.path.abspath(place)  # noqa: PTH100  without following links, unless ".." leaves one
        same = not Path(place).exists() or (Path(plain).exists() and Path(plain).samefile(place))
        return (plain if same else os.path.realpath(place)).rstrip("/")

    def absolute(place: str) -> str:
        if "://" in place or not place:
            return place
        folder, _, name = place.rpartition("/")
        return f"{real(f'{folder}/' if place.startswith('/') else folder)}/{name}"

    uris = respelled(table["uri"].combine_chunks(), absolute)
    return table.set_column(table.schema.get_field_index("uri"), CLIP_SCHEMA.field("uri"), uris)


def _value_issues(table: pa.Table) -> list[ValidationIssue]:
    """Validate the cells of a table of `CLIP_SCHEMA`: empty ids and places, line breaks in them, impossible times."""
    flat = pc.list_flatten(table["labels"])
    empty = pc.or_kleene(pc.is_null(flat), pc.equal(pc.utf8_trim_whitespace(flat), ""))
    parents = pc.unique(pc.list_parent_indices(table["labels"]).filter(empty))
    issues = [ValidationIssue(row + 1, "labels", "holds an empty label") for row in parents.to_pylist()]

    def add(column: str, wrong: pa.ChunkedArray, message: str) -> None:
        rows = pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist() if pc.any(wrong).as_py() else []
        for number, row in enumerate(rows):
            cells = table.slice(row, 1).to_pylist()[0] if number < MAX_SHOWN_ISSUES else None
            issues.append(ValidationIssue(row + 1, column, message.format(**cells) if cells else ""))

    add("labels", pc.is_null(table["labels"]), "is null; a clip without labels has []")
    for name in REQUIRED:
        add(name, pc.or_kleene(pc.is_null(table[name]), pc.equal(table[name], "")), "is empty")
        broken = pc.match_substring_regex(table[name], BREAKS)
        add(name, broken, f"{{{name}!r}} holds a line break or NUL byte")
    for name in [name for name in ("start_s", "end_s", "duration_s") if name in table.schema.names]:
        time = pc.and_(pc.is_finite(table[name]), pc.greater_equal(table[name], 0.0))
        add(name, pc.invert(time), f"{{{name}!r}} is not a time in s (>= 0)")
    backwards = pc.less_equal(table["end_s"], pc.fill_null(table["start_s"], 0.0))
    add("end_s", backwards, "end {end_s:g} s is not after start {start_s} s")
    add("fold", pc.less(table["fold"], 0), "{fold} is not a fold (0, 1, ...)")
    for name in set(PLACE_SCHEMA.names) & set(table.schema.names):
        add(name, pc.less(table[name], 0), f"{{{name}}} is no number of bytes")
    return issues


def duplicate_issues(clip_ids: pa.ChunkedArray, rows: Rows) -> list[ValidationIssue]:
    """Name the ids that are there more than once; `rows` are those of the file."""
    if pc.count_distinct(clip_ids).as_py() == len(clip_ids):
        return []
    first: dict[str, int] = {}
    issues = []
    for clip_id, row in zip(clip_ids.to_pylist(), rows.tolist(), strict=True):
        if clip_id and first.setdefault(clip_id, row) != row:
            issues.append(ValidationIssue(row, "clip_id", f"{clip_id!r} is already in row {first[clip_id]:,}"))
    return issues


def _parquet_batches(
    file: BinaryIO, url: str, columns: Sequence[str] | None
) -> Iterator[tuple[pa.Table, Rows, list[ValidationIssue]]]:
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        names = parquet.schema_arrow.names
        raise_issues(url, _column_issues(names) or ([] if parquet.metadata.num_rows else [NO_CLIPS]))
        wanted = None if columns is None else [name for name in names if name in columns]
        first = 1
        for batch in parquet.iter_batches(BATCH_CLIPS, columns=wanted, use_threads=False):
            yield pa.Table.from_batches([batch]), np.arange(first, first + len(batch)), []
            first += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{url}: a damaged Parquet file: {str(error).splitlines()[0]}") from error


def _csv_batches(file: BinaryIO, url: str) -> Iterator[tuple[pa.Table, Rows, list[ValidationIssue]]]:
    """Return every cell as a string (null when empty); rows with a wrong number of cells are issues and left out."""
    header, first = list[str](), 1
    for block in read_blocks(file, url):
        lines = [cells for cells in block if cells and (cells[0].strip() or any(map(str.strip, cells)))]
        if not header and lines:
            header, lines = [name.strip() for name in lines[0]], lines[1:]
            raise_issues(url, _column_issues([name for name in header if name]))
        if not lines:
            continue
        rows = np.arange(first, first + len(lines))
        whole = np.fromiter(map(len, lines), np.int64, len(lines)) == len(header)
        issues = [
            ValidationIssue(first + at, None, f"has {len(lines[at])} cells, the header {len(header)}")
            for at in np.flatnonzero(~whole).tolist()
        ]
        lines = list(itertools.compress(lines, whole.tolist()))
        # Column by column, in a third of the time of zip(*lines). One without a name is a spreadsheet's or pandas'.
        cells = {name: pa.array(map(itemgetter(at), lines), pa.string()) for at, name in enumerate(header) if name}
        yield pa.table({name: _stripped(column) for name, column in cells.items()}), rows[whole], issues
        first += len(rows)
    if not header:
        raise UsageError(f"{url}: the file is empty; a clip list has at least the columns {', '.join(REQUIRED)}")
    if first == 1:
        raise_issues(url, [NO_CLIPS])


def _stripped(cells: pa.Array) -> pa.Array:
    cells = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)


def _column_issues(names: Sequence[str]) -> list[ValidationIssue]:
    twice = sorted({name for name in names if names.count(name) > 1})
    issues = [ValidationIssue(None, name, "appears twice") for name in twice]
    if CLASS_COLUMN in names:
        message = "is the name of the column that a recipe's selection adds; give this column another name"
        issues.append(ValidationIssue(None, CLASS_COLUMN, message))
    missing = f"the column is missing; found {', '.join(map(repr, names))[:SHOWN_NAMES]}"
    issues += [ValidationIssue(None, name, missing) for name in REQUIRED if name not in names]
    absent = [name for name in CLIP_SCHEMA.names if name not in names]
    for name in names:
        if name not in CLIP_SCHEMA.names and (likely := _likely_name(name, absent)):
            message = f"is no column of a clip list, but like {likely!r}, which is missing; rename it to {likely!r}"
            if likely not in REQUIRED:
                message = f"{message}, or add a column {likely!r}, which may be empty"
            issues.append(ValidationIssue(None, name, message))
    return issues


def _likely_name(name: str, absent: Sequence[str]) -> str | None:
    """Return the absent column that a name is a misspelling of: letters changed or swapped, or the unit left out."""
    plain = name.strip().casefold()
    close = difflib.get_close_matches(plain, absent, 1, SIMILAR)
    close += [known for known in absent if sorted(known) == sorted(plain) or known == f"{plain}_s"]
    return close[0] if close else None


def _to_schema(raw: pa.Table) -> tuple[pa.Table, list[ValidationIssue]]:
    """Return the columns of `CLIP_SCHEMA`, then further ones, each of its type, and the cells that are of another."""
    issues: list[ValidationIssue] = []
    further = [field for field in raw.schema if field.name not in CLIP_SCHEMA.names]
    known = [KNOWN_SCHEMA.field(field.name) if field.name in KNOWN_SCHEMA.names else field for field in further]
    columns = []
    for field in (*CLIP_SCHEMA, *known):
        there = field.name in raw.schema.names
        values = raw[field.name] if there else pa.chunked_array([pa.nulls(len(raw), pa.string())])
        columns.append(_labels(values, issues) if field.name == "labels" else _cast(values, field, issues))
    table = pa.table(columns, schema=pa.schema([*CLIP_SCHEMA, *known]))
    group = pc.coalesce(pc.if_else(pc.equal(table["group"], ""), None, table["group"]), table["clip_id"])
    return table.set_column(table.schema.get_field_index("group"), CLIP_SCHEMA.field("group"), group), issues


def _cast(values: pa.ChunkedArray, field: pa.Field, issues: list[ValidationIssue]) -> pa.ChunkedArray:
    if values.type == field.type:
        return values
    # "1.0" is a whole number: pandas writes a column with gaps so.
    through = (pa.float64(), field.type) if pa.types.is_integer(field.type) else (field.type,)
    with suppress(pa.ArrowException):  # else at least one cell is bad: find which
        return functools.reduce(lambda cells, kind: cells.cast(kind), through, values)
    kind = {pa.string(): "text", pa.float64(): "a number"}.get(field.type, "a whole number")
    cells: list[Any] = []
    for row, value in enumerate(values.to_pylist(), start=1):
        try:
            cells.append(functools.reduce(lambda cell, kind: cell.cast(kind), through, pa.scalar(value)).as_py())
        except pa.ArrowException:
            issues.append(ValidationIssue(row, field.name, f"{value!r} is not {kind}"))
            cells.append(None)
    return pa.chunked_array([pa.array(cells, field.type)])


def _labels(values: pa.ChunkedArray, issues: list[ValidationIssue]) -> pa.ChunkedArray:
    wanted = CLIP_SCHEMA.field("labels").type
    if pa.types.is_nested(values.type):
        try:
            return values.cast(wanted)
        except pa.ArrowException:
            issues.append(ValidationIssue(1, "labels", f"is {values.type}, not a list of strings"))
            return pa.chunked_array([pa.array([[]] * len(values), wanted)])
    texts = pc.fill_null(_cast(values, pa.field("labels", pa.string()), issues).combine_chunks(), "")
    cells, lists, wrong = texts.dictionary_encode(), list[list[str]](), dict[int, str]()
    for number, cell in enumerate(cells.dictionary.to_pylist()):
        lists.append([])
        if cell.startswith(("['", '["')):
            wrong[number] = f"{cell!r} is a list of Python; write the labels with commas between them, such as dog,cat"
            continue
        try:
            lists[number] = split_labels(cell)
        except csv.Error as error:
            wrong[number] = f"{cell!r} holds a stray quote ({error})"
    for number, why in wrong.items():
        rows = pc.indices_nonzero(pc.equal(cells.indices, number)).to_pylist()
        issues += [ValidationIssue(row + 1, "labels", why) for row in rows]
    return pa.chunked_array([pa.array(lists, wanted).take(cells.indices)])


def split_labels(cell: str | None) -> list[str]:
    """Split the labels of a CSV cell: comma-separated, a label with a comma in double quotes.

    >>> split_labels('dog, "rain, heavy"')
    ['dog', 'rain, heavy']

    Raises:
        csv.Error: a quote that is not closed, or text after a closing one.
    """
    if not cell or not cell.strip():
        return []
    return [label.strip() for label in next(csv.reader([cell], skipinitialspace=True, strict=True))]


def join_labels(labels: Sequence[str]) -> str:
    """Join a clip's labels to a CSV cell; the inverse of `split_labels`.

    >>> join_labels(["dog", "rain, heavy"])
    'dog,"rain, heavy"'
    """
    if not any(mark in label for label in labels for mark in ',"\n\r'):
        return ",".join(labels)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(labels)
    return buffer.getvalue()


def _csv_bytes(table: pa.Table, url: str) -> bytes:
    message = "holds a line break or blanks at its ends, which CSV does not keep; write a name that ends in .parquet"
    for name in table.column_names:
        labels = name == "labels"
        texts = pc.list_flatten(table[name]) if labels else table[name]
        if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
            edges = r"|^\s|\s$" if labels or name in REQUIRED else ""
            if (at := pc.index(pc.match_substring_regex(texts, BREAKS + edges), True).as_py()) >= 0:
                row = pc.list_parent_indices(table[name])[at].as_py() if labels else at
                raise_issues(url, [ValidationIssue(row + 1, name, message)])
    columns = {name: table[name].to_pylist() for name in table.column_names}
    columns["labels"] = [join_labels(labels) for labels in columns["labels"]]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue().encode()
