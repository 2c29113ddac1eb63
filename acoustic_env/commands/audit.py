"""`acoustic-env audit`: rank labels, plan and draw samples to listen to, estimate, adjust, relabel, score."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from acoustic_env.commands import audit_labels, audit_listen, audit_rank
from acoustic_env.commands.arguments import RenamedOption, url
from acoustic_env.commands.audit_form import add_command, plain, ranked_table

PLAN = """\
How many clip-label rows to listen to for an interval of a wanted half-width, by design."""

SAMPLE = """\
Draw a probability sample of ranked rows to listen to. Every inclusion probability is stored, the frame is hashed, gold
and repeated clips are mixed in, and the same seed draws the same sample."""

ESTIMATE = """\
Label accuracy from a listened sample, overall and per class, with intervals valid for its design; agreement of the
annotators; precision and recall of the ranking."""

ADJUST = """\
What an AUC or accuracy against noisy labels would be against true ones, only if the assumption behind the correction
holds: an impossible value is refused with the reason. Dividing by a label accuracy is never right.

With gold clips (test clips whose truth is known) the assumption itself is tested: that predictions and label errors are
independent given the truth. A corrected value is refused when the test rejects it at 5 %, and the metric on the gold
clips themselves, which assumes nothing, stands beside it. The gold table has a row for each clip: predicted, given and
truth (0 or 1), and, where known, score, inclusion_probability and group."""

EXAMPLES: Final[Mapping[str, str]] = {
    "plan": "  acoustic-env audit plan --half-width 0.05\n"
    "  acoustic-env audit plan --half-width 0.05 --ranked ranked.parquet --json",
    "sample": "  acoustic-env audit sample --ranked ranked.parquet --n 200 --design stratified --out sample.parquet",
    "estimate": "  acoustic-env audit estimate --sample sample.parquet --annotations annotations.parquet",
    "adjust": "  acoustic-env audit adjust --auc 0.766 --rates 0.721,0.721 --clips 122,121 "
    "--positive 42/50 --negative 32/50\n"
    "  acoustic-env audit adjust --auc 0.766 --clips 122,121 --positive 42/50 --negative 32/50 --gold gold.csv --json",
}


def add_parsers(subparsers: Any) -> None:
    """The `audit` commands."""
    group = subparsers.add_parser("audit")
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    audit_rank.add_parser(commands)
    parser = add_command(commands, "plan", "how many clips to listen to", PLAN, EXAMPLES["plan"], plan_listening)
    parser.add_argument("--half-width", type=float, required=True, metavar="H", help="of the interval, such as 0.05")
    parser.add_argument("--accuracy", type=float, default=0.74, metavar="P", help="expected label accuracy (0.74)")
    parser.add_argument(
        "--ranked", type=url, metavar="FILE", help="ranked table: plans for this frame and every design"
    )
    parser = add_command(commands, "sample", "draw a sample to listen to", SAMPLE, EXAMPLES["sample"], draw)
    parser.add_argument("--ranked", type=url, required=True, metavar="FILE", help="ranked table")
    parser.add_argument(
        "--n", type=int, required=True, metavar="N", help="rows to draw; gold and repeated rows come on top"
    )
    parser.add_argument("--design", choices=("simple", "stratified", "unequal"), default="stratified")
    parser.add_argument("--out", type=url, required=True, metavar="FILE", help="sample to write (Parquet)")
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument(
        "--absent", action="store_true", help="sample labels the list does not give, to find missing ones"
    )
    parser.add_argument(
        "--gold", type=url, metavar="FILE", help="known rows to mix in: clip_id, label, truth (right or wrong)"
    )
    parser.add_argument("--repeat", type=float, default=0.1, metavar="SHARE", help="of rows presented twice (0.1)")
    parser = add_command(
        commands, "estimate", "label accuracy from a listened sample", ESTIMATE, EXAMPLES["estimate"], estimate_accuracy
    )
    parser.add_argument("--sample", type=url, required=True, metavar="FILE")
    parser.add_argument("--annotations", type=url, required=True, metavar="FILE")
    parser.add_argument("--verdicts", action=RenamedOption, const="--annotations")
    parser.add_argument("--clips", type=url, metavar="LIST", help="clip list: clips of one group count as dependent")
    parser = add_command(
        commands, "adjust", "noise-adjusted metrics, or why not", ADJUST, EXAMPLES["adjust"], adjust_metrics
    )
    parser.add_argument("--auc", type=float, metavar="AUC", help="against given labels")
    parser.add_argument("--rates", type=_pair, metavar="TPR,TNR", help="true positive and negative rate, given labels")
    parser.add_argument("--clips", type=_pair, required=True, metavar="P,N", help="test clips given positive, negative")
    parser.add_argument(
        "--positive", type=_counts, required=True, metavar="K/N", help="right of annotated, given positive"
    )
    parser.add_argument(
        "--negative", type=_counts, required=True, metavar="K/N", help="right of annotated, given negative"
    )
    parser.add_argument(
        "--gold", type=url, metavar="FILE", help="test clips whose truth is known: tests the assumption"
    )
    audit_listen.add_parser(commands)
    audit_labels.add_parsers(commands)


def plan_listening(arguments: argparse.Namespace) -> int:
    """How many clips to listen to; see PLAN."""
    from acoustic_env.audit.plan import plan

    ranked = ranked_table(arguments.ranked) if arguments.ranked else None
    plans = plan(arguments.half_width, arguments.accuracy, ranked)
    if arguments.json:
        print(json.dumps([asdict(found) for found in plans]))
        return 0
    print(f"rows to listen to for +-{arguments.half_width:g} at 95 %:")
    for found in plans:
        scope = "each class" if found.per_class else "overall"
        print(f"  {found.n:>7,}  {found.design:<10}  {scope:<10}  {found.note}")
    return 0


def draw(arguments: argparse.Namespace) -> int:
    """Draw a sample to listen to; see SAMPLE."""
    from acoustic_env.audit.sample import SampleSettings, draw_sample
    from acoustic_env.audit.table import read_table, write_table
    from acoustic_env.errors import UsageError

    if not 0.0 <= arguments.repeat <= 1.0:
        msg = f"--repeat {arguments.repeat:g}: it is a share, between 0 and 1"
        raise UsageError(msg)
    settings = SampleSettings(arguments.n, arguments.design, arguments.seed, arguments.absent, arguments.repeat)
    gold = read_table(arguments.gold) if arguments.gold else None
    sample = draw_sample(ranked_table(arguments.ranked), settings, gold)
    write_table(sample, arguments.out)
    roles = sample.column("role").to_pylist()
    counts = {role: roles.count(role) for role in ("sample", "gold", "repeat")}
    frame_hash = sample.column("frame_hash")[0].as_py()
    if arguments.json:
        print(json.dumps({"out": arguments.out, "design": arguments.design, "frame_hash": frame_hash, **counts}))
        return 0
    print(
        f"{arguments.out}: {counts['sample']:,} rows ({arguments.design}), {counts['gold']:,} gold, "
        f"{counts['repeat']:,} repeats; frame {frame_hash}"
    )
    return 0


def estimate_accuracy(arguments: argparse.Namespace) -> int:
    """Label accuracy from a listened sample; see ESTIMATE."""
    from acoustic_env.audit.annotations import check_annotations
    from acoustic_env.audit.estimate import estimate
    from acoustic_env.audit.table import read_table
    from acoustic_env.clips.table import read_clips

    sample = read_table(arguments.sample)
    annotations = check_annotations(read_table(arguments.annotations), arguments.annotations)
    groups = None
    if arguments.clips:
        clips = read_clips(arguments.clips)
        groups = dict(zip(clips.column("clip_id").to_pylist(), clips.column("group").to_pylist(), strict=True))
    found = estimate(sample, annotations, arguments.sample, groups)
    if arguments.json:
        print(json.dumps(plain(found)))
        return 0
    chosen = found["preferred"]
    print(f"{found['answered']:,} of {found['drawn']:,} rows answered, design {found['design']}")
    print(f"label accuracy  {found['overall'][chosen]}")
    for name, interval in found["overall"].items():
        if name != chosen:
            print(f"                {interval}")
    for label, estimates in found["labels"].items():
        print(f"  {label}: {estimates[chosen]}")
    if found["without_answer"]:
        print(f"without an answer: {found['without_answer']:,} rows")
    if found["unsure"]["rows"]:
        low, high = found["unsure"]["if all wrong"].estimate, found["unsure"]["if all right"].estimate
        print(f"unsure: {found['unsure']['rows']:,} rows; had they all been wrong {low:.3f}, all right {high:.3f}")
    print("annotators: " + ", ".join(f"{name} {n:,}" for name, n in found["annotators"]["answers"].items()))
    measured = {**found["annotators"]["agreement"], **found["annotators"]}
    for name in ("krippendorff_alpha", "gwet_ac1", "with_themselves", "corrected", "dawid_skene"):
        value = measured.get(name)
        if value is not None and getattr(value, "n", True):  # agreement needs two annotators, a correction gold rows
            print(f"  {name}: {value}")
    for part, quality in found["ranking"].items():
        print(f"ranking, {part}: precision {quality['precision']}; recall {quality['recall']}")
    return 0


def adjust_metrics(arguments: argparse.Namespace) -> int:
    """Noise-adjusted metrics, or why not; see ADJUST."""
    from acoustic_env.audit.adjusted import (
        AnnotatedCounts,
        adjusted_auc,
        adjusted_balanced_accuracy,
        gold_auc,
        gold_balanced_accuracy,
        independence_test,
        read_gold,
    )
    from acoustic_env.audit.table import read_table
    from acoustic_env.errors import UsageError

    gold = read_gold(read_table(arguments.gold), arguments.gold) if arguments.gold else None
    tested = None if gold is None else independence_test(gold.predicted, gold.given, gold.truth)
    positive, negative = AnnotatedCounts(*arguments.positive), AnnotatedCounts(*arguments.negative)
    clips = (int(arguments.clips[0]), int(arguments.clips[1]))
    found = []
    if arguments.auc is not None:
        direct = None
        if gold is not None and gold.score is not None:
            direct = gold_auc(gold.score, gold.truth, gold.inclusion, gold.groups, seed=23)
        found.append(adjusted_auc(arguments.auc, clips, positive, negative, independence_p=tested, gold=direct))
    if arguments.rates is not None:
        direct = None if gold is None else gold_balanced_accuracy(gold)
        found.append(
            adjusted_balanced_accuracy(arguments.rates, clips, positive, negative, independence_p=tested, gold=direct)
        )
    if not found:
        msg = "nothing to adjust: give --auc or --rates"
        raise UsageError(msg)
    if arguments.json:
        print(json.dumps(plain([asdict(one) for one in found])))
        return 0
    for one in found:
        print(one)
    return 0


def _pair(text: str) -> tuple[float, float]:
    first, _, second = text.partition(",")
    try:
        return float(first), float(second)
    except ValueError as error:
        msg = f"{text!r} is not two numbers with a comma between them"
        raise argparse.ArgumentTypeError(msg) from error


def _counts(text: str) -> tuple[int, int]:
    right, _, annotated = text.partition("/")
    if not (right.isdigit() and annotated.isdigit() and 0 <= int(right) <= int(annotated) and int(annotated) > 0):
        msg = f"{text!r} is not right/annotated, such as 42/50"
        raise argparse.ArgumentTypeError(msg)
    return int(right), int(annotated)
