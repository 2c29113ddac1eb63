"""A plot with its title, caption, alternative text and data."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from acoustic_env.errors import UsageError
from acoustic_env.explain.style import DPI, add_fonts, drawn
from acoustic_env.io.files import read_if_there
from acoustic_env.io.location import join

INDEX: Final = "explain.json"
FORMAT: Final = 2


def table(columns: Mapping[str, Any] | pd.DataFrame) -> pa.Table:
    """Return a table of arrays, and of single values, which are repeated; NaN becomes null.

    >>> table({"class": "urban", "t": [1.0, float("nan")]}).to_pylist()
    [{'class': 'urban', 't': 1.0}, {'class': 'urban', 't': None}]
    """
    return pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)


@dataclass(frozen=True)
class Entry:
    """A written plot, as the index lists it."""

    name: str  # stem of its files: letters, digits, hyphens
    section: str  # heading it belongs under
    title: str  # of the figure
    caption: str  # what it shows
    alt: str  # the figure in words, for those who cannot see it
    files: Mapping[str, str] = field(default_factory=dict, kw_only=True)  # png, svg, csv -> file name in the folder


@dataclass(frozen=True)
class Plot(Entry):
    """A plot before it is written."""

    figure: Any  # `matplotlib.figure.Figure`
    data: pa.Table  # what is drawn

    @drawn
    def png(self) -> bytes:
        """Return the plot as a PNG."""
        image = io.BytesIO()
        add_fonts(self.figure)
        self.figure.savefig(image, format="png", dpi=DPI)
        return image.getvalue()

    @drawn
    def save(self, folder: Path) -> Entry:
        """Write NAME.png, NAME.svg and NAME.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        add_fonts(self.figure)
        files = {kind: f"{self.name}.{kind}" for kind in ("png", "svg", "csv")}
        self.figure.savefig(folder / files["png"], dpi=DPI)
        self.figure.set_layout_engine("none")  # laid out already, which takes as long as drawing
        self.figure.savefig(folder / files["svg"], dpi=DPI, metadata={"Date": None})
        pa_csv.write_csv(self.data, folder / files["csv"])
        return Entry(self.name, self.section, self.title, self.caption, self.alt, files=files)


def write_index(folder: Path, entries: Sequence[Entry], about: dict[str, Any]) -> None:
    """Write `explain.json`: what was explained, and every plot with its caption, alternative text and files.

    Plots of an index that was there before are removed, unless they were written anew.
    """
    with contextlib.suppress(UsageError):
        earlier, _ = read_index(str(folder))
        kept = {name for entry in entries for name in entry.files.values()}
        for name in {name for entry in earlier for name in entry.files.values()} - kept:
            (folder / Path(name).name).unlink(missing_ok=True)
    document = {"format": FORMAT, **about, "plots": [asdict(entry) for entry in entries]}
    (folder / INDEX).write_text(json.dumps(document, indent=1), encoding="utf-8")


def read_index(folder: str) -> tuple[list[Entry], dict[str, Any]]:
    """Return the plots of a folder and what else its index says.

    Raises:
        UsageError: there is no index, or it is damaged or of another version.
    """
    path = join(folder, INDEX)
    data = read_if_there(path)
    if data is None:
        raise UsageError(f"{folder}: no {INDEX} there; make one with acoustic-env explain --out {folder}")
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            msg = f"{path}: format {document['format']!r}, this version reads {FORMAT}; run acoustic-env explain again"
            raise UsageError(msg)
        entries = [Entry(**entry) for entry in document["plots"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not readable: {error}; run acoustic-env explain again") from error
    return entries, {key: value for key, value in document.items() if key not in ("format", "plots")}
