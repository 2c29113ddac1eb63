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

import acoustic_env
from acoustic_env.audio.prepare import prepare
from acoustic_env.clips.table import CLIP_SCHEMA, clip_table, read_clips, write_clips
from acoustic_env.features.block import Column, Columns, FeatureBlock, Json, table_schema, to_table
from acoustic_env.features.registry import make_block
from acoustic_env.pipeline.work import BlockSpec, block_work
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


SOUNDS = """
task: binary
classes: {noise: {labels: [noise]}, tone: {labels: [tone]}}
signals: [raw, fg]
blocks: {indices: {}}
split: {folds: 5, validation_folds: [3], test_folds: [4]}
model: {kind: logistic}
"""


def write_sounds(folder: Path) -> Path:
    """Write bundle/, trained on the indices of 60 noises and tones of two seconds, as if they were files."""
    folder.mkdir()
    block, rng, seconds = make_block("indices", "fast"), np.random.default_rng(0), np.arange(32_000) / 16_000
    tones = [np.sin(2 * np.pi * rng.uniform(300, 3000) * seconds) for _ in range(30)]
    waves = np.concatenate([rng.normal(size=(30, 32_000)), tones]).astype(np.float32)
    work = block_work(BlockSpec("indices", "fast", 0, ("raw", "fg")))
    names = [f"clip{number}" for number in range(len(waves))]
    for signal, prepared in prepare(waves, 16_000, "fast", ["raw", "fg"]).items():
        table = to_table(work.schemas[signal], names, [signal] * len(waves), block.compute(prepared))
        FeatureStore(f"{folder}/store").write_part(table)
    labels = np.repeat(["noise", "tone"], 30).tolist()
    rows = [
        {"clip_id": name, "uri": f"{name}.wav", "labels": [label], "group": name, "start_s": 0.0, "end_s": 2.0}
        for name, label in zip(names, labels, strict=True)
    ]
    write_clips(clip_table(rows), f"{folder}/clips.csv")
    (folder / "sounds.yaml").write_text(SOUNDS)
    acoustic_env.train(f"{folder}/clips.csv", f"{folder}/store", folder / "sounds.yaml").save(folder / "bundle")
    return folder
