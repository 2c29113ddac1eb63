"""`acoustic-env reannotate`: a new clip list into the labels table, for a schedule."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from acoustic_env.commands.arguments import RenamedOption, check_inputs, url

DESCRIPTION = """\
Take a new clip list into a labels table: extract the features that are missing, score the clips with a classifier,
test for drift against its training, write a new version of the labels and what changed (or nothing when nothing did),
draw a sample that judges that version, and publish only a version that its sample shows to be better than the published
one on the same rows, or that a person approves.

Run it again and nothing happens; kill it and run it again, and it completes. One run at a time (exit 4)."""

EXAMPLES = """\
examples:
  acoustic-env reannotate --clips new.parquet --store features --bundle bundle --labels labels --json
  acoustic-env reannotate --clips new.parquet --store features --bundle bundle --labels labels \\
      --annotations annotations.parquet
  acoustic-env reannotate --clips new.parquet --store features --bundle bundle --labels labels --approve "A. Person\""""


def add_parsers(subparsers: Any) -> None:
    """The `reannotate` command."""
    parser = subparsers.add_parser(
        "reannotate",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=url, required=True, metavar="LIST", help="the new clip list")
    parser.add_argument("--store", type=url, required=True, metavar="URL", help="feature store")
    parser.add_argument("--bundle", type=url, required=True, metavar="DIR", help="trained classifier")
    parser.add_argument("--labels", type=url, required=True, metavar="LABELS", help="folder of versions of the labels")
    parser.add_argument(
        "--annotations", type=url, metavar="FILE", help="All annotations of the samples so far (Parquet or CSV)."
    )
    parser.add_argument("--verdicts", action=RenamedOption, const="--annotations")
    parser.add_argument(
        "--budget", type=int, default=100, metavar="N", help="rows in the sample that judges a version (100)"
    )
    parser.add_argument(
        "--approve", dest="approved_by", metavar="NAME", help="Publish this version; the name of the approver is kept."
    )
    parser.add_argument(
        "--max-error-rate", type=float, default=0.05, metavar="SHARE", help="failed clips allowed (0.05)"
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="Ray cluster to join (default: RAY_ADDRESS, else this machine)"
    )
    parser.add_argument("--seed", type=int, default=23, help="of the sample and the drift test (23)")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Run once and print the summary."""
    check_inputs(clips=namespace.clips, bundle=namespace.bundle)
    from acoustic_env.audit.reannotate import ReannotateSettings, reannotate

    names = [field.name for field in dataclasses.fields(ReannotateSettings)]
    settings = ReannotateSettings(**{name: getattr(namespace, name) for name in names})
    summary = reannotate(settings, lambda line: print(line, file=sys.stderr, flush=True))
    if namespace.json:
        print(json.dumps(summary, sort_keys=True))
        return 0
    for line in describe(summary):
        print(line)
    return 0


def describe(summary: dict[str, Any]) -> list[str]:
    """The summary for a person."""
    version, changed = summary["version"], summary["changed"]
    lines = [f"{summary['clips']} clips, {summary['extracted']} extracted, {summary['scored']} scored"]
    lines.append(
        f"labels {version}: {changed} rows changed" if summary["new_version"] else f"labels {version}: unchanged"
    )
    if summary["drift"] is not None:
        outcome = "drifted: listen to more of them" if summary["drift"]["drifted"] else "no drift seen"
        lines.append(f"new clips against training: p = {summary['drift']['p_value']:.3f}, {outcome}")
    if summary["sample"] is not None:
        given = f"--sample {summary['sample']} --clips {summary['sample_clips']}"
        lines.append(f"to listen to: acoustic-env audit listen {given} --out annotations.parquet")
    if summary["accuracy"] is not None:
        accuracy, everywhere = summary["accuracy"], summary["accuracy_of_all"]
        of = f"{accuracy['version']} on the {accuracy['rows']:,} rows of frame {accuracy['frame']}"
        lines.append(f"accuracy of {of}: {_bounds(accuracy)}, as given {accuracy['as_given']:.3f}")
        lines.append(
            f"accuracy over all {everywhere['frames']:,} frames, {everywhere['rows']:,} rows: {_bounds(everywhere)}"
        )
    published = summary["published"]
    lines.append(f"published: {published['version'] or 'nothing yet'} ({published['reason']})")
    return lines


def _bounds(interval: dict[str, Any]) -> str:
    return f"{interval['estimate']:.3f} ({interval['low']:.3f} to {interval['high']:.3f}, {interval['n']:,} answers)"
