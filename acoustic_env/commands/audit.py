"""`acoustic-env audit`: rank labels, plan and draw samples, annotate, estimate, adjust, relabel, score."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any, Final

from acoustic_env.commands import audit_labels, audit_listen, audit_rank
from acoustic_env.commands.arguments import RenamedOption, add_command, add_settings, settings_of, show, url
from acoustic_env.commands.audit_form import plain, ranked_table
from acoustic_env.options import SampleSettings

PLAN: Final = "Compute how many clip-label rows to annotate for an interval of a wanted half-width, by design."

SAMPLE: Final = """\
Draw a probability sample of ranked rows to annotate. Every inclusion probability is stored, the frame is hashed, gold
and repeated clips are mixed in, and the same seed draws the same sample."""

ESTIMATE: Final = """\
Estimate label accuracy from an annotated sample, overall and per class, with intervals valid for its design; report the
agreement of the annotators and precision and recall of the ranking."""

ADJUST: Final = """\
Compute what an AUC or accuracy against noisy labels would be against true ones, only where the assumption behind the
correction holds: an impossible value is refused with the reason. Dividing by a label accuracy is never right.

With gold clips (test clips whose truth is known) the assumption itself is tested: that predictions and label errors are
independent given the truth. A corrected value is refused when the test rejects it at 5 %, and the metric on the gold
clips themselves, which assumes nothing, is printed with it. The gold table has a row for each clip: predicted, given
and truth (0 or 1), and, where known, score, inclusion_probability and group."""

PLANS: Final = """\
  acoustic-env audit plan --half-width 0.05
  acoustic-env audit plan --half-width 0.05 --ranked ranked.parquet --json"""
SAMPLES: Final = """\
  acoustic-env audit sample --ranked ranked.parquet --n 200 --design stratified --out sample.parquet"""
ESTIMATES: Final = """\
  acoustic-env audit estimate --sample sample.parquet --annotations annotations.parquet"""
ADJUSTED: Final = """\
  acoustic-env audit adjust --auc 0.766 --rates 0.721,0.721 --num-clips 122,121 --positive 42/50 --negative 32/50
  acoustic-env audit adjust --auc 0.766 --num-clips 122,121 --positive 42/50 --negative 32/50 --gold gold.csv --json"""


def add_parsers(subparsers: Any) -> None:
    group = subparsers.add_parser("audit")
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    audit_rank.add_parser(commands)
    add = add_command(commands, "plan", plan_sample, PLAN, PLANS, line="how many clips to annotate").add_argument
    add("--half-width", type=float, required=True, metavar="H", help="Half-width of the 95 %% interval, such as 0.05.")
    add("--accuracy", type=float, default=0.74, metavar="P", help="Expected label accuracy. Default: %(default)s.")
    add("--ranked", type=url, metavar="FILE", help="Ranked table: plan for its rows and every design.")
    parser = add_command(commands, "sample", draw, SAMPLE, SAMPLES, line="draw a sample to annotate")
    add = parser.add_argument
    add("--ranked", type=url, required=True, metavar="FILE", help="Ranked table.")
    add("--out", type=url, required=True, metavar="FILE", help="Sample to write (Parquet).")
    add("--gold", type=url, metavar="FILE", help="Known rows to mix in: clip_id, label, truth (right or wrong).")
    add_settings(parser, SampleSettings, n={"required": True}, repeat={"metavar": "SHARE"})
    line = "label accuracy from an annotated sample"
    add = add_command(commands, "estimate", estimate_accuracy, ESTIMATE, ESTIMATES, line=line).add_argument
    add("--sample", type=url, required=True, metavar="FILE", help="Sample of `audit sample`.")
    add("--annotations", type=url, required=True, metavar="FILE", help="Answers written by `audit listen`.")
    add("--verdicts", action=RenamedOption, const="--annotations")
    add(
        "--clips", type=url, metavar="LIST", help="Clip list or folder of audio: clips of one group count as dependent."
    )
    line = "noise-adjusted metrics, or why not"
    add = add_command(commands, "adjust", adjust_metrics, ADJUST, ADJUSTED, line=line).add_argument
    add("--auc", type=float, metavar="AUC", help="AUC against given labels.")
    add("--rates", type=_pair, metavar="TPR,TNR", help="True positive and true negative rate against given labels.")
    add("--num-clips", type=_pair, required=True, metavar="P,N", help="Test clips given positive and negative.")
    add("--clips", action=RenamedOption, const="--num-clips")
    counts = "Right answers and all answers about clips given {}, such as 42/50."
    for side in ("positive", "negative"):
        add(f"--{side}", type=_counts, required=True, metavar="K/N", help=counts.format(side))
    add("--gold", type=url, metavar="FILE", help="Test clips whose truth is known; tests the assumption.")
    audit_listen.add_parser(commands)
    audit_labels.add_parsers(commands)


def plan_sample(arguments: argparse.Namespace) -> None:
    """Print how many rows to annotate; see PLAN."""
    from acoustic_env.audit.plan import plan

    ranked = ranked_table(arguments.ranked) if arguments.ranked else None
    plans = plan(arguments.half_width, arguments.accuracy, ranked)
    lines = [f"rows to annotate for +-{arguments.half_width:g} at 95 %:"]
    for found in plans:
        scope = "each class" if found.per_class else "overall"
        lines.append(f"  {found.n:>7,}  {found.design:<10}  {scope:<10}  {found.note}")
    show(arguments, [asdict(found) for found in plans], *lines)


def draw(arguments: argparse.Namespace) -> None:
    """Draw a sample to annotate; see SAMPLE."""
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
    """Print label accuracy from an annotated sample; see ESTIMATE."""
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


def adjust_metrics(arguments: argparse.Namespace) -> None:
    """Print noise-adjusted metrics, or why not; see ADJUST."""
    from acoustic_env.audit import adjusted as a
    from acoustic_env.audit.table import read_table
    from acoustic_env.errors import UsageError

    if arguments.auc is None and arguments.rates is None:
        raise UsageError("nothing to adjust: give --auc or --rates")
    gold = a.read_gold(read_table(arguments.gold), arguments.gold) if arguments.gold else None
    tested = None if gold is None else a.independence_test(gold.predicted, gold.given, gold.truth)
    positive, negative = a.AnnotatedCounts(*arguments.positive), a.AnnotatedCounts(*arguments.negative)
    clips = (int(arguments.num_clips[0]), int(arguments.num_clips[1]))
    found = []
    if arguments.auc is not None:
        direct = None
        if gold is not None and gold.score is not None:
            direct = a.gold_auc(gold.score, gold.truth, gold.inclusion, gold.groups, seed=23)
        found.append(a.adjusted_auc(arguments.auc, clips, positive, negative, independence_p=tested, gold=direct))
    if arguments.rates is not None:
        direct = None if gold is None else a.gold_balanced_accuracy(gold)
        found.append(
            a.adjusted_balanced_accuracy(arguments.rates, clips, positive, negative, independence_p=tested, gold=direct)
        )
    show(arguments, plain([asdict(one) for one in found]), *map(str, found))


def _pair(text: str) -> tuple[float, float]:
    first, _, second = text.partition(",")
    try:
        return float(first), float(second)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers with a comma between them") from error


def _counts(text: str) -> tuple[int, int]:
    right, _, answers = text.partition("/")
    if not (right.isdigit() and answers.isdigit() and 0 <= int(right) <= int(answers) and int(answers) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected right answers / answers, such as 42/50")
    return int(right), int(answers)
