"""`acoustic-env report`: one self-contained HTML page of everything that is given."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from acoustic_env.commands.arguments import add_command, add_paths, log, show, url
from acoustic_env.report.inputs import Inputs


def add_parsers(subparsers: Any) -> None:
    parser = add_command(subparsers, "report", run)
    add = parser.add_argument
    add("--title", default="acoustic-env report", metavar="TEXT", help="Title of the page.")
    truth = "Table of clip_id and label with the true labels, as of synthetic scenes."
    add("--truth", type=url, metavar="FILE", help=truth)
    parts = [field.name for field in dataclasses.fields(Inputs) if field.name not in ("truth", "versions")]
    add_paths(parser, *parts, versions="labels", out="report", if_there=dict.fromkeys((*parts, "versions"), ""))


def run(namespace: argparse.Namespace) -> None:
    r"""Write one HTML page that needs no network and no other file: what was run, the data and the exclusions, errors,
    the classifier with intervals, every plot with a caption, the label audit, and the provenance of it all. Sections
    appear for what is given. The plots also lie beside the page as PNG, SVG and CSV.

    Examples:
        acoustic-env report --store features --clips clips.parquet --bundle bundle --explain explained --out report.html
        acoustic-env report --ranked ranked.parquet --sample sample.parquet --annotations annotations.parquet \
          --out audit.html
    """
    from acoustic_env.io.files import folder_of
    from acoustic_env.io.location import join, split
    from acoustic_env.report.report import write_report

    folder, name = split(namespace.out)
    inputs = Inputs(**{field.name: getattr(namespace, field.name) for field in dataclasses.fields(Inputs)})
    with folder_of(folder, last=name) as here:
        sections = write_report(here / name, inputs, namespace.title, log)
        size, plots = (here / name).stat().st_size, f"{Path(name).stem}_files"
    document = {"page": namespace.out, "bytes": size, "sections": sections}
    show(namespace, document, f"{namespace.out}: {size / 1e6:.1f} MB; {', '.join(sections)}")
    log(f"plots as files: {join(folder, plots)}")
