"""Planted label errors, in the released AudioSet embeddings or in synthetic scenes: our ranking beside cleanlab's.

    ACOUSTIC_ENV_TEST_DATA=... python -m tests.audit.bench_planted [--plantings 3] [--cells uniform:0.05,...]
    python -m tests.audit.bench_planted --scenes demo-out [--plantings 5]
    ACOUSTIC_ENV_TEST_DATA=... python -m tests.audit.bench_planted --frames [--cells uniform:0.05,...]

The 3,965 balanced-train clips of recipe `urban-nature-ontology` (mean and standard deviation over frames), or the
scenes of a finished demo, whose truth is known whatever labels the demo gave them. Errors are planted uniformly, or in
proportion to 1 - |2p - 1| of a logistic regression that knows the true labels. cleanlab ranks by self-confidence (its
default) on the same out-of-fold probabilities of every scorer, and on their mean. `ceiling` is our ranking learned
from the true labels. Since AudioSet's own labels have errors, no ranking can reach 1 there. Intervals are clip
bootstraps pooled over the plantings, those of `ours ahead by` of the paired difference.

With `--frames`, the recipe's scorers with `attention` on the 10 x 128 frames beside the same without, both pooled from
the same predictions.

The last table is the other proof: the error rate that the most suspicious suggest, and that of as many sampled.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from acoustic_env.audit import rank as ranking
from acoustic_env.audit.check import label_quality
from acoustic_env.audit.designs import stratified
from acoustic_env.audit.intervals import from_variance, wilson
from acoustic_env.audit.posterior import predict_out_of_fold, score_posterior
from acoustic_env.audit.sample import allocate, score_strata
from acoustic_env.audit.scorers import LabeledClips, Scorer, load_scorer
from acoustic_env.config import AuditSettings
from acoustic_env.models.data.frames import Sequences
from tests.audit.planted import plant_errors

RATES = (0.05, 0.1, 0.2, 0.3)
BOOTSTRAP = 200


@dataclass
class Result:
    """One planting: which labels are wrong, and every ranking's quality (low = suspect)."""

    wrong: np.ndarray
    quality: dict[str, np.ndarray]


@dataclass(frozen=True)
class Study:
    """What errors are planted in.

    Attributes:
        x: float32 [clips, features].
        truth: [clips] class 0 or 1, taken for true.
        groups: [clips].
        frames: of the clips, where they are read.
    """

    x: np.ndarray
    truth: np.ndarray
    groups: np.ndarray
    frames: Sequences | None = None


def released_embeddings(data: Path, *, frames: bool) -> Study:
    """The ontology groups in the released embeddings, through the public commands."""
    from acoustic_env.cli import main

    with tempfile.TemporaryDirectory() as folder:
        clips, store = f"{folder}/clips.parquet", f"{folder}/store"
        code = main(
            ["clips", "from-audioset-embeddings", str(data / "audioset/embeddings/bal_train"), "--segments",
             str(data / "audioset/balanced_train_segments.csv"), "--recipe", "urban-nature-ontology", "--out", clips,
             "--store", store]
        )  # fmt: skip
        if code:
            sys.exit(code)
        return read_study(clips, store, "urban-nature-ontology", frames=frames)


def scenes(demo: Path) -> Study:
    """The scenes of a finished demo with the labels that are true."""
    from acoustic_env.audit.table import read_table

    study = read_study(str(demo / "scenes/clips.parquet"), str(demo / "features"), "scenes")
    truth = read_table(str(demo / "scenes/truth.parquet")).column("label").to_pylist()
    return replace(study, truth=np.array([label == "urban" for label in truth]).astype(np.int64))


def read_study(clips: str, store: str, name: str, *, frames: bool = False) -> Study:
    """Features reduced as the recipe says, given labels and groups of every clip of its study."""
    from acoustic_env.clips.select import class_targets, select
    from acoustic_env.clips.table import read_clips
    from acoustic_env.io.documents import load_recipe
    from acoustic_env.models.data.matrix import load_frames, load_matrix
    from acoustic_env.store.feature_store import FeatureStore

    recipe = load_recipe(name)
    selection = select(read_clips(clips), recipe)
    targets = class_targets(selection.clips, recipe)
    matrix = load_matrix(FeatureStore(store), targets.clip_ids, list(recipe.blocks), recipe.signals)
    features = ranking.reduce_blocks(matrix.values, matrix.columns, recipe.reduction)
    groups = np.asarray(selection.clips.column("group").to_pylist())
    read = (FeatureStore(store), targets.clip_ids, list(recipe.blocks), recipe.signals)
    return Study(features, targets.y, groups, load_frames(*read).values if frames else None)


