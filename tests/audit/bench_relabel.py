"""The promise of automatic relabeling, by simulation through `relabel` and on planted errors in the real embeddings.

    python -m tests.audit.bench_relabel [--runs 20] [--rows 2000]     every cell, table of README, section 4
    ACOUSTIC_ENV_TEST_DATA=... python -m tests.audit.bench_relabel --real [--plantings 3]

A cell is an error rate, the AUC of the ranking, a number of answers, a design, a kind of error and a side (labels given
and dropped, or missing and added). A run breaks its promise when of the labels changed without an answer a smaller
share than `precision` is right. With a promise broken in 5 % of runs, the number broken in R runs exceeds
`allowed(R)` once in a thousand cells.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binom

from acoustic_env.audit.relabel import applies, relabel
from acoustic_env.options import Design, RelabelSettings
from tests.audit.planted import Errors, answered, drawn, planted

RATES = (0.02, 0.05, 0.1, 0.2, 0.3)
AUCS = (0.7, 0.8, 0.9, 0.95, 0.99)
SIZES = (100, 200, 500, 1000)
ERRORS: tuple[Errors, ...] = ("uniform", "ambiguous")
DESIGNS: tuple[Design, ...] = ("simple", "stratified", "unequal")
SIDES = (True, False)


@dataclass(frozen=True)
class Cell:
    """One condition."""

    rate: float
    auc: float
    n: int
    errors: Errors
    design: Design
    given: bool


@dataclass
class Tally:
    """What happened in the runs of one or more cells.

    Attributes:
        runs: all; `decided` those with automatic changes, `broken` those of them that broke the promise, `kept_badly`
            those whose automatic keeps did, `worse` those with a lower accuracy after than before.
        changed, right: automatic changes and those of them that are right; `wrong_labels` errors without an answer.
    """

    runs: int = 0
    decided: int = 0
    broken: int = 0
    kept_badly: int = 0
    worse: int = 0
    changed: int = 0
    right: int = 0
    wrong_labels: int = 0
    gain: list[float] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def cells() -> Iterator[Cell]:
    """Every condition."""
    yield from itertools.starmap(Cell, itertools.product(RATES, AUCS, SIZES, ERRORS, DESIGNS, SIDES))


def run_cell(cell: Cell, runs: int, rows: int = 2000, settings: RelabelSettings | None = None) -> Tally:
    """Simulate one condition; the same seeds for every condition."""
    settings = settings or RelabelSettings()
    tally = Tally()
    for seed in range(runs):
        ranked, truth = planted(rows, cell.rate, cell.auc, cell.errors, seed, cell.given)
        sample = drawn(ranked, cell.n, cell.design, seed)
        tally.add(judge(relabel(ranked, answered(sample, truth), sample, settings), truth, settings.precision))
    return tally


def judge(labels: pa.Table, truth: np.ndarray, precision: float) -> Tally:
    """What one relabeling did.

    Args:
        labels: from `relabel`.
        truth: [rows] whether the label applies.
        precision: promised.
    """
    given, now = np.asarray(labels["given"]), applies(labels)
    alone = np.asarray(labels["votes"].is_null())
    changed, kept = alone & (now != given), alone & (np.asarray(labels["action"].to_pylist()) == "keep")
    right = now == truth
    few = changed.any() and right[changed].mean() < precision
    badly = kept.any() and right[kept].mean() < precision
    before, after = float((given == truth).mean()), float(right.mean())
    return Tally(
        1, int(changed.any()), int(few), int(badly), int(after < before), int(changed.sum()),
        int((right & changed).sum()), int((alone & (given != truth)).sum()), [after - before],
    )  # fmt: skip


def allowed(runs: int, chance: float = 0.05, cells_wrong: float = 1e-3) -> int:
    """Most broken runs of a cell whose promise is broken with at most `chance`, exceeded with `cells_wrong`."""
    return int(binom.isf(cells_wrong, runs, chance))


def table(tallies: dict[Cell, Tally]) -> str:
    """Markdown: a row for each number of answers and design, over all other conditions."""
    lines = [
        "| answers | design | runs with changes | promise broken | worst cell | changes right | errors repaired |",
        "|---|---|---|---|---|---|---|",
    ]
    for n, design in itertools.product(SIZES, DESIGNS):
        some = {cell: tally for cell, tally in tallies.items() if (cell.n, cell.design) == (n, design)}
        whole = Tally()
        for tally in some.values():
            whole.add(tally)
        if whole.runs:
            worst = max(some.values(), key=lambda tally: tally.broken / tally.runs)
            share = f"{whole.right / whole.changed:.3f}" if whole.changed else "–"
            lines.append(
                f"| {n:,} | {design} | {whole.decided / whole.runs:.3f} | {whole.broken / whole.runs:.4f} | "
                f"{worst.broken} of {worst.runs} | {share} | {whole.right / max(whole.wrong_labels, 1):.3f} |"
            )
    return "\n".join(lines)


def simulate(runs: int, rows: int) -> int:
    """Run and print every cell; returns how many cells break the promise beyond chance."""
    tallies, whole = {}, Tally()
    for cell in cells():
        tallies[cell] = run_cell(cell, runs, rows)
        whole.add(tallies[cell])
        print(cell, tallies[cell].broken, tallies[cell].decided, file=sys.stderr, flush=True)
    print(table(tallies))
    bad = sum(tally.broken > allowed(runs) or tally.kept_badly > allowed(runs) for tally in tallies.values())
    print(
        f"\n{len(tallies):,} cells of {runs} runs, {rows:,} labels: promise broken in {whole.broken} of {whole.runs:,} "
        f"runs ({whole.kept_badly} for keeps), in {bad} cells beyond chance; accuracy lower after in {whole.worse} "
        f"runs; mean gain {np.mean(whole.gain):+.4f}, least {min(whole.gain):+.4f}"
    )
    return bad


def real(plantings: int, rates: tuple[float, ...] = (0.05, 0.1), n: int = 200) -> None:
    """Planted errors in the released embeddings, ranked by `audit rank`'s rounds, with 200 perfect answers."""
    from acoustic_env.audit import rank as ranking
    from acoustic_env.audit.posterior import predict_out_of_fold
    from acoustic_env.audit.scorers import LabeledClips, load_scorer
    from acoustic_env.config import AuditSettings
    from tests.audit import bench_planted
    from tests.audit.planted import plant_errors

    study = bench_planted.released_embeddings(Path(os.environ["ACOUSTIC_ENV_TEST_DATA"]))
    settings = AuditSettings()
    ids = [f"clip{i:05d}" for i in range(len(study.truth))]
    clean = ranking.prepare(ids, study.x, study.truth, study.groups, settings)
    target = np.eye(2)[study.truth]
    labeled = LabeledClips(clean.features, target, True, clean.folds, clean.neighborhood, settings.seed)
    known = predict_out_of_fold(partial(load_scorer("logistic"), labeled), clean.folds, 2)[:, 1]
    print("| errors | planting | design | drops | right | keeps | right | accuracy before | after |")
    print("|---|---|---|---|---|---|---|---|---|")
    for errors, rate, planting in itertools.product(ERRORS, rates, range(plantings)):
        rng = np.random.default_rng([planting, round(rate * 100)])
        ambiguity = 1.0 - np.abs(2.0 * known - 1.0) if errors == "ambiguous" else None
        given, _ = plant_errors(study.truth, rate, rng, ambiguity)
        ranked, _ = ranking.rank_exclusive(
            ranking.prepare(ids, study.x, given, study.groups, settings), given, ["nature", "urban"], settings
        )
        if folder := os.environ.get("BENCH_RELABEL_KEEP"):
            import pyarrow.parquet as pq

            pq.write_table(ranked, f"{folder}/{errors}-{rate}-{planting}.parquet")
        for design in DESIGNS:
            print(
                f"| {rate:.0%} {errors} | {planting + 1} | {design} | {_real_row(ranked, study.truth, design, n)} |",
                flush=True,
            )


