"""The page: sections with headings, tables and plots, in one file that needs nothing else."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from acoustic_env.errors import UsageError
from acoustic_env.explain.plot import Entry, Plot
from acoustic_env.io.files import read_bytes, write_bytes
from acoustic_env.io.location import join
from acoustic_env.report.parts import Code, Part, Picture, format_cell


@dataclass
class Section:
    """A part of the page under a heading."""

    title: str  # its heading
    parts: list[Part] = field(default_factory=list)  # its content, in order

    @property
    def anchor(self) -> str:
        """Its id in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def add(self, *parts: Part) -> None:
        """Append content."""
        self.parts += parts


class PlotFolder:
    """The folder of the plots' files, beside the page and named after it.

    Args:
        page: the page's file.
    """

    def __init__(self, page: Path) -> None:
        self.path = page.with_name(f"{page.stem}_files")

    def draw(self, plot: Plot) -> Picture:
        """Write the files of a new plot and return it for the page."""
        return self._picture(plot.save(self.path))

    def copy(self, entry: Entry, source: str) -> Picture:
        """Copy the files of an earlier plot and return it for the page.

        Raises:
            UsageError: a file that the index lists does not exist.
        """
        for name in entry.files.values():
            plain = Path(name).name
            try:
                data = read_bytes(join(source, plain))
            except UsageError as error:
                raise UsageError(f"{error}; run acoustic-env explain again") from error
            write_bytes(str(self.path / plain), data)
        return self._picture(entry)

    def _picture(self, entry: Entry) -> Picture:
        png = (self.path / Path(entry.files["png"]).name).read_bytes()
        links = {kind: f"{self.path.name}/{Path(name).name}" for kind, name in entry.files.items()}
        return Picture(entry.title, entry.caption, entry.alt, png, links)


def render_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the HTML of a page; every text is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("acoustic_env", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": format_cell, "kind": lambda part: type(part).__name__.lower()}
    environment.tests["code"] = lambda value: isinstance(value, Code)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    return environment.get_template("page.html").render(title=title, lead=lead, now=now, sections=sections)
