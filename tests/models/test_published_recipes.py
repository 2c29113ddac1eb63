"""The recipes of published data sets with classifiers of clips, on generated sounds in the published layouts."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml

from acoustic_env.cli import main
from acoustic_env.clips.readers.published import UrbanSound8KReader
from acoustic_env.clips.table import CLIP_SCHEMA, read_clips
from acoustic_env.config import RECIPES
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.registry import make_block
from acoustic_env.io.documents import load_recipe
from acoustic_env.store.feature_store import FeatureStore

SEVEN = "logistic,random_forest,svm,knn,gradient_boosting,xgboost,mlp"


def write_features(folder: Path, clips: Any, recipe_name: str) -> str:
    """Compute the recipe's MFCCs of half a second per clip: a tone of its class in noise."""
    recipe = load_recipe(recipe_name)
    block: Any = make_block("mfcc", "fast", recipe.block_options("mfcc"))
    random = np.random.default_rng(0)
    names = sorted({label for labels in clips["labels"].to_pylist() for label in labels})
    pitch = np.array([200.0 * 1.5 ** names.index(labels[0]) for labels in clips["labels"].to_pylist()])
    time = np.arange(block.sample_rate // 2) / block.sample_rate
    waveforms = np.sin(2 * np.pi * pitch[:, None] * time) + random.normal(size=(len(pitch), len(time)))
    schema = table_schema(block, {})
    clip_ids = clips["clip_id"].to_pylist()
    store = FeatureStore(str(folder / "store"))
    store.write_part(to_table(schema, clip_ids, ["original"] * len(pitch), block.compute(waveforms.astype(np.float32))))
    return store.url


@pytest.mark.slow
def test_urbansound8k_is_predicted_fold_by_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ("dog_bark", "siren", "drilling")
    part = replace(UrbanSound8KReader.parts[""], clips=dict.fromkeys(range(1, 11), 6))
    monkeypatch.setattr(UrbanSound8KReader, "parts", {"": part})
    root, out = tmp_path / "UrbanSound8K", str(tmp_path / "clips.parquet")
    rows = [
        (f"{100 * fold + n}-{n % 3}-0-0.wav", 100 * fold + n, 0, 4, 1, fold, n % 3, classes[n % 3])
        for fold in range(1, 11)
        for n in range(6)
    ]
    (root / "metadata").mkdir(parents=True)
    with (root / "metadata/UrbanSound8K.csv").open("w", newline="") as file:
        columns = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class_name")
        csv.writer(file).writerows([columns, *rows])
    for row in rows:
        path = root / f"audio/fold{row[5]}/{row[0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert main(["clips", "from-urbansound8k", str(root), "--out", out]) == 0
    store = write_features(tmp_path, read_clips(out), "urbansound8k")
    options = ["--clips", out, "--store", store, "--recipe", "urbansound8k", "--out", str(tmp_path / "study")]
    assert main(["compare", *options, "--models", "knn,mlp", "--every-fold"]) == 0
    found = {row["model"]: row["accuracy"] for row in pa_csv.read_csv(tmp_path / "study/compare.csv").to_pylist()}
    assert found["knn"] > 0.8
    assert set(found) == {"knn", "mlp"}


@pytest.mark.slow
def test_household_8_compares_seven_classifiers_in_one_table(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    labels = random.choice(["human", "noise", "animal"], 90, p=[0.6, 0.3, 0.1])
    clips = [
        {"clip_id": f"fsd50k/{n}", "uri": f"{n}.wav", "labels": [label], "group": f"uploader/{n // 2}"}
        for n, label in enumerate(labels.tolist())
    ]
    pq.write_table(pa.Table.from_pylist(clips, schema=CLIP_SCHEMA), tmp_path / "clips.parquet")
    recipe = yaml.safe_load((RECIPES / "household-8-mfcc.yaml").read_text())
    recipe["model"]["per_class"] = 20
    (tmp_path / "household.yaml").write_text(yaml.safe_dump(recipe))
    store = write_features(tmp_path, read_clips(str(tmp_path / "clips.parquet")), "household-8-mfcc")
    options = [
        "--clips",
        str(tmp_path / "clips.parquet"),
        "--store",
        store,
        "--recipe",
        str(tmp_path / "household.yaml"),
    ]
    assert main(["compare", *options, "--models", SEVEN, "--out", str(tmp_path / "study")]) == 0
    rows = pa_csv.read_csv(tmp_path / "study/compare.csv").to_pylist()
    assert sorted(row["model"] for row in rows) == sorted(SEVEN.split(","))
    assert all(row["score"] > 0.5 for row in rows)
