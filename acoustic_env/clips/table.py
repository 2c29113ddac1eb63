"""The clip list: what to process, one row a clip, as CSV or Parquet at any fsspec URL."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.files import for_arrow, open_file, read_bytes, write_bytes
from acoustic_env.io.location import split_shard

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
REQUIRED: Final = ("clip_id", "uri")
CLASS_COLUMN: Final = "class"  # added by clips.select: no further column of a list may have this name
SIMILAR: Final = 0.81  # ratio above which a name is a misspelling: "label" is, "folder" is none of "fold"
MAX_SHOWN_ISSUES: Final = 20
PARQUET_MAGIC: Final = b"PAR1"
BATCH_CLIPS: Final = 2**17


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
        url: CSV or Parquet, told apart by content. `clip_id` and `uri` must be there; a missing `labels`, `start_s`,
            `end_s`, `fold` or `source` column is filled with empty values, a missing or empty `group` with the clip's
            id. In CSV the labels of a clip are comma-separated in one quoted cell; a label that itself holds a
            comma is quoted once more inside the cell. Further columns (site, recorder, license) are kept: as they
            are in Parquet, as text in CSV. One that looks like a misspelling of a missing column is an issue.

    Returns:
        A table of `CLIP_SCHEMA` and the further columns, rows in the file's order. Relative local paths are made
        absolute, from the current folder: the processes that open them may run elsewhere.

    Raises:
        UsageError: the file is missing or damaged, or rows are wrong; lists the issues with file, row and column.
    """
    table, issues = load_clips(url)
    raise_issues(url, issues)
    return absolute_uris(table)


def read_clip_batches(url: str) -> Iterator[pa.Table]:
    """Yield the clips of a list as `read_clips` returns them, a Parquet file batch by batch, without further columns.

    An id that is in two batches is not noticed.

    Raises:
        UsageError: as `read_clips`; names the issues of the first batch that has any.
    """
    import pyarrow.parquet as pq

    with open_file(url) as source:
        if source.read(len(PARQUET_MAGIC)) != PARQUET_MAGIC:
            yield read_clips(url)
            return
        try:
            file = pq.ParquetFile(source, pre_buffer=False)
        except (pa.ArrowException, OSError):
            yield read_clips(url)  # says what is wrong with it
            return
        names = [name for name in file.schema_arrow.names if name in (*CLIP_SCHEMA.names, *PLACE_SCHEMA.names)]
        raise_issues(url, _column_issues(file.schema_arrow.empty_table()) if file.metadata.num_rows else [NO_CLIPS])
        first = 0
        for batch in file.iter_batches(BATCH_CLIPS, columns=names, use_threads=False):
            table, issues = _to_schema(pa.Table.from_batches([batch]))
            issues = [replace(issue, row=issue.row and issue.row + first) for issue in issues + row_issues(table)]
            raise_issues(url, issues)
            yield absolute_uris(table)
            first += len(table)


def load_clips(url: str) -> tuple[pa.Table, list[ValidationIssue]]:
    """Read a clip list as `read_clips`, but return the issues; rows hold nulls where the value is bad.

    Raises:
        UsageError: the file is missing, empty or damaged.
    """
    data = read_bytes(url)
    if not data.strip():
        raise UsageError(f"{url}: the file is empty; a clip list has at least the columns {', '.join(REQUIRED)}")
    if data[:4] == PARQUET_MAGIC:
        raw, issues = _parse_parquet(data, url), list[ValidationIssue]()
    else:
        raw, issues = _parse_csv(data, url)
    issues += _column_issues(raw)
    issues += [NO_CLIPS] if raw.num_rows == 0 else []
    if any(issue.row is None for issue in issues):
        return CLIP_SCHEMA.empty_table(), issues
    table, bad_values = _to_schema(raw)
    rows = file_rows(table, issues)
    found = [replace(issue, row=issue.row and int(rows[issue.row - 1])) for issue in bad_values + row_issues(table)]
    return table, issues + found