def prepared(study: Study, given: np.ndarray, settings: AuditSettings) -> ranking.Clips:
    clips = ranking.prepare([str(i) for i in range(len(given))], study.x, given, study.groups, settings)
    return replace(clips, sequences=study.frames)


def judge(study: Study, given: np.ndarray, clean: np.ndarray) -> Result:
    """Rank one planting by every method."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    settings = AuditSettings()
    belief = ranking.score_labels(prepared(study, given, settings), given, 2, settings)
    rows = np.arange(len(given))
    quality = {"ours": belief.posterior[rows, given]}
    scorers = {check.name: label_quality(check.score, given) for check in belief.checks}
    scorers["mean of scorers"] = np.mean(list(scorers.values()), axis=0)
    for name, probabilities in scorers.items():
        quality[f"cleanlab, {name}"] = get_label_quality_scores(given, probabilities)
    mean = scorers["mean of scorers"]
    issues = find_label_issues(given, mean, return_indices_ranked_by="self_confidence", n_jobs=1)
    pruned = get_label_quality_scores(given, mean) + 1.0
    pruned[issues] = np.linspace(0.0, 0.9, len(issues))
    quality["cleanlab, find_label_issues of mean"] = pruned
    quality["ceiling"] = clean[rows, given]
    return Result(given != study.truth, quality)


def judge_frames(study: Study, given: np.ndarray) -> Result:
    """Rank one planting with and without attention on frames."""
    settings = AuditSettings()
    clips = prepared(study, given, settings)
    labeled = LabeledClips(
        clips.features, np.eye(2)[given], True, clips.folds, clips.neighborhood, settings.seed, clips.sequences
    )
    scorers = {name: remembered(load_scorer(name)) for name in (*settings.scorers, "attention")}
    found = score_posterior(labeled, scorers)
    without = score_posterior(labeled, {name: scorers[name] for name in settings.scorers})
    probabilities = {"with attention": found.pooled, "without": without.pooled}
    probabilities |= {f"{name} alone": own for name, own in zip(scorers, found.own, strict=True)}
    rows = np.arange(len(given))
    return Result(given != study.truth, {name: each[rows, given] for name, each in probabilities.items()})


def remembered(scorer: Scorer) -> Scorer:
    """The scorer, which does not learn the same clips twice."""
    known: dict[bytes, np.ndarray] = {}

    def score(clips: LabeledClips, train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        key = train.tobytes() + held_out.tobytes()
        if key not in known:
            known[key] = scorer(clips, train, held_out)
        return known[key]

    return score


def average_precision(wrong: np.ndarray, quality: np.ndarray, weights: np.ndarray | None = None) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(wrong, -quality, sample_weight=weights))


def tops_of(clips: int) -> tuple[int, int]:
    """How many of the most suspicious are counted: 100 and 200, of few clips an eighth at most."""
    most = min(200, clips // 8)
    return most // 2, most


def report(cell: tuple[str, float], results: list[Result]) -> None:
    """Print one cell's rows."""
    names = list(results[0].quality)
    rng = np.random.default_rng(0)
    clips = len(results[0].wrong)
    draws = rng.multinomial(clips, np.full(clips, 1 / clips), size=BOOTSTRAP)
    scores = {n: np.mean([average_precision(r.wrong, r.quality[n]) for r in results]) for n in names}
    again = {
        n: np.array([np.mean([average_precision(r.wrong, r.quality[n], w) for r in results]) for w in draws])
        for n in names
    }
    print(f"\n{cell[0]} {cell[1]:.0%}, {len(results)} plantings", flush=True)
    for name in names:
        tops = []
        for k in tops_of(clips):
            hits = sum(int(r.wrong[np.argsort(r.quality[name], kind="stable")[:k]].sum()) for r in results)
            interval = wilson(hits, k * len(results))
            tops.append(f"P@{k} {interval.estimate:.2f} ({interval.low:.2f}-{interval.high:.2f})")
        low, high = np.quantile(again[name], [0.025, 0.975])
        line = f"  {name:<36} AP {scores[name]:.3f} ({low:.3f}-{high:.3f})  {tops[0]}  {tops[1]}"
        if name not in (names[0], "ceiling"):
            low, high = np.quantile(again[names[0]] - again[name], [0.025, 0.975])
            line += f"  {names[0]} ahead by {scores[names[0]] - scores[name]:+.3f} ({low:+.3f} to {high:+.3f})"
        print(line, flush=True)


