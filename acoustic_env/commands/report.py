"""`acoustic-env report`: one self-contained HTML page of everything that is given."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Final

from acoustic_env.commands.arguments import RenamedOption, url
from acoustic_env.report.inputs import Inputs

DESCRIPTION: Final = """\
Write one HTML page that needs no network and no other file: what was run, the data and the exclusions, errors, the
classifier with intervals, every plot with a caption, the label audit, and the provenance of it all. Sections appear for
what is given. The plots also lie beside the page as PNG, SVG and CSV."""

EXAMPLES: Final = """\
examples:
  acoustic-env report --store features --clips clips.parquet --bundle bundle --explain explained --out report.html
  acoustic-env report --ranked ranked.parquet --sample sample.parquet --annotations annotations.parquet \\
    --out audit.html"""


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=url, metavar="FILE.html", required=True, help="Page to write.")
    parser.add_argument("--title", default="acoustic-env report", metavar="TEXT", help="Title of the page.")
    for field in dataclasses.fields(Inputs):
        parser.add_argument(f"--{field.name}", type=url, **field.metadata)
    parser.add_argument("--verdicts", action=RenamedOption, const="--annotations")
    parser.add_argument("--json", action="store_true", help="Print page, sections and size as JSON.")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Write the page."""
    from acoustic_env.io.files import folder_of
    from acoustic_env.io.location import join, split
    from acoustic_env.report.report import write_report

    folder, name = split(namespace.out)
    inputs = Inputs(**{field.name: getattr(namespace, field.name) for field in dataclasses.fields(Inputs)})
    with folder_of(folder, last=name) as here:
        sections = write_report(here / name, inputs, namespace.title)
        size, plots = (here / name).stat().st_size, f"{Path(name).stem}_files"
    if namespace.json:
        print(json.dumps({"page": namespace.out, "bytes": size, "sections": sections}))
    else:
        print(f"{namespace.out}: {size / 1e6:.1f} MB; {', '.join(sections)}")
    print(f"plots as files: {join(folder, plots)}", file=sys.stderr)
    return 0
