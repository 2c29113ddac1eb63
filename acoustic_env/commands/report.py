"""`acoustic-env report`: one self-contained HTML page of everything that is given."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

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
        help="one HTML page of everything",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="FILE.html", required=True, help="page to write")
    parser.add_argument("--title", default="acoustic-env report", metavar="TEXT", help="title of the page")
    for name, metavar, text in OPTIONS:
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument("--json", action="store_true", help="print page, sections and size as JSON")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Write the page."""
    from pathlib import Path

    from acoustic_env.report.report import Inputs, write_report

    path = Path(namespace.out)
    inputs = Inputs(**{name: getattr(namespace, name) for name, _, _ in OPTIONS})
    sections = write_report(path, inputs, namespace.title)
    size = path.stat().st_size
    if namespace.json:
        print(json.dumps({"page": str(path), "bytes": size, "sections": sections}))
    else:
        print(f"{path}: {size / 1e6:.1f} MB; {', '.join(sections)}")
    print(f"figures as files: {path.with_name(path.stem + '_files')}", file=sys.stderr)
    return 0
