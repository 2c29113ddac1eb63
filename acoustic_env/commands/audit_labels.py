"""`acoustic-env audit relabel | diff | export`: versions of the labels."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from acoustic_env.commands.arguments import add_command, add_paths, add_settings, settings_of, show, url
from acoustic_env.commands.audit_form import plain, ranked_table
from acoustic_env.options import RelabelSettings


def add_parsers(commands: Any) -> None:
    parser = add_command(commands, "relabel", relabel_clips, line="write the next version of the labels")
    add_settings(parser, RelabelSettings, precision={"metavar": "P"})
    beside = {"annotations": "ranked", "sample": "ranked"}
    add_paths(parser, "ranked", "annotations", "sample", versions="labels", if_there=beside)
    parser = add_command(commands, "diff", diff_labels, line="what changed between two versions")
    parser.add_argument("old", metavar="OLD", help="Version, or `original` for the labels as given.")
    parser.add_argument("new", metavar="NEW", help="Version.")
    add_paths(parser, versions="labels")
    parser = add_command(commands, "export", export, line="labels as a segments list")
    parser.add_argument("version", nargs="?", metavar="V", help="Version. Default: the latest.")
    parser.add_argument("--out", type=url, required=True, metavar="FILE", help="Segments CSV to write.")
    add_paths(parser, "clips", versions="labels", if_there={"clips": "versions"})


def relabel_clips(arguments: argparse.Namespace) -> None:
    r"""Write the next version of the labels table. Answers decide first. The ranking decides a label without an answer
    only where the answers to the sample prove, with 95 % confidence, that at least the share --precision of such
    decisions is right; the rest abstains, and the command prints how many more answers it would take. Labels of other
    lists and decisions by people stay as the last version has them. Nothing is written when no decision changed. The
    original labels stay in the column `given`.

    Examples:
        acoustic-env audit relabel --ranked ranked.parquet --versions labels
        acoustic-env audit relabel --ranked ranked.parquet --annotations annotations.parquet --sample sample.parquet \
            --versions labels
    """
    from acoustic_env.audit.annotations import check_annotations
    from acoustic_env.audit.labels import merge, read_manifest, read_version, versions, write_version
    from acoustic_env.audit.relabel import decide
    from acoustic_env.audit.table import read_table
    from acoustic_env.store.lease import acquire_lease

    settings = settings_of(RelabelSettings, arguments)
    ranked = ranked_table(arguments.ranked)
    annotations = (
        check_annotations(read_table(arguments.annotations), arguments.annotations) if arguments.annotations else None
    )
    sample = read_table(arguments.sample) if arguments.sample else None
    origin = {name: getattr(arguments, name) for name in ("ranked", "annotations", "sample")} | settings.as_json()
    with acquire_lease(arguments.versions, "audit relabel"):
        before = read_version(arguments.versions) if versions(arguments.versions) else None
        relabeled = decide(ranked, annotations, sample, settings, before)
        written = write_version(arguments.versions, [merge(before, relabeled.labels)], origin)
    manifest = read_manifest(arguments.versions, written.version)
    counted = {"actions": manifest["actions"], "rows": manifest["rows"]}
    document = asdict(written) | counted | {"rules": plain([asdict(rule) for rule in relabeled.rules])}
    counts = ", ".join(f"{action} {n:,}" for action, n in manifest["actions"].items())
    state = "written" if written.new else "unchanged: no new version"
    line = f"{arguments.versions}/{written.version} {state}; {manifest['rows']:,} rows: {counts}"
    show(arguments, document, line, *(f"  {rule}" for rule in relabeled.rules))


def diff_labels(arguments: argparse.Namespace) -> None:
    """Print what changed between two versions: rows whose action, or whether the label applies, differs. OLD may be
    `original`.

    Examples:
        acoustic-env audit diff --versions labels v0001 v0002 --json
    """
    from acoustic_env.audit.labels import diff, original, read_version

    new = read_version(arguments.versions, arguments.new)
    old = original(new) if arguments.old == "original" else read_version(arguments.versions, arguments.old)
    changed = diff(old, new).to_pylist()
    lines = [f"{arguments.old} -> {arguments.new}: {len(changed):,} rows differ"]
    for row in changed:
        lines.append(f"  {row['clip_id']}  {row['label']}: {row['action_before']} -> {row['action']} ({row['reason']})")
    show(arguments, changed, *lines)


def export(arguments: argparse.Namespace) -> None:
    """Write a version of the labels as an AudioSet segments list (YTID, start_seconds, end_seconds, positive_labels).

    Examples:
        acoustic-env audit export --versions labels --out segments.csv
    """
    from acoustic_env.audit.labels import read_version, segments_csv
    from acoustic_env.clips.table import read_clips
    from acoustic_env.io.files import write_bytes

    labels = read_version(arguments.versions, arguments.version)
    clips = read_clips(arguments.clips) if arguments.clips else None
    text, left_out = segments_csv(labels, clips, _spelling())
    write_bytes(arguments.out, text.encode())
    segments = text.count("\n") - 3
    document = {"out": arguments.out, "segments": segments, "without_label": left_out}
    line = f"{arguments.out}: {segments:,} segments; {left_out:,} clips left out because no label applies"
    show(arguments, document, line)


def _spelling() -> dict[str, str]:
    """Return display name -> id of every AudioSet label."""
    from acoustic_env.clips.ontology import audioset

    return {name: identifier for identifier, name in audioset().names.items()}
