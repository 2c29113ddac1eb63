"""Tables of text, clip lists and those that data sets publish: one record a line, in UTF-8."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

from acoustic_env.errors import UsageError
from acoustic_env.io.files import open_file

NEWLINE: Final = "\n"
BLOCK: Final = 2**20  # characters parsed at once; larger ones leave the cache, and Python collects garbage more often
NO_UTF8: Final = re.compile("[\ud800-\udfff]")
AFTER_CELL: Final = re.compile(r'(?<!")" +(?=[,;\t\n]|\Z)')  # blanks after a quoted cell


def read_records(file: BinaryIO, url: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table that are not blank with their numbers; raises as `read_blocks`."""
    for number, cells in enumerate(itertools.chain.from_iterable(read_blocks(file, url)), start=1):
        if any(map(str.strip, cells)):
            yield number, cells


def read_blocks(file: BinaryIO, url: str) -> Iterator[list[list[str]]]:
    """Yield the cells of every line of a table, many lines at once.

    Cells are separated by tabs if the first line has one, else by commas, or by semicolons where it has no comma. A
    record is one line: a quote that its line does not close would swallow the lines after it.

    Raises:
        UsageError: a line is not UTF-8 or not a record; names it.
    """
    text, number, form = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape"), 0, dict[str, Any]()
    while block := text.read(BLOCK) + text.readline():
        if not block.isascii() and (wrong := NO_UTF8.search(block)):
            at = f"{url}: line {number + 1 + block.count(NEWLINE, 0, wrong.start()):,}"
            raise UsageError(f"{at}: not UTF-8 text; save the table as CSV in UTF-8")
        if not form:
            first = block.lstrip().partition(NEWLINE)[0]
            delimiter = "\t" if "\t" in first else ";" if ";" in first and "," not in first else ","
            form = {"delimiter": delimiter, "skipinitialspace": True, "strict": True}
        block = AFTER_CELL.sub('"', block) if '" ' in block else block
        lines = block.removesuffix(NEWLINE).split(NEWLINE)
        try:
            records = list(csv.reader(lines, **form))
        except csv.Error:
            records = []
        if len(records) < len(lines):  # a quote that its line does not close: find which
            records = [_record(line, f"{url}: line {number + at:,}", form) for at, line in enumerate(lines, start=1)]
        yield records
        number += len(lines)


def _record(line: str, where: str, form: dict[str, Any]) -> list[str]:
    try:
        return next(csv.reader([line], **form))
    except csv.Error as error:
        raise UsageError(f'{where}: a stray quote ({error}); write it twice in a quoted cell ("5"" reel")') from error


def read_rows(url: str, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a table with a header, which must name the columns; columns without a name are left out.

    Raises:
        UsageError: as `read_records`; there is no such file, a column is missing or there twice, a row has another
            number of cells than the header, or there is no row.
    """
    rows = []
    with open_file(url) as file:
        records = read_records(file, url)
        header = [name.strip() for name in next(records, (0, []))[1]]
        names = [name for name in header if name]
        missing = [name for name in columns if name not in names]
        if missing or len(set(names)) < len(names):
            wrong = f"no column {missing[0]!r}" if missing else "a column is there twice"
            raise UsageError(f"{url}: {wrong}; expected {', '.join(columns)}, found {', '.join(map(repr, names))}")
        for number, cells in records:
            if len(cells) != len(header):
                raise UsageError(f"{url}: line {number:,} has {len(cells)} cells, the header {len(header)}")
            rows.append({name: cell.strip() for name, cell in zip(header, cells, strict=True) if name})
    if not rows:
        raise UsageError(f"{url}: the table has no rows")
    return rows
