"""Lists too long for memory: scorers learn from a sample, all clips are scored in batches."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csc_array
from sklearn.metrics import average_precision_score

from acoustic_env.audit import rank, rank_stream
from acoustic_env.audit.rank import rank_study
from acoustic_env.audit.rank_stream import choose_learned
from acoustic_env.clips.table import CLIP_SCHEMA
from acoustic_env.config import Recipe, from_mapping
from acoustic_env.features.block import Column, table_schema, to_table
from acoustic_env.memory import peak_memory
from acoustic_env.store.feature_store import FeatureStore
from tests.models.conftest import Generated

CLIPS = 600


class Tagger(Generated):
    """A block of the scores of three tags."""

    def __init__(self) -> None:
        super().__init__("mn04")
        self.columns = (Column("scores", pa.list_(pa.float32(), 3), "1", "generated"),)

    def metadata(self) -> dict[str, str]:
        return {"class_names": json.dumps(["a", "b", "c"])}


def study(folder: Path, task: str, size: int = CLIPS) -> tuple[pa.Table, FeatureStore, Recipe, np.ndarray]:
    """Clips of three classes that the features tell apart, the class of each tenth clip wrong."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, size)
    wrong = random.random(size) < 0.1
    given = np.where(wrong, (truth + 1) % 3, truth)
    block, ids = Generated("yamnet", 8), [f"clip{i:04d}" for i in random.permutation(size)]
    values = random.normal(size=(size, 8)) + 2.5 * np.eye(3, 8)[truth]
    columns = {f"f{i}": values[:, i] for i in range(8)} | {"vector": random.normal(size=(size, 3)).astype(np.float32)}
    store = FeatureStore(str(folder / "store"))
    store.write_part(to_table(table_schema(block, {}), ids, ["raw"] * size, columns))
    tags = np.clip(np.eye(3)[truth] * 0.4 + random.random((size, 3)) * 0.6, 0, 1).astype(np.float32)
    store.write_part(to_table(table_schema(Tagger(), {}), ids[5:], ["raw"] * (size - 5), {"scores": tags[5:]}))
    rows = [
        {"clip_id": name, "uri": f"{name}.wav", "labels": ["abc"[k]], "group": f"video{i // 2}"}
        for i, (name, k) in enumerate(zip(ids, given.tolist(), strict=True))
    ]
    settings: dict[str, Any] = {"name": "study", "task": task, "signals": ["raw"], "blocks": {"yamnet": {}}}
    settings |= {"classes": {name: {"labels": [name]} for name in "abc"}}
    settings |= {"audit": {"scorers": ["logistic", "neighbors"], "folds": 3, "neighbors": 10}}
    return pa.Table.from_pylist(rows, CLIP_SCHEMA), store, from_mapping(Recipe, settings, "study"), wrong


