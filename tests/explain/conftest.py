"""A small study with named columns, modulation maps and an embedding, trained and gathered once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from acoustic_env.clips.table import CLIP_SCHEMA, read_clips
from acoustic_env.explain.material import Material, gather
from acoustic_env.features.block import Column, table_schema, to_table
from acoustic_env.features.modulation import SHAPE, ModulationBlock, axes
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.learn import prepare, train
from acoustic_env.store.feature_store import FeatureStore
from tests.models.conftest import Generated

CLIPS = 160
SIGNALS = ("raw", "fg")


class Maps(Generated):
    """The modulation block's table, without its transform."""

    def __init__(self) -> None:
        super().__init__("mps", 0)
        self.metadata = ModulationBlock("fast").metadata
        self.columns = (Column("mps", pa.list_(pa.float32(), SHAPE[0] * SHAPE[1]), "1", "generated"),)


@dataclass
class Trained:
    """Places of the study and its material."""

    clips: str
    store: str
    bundle: str
    material: Material


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """160 clips in 80 recordings. Raw: index f0 and modulations of 8 to 16 Hz below 1 cycle/kHz follow the class."""
    folder: Path = tmp_path_factory.mktemp("explained")
    random = np.random.default_rng(5)
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
    store, clip_ids = FeatureStore(str(folder / "store")), [row["clip_id"] for row in rows]
    spectral, temporal = axes()
    region = (spectral[:, None] < 1) & (temporal > 8) & (temporal < 16)
    indices, maps = Generated("indices", 5), Maps()
    for signal in SIGNALS:
        of_class = y if signal == "raw" else 0 * y
        values = random.normal(size=(CLIPS, 5))
        values[:, 0] += 1.5 * of_class
        values[:5, 1] = np.nan
        vector = random.normal(size=(CLIPS, 3)).astype(np.float32)
        columns = {f"f{i}": values[:, i] for i in range(5)} | {"vector": vector}
        store.write_part(to_table(table_schema(indices, {}), clip_ids, [signal] * CLIPS, columns))
        power = random.normal(size=(CLIPS, *SHAPE)) + 1.2 * of_class[:, None, None] * region
        cells = {"mps": power.reshape(CLIPS, -1).astype(np.float32)}
        store.write_part(to_table(table_schema(maps, {}), clip_ids, [signal] * CLIPS, cells))
    settings = {
        "task": "binary",
        "classes": {"natural": {"labels": ["natural"]}, "urban": {"labels": ["urban"]}},
        "signals": list(SIGNALS),
        "blocks": {"indices": {}, "mps": {}},
        "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
        "reduction": {"components": {"indices": 5, "mps": 6}},
        "model": {"layers": [8], "max_epochs": 30, "learning_rate": 0.01, "ensemble": 4, "dropout": 0.2},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    clips = str(folder / "clips.parquet")
    study = prepare(read_clips(clips), store, load_recipe(str(folder / "study.yaml")), log=_silent)
    bundle, _ = train(study, _silent)
    bundle.save(folder / "bundle")
    material = gather(Bundle.load(folder / "bundle"), read_clips(clips), store, _silent)
    return Trained(clips, store.url, str(folder / "bundle"), material)


def _silent(_: str) -> None:
    pass