def file_rows(table: pa.Table, issues: Sequence[ValidationIssue]) -> npt.NDArray[np.int64]:
    """Return the row of each clip in its file, from 1: the table lacks rows with a wrong number of cells."""
    ragged = [issue.row for issue in issues if issue.row is not None and issue.column is None]
    rows = np.arange(1, table.num_rows + len(ragged) + 1)
    return rows[~np.isin(rows, ragged)]


def write_clips(table: pa.Table, url: str) -> None:
    """Write a clip list: CSV when the URL ends in .csv, else Parquet; whole or not at all. Further columns come last.

    Raises:
        UsageError: rows are wrong (as in `read_clips`), or the place cannot be written.
    """
    schema = pa.schema([*CLIP_SCHEMA, *(field for field in table.schema if field.name not in CLIP_SCHEMA.names)])
    table = table.select(schema.names).cast(schema)
    raise_issues(url, row_issues(table))
    if url.lower().endswith(".csv"):
        write_bytes(url, _csv_bytes(table))
        return
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(url, buffer.getvalue())


def clip_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Make a table of `CLIP_SCHEMA` from rows as dictionaries; absent keys are null, `group` the clip's id.

    >>> clip_table([{"clip_id": "a", "uri": "/a.wav", "site": "dune"}]).to_pylist()[0]["site"]
    'dune'
    """
    filled = [{"labels": [], "group": row["clip_id"], **row} for row in rows]
    table = pa.Table.from_pylist(filled, schema=CLIP_SCHEMA)
    for name in dict.fromkeys(name for row in filled for name in row if name not in CLIP_SCHEMA.names):
        table = table.append_column(name, _one_type([row.get(name) for row in filled]))
    return table


def _one_type(values: Sequence[Any]) -> pa.Array:
    """Return the values as they are, as text where they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def further_name(name: str) -> str:
    """Return the name under which a clip list carries a column of a data set's own table.

    >>> further_name("site"), further_name("fold")
    ('site', 'original_fold')
    """
    return f"original_{name}" if name in (*CLIP_SCHEMA.names, *PLACE_SCHEMA.names, CLASS_COLUMN) else name


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
    groups, labels = (
        pc.count_distinct(column).as_py() for column in (clips["group"], pc.list_flatten(clips["labels"]))
    )
    return f"{clips.num_rows:,} clips in {groups:,} groups, {labels:,} labels"


def absolute_uris(table: pa.Table) -> pa.Table:
    """Make relative local paths absolute, also those of tar shards and Parquet files."""
    folder = Path.cwd()
    places = pa.array([_absolute(uri, folder) for uri in table["uri"].to_pylist()], pa.string())
    return table.set_column(table.schema.get_field_index("uri"), CLIP_SCHEMA.field("uri"), places)


def _absolute(uri: str, folder: Path) -> str:
    inner, outer = split_shard(uri)
    if "://" in outer or outer.startswith("/") or not outer:
        return uri
    return f"{inner}{folder / outer}"


def row_issues(table: pa.Table) -> list[ValidationIssue]:
    """Validate the rows of a table of `CLIP_SCHEMA`: empty ids and places, duplicates, impossible times."""
    if table.num_rows == 0:
        return [NO_CLIPS]
    issues = []
    for name in REQUIRED:
        empty = pc.or_kleene(pc.is_null(table[name]), pc.equal(table[name], ""))
        issues += _issues_where(empty, name, lambda _row: "is empty")
    issues += _duplicate_issues(table["clip_id"])
    for name in ("start_s", "end_s"):
        values = table[name]
        wrong = pc.invert(pc.and_(pc.is_finite(values), pc.greater_equal(values, 0.0)))
        issues += _issues_where(wrong, name, lambda row: f"{table[name][row].as_py()!r} is not a time in s (>= 0)")  # noqa: B023  called at once
    ends = table["end_s"]
    backwards = pc.less_equal(ends, pc.fill_null(table["start_s"], 0.0))
    issues += _issues_where(
        backwards, "end_s", lambda row: f"end {ends[row].as_py():g} s is not after start {table['start_s'][row]} s"
    )
    folds = table["fold"]
    issues += _issues_where(pc.less(folds, 0), "fold", lambda row: f"{folds[row].as_py()} is not a fold (0, 1, ...)")
    for name in set(PLACE_SCHEMA.names) & set(table.schema.names):
        issues += _issues_where(pc.less(table[name], 0), name, lambda row: f"{table[name][row]} is no number of bytes")  # noqa: B023  called at once
    return issues + _label_issues(table["labels"])