def suspicious_against_sampled(cell: tuple[str, float], result: Result) -> str:
    """What the most suspicious labels suggest, and what a stratified sample of as many estimates."""
    quality, wrong = result.quality["ours"], result.wrong.astype(float)
    n = tops_of(len(quality))[1]
    top = np.argsort(quality, kind="stable")[:n]
    strata = score_strata(np.zeros(len(quality), dtype=int), quality, n)
    _, index = np.unique(strata.astype(str), return_inverse=True)
    sizes = np.bincount(index)
    share = np.clip(np.bincount(index, weights=quality) / sizes, 0.1, 0.9)
    rng = np.random.default_rng(7)
    counts = []
    for h, drawn in enumerate(allocate(sizes, np.sqrt(share * (1 - share)), n)):
        rows = rng.choice(np.flatnonzero(index == h), drawn, replace=False)
        counts.append((sizes[h], drawn, wrong[rows].sum()))
    sampled = from_variance(*stratified(*np.array(counts, dtype=float).T), n, "stratified")
    naive = wilson(float(wrong[top].sum()), n)
    inside = "yes" if sampled.low <= wrong.mean() <= sampled.high else "NO"
    return (
        f"  {cell[0]:<13}{cell[1]:>4.0%}   truth {wrong.mean():.3f}   most suspicious {n}: {naive.estimate:.3f} "
        f"({naive.low:.3f}-{naive.high:.3f})   sample of {n}: {sampled.estimate:.3f} "
        f"({sampled.low:.3f}-{sampled.high:.3f}), holds the truth: {inside}"
    )


def run_frames(study: Study, plantings: int, cells: list[tuple[str, float]]) -> None:
    """What attention on frames adds."""
    for cell in cells:
        seeds = [np.random.default_rng([planting, round(cell[1] * 100)]) for planting in range(plantings)]
        report(cell, [judge_frames(study, plant_errors(study.truth, cell[1], seed)[0]) for seed in seeds])


def run(study: Study, plantings: int, cells: list[tuple[str, float]]) -> None:
    """The whole benchmark."""
    truth, settings = study.truth, AuditSettings()
    clips = prepared(study, truth, settings)
    clean = ranking.score_labels(clips, truth, 2, settings).posterior

    labeled = LabeledClips(clips.features, np.eye(2)[truth], True, clips.folds, clips.neighborhood, settings.seed)
    knowing = partial(load_scorer("logistic"), labeled)
    ambiguity = 1.0 - np.abs(2.0 * predict_out_of_fold(knowing, clips.folds, 2)[:, 1] - 1.0)
    found: dict[tuple[str, float], list[Result]] = {cell: [] for cell in cells}
    for cell in cells:
        for planting in range(plantings):
            started = time.time()
            rng = np.random.default_rng([planting, round(cell[1] * 100)])
            given, _ = plant_errors(truth, cell[1], rng, ambiguity if cell[0] == "concentrated" else None)
            found[cell].append(judge(study, given, clean))
            best = found[cell][-1]
            print(
                f"planting {planting + 1}, {cell[0]} {cell[1]:.0%}: "
                f"AP {average_precision(best.wrong, best.quality['ours']):.3f}, {time.time() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        report(cell, found[cell])
    print("\nerror rate: the most suspicious against a probability sample")
    for cell, results in found.items():
        print(suspicious_against_sampled(cell, results[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description="our ranking beside cleanlab's default on planted errors")
    parser.add_argument("--plantings", type=int, default=3)
    parser.add_argument(
        "--cells", default=",".join(f"{kind}:{rate}" for kind in ("uniform", "concentrated") for rate in RATES)
    )
    parser.add_argument("--scenes", type=Path, metavar="DEMO", help="folder of a finished demo")
    parser.add_argument("--frames", action="store_true", help="what attention on frames adds, on uniform errors")
    arguments: Any = parser.parse_args()
    cells = [(cell.split(":")[0], float(cell.split(":")[1])) for cell in arguments.cells.split(",")]
    data = os.environ.get("ACOUSTIC_ENV_TEST_DATA")
    if not arguments.scenes and not data:
        sys.exit("set ACOUSTIC_ENV_TEST_DATA to the folder of real data, or name a demo with --scenes")
    if arguments.scenes:
        study = scenes(arguments.scenes)
    else:
        study = released_embeddings(Path(str(data)), frames=arguments.frames)
    (run_frames if arguments.frames else run)(study, arguments.plantings, cells)


if __name__ == "__main__":
    main()
