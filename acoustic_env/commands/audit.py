"""`acoustic-env audit`: rank labels, plan and draw samples, annotate, estimate, relabel."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from acoustic_env.commands import audit_labels, audit_listen, audit_rank
from acoustic_env.commands.arguments import add_command, add_paths, add_settings, settings_of, show, url
from acoustic_env.commands.audit_form import plain, ranked_table
from acoustic_env.options import SampleSettings


def add_parsers(subparsers: Any) -> None:
    group = subparsers.add_parser("audit")
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    audit_rank.add_parser(commands)
    parser = add_command(commands, "plan", plan_sample, line="how many clips to annotate")
    add = parser.add_argument
    add("--half-width", type=float, required=True, metavar="H", help="Half-width of the 95 %% interval, such as 0.05.")
    add("--accuracy", type=float, default=0.74, metavar="P", help="Expected label accuracy. Default: %(default)s.")
    add_paths(parser, "ranked", if_there={"ranked": ""})
    parser = add_command(commands, "sample", draw, line="draw a sample to annotate")
    add = parser.add_argument
    add("--gold", type=url, metavar="FILE", help="Known rows to mix in: clip_id, label, truth (right or wrong).")
    add_settings(parser, SampleSettings, n={"required": True}, repeat={"metavar": "SHARE"})
    add_paths(parser, "ranked", out="sample")
    line = "label accuracy from an annotated sample"
    parser = add_command(commands, "estimate", estimate_accuracy, line=line)
    add_paths(parser, "sample", "annotations", "clips", if_there={"clips": "sample"})
    audit_listen.add_parser(commands)
    audit_labels.add_parsers(commands)


def plan_sample(arguments: argparse.Namespace) -> None:
    """Compute how many clip-label rows to annotate for an interval of a wanted half-width, by design.

    Examples:
        acoustic-env audit plan --half-width 0.05
        acoustic-env audit plan --half-width 0.05 --ranked ranked.parquet --json
    """
    from acoustic_env.audit.plan import plan

    ranked = ranked_table(arguments.ranked) if arguments.ranked else None
    plans = plan(arguments.half_width, arguments.accuracy, ranked)
    lines = [f"rows to annotate for +-{arguments.half_width:g} at 95 %:"]
    for found in plans:
        scope = "each class" if found.per_class else "overall"
        lines.append(f"  {found.n:>7,}  {found.design:<10}  {scope:<10}  {found.note}")
    show(arguments, [asdict(found) for found in plans], *lines)


def draw(arguments: argparse.Namespace) -> None:
    """Draw a probability sample of ranked rows to annotate. Every inclusion probability is stored, the frame is hashed,
    gold and repeated clips are mixed in, and the same seed draws the same sample.

    Examples:
        acoustic-env audit sample --ranked ranked.parquet --n 200 --design stratified --out sample.parquet
    """
    from acoustic_env.audit.sample import draw_sample
    from acoustic_env.audit.table import read_table, write_table

    settings = settings_of(SampleSettings, arguments)
    gold = read_table(arguments.gold) if arguments.gold else None
    sample = draw_sample(ranked_table(arguments.ranked), settings, gold)
    write_table(sample, arguments.out)
    roles = sample.column("role").to_pylist()
    counts = {role: roles.count(role) for role in ("sample", "gold", "repeat")}
    frame_hash = sample.column("frame_hash")[0].as_py()
    document = {"out": arguments.out, "design": settings.design, "frame_hash": frame_hash, **counts}
    rows = f"{counts['sample']:,} rows ({settings.design}), {counts['gold']:,} gold, {counts['repeat']:,} repeats"
    show(arguments, document, f"{arguments.out}: {rows}; frame {frame_hash}")


def estimate_accuracy(arguments: argparse.Namespace) -> None:
    """Estimate label accuracy from an annotated sample, overall and per class, with intervals valid for its design;
    report the agreement of the annotators and precision and recall of the ranking.

    Examples:
        acoustic-env audit estimate --sample sample.parquet --annotations annotations.parquet
    """
    from acoustic_env.api import estimate

    found = estimate(arguments.sample, arguments.annotations, arguments.clips)
    show(arguments, plain(found), *_describe(found))


def _describe(found: dict[str, Any]) -> list[str]:
    """Return an estimate as lines of text."""
    chosen, unsure, annotators = found["preferred"], found["unsure"], found["annotators"]
    lines = [
        f"{found['answered']:,} of {found['drawn']:,} rows answered, design {found['design']}",
        f"label accuracy  {found['overall'][chosen]}",
    ]
    lines += [f"                {interval}" for name, interval in found["overall"].items() if name != chosen]
    lines += [f"  {label}: {estimates[chosen]}" for label, estimates in found["labels"].items()]
    if found["without_answer"]:
        lines.append(f"without an answer: {found['without_answer']:,} rows")
    if unsure["rows"]:
        low, high = unsure["if all wrong"].estimate, unsure["if all right"].estimate
        lines.append(f"unsure: {unsure['rows']:,} rows; accuracy {low:.3f} if all were wrong, {high:.3f} if all right")
    lines.append("annotators: " + ", ".join(f"{name} {n:,}" for name, n in annotators["answers"].items()))
    measured = {**annotators["agreement"], **annotators}
    for name in ("krippendorff_alpha", "gwet_ac1", "self_agreement", "corrected", "dawid_skene"):
        value = measured.get(name)
        if value is not None and getattr(value, "n", True):  # agreement needs two annotators, a correction gold rows
            lines.append(f"  {name}: {value}")
    for part, quality in found["ranking"].items():
        lines.append(f"ranking, {part}: precision {quality['precision']}; recall {quality['recall']}")
    return lines
