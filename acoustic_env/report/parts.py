"""What a page is made of, as plain data; `parts.html` renders it and escapes every text."""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from acoustic_env.explain.plot import Entry, Plot
from acoustic_env.explain.style import DPI

T = TypeVar("T")
# Pixels of the page to an inch of a plot: a little under the 96 of paper, for 10 pt to be 12.5 px.
CSS_INCH: Final = 90
NUMERIC: Final = re.compile(r"[-−+]?[\d,.]+(e[-+]?\d+)?%?( \(.*\))?")


class Code(str):
    """Text of a cell in a monospaced font."""

    __slots__ = ()


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str  # its text
    style: Literal["", "quiet", "note"] = ""  # "quiet" for small print, "note" for a highlighted remark
    lead: str = ""  # set in bold before the text


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Terms:
    """Names with values."""

    pairs: Sequence[tuple[str, object]]


@dataclass(frozen=True)
class Listing:
    """Preformatted text that can be folded away."""

    title: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table; None is an empty cell, and a column of numbers is aligned to the right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    @property
    def numeric(self) -> list[bool]:
        """Whether all cells of a column are numbers, for each column."""
        columns = zip(*self.rows, strict=True) if self.rows else ((None,) for _ in self.header)
        return [bool(self.rows) and all(map(_is_numeric, cells)) for cells in columns]


@dataclass(frozen=True)
class Picture(Entry):
    """A plot on the page; its files are links relative to the page."""

    png: bytes  # content of the image

    @property
    def source(self) -> str:
        """The image as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels at which the image's text is as large as the page's small print."""
        width, height = (int.from_bytes(self.png[start : start + 4], "big") for start in (16, 20))
        return round(width * CSS_INCH / DPI), round(height * CSS_INCH / DPI)


@dataclass(frozen=True)
class Player:
    """A clip to listen to."""

    title: str  # what it is
    text: str  # what is to be heard in it
    flac: bytes  # content of the FLAC file

    @property
    def source(self) -> str:
        """The sound as a data URL."""
        return f"data:audio/flac;base64,{base64.b64encode(self.flac).decode()}"


@dataclass(frozen=True)
class Players:
    """Clips to listen to that can be folded away."""

    title: str
    players: Sequence[Player]


# A plot or an entry of the index of plots becomes a picture when the page is written.
Part = Text | Heading | Terms | Listing | Table | Picture | Players | Plot | Entry


def in_turn(items: Iterable[T], kind: Callable[[T], Hashable]) -> list[T]:
    """Return the first item of each kind, then the second of each, and so on.

    >>> in_turn(["apple", "ant", "bee"], lambda word: word[0])
    ['apple', 'bee', 'ant']
    """
    seen = Counter[Hashable]()
    turns = []
    for item in items:
        turns.append((seen[kind(item)], item))
        seen[kind(item)] += 1
    return [item for _, item in sorted(turns, key=lambda turn: turn[0])]


def digits(value: float | None, count: int = 3) -> str | None:
    """Return a number with so many decimals; None for None and NaN.

    >>> digits(0.12345), digits(float("nan"))
    ('0.123', None)
    """
    return None if value is None or math.isnan(value) else f"{value:.{count}f}"


def format_cell(value: object) -> object:
    """Return the text of a cell: numbers with separators or three digits, yes and no, a dash for None.

    >>> [format_cell(value) for value in (1234, 0.12345, True, None)]
    ['1,234', '0.123', 'yes', '–']
    """
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3g}"
    return value


def _is_numeric(value: object) -> bool:
    if isinstance(value, str):
        return not isinstance(value, Code) and NUMERIC.fullmatch(value) is not None
    return value is None or isinstance(value, int | float)
