"""A small study on disk: clip list, feature store and recipe, with classes the features tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from acoustic_env.clips.table import CLIP_SCHEMA, read_clips
from acoustic_env.features.block import Column, Columns, FeatureBlock, Json, table_schema, to_table
from acoustic_env.store.feature_store import FeatureStore

CLIPS = 300
SIGNALS = ("raw", "fg")


class Generated(FeatureBlock):
    """A block without audio: `size` scalars and one vector."""

    name: ClassVar[str] = "indices"
    version: ClassVar[int] = 1
    sample_rate = 16_000

    def __init__(self, name: str = "indices", size: int = 4, setting: int = 0) -> None:
        self.__dict__["name"] = name
        self.engine = "fast"
        self.size, self.setting = size, setting
        self.columns = (
            *(Column(f"f{i}", pa.float64(), "1", "generated") for i in range(size)),
            Column("vector", pa.list_(pa.float32(), 3), "1", "generated"),
        )

    def parameters(self) -> dict[str, Json]:
        return {"setting": self.setting}

    def compute(self, waveforms: Any) -> Columns:
        raise NotImplementedError


@dataclass
class Disk:
    """Places of the study."""

    folder: Path
    clips: str
    store: str
    recipe: str

    def table(self) -> pa.Table:
        return read_clips(self.clips)

    def feature_store(self) -> FeatureStore:
        return FeatureStore(self.store)

    def write_recipe(self, name: str = "study.yaml", **changes: Any) -> str:
        settings: dict[str, Any] = {
            "task": "binary",
            "classes": {"natural": {"labels": ["natural"]}, "urban": {"labels": ["urban"]}},
            "signals": list(SIGNALS),
            "blocks": {"indices": {}, "yamnet": {}},
            "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
            "model": {"layers": [16], "max_epochs": 10, "learning_rate": 0.01, "batch_size": 64},
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump(settings | changes), encoding="utf-8")
        return str(path)


def write_block(
    store: str,
    block: Generated,
    clip_ids: list[str],
    y: np.ndarray,
    seed: int = 0,
    signals: tuple[str, ...] = SIGNALS,
) -> None:
    """Rows of both signals, or of others; the first feature and the vector's first cell follow the class."""
    random = np.random.default_rng(seed)
    schema = table_schema(block, {})
    for signal in signals:
        values = random.normal(size=(len(clip_ids), block.size))
        vector = random.normal(size=(len(clip_ids), 3)).astype(np.float32)
        values[:, 0] += 1.5 * y
        vector[:, 0] += y
        columns = {f"f{i}": values[:, i] for i in range(block.size)} | {"vector": vector}
        FeatureStore(store).write_part(to_table(schema, clip_ids, [signal] * len(clip_ids), columns))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return write_study(tmp_path)


def write_study(folder: Path) -> Disk:
    """300 clips of two classes in 150 groups, blocks `indices` and `yamnet`, signals raw and fg."""
    y = np.arange(CLIPS) // 2 % 2
    rows = [
        {
            "clip_id": f"clip{i:03d}",
            "uri": f"{i}.wav",
            "labels": [("natural", "urban")[y[i]]],
            "group": f"video{i // 2}",
        }
        for i in range(CLIPS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=CLIP_SCHEMA), folder / "clips.parquet")
    made = Disk(folder, str(folder / "clips.parquet"), str(folder / "store"), "")
    clip_ids = [row["clip_id"] for row in rows]
    write_block(made.store, Generated("indices", 4), clip_ids, y, 1)
    write_block(made.store, Generated("yamnet", 6), clip_ids, y, 2)
    made.recipe = made.write_recipe()
    return made
