"""`acoustic-env audit relabel | diff | export | scorecard`: versions of the labels, and how good a relabeling is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from acoustic_env.commands.arguments import RenamedOption, add_command, add_settings, settings_of, show, url
from acoustic_env.commands.audit_form import plain, ranked_table
from acoustic_env.options import RelabelSettings

RELABEL: Final = """\
Write the next version of the labels table. Answers decide first. The ranking decides a label without an answer only
where the answers to the sample prove, with 95 % confidence, that at least the share --precision of such decisions is
right; the rest abstains, and the command prints how many more answers it would take. Labels of other lists and
decisions by people stay as the last version has them. Nothing is written when no decision changed. The original labels
stay in the column `given`."""

DIFF: Final = """\
Print what changed between two versions: rows whose action, or whether the label applies, differs. OLD may be
`original`."""

EXPORT: Final = """\
Write a version of the labels as an AudioSet segments list (YTID, start_seconds, end_seconds, positive_labels)."""

SCORECARD: Final = """\
Measure whether a relabeling keeps, adds and removes what people would: discrimination against human votes, with
intervals. The votes file is a table with columns clip_id, label, yes, no and, if the labels do not hold it, given."""

RELABELED: Final = """\
  acoustic-env audit relabel --ranked ranked.parquet --labels labels
  acoustic-env audit relabel --ranked ranked.parquet --annotations annotations.parquet --sample sample.parquet \\
      --labels labels"""


def add_parsers(commands: Any) -> None:
    folder: dict[str, Any] = {"type": url, "required": True, "metavar": "LABELS", "help": "Folder of versions."}
    line = "write the next version of the labels"
    parser = add_command(commands, "relabel", relabel_clips, RELABEL, RELABELED, line=line)
    add = parser.add_argument
    add("--ranked", type=url, required=True, metavar="FILE", help="Ranked table.")
    add("--annotations", type=url, metavar="FILE", help="Answers written by `audit listen` (Parquet or CSV).")
    add("--verdicts", action=RenamedOption, const="--annotations")
    sample = "The annotated sample; with it, the ranking may decide labels within --precision."
    add("--sample", type=url, metavar="FILE", help=sample)
    add("--labels", **folder)
    add_settings(parser, RelabelSettings, precision={"metavar": "P"})
    examples = "  acoustic-env audit diff --labels labels v0001 v0002 --json"
    line = "what changed between two versions"
    add = add_command(commands, "diff", diff_labels, DIFF, examples, line=line).add_argument
    add("--labels", **folder)
    add("old", metavar="OLD", help="Version, or `original` for the labels as given.")
    add("new", metavar="NEW", help="Version.")
    examples = "  acoustic-env audit export --labels labels --out segments.csv"
    add = add_command(commands, "export", export, EXPORT, examples, line="labels as a segments list").add_argument
    add("--labels", **folder)
    add("--version", metavar="V", help="Version; the latest without it.")
    add("--clips", type=url, metavar="LIST", help="Clip list or folder of audio, for start and end of the clips.")
    add("--out", type=url, required=True, metavar="FILE", help="Segments CSV to write.")
    examples = "  acoustic-env audit scorecard --labels AudioSet-R_eval.json --votes votes.csv"
    line = "a relabeling against human votes"
    add = add_command(commands, "scorecard", score_relabeling, SCORECARD, examples, line=line).add_argument
    source = "labels.parquet, LABELS folder, or AudioSet-R JSON."
    add("--labels", type=url, required=True, metavar="FILE", help=source)
    add("--votes", type=url, required=True, metavar="FILE", help="Table of human votes.")


def relabel_clips(arguments: argparse.Namespace) -> None:
    """Write the next version of the labels; see RELABEL."""
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
    with acquire_lease(arguments.labels, "audit relabel"):
        before = read_version(arguments.labels) if versions(arguments.labels) else None
        relabeled = decide(ranked, annotations, sample, settings, before)
        written = write_version(arguments.labels, [merge(before, relabeled.labels)], origin)
    manifest = read_manifest(arguments.labels, written.version)
    counted = {"actions": manifest["actions"], "rows": manifest["rows"]}
    document = asdict(written) | counted | {"rules": plain([asdict(rule) for rule in relabeled.rules])}
    counts = ", ".join(f"{action} {n:,}" for action, n in manifest["actions"].items())
    state = "written" if written.new else "unchanged: no new version"
    line = f"{arguments.labels}/{written.version} {state}; {manifest['rows']:,} rows: {counts}"
    show(arguments, document, line, *(f"  {rule}" for rule in relabeled.rules))


def diff_labels(arguments: argparse.Namespace) -> None:
    """Print what changed between two versions; see DIFF."""
    from acoustic_env.audit.labels import diff, original, read_version

    new = read_version(arguments.labels, arguments.new)
    old = original(new) if arguments.old == "original" else read_version(arguments.labels, arguments.old)
    changed = diff(old, new).to_pylist()
    lines = [f"{arguments.old} -> {arguments.new}: {len(changed):,} rows differ"]
    for row in changed:
        lines.append(f"  {row['clip_id']}  {row['label']}: {row['action_before']} -> {row['action']} ({row['reason']})")
    show(arguments, changed, *lines)


def export(arguments: argparse.Namespace) -> None:
    """Write a version as an AudioSet segments list; see EXPORT."""
    from acoustic_env.audit.labels import read_version, segments_csv
    from acoustic_env.clips.table import read_clips
    from acoustic_env.io.files import write_bytes

    labels = read_version(arguments.labels, arguments.version)
    clips = read_clips(arguments.clips) if arguments.clips else None
    text, left_out = segments_csv(labels, clips, _spelling())
    write_bytes(arguments.out, text.encode())
    segments = text.count("\n") - 3
    document = {"out": arguments.out, "segments": segments, "without_label": left_out}
    line = f"{arguments.out}: {segments:,} segments; {left_out:,} clips left out because no label applies"
    show(arguments, document, line)


def score_relabeling(arguments: argparse.Namespace) -> None:
    """Print a relabeling against human votes; see SCORECARD."""
    from acoustic_env.audit.scorecard import pair_up, scorecard
    from acoustic_env.audit.table import read_table

    spelling = _spelling()
    now, given = _relabeling(arguments.labels, spelling)
    pairs = pair_up(read_table(arguments.votes), arguments.votes, now, given, spelling)
    found = scorecard(pairs)
    counts = {"pairs": len(pairs.clip), "tied": pairs.tied, "uncovered": pairs.uncovered}
    line = f"{counts['pairs']:,} pairs; {pairs.tied:,} tied and {pairs.uncovered:,} uncovered left out"
    show(arguments, counts | plain(found), line, *(f"  {name:<29} {interval}" for name, interval in found.items()))


def _relabeling(url: str, spelling: Mapping[str, str]) -> tuple[dict[str, set[str]], dict[str, set[str]] | None]:
    """Return the labels of each clip now and, where the file holds them, originally."""
    import numpy as np

    from acoustic_env.audit.labels import read_version
    from acoustic_env.audit.relabel import applies
    from acoustic_env.audit.scorecard import audioset_r, by_clip
    from acoustic_env.audit.table import read_table
    from acoustic_env.errors import UsageError
    from acoustic_env.io.files import read_bytes

    if url.lower().endswith(".json"):
        try:
            return audioset_r(json.loads(read_bytes(url)), url), None
        except ValueError as error:
            raise UsageError(f"{url}: not a JSON file: {error}") from error
    table = read_table(url) if url.lower().endswith(".parquet") else read_version(url)
    missing = {"clip_id", "label", "given", "action"} - set(table.column_names)
    if missing:
        msg = f"{url}: no column {min(missing)!r}; give labels.parquet of `audit relabel`, or AudioSet-R's JSON"
        raise UsageError(msg)
    ids, labels = table.column("clip_id").to_pylist(), table.column("label").to_pylist()
    given = np.asarray(table.column("given"))
    return by_clip(ids, labels, applies(table), spelling), by_clip(ids, labels, given, spelling)


def _spelling() -> dict[str, str]:
    """Return display name -> id of every AudioSet label."""
    from acoustic_env.clips.ontology import audioset

    return {name: identifier for identifier, name in audioset().names.items()}
