"""Tables of text as data sets publish them, read record by record."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_bytes


def read_records(url: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table, CSV with any delimiter, with their numbers; blank lines are left out.

    A record is one line: a quote that its line does not close would swallow the lines after it.

    Raises:
        UsageError: no such file, or a line that is not UTF-8 or not a record; names it.
    """
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", read_bytes(url)), start=1):
        try:
            text = line.decode("utf-8-sig")
            cells = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True), [])
        except UnicodeDecodeError as error:
            raise UsageError(f"{url}: line {number:,}: not UTF-8 text; save the table as UTF-8") from error
        except csv.Error as error:
            msg = f"{url}: line {number:,}: a stray quote ({error}); a quote inside a quoted cell is written twice"
            raise UsageError(msg) from error
        if any(cells):
            yield number, cells


def read_rows(url: str, columns: Sequence[str] = (), delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a table with a header, which must name the columns.

    Raises:
        UsageError: as `read_records`; a column is missing or there twice, a row has another number of cells than the
            header, or there is no row.
    """
    records = read_records(url, delimiter)
    header = [name.strip() for name in next(records, (0, []))[1]]
    missing = [name for name in columns if name not in header]
    if missing or len(set(header)) < len(header):
        wrong = f"no column {missing[0]!r}" if missing else "a column is there twice"
        raise UsageError(f"{url}: {wrong}; expected {', '.join(columns)}, found {', '.join(header)}")
    rows = []
    for number, cells in records:
        if len(cells) != len(header):
            raise UsageError(f"{url}: line {number:,} has {len(cells)} cells, the header {len(header)}")
        rows.append(dict(zip(header, map(str.strip, cells), strict=True)))
    if not rows:
        raise UsageError(f"{url}: the table has no rows")
    return rows
