"""Recipes that differ in augmentation, on a data set of published folds, over several seeds.

    python -m tests.models.bench_augment --clips LIST --store STORE --keep FOLDER [--seeds 3] [--choose] \
        plain.yaml esc10-mel-cnn ...

Every fold is predicted by networks of the other folds. With `--choose`, only validation folds are predicted, and test
folds are neither read nor predicted. Accuracy, mean average precision and Brier score are means over the seeds; the
difference from the first recipe is paired by clip and seed, its interval is a jackknife over recordings. FOLDER keeps
the predictions, so that an interrupted run continues.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acoustic_env.clips.table import read_clips
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.data.preprocessing import make_preprocessor
from acoustic_env.models.learn import Study, prepare
from acoustic_env.models.validation.cross_fitting import out_of_fold
from acoustic_env.stats.intervals import Statistic, of_metric
from acoustic_env.stats.ranking import Ranking, mean_over_classes
from acoustic_env.store.feature_store import FeatureStore


def predictions(
    study: Study, rows: npt.NDArray[np.int64], seed: int, held: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Probabilities [rows, classes] by networks of the other folds; NaN outside the held folds."""
    recipe = study.recipe
    return out_of_fold(
        study.examples(rows),
        recipe.model,
        study.split.folds[rows].astype(np.int64),
        seed,
        classes=len(study.targets.classes),
        preprocessor=make_preprocessor(study.matrix.columns, recipe),
        predicted=held,
    ).probabilities


def measures(y: npt.NDArray[np.int64], runs: list[npt.NDArray[np.float64]]) -> dict[str, Statistic]:
    """Name -> mean of a measure over seeds, as a statistic of weights."""
    truth = np.eye(runs[0].shape[1], dtype=bool)[y]
    right = np.mean([p.argmax(1) == y for p in runs], axis=0)
    brier = np.mean([((p - truth) ** 2).sum(1) for p in runs], axis=0)
    precisions = [mean_over_classes(truth, p, Ranking.average_precision) for p in runs]
    return {
        "accuracy": lambda weights: float(np.average(right, weights=weights)),
        "mean average precision": lambda weights: float(np.mean([each(weights) for each in precisions])),
        "Brier score": lambda weights: float(np.average(brier, weights=weights)),
    }


def report(
    y: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], found: dict[str, list[npt.NDArray[np.float64]]]
) -> None:
    """Print a row per recipe and measure."""
    first: dict[str, Statistic] = {}
    for recipe, runs in found.items():
        own = measures(y, runs)
        first = first or own
        each = ", ".join(f"{(p.argmax(1) == y).mean():.4f}" for p in runs)
        print(f"{recipe}: accuracy of the seeds {each}")
        for name, statistic in own.items():
            base = first[name]
            ahead = of_metric(partial(_difference, statistic, base), groups, difference=True)
            print(f"  {name:<24} {of_metric(statistic, groups)}  minus the first {ahead}", flush=True)


def _difference(own: Statistic, base: Statistic, weights: npt.NDArray[np.float64] | None) -> float:
    return own(weights) - base(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description="recipes that differ in augmentation, over seeds")
    for name in ("--clips", "--store", "--keep"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--choose", action="store_true", help="predict validation folds alone")
    parser.add_argument("recipes", nargs="+")
    arguments = parser.parse_args()
    keep = Path(arguments.keep)
    keep.mkdir(parents=True, exist_ok=True)
    clips, store = read_clips(arguments.clips), FeatureStore(arguments.store)
    studies = {recipe: prepare(clips, store, load_recipe(recipe)) for recipe in arguments.recipes}
    study = next(iter(studies.values()))
    rows = study.learning if arguments.choose else np.arange(len(study.groups))
    folds = study.split.folds[rows]
    held = np.unique(study.split.folds[study.split.validation] if arguments.choose else folds).astype(np.int64)
    shown = np.isin(folds, held)
    y, groups = study.targets.y[rows][shown], study.groups[rows][shown]
    found: dict[str, list[npt.NDArray[np.float64]]] = {recipe: [] for recipe in studies}
    for seed in range(23, 23 + arguments.seeds):
        for recipe, own in studies.items():
            place = keep / f"{Path(recipe).stem}-{'choose' if arguments.choose else 'test'}-{seed}.npy"
            if not place.exists():
                np.save(place, predictions(own, rows, seed, held))
            found[recipe].append(np.load(place)[shown])
        print(f"\n{seed - 22} seeds, {len(y)} clips")
        report(y, groups, found)


if __name__ == "__main__":
    main()
