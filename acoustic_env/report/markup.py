"""HTML by function calls: every string is escaped unless it is markup made here."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from acoustic_env.explain.style import DPI

# Pixels of the page to an inch of a figure: a little under the 96 of paper, for 10 pt to be 12.5 px.
CSS_INCH: Final = 90
NUMERIC: Final = re.compile(r"[-−+]?[\d,.]+(e[-+]?\d+)?%?( \(.*\))?")
VOID: Final = frozenset({"img", "meta", "link", "br", "hr", "col"})


class Html(str):
    """Markup that is safe to place in a page as it is."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Any value as text of a page."""
    return Html(html.escape(str(text), quote=True))


def join(parts: Iterable[str]) -> Html:
    """Parts one after another; strings that are no markup are escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | None) -> Html:
    """An element. A trailing underscore is dropped from attribute names, others become hyphens; None leaves one out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{said}>")
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def paragraph(text: str, class_: str | None = None) -> Html:
    """A paragraph of text."""
    return tag("p", text, class_=class_)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        caption: what it holds.
        header: of the columns; a column is set as numbers when all its cells are.
        rows: cells: markup as it is, None empty, everything else as text.
    """
    cells = [list(row) for row in rows]
    numeric = [bool(cells) and all(_is_numeric(row[i]) for row in cells) for i in range(len(header))]
    head = tag("tr", *(tag("th", name, scope="col", class_=_class(n)) for name, n in zip(header, numeric, strict=True)))
    body = [
        tag("tr", *(tag("td", _cell(value), class_=_class(n)) for value, n in zip(row, numeric, strict=True)))
        for row in cells
    ]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _is_numeric(value: object) -> bool:
    if isinstance(value, str):
        return not isinstance(value, Html) and NUMERIC.fullmatch(value) is not None
    return value is None or isinstance(value, int | float)


def _class(numeric: bool) -> str | None:
    return "number" if numeric else None


def _cell(value: object) -> str:
    if value is None:
        return Html("–")
    if isinstance(value, bool):
        return escape("yes" if value else "no")
    if isinstance(value, int):
        return escape(f"{value:,}")
    if isinstance(value, float):
        return escape(f"{value:.3g}")
    return value if isinstance(value, Html) else escape(value)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names with values, as a list of terms."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", _cell(value))) for name, value in pairs))


def image(path: Path, alt: str) -> Html:
    """A PNG inside the page, at the size at which its text is as large as the page's small text."""
    content = path.read_bytes()
    width, height = (str(round(size * CSS_INCH / DPI)) for size in png_size(content))
    data = base64.b64encode(content).decode()
    natural = f"--natural: {width}px"
    return tag("img", src=f"data:image/png;base64,{data}", alt=alt, width=width, height=height, style=natural)


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, from a PNG's header."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
