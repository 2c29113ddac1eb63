"""Whether weighting or leaving out doubtful labels helps: errors planted in AudioSet's released embeddings.

python -m tests.models.bench_weights --train bal_train.parquet --test eval.parquet --store store [--kinds logistic,mlp]

Quality is the out-of-fold probability of the given label by logistic regression. Accuracy on clean labels against
plain training, paired by clip, means over the plantings.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from acoustic_env.clips.table import read_clips
from acoustic_env.config import classifier_settings
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.fitting import fit_model, make_estimator, predict_proba, stops_on_rows
from acoustic_env.models.learn import prepare
from acoustic_env.models.validation.cross_fitting import out_of_fold
from acoustic_env.store.feature_store import FeatureStore

RECIPE = "urban-nature-ontology"
PLANTINGS = 3
LEAST = 0.05  # weight of a label
CASES = ((0.1, False), (0.1, True), (0.2, False), (0.2, True))  # share of errors, whether on ambiguous clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "store"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--kinds", default="logistic,mlp,xgboost")
    options = parser.parse_args()
    recipe, store = load_recipe(RECIPE), FeatureStore(options.store)
    train, test = (prepare(read_clips(url), store, recipe, log=lambda _: None) for url in (options.train, options.test))
    scaler = StandardScaler().fit(train.matrix.values[:])
    x, x_test = (scaler.transform(one.matrix.values[:]).astype(np.float32) for one in (train, test))
    clean = Examples(x, train.targets.y, train.groups)
    doubt = np.abs(quality(clean, 0) - 0.5)
    for kind in options.kinds.split(","):
        for share, ambiguous in CASES:
            found: dict[str, list[Any]] = {"plain": [], "weights": [], "pruned": []}
            for seed in range(PLANTINGS):
                noisy = planted(clean, share, np.exp(-8 * doubt) if ambiguous else np.ones(len(x)), seed)
                own = quality(noisy, seed)
                ways = {
                    "plain": noisy,
                    "weights": Examples(x, noisy.y, noisy.groups, np.clip(own, LEAST, 1)),
                    "pruned": noisy.take(~called_wrong(noisy, own)),
                }
                for name, rows in ways.items():
                    said = predict_proba(fitted(kind, rows, seed), x_test, 2)
                    found[name].append(said.argmax(axis=1) == test.targets.y)
            right = {name: np.mean(runs, axis=0) for name, runs in found.items()}
            line = f"{kind} {share:.0%} {'ambiguous' if ambiguous else 'anywhere'} plain {right['plain'].mean():.3f}"
            for name in ("weights", "pruned"):
                gain = right[name] - right["plain"]
                line += f" | {name} {gain.mean():+.4f} ± {1.96 * gain.std() / len(gain) ** 0.5:.4f}"
            print(line, flush=True)


def quality(rows: Examples, seed: int) -> np.ndarray:
    """Return the out-of-fold probability of each given label."""
    said = out_of_fold(rows, classifier_settings({"kind": "logistic"}), 5, seed).probabilities
    return np.asarray(said[np.arange(len(rows)), rows.y])


def planted(rows: Examples, share: float, likely: np.ndarray, seed: int) -> Examples:
    """Return the rows with a share of the labels flipped."""
    random, y = np.random.default_rng(seed), rows.y.copy()
    flipped = random.choice(len(y), int(share * len(y)), replace=False, p=likely / likely.sum())
    y[flipped] = 1 - y[flipped]
    return Examples(rows.x, y, rows.groups)


def called_wrong(rows: Examples, own: np.ndarray) -> np.ndarray:
    """Return which labels confident learning calls wrong (Northcutt, Jiang and Chuang, JAIR 70, 2021)."""
    confidence = np.array([own[rows.y == c].mean() for c in (0, 1)])
    return np.asarray(1 - own >= confidence[1 - rows.y])


def fitted(kind: str, rows: Examples, seed: int) -> Any:
    """Fit a kind, stopping on an eighth of the rows where it stops."""
    settings = classifier_settings({"kind": kind})
    if not stops_on_rows(make_estimator(settings, seed)):
        return fit_model(settings, rows, None, seed)
    held = np.random.default_rng(seed).permutation(len(rows)) < len(rows) // 8
    return fit_model(settings, rows.take(~held), rows.take(held), seed)


if __name__ == "__main__":
    main()
