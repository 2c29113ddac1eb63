"""`acoustic-env reannotate`: add a new clip list to the labels table, for a schedule."""

from __future__ import annotations

import argparse
import json
from typing import Any

from acoustic_env.commands.arguments import (
    add_command,
    add_log_format,
    add_paths,
    add_settings,
    check_inputs,
    log,
    settings_of,
)
from acoustic_env.options import ReannotateSettings


def add_parsers(subparsers: Any) -> None:
    parser = add_command(subparsers, "reannotate", run)
    add_settings(
        parser,
        ReannotateSettings,
        clips={"required": True},
        approve={"metavar": "NAME"},
        max_error_rate={"metavar": "SHARE"},
    )
    add_log_format(parser)
    add_paths(parser, "store", "bundle", "annotations", versions="labels", if_there={"annotations": "versions"})


def run(namespace: argparse.Namespace) -> None:
    r"""Add a new clip list to a labels table: extract the missing features, score the clips with a classifier, test for
    drift against its training data, write a new version of the labels and its differences (nothing if no decision
    changed), draw a sample that evaluates this version, and publish only a version that its sample shows to be better
    than the published one on the same rows, or that --approve names an approver for.

    A second run with the same list changes nothing; a killed run is completed by the next. One run at a time (exit 4).

    Examples:
        acoustic-env reannotate --clips new.parquet --store features --bundle bundle --versions labels --json
        acoustic-env reannotate --clips new.parquet --store features --bundle bundle --versions labels \
            --annotations annotations.parquet
        acoustic-env reannotate --clips new.parquet --store features --bundle bundle --versions labels \
            --approve "A. Person"
    """
    settings = settings_of(ReannotateSettings, namespace)
    check_inputs(clips=settings.clips, bundle=settings.bundle)
    from acoustic_env.audit.reannotate import reannotate

    summary = reannotate(settings, log)
    print(json.dumps(summary, sort_keys=True) if namespace.json else "\n".join(describe(summary)))


def describe(summary: dict[str, Any]) -> list[str]:
    """Return the summary as lines of text."""
    version, drift, published = summary["version"], summary["drift"], summary["published"]
    changed = f"{summary['changed']} rows changed" if summary["new_version"] else "unchanged"
    lines = [
        f"{summary['clips']} clips, {summary['extracted']} extracted, {summary['scored']} scored",
        f"labels {version}: {changed}",
    ]
    if drift is not None:
        outcome = "drift: annotate more of the new clips" if drift["drifted"] else "no drift detected"
        lines.append(f"new clips against training data: p = {drift['p_value']:.3f}, {outcome}")
    if summary["sample"] is not None:
        files = f"--sample {summary['sample']} --clips {summary['sample_clips']}"
        lines.append(f"next: acoustic-env audit listen {files} --out annotations.parquet")
    if summary["accuracy"] is not None:
        last, overall = summary["accuracy"], summary["accuracy_of_all"]
        frame = f"{last['version']} on the {last['rows']:,} rows of frame {last['frame']}"
        lines.append(f"accuracy of {frame}: {_bounds(last)}, as given {last['as_given']:.3f}")
        lines.append(f"accuracy over all {overall['frames']:,} frames, {overall['rows']:,} rows: {_bounds(overall)}")
    return [*lines, f"published: {published['version'] or 'nothing yet'} ({published['reason']})"]


def _bounds(interval: dict[str, Any]) -> str:
    return f"{interval['estimate']:.3f} ({interval['low']:.3f} to {interval['high']:.3f}, {interval['n']:,} answers)"
