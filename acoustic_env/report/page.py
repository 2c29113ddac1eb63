"""The page: sections with headings, tables and figures, in one file that needs nothing else."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from acoustic_env.errors import UsageError
from acoustic_env.explain.plot import Entry, Plot
from acoustic_env.io.files import read_bytes, write_bytes
from acoustic_env.io.location import join as below
from acoustic_env.report.markup import Html, image, join, paragraph, tag


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        content: markup, in order.
    """

    title: str
    content: list[Html] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its id in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def add(self, *parts: Html) -> None:
        """Append markup."""
        self.content += parts


class FigureFolder:
    """Where the files of the figures lie, beside the page.

    Args:
        page: the page's file; the folder is named after it.
    """

    def __init__(self, page: Path) -> None:
        self.path = page.with_name(f"{page.stem}_files")

    def draw(self, plot: Plot) -> Html:
        """Write a new figure's files; the figure for the page."""
        return self._figure(plot.save(self.path))

    def copy(self, entry: Entry, source: str) -> Html:
        """Copy the files of a figure made earlier; the figure for the page.

        Raises:
            UsageError: a file that the index lists is not there.
        """
        for name in entry.files.values():
            plain = Path(name).name
            try:
                data = read_bytes(below(source, plain))
            except UsageError as error:
                msg = f"{error}; run acoustic-env explain again"
                raise UsageError(msg) from error
            write_bytes(str(self.path / plain), data)
        return self._figure(entry)

    def _figure(self, entry: Entry) -> Html:
        links = [
            join([tag("a", kind.upper(), href=f"{self.path.name}/{Path(name).name}"), Html(" ")])
            for kind, name in entry.files.items()
        ]
        return tag(
            "figure",
            tag("h3", entry.title),
            tag(
                "div",
                image(self.path / Path(entry.files["png"]).name, entry.alt),
                class_="wide",
                tabindex="0",
                role="region",
                aria_label=entry.title,
            ),
            tag("figcaption", paragraph(entry.sentence), tag("p", "Files: ", *links, class_="quiet files")),
        )


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: the place cannot be written.
    """
    styles = Html(resources.files("acoustic_env.report").joinpath("page.css").read_text(encoding="utf-8"))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    contents = tag("ol", *(tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in sections))
    body = [
        tag("a", "Skip to the report", href="#report", class_="skip"),
        tag(
            "header",
            tag("h1", title),
            paragraph(lead),
            paragraph(f"Written {now} by acoustic-env.", "quiet"),
            tag("nav", contents, aria_label="Contents"),
        ),
        tag("main", *(_section(section) for section in sections), id="report", tabindex="-1"),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        tag("title", title),
        tag("style", styles),
    ]
    page = f"<!DOCTYPE html>\n{tag('html', tag('head', *head), tag('body', *body), lang='en')}\n"
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        msg = f"--out {path}: {error.strerror}"
        raise UsageError(msg) from error


def _section(section: Section) -> Html:
    heading = f"{section.anchor}-heading"
    return tag(
        "section", tag("h2", section.title, id=heading), *section.content, id=section.anchor, aria_labelledby=heading
    )
