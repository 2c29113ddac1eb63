"""The drift test of `reannotate` took one clip of each recording on the new side and all of them on the training side.

Ten clips of one recording are hardly more than one: on the training side they stood for ten, and found drift where
there was none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from acoustic_env.audit.reannotate import reannotate
from acoustic_env.cli import main
from acoustic_env.clips.table import CLIP_SCHEMA
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.options import ReannotateSettings
from acoustic_env.store.feature_store import FeatureStore
from tests.models.conftest import Generated

EACH = 10
RECIPE = {
    "task": "binary",
    "classes": {"natural": {"labels": ["natural"]}, "urban": {"labels": ["urban"]}},
    "signals": ["raw"],
    "blocks": {"released": {}},
    "split": {"folds": 5, "validation_folds": [3], "test_folds": []},
    "model": {"kind": "logistic"},
}


def write_recordings(
    folder: Path, name: str, recordings: int, each: int, seed: int, wrong: float = 0.0, apart: float = 1.0
) -> tuple[str, dict[str, str]]:
    """A clip list of recordings whose clips sound nearly alike, its features in the store; the true label of each clip.

    Args:
        folder: of the lists and the store.
        name: of the list, and of its clips.
        recordings, each: recordings, and clips of each.
        seed: of the sounds.
        wrong: share of recordings listed with the other label.
        apart: how far the classes are from each other.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(recordings) % 2
    listed = np.where(rng.random(recordings) < wrong, 1 - y, y)
    ids = [f"{name}{i:03d}_{k}" for i in range(recordings) for k in range(each)]
    rows = [
        {"clip_id": f"{name}{i:03d}_{k}", "uri": f"{name}{i}.wav", "group": f"{name}{i}"}
        | {"labels": [("natural", "urban")[listed[i]]], "start_s": float(k), "end_s": k + 1.0}
        for i in range(recordings)
        for k in range(each)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=CLIP_SCHEMA), folder / f"{name}.parquet")
    values = np.repeat(rng.normal(size=(recordings, 4)) + apart * y[:, None], each, axis=0)
    values += rng.normal(0, 0.01, (len(ids), 4))
    vector = np.repeat(rng.normal(size=(recordings, 3)), each, axis=0).astype(np.float32)
    columns = {f"f{i}": values[:, i] for i in range(4)} | {"vector": vector}
    FeatureStore(str(folder / "store")).write_part(
        to_table(table_schema(Generated("released", 4), {}), ids, ["raw"] * len(ids), columns)
    )
    truth = {f"{name}{i:03d}_{k}": ("natural", "urban")[y[i]] for i in range(recordings) for k in range(each)}
    return str(folder / f"{name}.parquet"), truth


def test_drift_counts_a_recording_once_on_both_sides(tmp_path: Path) -> None:
    trained, _ = write_recordings(tmp_path, "old", 30, EACH, seed=1)
    listed, _ = write_recordings(tmp_path, "new", 40, 3, seed=2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    store, bundle = str(tmp_path / "store"), str(tmp_path / "bundle")
    study = ["--clips", trained, "--store", store, "--recipe", str(tmp_path / "recipe.yaml")]
    assert main(["train", *study, "--out", bundle]) == 0
    found = reannotate(
        ReannotateSettings(clips=listed, store=store, bundle=bundle, versions=str(tmp_path / "labels")),
        lambda _line: None,
    )
    assert tuple(found["drift"]["clips"]) == (40, 30)
    assert not found["drift"]["drifted"]
