"""Networks on AudioSet's released frames beside a dense network on their mean and deviation: recipe `audioset-4`.

    ACOUSTIC_ENV_TEST_DATA=... python -m tests.models.bench_frames

Each way is trained on nine tenths of the clips of the balanced list that carry one of the four labels (one tenth stops
it), and predicts those of the evaluation list. Macro average precision and the share of pairs of clip and label that
are right at 1/2, without calibration; the difference from the dense network is paired, by a jackknife over clips.
Nothing is chosen by these numbers.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from acoustic_env.cli import main
from acoustic_env.clips.table import read_clips
from acoustic_env.config import classifier_settings
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.estimators.fitting import fit, make_estimator, predict_proba
from acoustic_env.models.learn import Study, fit_preprocessor, prepare, preprocessed_parts
from acoustic_env.stats.intervals import of_metric, of_share
from acoustic_env.stats.ranking import Ranking, mean_over_classes
from acoustic_env.store.feature_store import FeatureStore

RECIPE = load_recipe("audioset-4")
EPOCHS = {"max_epochs": 6, "patience": 6}
CNN = {**RECIPE.model.model_dump(mode="json"), **EPOCHS}
POOLED = [*CNN["layers"][:2], {**CNN["layers"][2], "pool": [2, 2]}]
DENSE = {"kind": "cnn", "layers": [], "pool": "flatten", "dense": [512, 128], "batch_size": 100, **EPOCHS}
MEANS = {"kind": "mlp", "layers": [512], "patience": 6}
WAYS: dict[str, dict[str, Any]] = {
    "dense, mean and deviation": MEANS,
    "attention": {"kind": "attention", "batch_size": 100, **EPOCHS},
    "cnn": CNN,
    "dense, 1280 inputs": DENSE,
    "dense, 1280 inputs, raw": {**DENSE, "scale": "none"},
    "dense, 1280-10": {**DENSE, "dense": [10]},
    "dense, 1280-100": {**DENSE, "dense": [100]},
    "dense, 1280-1000": {**DENSE, "dense": [1000]},
    "dense, 1280-10-100-1000": {**DENSE, "dense": [10, 100, 1000]},
    "cnn, raw": {**CNN, "scale": "none"},
    "cnn, last pooling": {**CNN, "layers": POOLED},
    "cnn, cross-entropy": {**CNN, "loss_name": "cross_entropy"},
    "cnn, focal": {**CNN, "loss_name": "focal"},
    "cnn, batch of 20": {**CNN, "batch_size": 20},
    "cnn, batch of 32": {**CNN, "batch_size": 32},
    "cnn, batch of 512": {**CNN, "batch_size": 512},
}


def studies(data: Path, folder: str) -> dict[tuple[str, bool], Study]:
    """(list, whether frames are read) -> the study of its clips."""
    found = {}
    for name, segments in (("bal_train", "balanced_train_segments"), ("eval", "eval_segments")):
        released, lists = data / "audioset/embeddings" / name, data / f"audioset/{segments}.csv"
        places = ["--store", f"{folder}/{name}", "--out", f"{folder}/{name}.parquet"]
        if code := main(["clips", "from-audioset-embeddings", str(released), "--segments", str(lists), *places]):
            sys.exit(code)
        for model in (CNN, MEANS):
            recipe = RECIPE.replace(model=classifier_settings(model))
            study = prepare(read_clips(f"{folder}/{name}.parquet"), FeatureStore(f"{folder}/{name}"), recipe)
            found[name, recipe.model.reads_sequences] = study
    return found


def predictions(settings: dict[str, Any], lists: dict[tuple[str, bool], Study]) -> np.ndarray:
    """Probabilities [evaluation clips, labels] of one way."""
    recipe = RECIPE.replace(model=classifier_settings(settings))
    train, test = (replace(lists[name, recipe.model.reads_sequences], recipe=recipe) for name in ("bal_train", "eval"))
    estimator = fit(make_estimator(recipe.model, recipe.model.seed), *preprocessed_parts(train))
    x = fit_preprocessor(train).transform(test.matrix.values)
    return predict_proba(estimator, x, len(test.targets.classes))


def report(name: str, truth: np.ndarray, scores: np.ndarray, first: np.ndarray) -> None:
    """Print one way's row."""
    own, base = (mean_over_classes(truth, each, Ranking.average_precision) for each in (scores, first))
    rows = np.arange(len(truth))
    right = of_share(((scores >= 0.5) == truth).ravel(), np.repeat(rows, truth.shape[1]))
    ahead = of_metric(lambda weights: own(weights) - base(weights), rows, difference=True)
    print(f"{name:<28} {of_metric(own, rows)}  {right}  {ahead}", flush=True)


def bench(data: Path) -> None:
    """The whole table."""
    with tempfile.TemporaryDirectory() as folder:
        lists = studies(data, folder)
        truth = lists["eval", True].targets.y
        if lists["eval", False].targets.clip_ids != lists["eval", True].targets.clip_ids:
            sys.exit("the clips with frames are not those with features")
        print(f"{len(truth):,} clips; always no is right for {1 - truth.mean():.4f} of the pairs")
        print("way, macro average precision, element-wise accuracy, ahead of the first", flush=True)
        first = None
        for name, settings in WAYS.items():
            scores = predictions(settings, lists)
            first = scores if first is None else first
            report(name, truth, scores, first)


if __name__ == "__main__":
    root = os.environ.get("ACOUSTIC_ENV_TEST_DATA")
    if not root:
        sys.exit("set ACOUSTIC_ENV_TEST_DATA to the folder of real data")
    bench(Path(root))
