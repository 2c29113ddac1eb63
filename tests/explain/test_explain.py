"""explain on a trained bundle: who may judge which clip, what shuffling costs, and every figure with its words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.table import read_clips
from acoustic_env.explain.attribution_plots import importance_plots
from acoustic_env.explain.importance import Group, feature_groups, permutation_importance
from acoustic_env.explain.material import gather
from acoustic_env.features.modulation import SHAPE
from acoustic_env.models.data.matrix import FeatureColumn, FeatureMatrix
from acoustic_env.models.learn import prepare, train
from acoustic_env.stats.ranking import Ranking
from acoustic_env.store.feature_store import FeatureStore
from tests.explain.conftest import CLIPS, Trained


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures")
    options = ["--bundle", trained.bundle, "--clips", trained.clips, "--store", trained.store]
    assert main(["explain", *options, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_every_figure_has_its_files_a_sentence_and_an_alternative_text(folder: Path) -> None:
    index = json.loads((folder / "explain.json").read_text())
    names = {figure["name"] for figure in index["plots"]}
    assert {
        "contrast-indices-1",
        "contrast-modulation-1",
        "correlation-indices-raw",
        "map-indices",
        "map-mps",
        "shap-ranks-1",
        "shap-values-1",
        "components-indices-1",
        "components-modulation-1",
        "permutation-importance",
    } <= names
    for figure in index["plots"]:
        assert len(figure["alt"]) > 40
        assert figure["caption"].endswith(".")
        assert figure["title"]
        assert (folder / figure["files"]["png"]).read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / figure["files"]["svg"]).read_text()
        assert pa_csv.read_csv(folder / figure["files"]["csv"]).num_rows > 0


def test_what_was_planted_is_what_is_found(folder: Path) -> None:
    contrasts = pa_csv.read_csv(folder / "contrast-indices-1.csv").to_pylist()
    assert (contrasts[0]["index"], contrasts[0]["signal"]) == ("f0", "raw")
    assert contrasts[0]["t"] > 5
    significant = [row for row in contrasts if row["q"] <= 0.05]
    assert len(significant) <= 3
    cells = pa_csv.read_csv(folder / "contrast-modulation-1.csv").to_pylist()
    assert len(cells) == 2 * SHAPE[0] * SHAPE[1]
    planted = [
        row
        for row in cells
        if row["signal"] == "raw" and row["spectral_cycles_per_kHz"] < 1 and 8 < row["temporal_Hz"] < 16
    ]
    found = [row for row in cells if row["q"] <= 0.05]
    assert sum(row in planted for row in found) > 0.85 * len(found)
    assert np.mean([row["q"] <= 0.05 for row in planted]) > 0.3
    importance = pa_csv.read_csv(folder / "permutation-importance.csv").to_pylist()
    drops = {row["group"]: row for row in importance}
    assert max(importance, key=lambda row: row["drop"])["signal"] == "raw"
    assert drops["f0 (raw)"]["drop"] > 3 * abs(drops["f3 (raw)"]["drop"])
    assert drops["f0 (fg)"]["drop"] < 0.05


def test_test_clips_are_not_looked_at(trained: Trained, folder: Path) -> None:
    learned = set(trained.material.targets.clip_ids)
    assert len(learned) == CLIPS * 4 // 5
    for name in ("map-indices", "shap-values-1"):
        assert set(pa_csv.read_csv(folder / f"{name}.csv")["clip_id"].to_pylist()) <= learned


def test_every_clip_is_judged_by_models_that_held_it_out(trained: Trained) -> None:
    material = trained.material
    rows = np.concatenate([scorer.rows for scorer in material.scorers])
    assert sorted(rows.tolist()) == list(range(len(material.groups)))
    for scorer in material.scorers:
        folds = set(material.folds[scorer.rows].tolist())
        others = np.setdiff1d(np.arange(len(material.groups)), scorer.rows)
        assert not folds & set(material.folds[others].tolist())
    x = material.bundle.preprocessor.transform(material.matrix.values)
    said = np.empty(len(rows))
    for scorer in material.scorers:
        said[scorer.rows] = scorer.model.predict_proba(x[scorer.rows])[:, 1]
    # Held out in truth: the judges do worse than the ensemble does on clips its members learned from.
    learned = material.bundle.classifier.predict_proba(x)[:, 1]
    truth = material.truth[:, 1]
    assert 0.7 < Ranking(truth, said).auc() < Ranking(truth, learned).auc() - 0.03


def test_a_classifier_that_learned_from_every_clip_is_judged_by_a_copy_that_did_not(trained: Trained) -> None:
    store, clips = FeatureStore(trained.store), read_clips(trained.clips)
    recipe = trained.material.bundle.recipe
    study = prepare(clips, store, recipe.replace(model=recipe.model.of_kind("knn")), log=lambda _: None)
    material = gather(train(study, lambda _: None)[0], clips, store, lambda _: None)
    (scorer,) = material.scorers
    assert set(material.folds[scorer.rows].tolist()) == set(recipe.split.validation_folds)
    x = material.bundle.preprocessor.transform(material.matrix.values)
    truth = material.truth[scorer.rows, 1]
    said, learned = (model.predict_proba(x[scorer.rows])[:, 1] for model in (scorer.model, material.bundle.classifier))
    assert Ranking(truth, said).auc() < Ranking(truth, learned).auc() == 1.0


def test_shuffling_costs_what_it_costs_when_the_whole_chain_is_run(trained: Trained) -> None:
    material = trained.material
    group = next(group for group in feature_groups(material) if group.name == "mps, raw")
    (found,), base, clips = permutation_importance(material, [group], repeats=20)
    assert clips == len(material.groups)
    random = np.random.default_rng(99)
    drops = []
    for _ in range(20):
        values = material.matrix.values.copy()
        for fold in np.unique(material.folds):
            own = np.flatnonzero(material.folds == fold)
            values[np.ix_(own, group.columns)] = values[np.ix_(random.permutation(own), group.columns)]
        x = material.bundle.preprocessor.transform(values)
        said = np.empty(clips)
        for scorer in material.scorers:
            said[scorer.rows] = scorer.model.predict_proba(x[scorer.rows])[:, 1]
        drops.append(base - Ranking(material.truth[:, 1], said).auc())
    assert found.drop == pytest.approx(np.mean(drops), abs=3 * np.std(drops) / np.sqrt(10))
    assert found.low < found.drop < found.high


def test_with_several_classes_importance_is_told_for_each_of_them(trained: Trained) -> None:
    clips, store = read_clips(trained.clips), FeatureStore(trained.store)
    third = [["other"] if row // 2 % 4 == 0 else labels for row, labels in enumerate(clips["labels"].to_pylist())]
    clips = clips.set_column(clips.schema.get_field_index("labels"), "labels", pa.array(third, pa.list_(pa.string())))
    recipe = trained.material.bundle.recipe
    several = recipe.replace(task="multiclass", classes={}, model=recipe.model.of_kind("logistic"))
    study = prepare(clips, store, several, blocks=["indices"], signals=["raw"], log=lambda _: None)
    material = gather(train(study, lambda _: None)[0], clips, store, lambda _: None)
    whole, by_class = importance_plots(material)
    drops = {(row["group"], row["class"]): row["drop"] for row in by_class.data.to_pylist()}
    assert {name for _, name in drops} == {"natural", "other", "urban"}
    assert drops["f0 (raw)", "urban"] > 0.1 > drops["f2 (raw)", "urban"]
    mean = np.mean([drops["f0 (raw)", name] for name in ("natural", "other", "urban")])
    assert next(r["drop"] for r in whole.data.to_pylist() if r["group"] == "f0 (raw)") == pytest.approx(mean)


def test_a_group_without_columns_in_the_reduction_costs_nothing(trained: Trained) -> None:
    nothing = Group("nothing", "column", "indices", "bg", np.empty(0, np.int64))
    (found,), _, _ = permutation_importance(trained.material, [nothing], repeats=2)
    assert (found.drop, found.low, found.high) == (0.0, 0.0, 0.0)


def test_vectors_of_the_same_name_in_two_blocks_are_told_apart(trained: Trained) -> None:
    columns = [
        FeatureColumn(block, "raw", f"{name}[{cell}]")
        for block in ("yamnet", "mn04")
        for name in ("embedding", "scores")
        for cell in range(2)
    ]
    matrix = FeatureMatrix(["a"], np.zeros((1, 8), np.float32), columns, {}, {})
    groups = feature_groups(replace(trained.material, matrix=matrix))
    assert [group.name for group in groups] == [
        "yamnet, raw",
        "yamnet embedding (raw)",
        "yamnet scores (raw)",
        "mn04, raw",
        "mn04 embedding (raw)",
        "mn04 scores (raw)",
    ]


def test_regions_cover_every_cell_of_the_map_once(trained: Trained) -> None:
    groups = [group for group in feature_groups(trained.material) if group.kind == "region" and group.signal == "raw"]
    cells = np.concatenate([group.columns for group in groups])
    assert len(cells) == len(set(cells.tolist())) == SHAPE[0] * SHAPE[1]


def test_a_list_the_model_was_not_trained_on_is_said_to_be_one(trained: Trained) -> None:
    clips = read_clips(trained.clips)
    bundle = replace(trained.material.bundle, trained_on=np.empty(0, np.uint64))
    material = gather(replace(bundle, training_hash="other"), clips, FeatureStore(trained.store), print)
    assert len(material.groups) == CLIPS
    assert "not trained on" in material.clips
    part = gather(trained.material.bundle, clips.slice(0, 100), FeatureStore(trained.store), print)
    assert set(part.targets.clip_ids) <= set(trained.material.targets.clip_ids)
    assert "optimistic" in part.scored


def test_a_bundle_that_is_not_there_is_refused_with_a_remedy(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--clips", trained.clips, "--store", trained.store, "--out", str(tmp_path / "out")]
    assert main(["explain", "--bundle", str(tmp_path / "none"), *options]) == 2
    assert "acoustic-env train" in capsys.readouterr().err
    empty = tmp_path / "empty.parquet"
    table = read_clips(trained.clips)
    pq.write_table(table.slice(0, 0), empty)
    assert main(["explain", "--bundle", trained.bundle, "--clips", str(empty), *options[2:]]) == 2