def _label_issues(labels: pa.ChunkedArray) -> list[ValidationIssue]:
    flat = pc.list_flatten(labels)
    empty = pc.or_kleene(pc.is_null(flat), pc.equal(pc.utf8_trim_whitespace(flat), ""))
    rows = pc.unique(pc.list_parent_indices(labels).filter(empty)).to_pylist()
    issues = [ValidationIssue(row + 1, "labels", "holds an empty label") for row in rows]
    return issues + _issues_where(pc.is_null(labels), "labels", lambda _row: "is null; a clip without labels has []")


def _issues_where(wrong: pa.ChunkedArray, column: str, message: Callable[[int], str]) -> list[ValidationIssue]:
    if not pc.any(wrong).as_py():
        return []
    rows = pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist()
    return [
        ValidationIssue(row + 1, column, message(row) if i < MAX_SHOWN_ISSUES else "") for i, row in enumerate(rows)
    ]


def _duplicate_issues(clip_ids: pa.ChunkedArray) -> list[ValidationIssue]:
    if pc.count_distinct(clip_ids).as_py() == len(clip_ids):
        return []
    return duplicate_issues(clip_ids.combine_chunks(), range(len(clip_ids)))


def duplicate_issues(clip_ids: pa.Array, among: Iterable[int]) -> list[ValidationIssue]:
    """Name the ids that are in several of the rows `among`, counted from 0."""
    first: dict[str, int] = {}
    issues = []
    for row in sorted(among):
        clip_id = clip_ids[row].as_py()
        if clip_id and first.setdefault(clip_id, row) != row:
            issues.append(ValidationIssue(row + 1, "clip_id", f"{clip_id!r} is already in row {first[clip_id] + 1:,}"))
    return issues


def _parse_parquet(data: bytes, url: str) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(for_arrow(data))
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{url}: a damaged Parquet file: {str(error).splitlines()[0]}") from error


def _parse_csv(data: bytes, url: str) -> tuple[pa.Table, list[ValidationIssue]]:
    """Parse every cell as a string (null when empty); rows with a wrong number of cells are issues and left out."""
    from pyarrow import csv as arrow_csv

    issues: list[ValidationIssue] = []

    def ragged(row: Any) -> str:
        issues.append(
            ValidationIssue(row.number - 1, None, f"has {row.actual_columns} cells, the header {row.expected_columns}")
        )
        return "skip"

    try:
        text = data.decode("utf-8-sig")
        header = [name.strip() for name in next(csv.reader(io.StringIO(text)))]
        table = arrow_csv.read_csv(
            for_arrow(text.encode()),
            read_options=arrow_csv.ReadOptions(column_names=header, skip_rows=1, use_threads=False),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=ragged),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except UnicodeDecodeError as error:
        msg = f"{url}: neither a Parquet file nor UTF-8 text (byte {error.start:,}); a clip list is CSV or Parquet"
        raise UsageError(msg) from error
    except (pa.ArrowException, csv.Error, StopIteration) as error:
        raise UsageError(f"{url}: not a readable CSV file: {error}") from error
    return table, issues


