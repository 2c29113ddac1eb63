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


def place(part: Part, folder: Path) -> Part:
    """Return a part for the page; write the files of a plot to a folder beside it, or copy those of an earlier plot.

    Raises:
        UsageError: a file of an earlier plot does not exist.
    """
    if isinstance(part, Plot):
        part = part.save(folder)
    elif isinstance(part, Entry):
        for url in part.files.values():
            try:
                write_bytes(str(folder / Path(url).name), read_bytes(url))
            except UsageError as error:
                raise UsageError(f"{error}; run acoustic-env explain again") from error
    else:
        return part
    links = {kind: f"{folder.name}/{Path(url).name}" for kind, url in part.files.items()}
    return Picture(**{**vars(part), "files": links}, png=(folder.parent / links["png"]).read_bytes())


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
