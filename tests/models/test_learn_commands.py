"""train, evaluate, predict and study on a small study, and what they say to bad input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import ExtraTreesClassifier

from acoustic_env.cli import main
from acoustic_env.clips.table import write_clips
from acoustic_env.config import CLASSIFIERS
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.compare import compare, variants
from acoustic_env.models.estimators.mlp import MLPSettings
from acoustic_env.models.estimators.network_classifier import NetworkClassifier
from acoustic_env.models.learn import prepare, train
from acoustic_env.models.predict import predict
from tests.models.conftest import CLIPS, Disk, Generated, write_block


class Own(ExtraTreesClassifier):  # type: ignore[misc]
    """A user's estimator."""


class Harmful:
    """A type that no bundle holds."""


def silent(_: str) -> None:
    pass


def study_options(disk: Disk, recipe: str | None = None) -> list[str]:
    return ["--clips", disk.clips, "--store", disk.store, "--recipe", recipe or disk.recipe]


def trained(disk: Disk, *options: str, recipe: str | None = None) -> str:
    bundle = str(disk.folder / "bundle")
    assert main(["train", *study_options(disk, recipe), *options, "--out", bundle]) == 0
    return bundle


QUICK = ("logistic", "xgboost")
KINDS = [kind for kind in CLASSIFIERS.names() if not CLASSIFIERS.load(kind).reads_sequences]


@pytest.mark.parametrize(
    "model", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in QUICK)]
)
def test_a_bundle_predicts_the_same_after_it_was_stored_and_holds_no_pickle(disk: Disk, model: str) -> None:
    recipe = load_recipe(disk.recipe)
    settings = recipe.model.of_kind(model)
    settings = settings.replace(n_estimators=40) if model == "random_forest" else settings
    study = prepare(disk.table(), disk.feature_store(), recipe.replace(model=settings), log=silent)
    bundle, judged = train(study, silent)
    assert judged.metrics["auc"].value > 0.85
    assert judged.clips == len(study.learning)
    bundle.save(disk.folder / "bundle")
    names = {path.suffix for path in (disk.folder / "bundle").iterdir()}
    assert names <= {".json", ".skops", ".safetensors", ".ubj"}
    again = Bundle.load(disk.folder / "bundle")
    np.testing.assert_allclose(again.predict_proba(study.matrix), bundle.predict_proba(study.matrix), atol=1e-4)
    assert again.training_hash == bundle.training_hash
    assert set(again.fingerprints) == {"indices", "yamnet"}


def test_training_does_not_look_at_test_clips(disk: Disk) -> None:
    recipe, store, clips = load_recipe(disk.recipe), disk.feature_store(), disk.table()
    study = prepare(clips, store, recipe, log=silent)
    spoiled = replace(study, matrix=replace(study.matrix, values=study.matrix.values.copy()))
    spoiled.matrix.values[study.split.test] = 1e6
    spoiled.targets.y[study.split.test] = 0
    first, second = train(study, silent)[0], train(spoiled, silent)[0]
    np.testing.assert_array_equal(first.predict_proba(study.matrix), second.predict_proba(study.matrix))
    np.testing.assert_array_equal(first.calibrator.thresholds_, second.calibrator.thresholds_)


@pytest.mark.slow
def test_with_an_ensemble_every_clip_but_the_tests_is_judged_by_ensembles_that_held_it_out(disk: Disk) -> None:
    recipe = load_recipe(disk.recipe)
    recipe = recipe.replace(model=recipe.model.replace(ensemble=4))
    study = prepare(disk.table(), disk.feature_store(), recipe, log=silent)
    _, judged = train(study, silent)
    assert judged.clips == len(study.learning) == CLIPS - len(study.split.test)


