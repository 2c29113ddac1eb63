"""`acoustic-env audit relabel | diff | export | scorecard`: versions of the labels, and how good a relabelling is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from acoustic_env.commands.arguments import RenamedOption, url
from acoustic_env.commands.audit_form import add_command, plain, ranked_table

RELABEL = """\
Write the next version of the labels table. Answers decide first. The ranking decides a label without an answer only
where the answers to the sample prove, with 95 % confidence, that at least the share --precision of such decisions is
right; the rest abstains, and the command says how many more answers it would take. Labels of other lists and decisions
by people stay as the last version has them. Nothing is written when no decision changed. The original labels stay in
the column `given`."""

DIFF = """\
What changed between two versions: rows whose action, or whether the label applies, differs. OLD may be `original`."""

EXPORT = """\
A version of the labels as an AudioSet segments list (YTID, start_seconds, end_seconds, positive_labels)."""

SCORECARD = """\
Does a relabelling keep, add and remove what people would? Discrimination against human votes with intervals. The votes
file is a table with columns clip_id, label, yes, no and, if the labels do not know it, given."""

EXAMPLES: Final[Mapping[str, str]] = {
    "relabel": "  acoustic-env audit relabel --ranked ranked.parquet --labels labels\n"
    "  acoustic-env audit relabel --ranked ranked.parquet --annotations annotations.parquet --sample sample.parquet "
    "--labels labels",
    "diff": "  acoustic-env audit diff --labels labels v0001 v0002 --json",
    "export": "  acoustic-env audit export --labels labels --out segments.csv",
    "scorecard": "  acoustic-env audit scorecard --labels AudioSet-R_eval.json --votes votes.csv",
}


def add_parsers(commands: Any) -> None:
    """`audit relabel`, `diff`, `export` and `scorecard`."""
    parser = add_command(
        commands, "relabel", "write the next version of the labels", RELABEL, EXAMPLES["relabel"], relabel_clips
    )
    parser.add_argument("--ranked", type=url, required=True, metavar="FILE")
    parser.add_argument(
        "--annotations", type=url, metavar="FILE", help="Annotations written by `audit listen` (Parquet or CSV)."
    )
    parser.add_argument("--verdicts", action=RenamedOption, const="--annotations")
    parser.add_argument(
        "--sample",
        type=url,
        metavar="FILE",
        help="The annotated sample; with it, the ranking may decide labels within --precision.",
    )
    parser.add_argument("--labels", type=url, required=True, metavar="LABELS", help="folder of versions, at any URL")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.8,
        metavar="P",
        help="Share of automatic decisions that must be right, from 0.5 to below 1, for each kind (drop, add, keep), "
        "proven with 95 %% confidence. Default: 0.8.",
    )
    line = "what changed between two versions"
    parser = add_command(commands, "diff", line, DIFF, EXAMPLES["diff"], diff_labels)
    parser.add_argument("--labels", type=url, required=True, metavar="LABELS")
    parser.add_argument("old", metavar="OLD", help="version, or `original` for the labels as given")
    parser.add_argument("new", metavar="NEW", help="version")
    parser = add_command(
        commands,
        "export",
        "labels as a segments list",
        "A version as an AudioSet segments list.",
        EXAMPLES["export"],
        export,
    )
    parser.add_argument("--labels", type=url, required=True, metavar="LABELS")
    parser.add_argument("--version", metavar="V", help="version (default: the latest)")
    parser.add_argument("--clips", type=url, metavar="LIST", help="clip list, for start and end of the clips")
    parser.add_argument("--out", type=url, required=True, metavar="FILE", help="segments CSV to write")
    parser = add_command(
        commands, "scorecard", "a relabelling against human votes", SCORECARD, EXAMPLES["scorecard"], score_relabelling
    )
    parser.add_argument(
        "--labels", type=url, required=True, metavar="FILE", help="labels.parquet, LABELS folder, or AudioSet-R JSON"
    )
    parser.add_argument("--votes", type=url, required=True, metavar="FILE")


def relabel_clips(arguments: argparse.Namespace) -> int:
    """Write the next version of the labels; see RELABEL."""
    from acoustic_env.audit.annotations import check_annotations
    from acoustic_env.audit.labels import read_manifest, read_version, versions, write_version
    from acoustic_env.audit.merge import merge
    from acoustic_env.audit.relabel import RelabelSettings, decide
    from acoustic_env.audit.table import read_table
    from acoustic_env.store.lease import acquire_lease

    settings = RelabelSettings(arguments.precision)
    ranked = ranked_table(arguments.ranked)
    annotations = (
        check_annotations(read_table(arguments.annotations), arguments.annotations) if arguments.annotations else None
    )
    sample = read_table(arguments.sample) if arguments.sample else None
    origin = {name: getattr(arguments, name) for name in ("ranked", "annotations", "sample", "precision")}
    with acquire_lease(arguments.labels, "audit relabel"):
        before = read_version(arguments.labels) if versions(arguments.labels) else None
        relabeled = decide(ranked, annotations, sample, settings, before)
        written = write_version(arguments.labels, merge(before, relabeled.labels), origin)
    manifest = read_manifest(arguments.labels, written.version)
    if arguments.json:
        counted = {"actions": manifest["actions"], "rows": manifest["rows"]}
        print(json.dumps(asdict(written) | counted | {"rules": [rule.as_dict() for rule in relabeled.rules]}))
        return 0
    counts = ", ".join(f"{action} {n:,}" for action, n in manifest["actions"].items())
    state = "written" if written.new else "stands: no decision changed"
    print(f"{arguments.labels}/{written.version} {state}; {manifest['rows']:,} rows: {counts}")
    for rule in relabeled.rules:
        print(f"  {rule}")
    return 0


def diff_labels(arguments: argparse.Namespace) -> int:
    """What changed between two versions."""
    from acoustic_env.audit.labels import diff, original, read_version

    new = read_version(arguments.labels, arguments.new)
    old = original(new) if arguments.old == "original" else read_version(arguments.labels, arguments.old)
    changed = diff(old, new).to_pylist()
    if arguments.json:
        print(json.dumps(changed))
        return 0
    print(f"{arguments.old} -> {arguments.new}: {len(changed):,} rows differ")
    for row in changed:
        print(f"  {row['clip_id']}  {row['label']}: {row['action_before']} -> {row['action']} ({row['reason']})")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """A version as an AudioSet segments list."""
    from acoustic_env.audit.labels import read_version, segments_csv
    from acoustic_env.clips.table import read_clips
    from acoustic_env.io.files import write_bytes

    labels = read_version(arguments.labels, arguments.version)
    clips = read_clips(arguments.clips) if arguments.clips else None
    text, left_out = segments_csv(labels, clips, _spelling())
    write_bytes(arguments.out, text.encode())
    segments = text.count("\n") - 3
    if arguments.json:
        print(json.dumps({"out": arguments.out, "segments": segments, "without_label": left_out}))
        return 0
    print(f"{arguments.out}: {segments:,} segments; {left_out:,} clips left out because no label applies")
    return 0


def score_relabelling(arguments: argparse.Namespace) -> int:
    """A relabelling against human votes; see SCORECARD."""
    from acoustic_env.audit.scorecard import pair_up, scorecard
    from acoustic_env.audit.table import read_table

    spelling = _spelling()
    now, given = _relabelling(arguments.labels, spelling)
    pairs = pair_up(read_table(arguments.votes), arguments.votes, now, given, spelling)
    found = scorecard(pairs)
    counts = {"pairs": len(pairs.clip), "tied": pairs.tied, "uncovered": pairs.uncovered}
    if arguments.json:
        print(json.dumps(counts | plain(found)))
        return 0
    print(f"{counts['pairs']:,} pairs; {pairs.tied:,} tied and {pairs.uncovered:,} uncovered left out")
    for name, interval in found.items():
        print(f"  {name:<29} {interval}")
    return 0


def _relabelling(url: str, spelling: Mapping[str, str]) -> tuple[dict[str, set[str]], dict[str, set[str]] | None]:
    """Labels by clip now and, where the file knows them, originally."""
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
            msg = f"{url}: not a JSON file: {error}"
            raise UsageError(msg) from error
    table = read_table(url) if url.lower().endswith(".parquet") else read_version(url)
    missing = {"clip_id", "label", "given", "action"} - set(table.column_names)
    if missing:
        msg = f"{url}: no column {min(missing)!r}; give labels.parquet of `audit relabel`, or AudioSet-R's JSON"
        raise UsageError(msg)
    ids, labels = table.column("clip_id").to_pylist(), table.column("label").to_pylist()
    given = np.asarray(table.column("given"))
    return by_clip(ids, labels, applies(table), spelling), by_clip(ids, labels, given, spelling)


def _spelling() -> dict[str, str]:
    """Display name -> id of every AudioSet label."""
    from acoustic_env.clips.ontology import audioset

    return {name: identifier for identifier, name in audioset().names.items()}