def _column_issues(raw: pa.Table) -> list[ValidationIssue]:
    names = raw.schema.names
    issues = [
        ValidationIssue(None, name, "appears twice")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if CLASS_COLUMN in names:
        message = "is the name of the column that a recipe's selection adds; give this column another name"
        issues.append(ValidationIssue(None, CLASS_COLUMN, message))
    issues += [ValidationIssue(None, name, "the column is missing") for name in REQUIRED if name not in names]
    absent = [name for name in CLIP_SCHEMA.names if name not in names]
    for name in names:
        if name not in CLIP_SCHEMA.names and (likely := _likely_name(name, absent)):
            message = f"is no column of a clip list, but like {likely!r}, which is missing; rename it to {likely!r}"
            issues.append(ValidationIssue(None, name, f"{message}, or add a column {likely!r}, which may be empty"))
    return issues


def _likely_name(name: str, absent: Sequence[str]) -> str | None:
    """Return the absent column that a name is a misspelling of: letters changed or swapped, or the unit left out."""
    plain = name.strip().casefold()
    close = difflib.get_close_matches(plain, absent, 1, SIMILAR)
    close += [known for known in absent if sorted(known) == sorted(plain) or known == f"{plain}_s"]
    return close[0] if close else None


def _to_schema(raw: pa.Table) -> tuple[pa.Table, list[ValidationIssue]]:
    issues: list[ValidationIssue] = []
    columns = {}
    for field in CLIP_SCHEMA:
        if field.name not in raw.schema.names:
            empty: Any = [] if field.name == "labels" else None
            columns[field.name] = pa.chunked_array([pa.array([empty] * raw.num_rows, field.type)])
        elif field.name == "labels":
            columns["labels"] = _labels(raw["labels"], issues)
        else:
            columns[field.name] = _cast(raw[field.name], field, issues)
    columns["group"] = pc.if_else(pc.equal(columns["group"], ""), pa.scalar(None, pa.string()), columns["group"])
    columns["group"] = pc.coalesce(columns["group"], columns["clip_id"])
    table = pa.table(columns, schema=CLIP_SCHEMA)
    for name in raw.schema.names:
        if name in PLACE_SCHEMA.names:
            field = PLACE_SCHEMA.field(name)
            table = table.append_column(field, _cast(raw[name], field, issues))
        elif name not in CLIP_SCHEMA.names:
            table = table.append_column(raw.schema.field(name), raw[name])
    return table, issues


def _cast(values: pa.ChunkedArray, field: pa.Field, issues: list[ValidationIssue]) -> pa.ChunkedArray:
    kind = "a number" if pa.types.is_floating(field.type) else "a whole number"
    try:
        return values.cast(field.type)
    except pa.ArrowException:
        pass  # at least one cell is bad: find which
    cells: list[Any] = []
    for row, value in enumerate(values.to_pylist(), start=1):
        try:
            cells.append(pa.scalar(value).cast(field.type).as_py())
        except pa.ArrowException:
            described = kind if not pa.types.is_string(field.type) else "text"
            issues.append(ValidationIssue(row, field.name, f"{value!r} is not {described}"))
            cells.append(None)
    return pa.chunked_array([pa.array(cells, field.type)])


def _labels(values: pa.ChunkedArray, issues: list[ValidationIssue]) -> pa.ChunkedArray:
    wanted = CLIP_SCHEMA.field("labels").type
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return values.cast(wanted)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        issues.append(ValidationIssue(1, "labels", f"is {values.type}, not a list of strings"))
        return pa.chunked_array([pa.array([[]] * len(values), wanted)])
    return pa.chunked_array([pa.array([split_labels(cell) for cell in values.to_pylist()], wanted)])


def split_labels(cell: str | None) -> list[str]:
    """Split the labels of a CSV cell: comma-separated, a label with a comma in double quotes.

    >>> split_labels('dog, "rain, heavy"')
    ['dog', 'rain, heavy']
    """
    if not cell or not cell.strip():
        return []
    if '"' not in cell:
        return [label.strip() for label in cell.split(",")]
    return [label.strip() for label in next(csv.reader([cell], skipinitialspace=True))]


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


def _csv_bytes(table: pa.Table) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    columns["labels"] = [join_labels(labels) for labels in columns["labels"]]
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue().encode()
