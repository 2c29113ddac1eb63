"""`acoustic-env report`: one self-contained HTML page of everything that is given."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from acoustic_env.commands.arguments import url

DESCRIPTION: Final = """\
Write one HTML page that needs no network and nothing beside it: what was run, the data and what was left out, errors,
the classifier with intervals, every figure with a sentence that says what it shows, the label audit, and where it all
comes from. Sections appear for what is given. The figures also lie beside the page as PNG, SVG and CSV."""

EXAMPLES: Final = """\
examples:
  acoustic-env report --store features --clips clips.parquet --bundle bundle --explain explained --out report.html
  acoustic-env report --ranked ranked.parquet --sample sample.parquet --verdicts verdicts.parquet --out audit.html"""

OPTIONS: Final = (
    ("store", "URL", "feature store: runs, blocks, errors"),
    ("clips", "LIST", "clip list: data, exclusions"),
    ("recipe", "R", "recipe of the study, where no bundle says it"),
    ("bundle", "BUNDLE", "folder of the classifier"),
    ("explain", "DIR", "folder of acoustic-env explain"),
    ("study", "DIR", "folder of acoustic-env study"),
    ("tune", "DIR", "folder of acoustic-env tune"),
    ("ranked", "FILE", "table of audit rank"),
    ("sample", "FILE", "table of audit sample; needs --verdicts"),
    ("verdicts", "FILE", "what listeners said of the sample"),
    ("labels", "LABELS", "folder of versions of the labels"),
    ("truth", "FILE", "clip_id, label: where the truth is known, as of synthetic scenes"),
)


def add_parsers(subparsers: Any) -> None:
    """The `report` command."""
    parser = subparsers.add_parser(
        "report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=url, metavar="FILE.html", required=True, help="page to write")
    parser.add_argument("--title", default="acoustic-env report", metavar="TEXT", help="title of the page")
    for name, metavar, text in OPTIONS:
        parser.add_argument(f"--{name}", type=url, metavar=metavar, help=text)
    parser.add_argument("--json", action="store_true", help="print page, sections and size as JSON")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Write the page."""
    from acoustic_env.io.files import folder_of
    from acoustic_env.io.location import join, split
    from acoustic_env.report.report import Inputs, write_report

    folder, name = split(namespace.out)
    inputs = Inputs(**{name: getattr(namespace, name) for name, _, _ in OPTIONS})
    with folder_of(folder, last=name) as here:
        sections = write_report(here / name, inputs, namespace.title)
        size, figures = (here / name).stat().st_size, f"{Path(name).stem}_files"
    if namespace.json:
        print(json.dumps({"page": namespace.out, "bytes": size, "sections": sections}))
    else:
        print(f"{namespace.out}: {size / 1e6:.1f} MB; {', '.join(sections)}")
    print(f"figures as files: {join(folder, figures)}", file=sys.stderr)
    return 0
