"""A mixed run through the command: other weights are another table, and only what is missing is computed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acoustic_env.features.embedders.weights_cache import ENVIRONMENT, WeightsCache
from acoustic_env.features.embedders.weights_fetch import fetch
from acoustic_env.features.embedders.weights_registry import weights_source
from acoustic_env.store.feature_store import FeatureStore
from tests.pipeline.test_extract import command, write_noise


def other_checkpoint(published: Path, path: Path) -> Path:
    """Weights of the published form and other values."""
    state = torch.load(published, map_location="cpu", weights_only=True)
    torch.save({name: value * 1.01 if value.is_floating_point() else value for name, value in state.items()}, path)
    return path


def run(clips: Path, store: Path, cache: Path, limit: int) -> dict[str, Any]:
    arguments = [*command(clips, store), "--signals", "raw", "--json", "--limit", str(limit)]
    arguments[arguments.index("--blocks") + 1] = "placeholder,mn04"
    environment = {**os.environ, ENVIRONMENT: str(cache)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=900, check=True)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


@pytest.mark.slow
def test_changed_weights_recompute_their_block_alone_and_never_mix_with_the_old_rows(
    tmp_path: Path, test_data: Path
) -> None:
    published = test_data / "weights" / "mn04_as_mAP_432.pt"
    checkpoints = {"old": published, "new": other_checkpoint(published, tmp_path / "other.pt")}
    for name, path in checkpoints.items():
        cache = WeightsCache(str(tmp_path / name))
        fetch(weights_source("mn04"), cache, str(path), hashlib.sha256(path.read_bytes()).hexdigest())
        classes = str(test_data / "audioset" / "class_labels_indices.csv")
        fetch(weights_source("audioset-classes"), cache, classes)
    clips, store = write_noise(tmp_path / "audio", 4), tmp_path / "store"

    first = run(clips, store, tmp_path / "old", limit=2)
    assert first["rows"] == {"placeholder": 2, "mn04": 2}
    second = run(clips, store, tmp_path / "new", limit=3)
    assert second["rows"] == {"placeholder": 1, "mn04": 3}, "the block without weights lacks the new clip alone"

    tables = FeatureStore(str(store))
    old, new = first["fingerprints"]["mn04"]["raw"], second["fingerprints"]["mn04"]["raw"]
    assert {version.fingerprint for version in tables.fingerprints("mn04")} == {old, new}
    values = [
        np.stack(tables.read("mn04", version).sort_by("clip_id")["embedding"].to_numpy()) for version in (old, new)
    ]
    assert [table.shape for table in values] == [(2, 384), (3, 384)]
    assert not np.isclose(values[0], values[1][:2]).all(axis=1).any()
