"""What ranking all 527 classes costs, and whether it finds planted errors as well as one class at a time does.

    ACOUSTIC_ENV_TEST_DATA=... python -m tests.audit.bench_rank527 [--rates 0.05,0.1] [--classes 40]

AudioSet's 20,371 evaluation clips in the released embeddings and recipe `audioset-527`. The cost is that of the command
`audit rank`, as the operating system counts it: processor seconds (user and system), seconds on the clock, peak memory.

Errors are planted in some classes of 100 clips or more: a share of the clips that carry the class lose it and as many
others get it. Average precision is of the planted errors among the given labels and among those not given, pooled over
the classes; the interval is a bootstrap over clips of the difference to every class ranked as a study of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from acoustic_env.audit import rank as ranking
from acoustic_env.commands.arguments import positive
from acoustic_env.config import AuditSettings

BOOTSTRAP = 50
COMMAND = (sys.executable, "-m", "acoustic_env.cli")


def make_study(data: Path, folder: Path) -> None:
    """Clip list and store of the released evaluation embeddings."""
    released = data / "audioset/embeddings/eval"
    segments = data / "audioset/eval_segments.csv"
    options = ["--segments", segments, "--store", folder / "features", "--out", folder / "eval.parquet"]
    subprocess.run([*COMMAND, "clips", "from-audioset-embeddings", released, *options], check=True, capture_output=True)


def measure_command(folder: Path) -> None:
    """Print what `audit rank` costs."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    options = ["--clips", folder / "eval.parquet", "--store", folder / "features", "--recipe", "audioset-527"]
    subprocess.run([*COMMAND, "audit", "rank", *options, "--out", folder / "ranked.parquet"], check=True)
    used, taken = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    size = (folder / "ranked.parquet").stat().st_size / 2**20
    print(
        f"audit rank: {processor:.0f} CPU s, {taken:.0f} s on {len(os.sched_getaffinity(0))} processors, "
        f"peak {used.ru_maxrss / 2**20:.2f} GiB, {size:.0f} MiB of table",
        flush=True,
    )


def prepare_study(folder: Path) -> tuple[ranking.Clips, np.ndarray, AuditSettings]:
    """Clips and given labels as the command prepares them."""
    from acoustic_env.clips.select import class_targets, select
    from acoustic_env.clips.table import read_clips
    from acoustic_env.io.documents import load_recipe
    from acoustic_env.models.data.matrix import load_matrix
    from acoustic_env.store.feature_store import FeatureStore

    recipe = load_recipe("audioset-527")
    selection = select(read_clips(str(folder / "eval.parquet")), recipe)
    targets = class_targets(selection.clips, recipe)
    store = FeatureStore(str(folder / "features"))
    matrix = load_matrix(store, targets.clip_ids, list(recipe.blocks), recipe.signals)
    groups = np.asarray(selection.clips.column("group").to_pylist())
    features = ranking.reduce_blocks(matrix.values, matrix.columns, recipe.reduction)
    return ranking.prepare(targets.clip_ids, features, targets.y, groups, recipe.audit), targets.y, recipe.audit


def plant(truth: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """[clips, classes] labels of which `rate` were moved from a clip that carries the class to one that does not."""
    given = truth.copy()
    for k in range(truth.shape[1]):
        carried = np.flatnonzero(truth[:, k])
        moved = round(rate * len(carried))
        given[rng.choice(carried, moved, replace=False), k] = False
        given[rng.choice(np.flatnonzero(~truth[:, k]), moved, replace=False), k] = True
    return given


def quality_together(clips: ranking.Clips, given: np.ndarray, settings: AuditSettings) -> np.ndarray:
    names = [str(k) for k in range(given.shape[1])]
    tables = (table for table, _ in ranking.rank_multilabel(clips, given, names, settings))
    return np.stack([table.sort_by("clip_id").column("quality").to_numpy() for table in tables], axis=1)


def quality_alone(clips: ranking.Clips, given: np.ndarray, settings: AuditSettings) -> np.ndarray:
    found = []
    for k in range(given.shape[1]):
        belief = ranking.score_labels(clips, given[:, k].astype(np.int64), 2, settings)
        quality = belief.posterior[np.arange(len(given)), given[:, k].astype(np.int64)]
        found.append(quality[np.argsort(clips.clip_ids)])
    return np.stack(found, axis=1)


def compare(clips: ranking.Clips, truth: np.ndarray, rate: float, settings: AuditSettings) -> None:
    """Print average precision of both ways on labels with planted errors."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng([1, round(rate * 100)])
    planted = plant(truth, rate, rng)
    ways = [quality_together(clips, planted, settings), quality_alone(clips, planted, settings)]
    order = np.argsort(clips.clip_ids)
    given, wrong = planted[order], (planted != truth)[order]
    draws = rng.multinomial(len(given), np.full(len(given), 1 / len(given)), size=BOOTSTRAP)
    for name, part in (("given", given), ("not given", ~given)):

        def precision(way: np.ndarray, weight: np.ndarray, part: np.ndarray = part) -> float:
            weights = np.broadcast_to(weight[:, None], part.shape)[part]
            return float(average_precision_score(wrong[part], -way[part], sample_weight=weights))

        together, alone = (precision(way, np.ones(len(given))) for way in ways)
        low, high = np.quantile([precision(ways[0], w) - precision(ways[1], w) for w in draws], [0.025, 0.975])
        print(
            f"{rate:.0%} planted in {given.shape[1]} classes, labels {name}: AP {together:.4f} together, "
            f"{alone:.4f} one by one, difference {low:+.4f} to {high:+.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of ranking 527 classes, and its planted errors")
    parser.add_argument("--rates", default="0.05,0.1", help="shares of wrong labels (default: 0.05,0.1)")
    parser.add_argument("--classes", type=positive, default=40, help="classes to plant errors in (default: 40)")
    arguments = parser.parse_args()
    data = os.environ.get("ACOUSTIC_ENV_TEST_DATA")
    if not data:
        sys.exit("set ACOUSTIC_ENV_TEST_DATA to the folder of real data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_study(Path(data), folder)
        measure_command(folder)
        clips, labels, settings = prepare_study(folder)
    common = np.flatnonzero(labels.sum(axis=0) >= 100)
    chosen = np.sort(np.random.default_rng(1).choice(common, arguments.classes, replace=False))
    for rate in map(float, arguments.rates.split(",")):
        compare(clips, labels[:, chosen], rate, settings)


if __name__ == "__main__":
    main()