def test_evaluate_leaves_out_what_was_trained_on_and_counts_its_test_evaluations(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained(disk)
    capsys.readouterr()
    evaluate = ["evaluate", "--bundle", bundle, "--clips", disk.clips, "--store", disk.store]
    assert main([*evaluate, "--json"]) == 0
    shown = capsys.readouterr()
    first = json.loads(shown.out)
    assert first["clips"] == 60
    assert first["test_evaluation"] == 1
    assert "left out: 240 clips the bundle was trained on" in shown.err
    assert first["metrics"]["auc"]["low"] < first["metrics"]["auc"]["value"] < first["metrics"]["auc"]["high"]
    assert len(first["roc"]["x"]) == len(first["roc"]["y"])
    assert main(evaluate) == 0
    shown = capsys.readouterr()
    assert "test evaluation 2 of this bundle (1 earlier on this set" in shown.err
    assert [one.found["clips"] for one in Bundle.load(bundle).test_evaluations] == [60, 60]


def test_a_bundle_keeps_what_its_last_test_evaluation_found(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    place = trained(disk, "--model", "logistic")
    assert Bundle.load(place).test is None
    capsys.readouterr()
    evaluate = ["evaluate", "--bundle", place, "--clips", disk.clips, "--store", disk.store]
    assert main([*evaluate, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    kept = Bundle.load(place).test
    assert kept is not None
    assert kept == {name: shown[name] for name in kept}
    assert sum(map(sum, kept["confusion"])) == 60


def test_predict_writes_a_row_per_clip_and_class_and_says_which_it_has_learned_from(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained(disk, "--model", "logistic")
    out = str(disk.folder / "predictions.parquet")
    assert main(["predict", "--bundle", bundle, "--clips", disk.clips, "--store", disk.store, "--out", out]) == 0
    assert "240 of 300 clips, or their recordings, trained the bundle" in capsys.readouterr().err
    table = pq.read_table(out)
    assert table.column_names == ["clip_id", "label", "posterior"]
    assert table.num_rows == 2 * CLIPS
    pairs = table["posterior"].to_numpy().reshape(CLIPS, 2)
    np.testing.assert_allclose(pairs.sum(axis=1), 1.0)
    assert table["label"].to_pylist()[:2] == ["natural", "urban"]


def test_a_file_given_twice_is_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, audio = trained(disk, "--model", "logistic"), str(disk.folder / "a.wav")
    Path(audio).write_bytes(b"")
    assert main(["predict", "--bundle", bundle, "--out", str(disk.folder / "p.parquet"), audio, audio]) == 2
    assert "a.wav: given twice" in capsys.readouterr().err


def test_the_study_ranks_every_block_and_signal_with_paired_differences(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    out = disk.folder / "study"
    assert main(["compare", *study_options(disk), "--models", "logistic", "--out", str(out)]) == 0
    table = pa_csv.read_csv(out / "compare.csv")
    shown = {(row["features"], row["signals"]) for row in table.to_pylist()}
    assert shown == {(f, s) for f in ("indices", "yamnet", "indices+yamnet") for s in ("raw", "fg", "all")}
    assert table["features"][0].as_py() == "indices+yamnet"
    rows = table.to_pylist()
    assert rows[0]["behind"] is None
    assert all(row["behind_low"] <= row["behind"] <= row["behind_high"] for row in rows[1:])
    assert [row["within_noise"] for row in rows[1:]] == [row["behind_low"] <= 0 for row in rows[1:]]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows)
    assert f"{rows[0]['accuracy']:.3f} ({rows[0]['accuracy_low']:.3f}–" in lines[1]


def test_the_study_has_all_blocks_together_where_there_are_several_embedders() -> None:
    def combined(*blocks: str) -> list[str]:
        return [variant.features for variant in variants(blocks, ["raw"])]

    assert combined("indices", "mps", "yamnet", "mn04")[4:] == [
        "indices+mps+yamnet",
        "indices+mps+mn04",
        "indices+mps+yamnet+mn04",
    ]
    assert combined("yamnet", "mn04") == ["yamnet", "mn04", "yamnet+mn04"]
    assert combined("indices", "mps") == ["indices", "mps", "indices+mps"]
    assert combined("mps") == ["mps"]


@pytest.mark.slow
def test_the_study_looks_at_test_clips_only_when_every_fold_is_asked_for(disk: Disk) -> None:
    study = prepare(disk.table(), disk.feature_store(), load_recipe(disk.recipe), blocks=["indices"], log=silent)
    spoiled = replace(study, matrix=replace(study.matrix, values=study.matrix.values.copy()))
    spoiled.matrix.values[study.split.test] = 1e6
    models = {"logistic": study.recipe.model.of_kind("logistic")}
    scores = [compare(one, models, silent)[0].score.value for one in (study, spoiled)]
    assert scores[0] == scores[1]
    scores = [compare(one, models, silent, every_fold=True)[0].score.value for one in (study, spoiled)]
    assert scores[0] > scores[1]


def test_the_study_compares_files_of_settings_with_kinds_and_says_what_training_took(disk: Disk) -> None:
    (disk.folder / "lasso.yaml").write_text("{kind: logistic, l1_ratio: 1.0, penalty: 0.02}")
    models = f"knn,svm,{disk.folder / 'lasso.yaml'}"
    command = ["compare", *study_options(disk), "--blocks", "indices", "--signals", "raw", "--models", models]
    assert main([*command, "--trials", "2", "--out", str(disk.folder / "study")]) == 0
    rows = pa_csv.read_csv(disk.folder / "study/compare.csv").to_pylist()
    assert sorted(row["model"] for row in rows) == ["knn", "lasso", "svm"]
    assert all(row["train_seconds"] > 0 and row["predict_seconds"] > 0 for row in rows)


def test_a_file_of_settings_named_as_a_kind_in_the_study_is_refused(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    (disk.folder / "knn.yaml").write_text("{kind: knn, neighbors: 3}")
    models = ["--models", f"knn,{disk.folder / 'knn.yaml'}"]
    assert main(["compare", *study_options(disk), *models, "--out", str(disk.folder / "study")]) == 2
    assert "the comparison has a classifier knn already; rename the file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("task", "figure"), [("multiclass", "macro_f1"), ("multilabel", "map")])
def test_more_than_two_classes_are_trained_and_judged_with_every_class(
    disk: Disk, task: str, figure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = disk.table()
    labels = [["natural", "urban", "indoor"][i // 2 % 2 + (i % 10 == 0 and i // 2 % 2)] for i in range(CLIPS)]
    own = [[label, "sound"] if task == "multilabel" and i % 3 == 0 else [label] for i, label in enumerate(labels)]
    column = clips.schema.get_field_index("labels")
    write_clips(clips.set_column(column, clips.schema.field("labels"), pa.array(own)), disk.clips)
    recipe = disk.write_recipe(task=task, classes={}, blocks={"indices": {}})
    bundle = trained(disk, recipe=recipe)
    capsys.readouterr()
    assert main(["evaluate", "--bundle", bundle, "--clips", disk.clips, "--store", disk.store, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"][figure]["low"] <= found["metrics"][figure]["value"] <= found["metrics"][figure]["high"]
    assert len(found["per_class"]) == (4 if task == "multilabel" else 3)


# ---- what is said to bad input


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown.splitlines()[-1]


def test_one_class_only_is_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    clips = disk.table()
    write_clips(clips.filter(pa.array([labels == ["urban"] for labels in clips["labels"].to_pylist()])), disk.clips)
    message = refused(capsys, "train", *study_options(disk), "--out", str(disk.folder / "b"))
    assert "all 90 training clips are 'urban'; each part needs two classes" in message


def test_fewer_groups_than_folds_are_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(disk.table().slice(0, 8), disk.clips)
    message = refused(capsys, "train", *study_options(disk), "--out", str(disk.folder / "b"))
    assert "8 clips in 4 groups cannot fill 5 folds" in message


def test_a_block_missing_for_many_clips_is_refused_and_for_few_left_out(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    y = np.arange(CLIPS) // 2 % 2
    ids = disk.table()["clip_id"].to_pylist()
    write_block(disk.store, Generated("mps", 2), ids[:100], y[:100])
    recipe = disk.write_recipe(blocks={"indices": {}, "mps": {}})
    message = refused(capsys, "train", *study_options(disk, recipe), "--out", str(disk.folder / "b"))
    assert "200 of 300 clips lack a block: block mps, signal raw: no row for 200 of 300 clips" in message
    write_block(disk.store, Generated("mps", 2), ids[:-4], y[:-4])
    trained(disk, "--model", "logistic", recipe=recipe)
    assert "left out: 4 clips that lack a block" in capsys.readouterr().err


def test_a_block_the_store_does_not_have_is_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = disk.write_recipe(blocks={"panns": {}})
    message = refused(capsys, "train", *study_options(disk, recipe), "--out", str(disk.folder / "b"))
    assert "holds no block 'panns' (there: indices, yamnet)" in message


def test_labels_outside_the_recipe_are_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = disk.write_recipe(classes={"sea": {"labels": ["sea"]}, "wood": {"labels": ["wood"]}})
    message = refused(capsys, "train", *study_options(disk, recipe), "--out", str(disk.folder / "b"))
    assert "no clip is left of 300" in message


def test_a_bundle_from_another_version_of_a_block_is_refused_by_name(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained(disk, "--model", "logistic")
    other = replace(disk, store=str(disk.folder / "other"))
    ids, y = disk.table()["clip_id"].to_pylist(), np.arange(CLIPS) // 2 % 2
    write_block(other.store, Generated("indices", 4, setting=9), ids, y)
    write_block(other.store, Generated("yamnet", 6), ids, y)
    message = refused(capsys, "evaluate", "--bundle", bundle, "--clips", disk.clips, "--store", other.store)
    assert "block indices, signal raw: trained on version" in message
    assert "yamnet" not in message


def test_a_bundle_of_an_earlier_format_is_refused_with_the_command_that_makes_it_again(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(trained(disk, "--model", "logistic"))
    old = json.loads((folder / "metadata.json").read_text())
    old["format"] = 4
    (folder / "metadata.json").write_text(json.dumps(old))
    evaluate = ["evaluate", "--bundle", str(folder), "--clips", disk.clips, "--store", disk.store]
    message = refused(capsys, *evaluate)
    assert "bundle of format 4, this version reads 6" in message
    assert f"acoustic-env train --clips LIST --store URL --recipe R --out {folder}" in message
    assert main(["train", *study_options(disk), "--model", "logistic", "--out", str(folder)]) == 0
    assert main(evaluate) == 0


def test_a_bundle_written_over_a_larger_one_leaves_none_of_its_files(disk: Disk) -> None:
    place = Path(trained(disk, "--model", "logistic", "--ensemble", "3"))
    assert (place / "classifier-2.safetensors").exists()
    trained(disk, "--model", "logistic")
    assert {path.name for path in place.iterdir()} == {
        "metadata.json",
        "preprocessing.safetensors",
        "references.safetensors",
        "trained_on.safetensors",
        "classifier-0.safetensors",
    }


def test_a_part_with_a_type_that_is_not_trusted_is_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    import skops.io

    bundle = trained(disk, "--model", "svm")
    part = Path(bundle, "classifier-0.skops")
    part.write_bytes(skops.io.dumps(Harmful()))
    evaluate = ["evaluate", "--bundle", bundle, "--clips", disk.clips, "--store", disk.store]
    assert "not the part metadata.json was written with" in refused(capsys, *evaluate)
    path = Path(bundle, "metadata.json")
    metadata = json.loads(path.read_text())
    metadata["parts"][part.name] = hashlib.sha256(part.read_bytes()).hexdigest()
    path.write_text(json.dumps(metadata))
    message = refused(capsys, *evaluate)
    assert "holds types that are not trusted: tests.models.test_learn_commands.Harmful" in message
    assert "train the bundle again" in message
    part.write_bytes(b"PK damaged")
    metadata["parts"][part.name] = hashlib.sha256(part.read_bytes()).hexdigest()
    path.write_text(json.dumps(metadata))
    assert "classifier-0.skops: not a readable skops file" in refused(capsys, *evaluate)


def test_an_own_estimator_is_trained_stored_and_loaded_with_its_types_trusted(disk: Disk) -> None:
    study = prepare(disk.table(), disk.feature_store(), load_recipe(disk.recipe), log=silent)
    bundle, found = train(study, silent, classifier=Own(n_estimators=30))
    assert found.metrics["auc"].value > 0.8
    bundle.save(disk.folder / "own")
    with pytest.raises(UsageError, match=r"not trusted: tests\.models\.test_learn_commands\.Own"):
        Bundle.load(disk.folder / "own")
    again = Bundle.load(disk.folder / "own", trusted=["tests.models.test_learn_commands.Own"])
    np.testing.assert_allclose(again.predict_proba(study.matrix), bundle.predict_proba(study.matrix), atol=1e-9)


def test_an_own_estimator_of_the_packages_kinds_keeps_its_settings(disk: Disk) -> None:
    study = prepare(disk.table(), disk.feature_store(), load_recipe(disk.recipe), log=silent)
    bundle, _ = train(
        study, silent, classifier=NetworkClassifier(MLPSettings(layers=(8,), activation="tanh", max_epochs=3))
    )
    bundle.save(disk.folder / "own")
    types = ("mlp.MLPSettings", "network_classifier.NetworkClassifier")
    again = Bundle.load(disk.folder / "own", trusted=[f"acoustic_env.models.estimators.{name}" for name in types])
    np.testing.assert_allclose(again.predict_proba(study.matrix), bundle.predict_proba(study.matrix), atol=1e-9)


def test_a_bundle_that_is_not_there_or_damaged_is_refused(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = ["evaluate", "--clips", disk.clips, "--store", disk.store, "--bundle"]
    assert "no bundle: metadata.json is not there" in refused(capsys, *evaluate, str(disk.folder / "none"))
    bundle = trained(disk, "--model", "logistic")
    weights = Path(bundle, "preprocessing.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert "not the part metadata.json was written with" in refused(capsys, *evaluate, bundle)


def test_a_list_the_bundle_was_trained_on_is_no_test(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = disk.write_recipe(split={"folds": 5, "validation_folds": [3], "test_folds": []})
    bundle = trained(disk, "--model", "logistic", recipe=recipe)
    message = refused(capsys, "evaluate", "--bundle", bundle, "--clips", disk.clips, "--store", disk.store)
    assert "the bundle was trained on all 300 clips of the list" in message


def test_predict_wants_a_list_or_files(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = trained(disk, "--model", "logistic")
    message = refused(capsys, "predict", "--bundle", bundle, "--out", "x.parquet")
    assert "either --clips with --store, or audio files" in message
    with pytest.raises(UsageError, match="no clip has all the features"):
        predict(Bundle.load(bundle), [], disk.feature_store(), silent)


def test_columns_that_say_nothing_are_named_in_training(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    clips = disk.table()["clip_id"].to_pylist()
    block = Generated("mps", 2)
    write_block(disk.store, block, clips, np.zeros(CLIPS))
    store = disk.feature_store()
    table = store.read("mps")
    flat = table.set_column(table.schema.get_field_index("f1"), "f1", pa.array(np.full(len(table), 2.0)))
    other = replace(disk, store=str(disk.folder / "flat"))
    other.feature_store().write_part(flat.cast(table.schema))
    recipe = disk.write_recipe(blocks={"mps": {}})
    main(["train", *study_options(other, recipe), "--model", "logistic", "--out", str(disk.folder / "b")])
    assert "mps.raw: 5 columns -> 4 components (100.0% of variance); 1 constant left out: f1" in capsys.readouterr().err
