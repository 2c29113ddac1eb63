"""`acoustic-env bench`: both engines side by side, stage by stage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acoustic_env.pipeline.bench import BenchResult

DESCRIPTION = """\
Measure the reference engine (noisereduce, scikit-maad, soundsig as published) and the fast engine on the same clips in
one run: each clip through one, then the other. Seconds are processor time of one thread, per clip with its three
signals; a ratio is the median over clips. Stage `dsp` is the whole: separation, 60 indices and modulation spectrum;
with it comes what the fast engine costs for clips of 5 to 60 s.

The clips are real ones of 10 s when the environment variable ACOUSTIC_ENV_TEST_DATA names the folder of real data,
otherwise scenes generated for the purpose."""

EPILOG = """\
examples:
  acoustic-env bench
  acoustic-env bench --stages dsp --clips 5 --json"""


def add_parsers(subparsers: Any) -> None:
    """The `bench` command."""
    parser = subparsers.add_parser(
        "bench",
        help="how much faster the fast engine is, stage by stage",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stages", default="", metavar="A,B", help="stages to measure (default: all)")
    parser.add_argument("--clips", type=_positive, default=20, metavar="N", help="clips to measure on (default: 20)")
    parser.add_argument("--json", action="store_true", help="one object for a program to read")
    parser.set_defaults(run=bench)


def bench(namespace: argparse.Namespace) -> int:
    """Measure and print."""
    from acoustic_env.pipeline.bench import run_bench

    stages = [stage.strip() for stage in namespace.stages.split(",") if stage.strip()]
    result = run_bench(stages, namespace.clips, lambda stage: print(f"bench: {stage}", file=sys.stderr))
    print(json.dumps(dataclasses.asdict(result), indent=2) if namespace.json else _table(result))
    return 0


def _table(result: BenchResult) -> str:
    lines = [
        result.machine,
        f"{result.clips} clips of {result.clip_seconds:g} s ({result.source}), one thread, processor time",
        "",
        f"{'stage':<18}{'reference':>14}{'fast':>12}{'ratio':>9}",
        f"{'':<18}{'ms per clip':>14}{'ms per clip':>12}",
    ]
    for stage in result.stages:
        reference, fast = 1e3 * stage.reference_s_per_clip, 1e3 * stage.fast_s_per_clip
        lines.append(f"{stage.stage:<18}{reference:>14.1f}{fast:>12.1f}{stage.ratio:>8.1f}x")
    if result.lengths:
        lines += ["", f"{'dsp, fast, clip of':<32}{'ms per clip':>12}{'ms per s':>9}"]
    for length in result.lengths:
        cost = 1e3 * length.fast_s_per_clip
        lines.append(f"{length.clip_seconds:>16g} s{cost:>26.1f}{cost / length.clip_seconds:>9.1f}")
    return "\n".join(lines)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number