def _real_row(ranked: pa.Table, classes: np.ndarray, design: Design, n: int) -> str:
    from acoustic_env.audit.sample import draw_sample
    from acoustic_env.options import SampleSettings

    def truth_of(table: pa.Table) -> np.ndarray:
        clips = [int(clip_id[4:]) for clip_id in table["clip_id"].to_pylist()]
        return np.array(["nature", "urban"])[classes[clips]] == np.array(table["label"].to_pylist())

    sample = draw_sample(ranked, SampleSettings(n=n, design=design, repeat=0.0))
    at_rows = sample.set_column(0, "clip_id", pa.array([f"given{i:05d}" for i in range(sample.num_rows)]))
    annotations = answered(at_rows, truth_of(sample)).set_column(0, "clip_id", sample["clip_id"])
    labels = relabel(ranked, annotations, sample, RelabelSettings())
    labels = labels.filter(labels["given"])
    right, alone = applies(labels) == truth_of(labels), np.asarray(labels["votes"].is_null())
    actions = np.array(labels["action"].to_pylist())
    parts = []
    for action in ("drop", "keep"):
        decided = alone & (actions == action)
        parts += [f"{decided.sum():,}", f"{right[decided].mean():.3f}" if decided.any() else "–"]
    return " | ".join([*parts, f"{truth_of(labels).mean():.4f}", f"{right.mean():.4f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description="whether automatic relabeling keeps its promise")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--real", action="store_true", help="planted errors in the released embeddings")
    parser.add_argument("--plantings", type=int, default=3)
    arguments: Any = parser.parse_args()
    if arguments.real:
        real(arguments.plantings)
    else:
        sys.exit(simulate(arguments.runs, arguments.rows) > 0)


if __name__ == "__main__":
    main()