def everything(y: Any, most: int, seed: int) -> np.ndarray:
    return np.arange(y.shape[0])


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_learning_from_all_clips_in_batches_is_the_ranking_in_memory(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, store, recipe, _ = study(tmp_path, task)
    whole = list(rank_study(clips, store, recipe))
    monkeypatch.setattr(rank, "LEARNED", 100)
    monkeypatch.setattr(rank_stream, "BATCH", 128)
    monkeypatch.setattr(rank_stream, "choose_learned", everything)
    for (table, summary), (expected, expected_summary) in zip(rank_study(clips, store, recipe), whole, strict=True):
        assert table.schema == expected.schema
        assert summary["weights"] == expected_summary["weights"]
        order = [("clip_id", "ascending"), ("label", "ascending")]
        table, expected = table.sort_by(order), expected.sort_by(order)
        assert table.select(["clip_id", "label", "given"]).equals(expected.select(["clip_id", "label", "given"]))
        for name in ("quality", "logistic", "neighbors", "tags_mn04"):
            np.testing.assert_allclose(table[name].to_numpy(), expected[name].to_numpy(), atol=1e-6)


def test_a_sample_of_the_clips_finds_the_errors_of_all_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, store, recipe, wrong = study(tmp_path, "multiclass", 2_000)
    tables = []
    for batch, learned in ((0, 2_000), (300, 1_000), (5_000, 1_000)):
        monkeypatch.setattr(rank, "LEARNED", learned)
        monkeypatch.setattr(rank_stream, "BATCH", batch)
        table, _ = next(rank_study(clips, store, recipe))
        tables.append(table.filter(table["given"]).sort_by("clip_id"))
    wrong = wrong[np.argsort(clips["clip_id"].to_pylist())]
    whole, small, large = (table["quality"].to_numpy() for table in tables)
    np.testing.assert_allclose(small, large, atol=1e-6)
    assert average_precision_score(wrong, -small) > 0.95 * average_precision_score(wrong, -whole)


def test_a_label_that_is_rarer_among_all_clips_than_in_the_sample_has_its_share_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, store, recipe, _ = study(tmp_path, "multilabel", 3_000)
    rare = np.random.default_rng(1).random(3_000) < 0.02
    labels = [["b"] if here else ["a"] for here in rare]
    clips = clips.set_column(clips.schema.get_field_index("labels"), "labels", pa.array(labels, pa.list_(pa.string())))
    monkeypatch.setattr(rank, "LEARNED", 200)
    tables = {summary["label"]: table for table, summary in rank_study(clips, store, recipe)}
    table = tables["b"]
    quality, given = table["quality"].to_numpy(), table["given"].to_numpy(zero_copy_only=False)
    assert np.where(given, quality, 1 - quality).mean() == pytest.approx(rare.mean(), rel=0.5)


def test_the_sample_holds_every_clip_of_a_rare_label() -> None:
    y = csc_array(np.random.default_rng(0).random((5_000, 3)) < [0.5, 0.1, 0.002])
    chosen = choose_learned(y, 500, 0)
    assert len(chosen) == 500
    assert y[chosen, 2].sum() == y[:, 2].sum()
    assert y[chosen, 0].sum() > 150
    np.testing.assert_array_equal(chosen, choose_learned(y, 500, 0))


def memory_of_ranking(folder: Path, labels: int) -> tuple[int, int]:
    """Rank 48 of so many labels of 30,000 clips: bytes that the first takes, and bytes that the others add to them."""
    names, ids = [f"label{k:04d}" for k in range(labels)], [f"clip{i:06d}" for i in range(30_000)]
    block, store, random = Generated("yamnet", 8), FeatureStore(str(folder / "store")), np.random.default_rng(0)
    vectors = random.normal(size=(len(ids), 3)).astype(np.float32)
    columns = {f"f{i}": random.normal(size=len(ids)) for i in range(8)} | {"vector": vectors}
    store.write_part(to_table(table_schema(block, {}), ids, ["raw"] * len(ids), columns))
    rows = [
        {"clip_id": name, "uri": f"/{name}.wav", "labels": [names[i % (48 if i % 2 else labels)]], "group": name}
        for i, name in enumerate(ids)
    ]
    settings: dict[str, Any] = {"name": "study", "task": "multilabel", "signals": ["raw"], "blocks": {"yamnet": {}}}
    settings |= {"audit": {"scorers": ["logistic", "neighbors"], "folds": 3, "neighbors": 5}}
    clips, recipe = pa.Table.from_pylist(rows, CLIP_SCHEMA), from_mapping(Recipe, settings, "study")
    with pytest.MonkeyPatch.context() as patch:  # so small that the sample and a batch do not count
        for module, name, value in ((rank, "LEARNED", 2_000), (rank, "LABELS", 4), (rank_stream, "BATCH", 8_192)):
            patch.setattr(module, name, value)
        next(rank_study(clips.slice(0, 2_500), store, recipe))  # what is imported on first use does not count
        before, tables = peak_memory(), rank_study(clips, store, recipe)
        next(tables)
        first = peak_memory()
        for _ in islice(tables, 47):
            pass
        return first - before, peak_memory() - first


@pytest.mark.slow
def test_ranking_holds_neither_dense_labels_nor_the_scores_of_all_labels(tmp_path: Path) -> None:
    # a process of its own: the peak of this one would be another test's
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        first, others = process.submit(memory_of_ranking, tmp_path, 4_000).result()
    assert first < 80 * 2**20  # dense, the labels are 114 MiB; the scores of all, 1 GiB and more
    assert others < 15 * 2**20  # the scores of 44 labels more are 30 MiB, their tables 50
