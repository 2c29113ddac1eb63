"""Classifiers that read frames are scorers as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import average_precision_score

from acoustic_env.audit.posterior import predict_out_of_fold
from acoustic_env.audit.rank import Clips, prepare, score_labels
from acoustic_env.audit.scorers import LabeledClips, score_by_classifier
from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.config import AuditSettings, classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.features import vggish_released
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.mel import LogMelBlock
from acoustic_env.models.data.frames import Sequences
from acoustic_env.store.feature_store import FeatureStore
from tests.audit.planted import plant_errors

WITH = AuditSettings(scorers=("attention", "logistic"), folds=3, neighbors=5)
SMALL = {"kind": "attention", "hidden": [16], "heads": 2, "dense": [], "dropout": 0.0, "batch_size": 16}
NAMES = [f"c{i}" for i in range(60)]


def frames(n: int = 150, bands: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """[n, 10, bands] bytes and classes: both halves of the bands rise in one frame or in two.

    The mean and the deviation of each band are alike in both classes.
    """
    rng = np.random.default_rng(0)
    x, truth = rng.normal(100, 10, (n, 10, bands)), np.arange(n) % 2
    for clip, together in zip(x, truth, strict=True):
        one, other = rng.choice(10, 2, replace=False)
        clip[one, : bands // 2] += 60
        clip[one if together else other, bands // 2 :] += 60
    return x.clip(0, 255).astype(np.uint8), truth


def clips_of(x: np.ndarray, given: np.ndarray, settings: AuditSettings, epochs: int = 15) -> Clips:
    means = np.hstack([x.mean(1), x.std(1)]).astype(np.float32)
    made = prepare([f"c{i:03d}" for i in range(len(x))], means, given, np.arange(len(x)), settings)
    model = classifier_settings({**SMALL, "max_epochs": epochs, "learning_rate": 0.01})
    return replace(made, sequences=Sequences.of(x), model=model)


def test_frames_show_errors_that_their_means_cannot() -> None:
    x, truth = frames(120)
    given, wrong = plant_errors(truth, 0.1, np.random.default_rng(1))
    found = score_labels(clips_of(x, given, WITH), given, 2, WITH)
    own = {check.name: check.score[np.arange(len(given)), given] for check in found.checks}
    assert average_precision_score(wrong, -own["attention"]) > 0.8
    assert average_precision_score(wrong, -own["logistic"]) < 0.4
    assert average_precision_score(wrong, -found.posterior[np.arange(len(given)), given]) > 0.7


def test_the_label_of_a_clip_never_reaches_the_model_that_scores_it() -> None:
    x, given = frames(60)
    clips = clips_of(x, given, WITH, epochs=2)
    other = given.copy()
    other[7] = 1 - given[7]
    one, two = (score_labels(clips, labels, 2, WITH).posterior for labels in (given, other))
    np.testing.assert_array_equal(one[7], two[7])
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("kind", ["cnn", "resnet", "crnn", "attention"])
def test_a_scorer_of_the_kind_of_the_recipes_model_takes_its_settings(kind: str) -> None:
    x, given = frames(40)
    layers = {"layers": [{"channels": 2, "pool": [2, 4]}]} if kind in ("cnn", "crnn") else {}
    model = classifier_settings({"kind": kind, "max_epochs": 1, "ensemble": 3, **layers})
    clips = clips_of(x, given, WITH)
    labeled = LabeledClips(
        clips.features, np.eye(2)[given], True, clips.folds, clips.neighborhood, 0, clips.sequences, model
    )
    found = predict_out_of_fold(lambda train, held: score_by_classifier(kind, labeled, train, held), clips.folds, 2)
    np.testing.assert_allclose(found.sum(1), 1)
    labels = replace(labeled, exclusive=False)
    present = score_by_classifier(kind, labels, clips.folds > 0, clips.folds == 0)
    assert present.shape == (np.sum(clips.folds == 0), 2)
    assert (present > 0).all()
    assert (present < 1).all()
    with pytest.raises(UsageError, match=f"{kind} reads frames"):
        score_by_classifier(kind, replace(labeled, sequences=None), clips.folds > 0, clips.folds == 0)


@pytest.fixture
def study(tmp_path: Path) -> list[str]:
    """Options of `audit rank` for released frames in a store."""
    x, truth = frames(60, vggish_released.SIZE)
    listed = [
        {"clip_id": f"c{i}", "uri": f"{i}.wav", "labels": [f"class{k}"], "group": f"g{i}"} for i, k in enumerate(truth)
    ]
    write_clips(clip_table(listed), str(tmp_path / "clips.parquet"))
    FeatureStore(str(tmp_path / "store")).write_part(vggish_released.rows([f"c{i}" for i in range(60)], list(x)))
    recipe = {
        "classes": {f"class{k}": {"labels": [f"class{k}"]} for k in (0, 1)},
        "signals": ["raw"],
        "blocks": {"vggish_released": {}},
        "model": {**SMALL, "max_epochs": 2},
        "audit": {"folds": 3, "scorers": ["attention", "neighbors"]},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(recipe))
    names = {"--clips": "clips.parquet", "--store": "store", "--recipe": "study.yaml"}
    return [word for option, name in names.items() for word in (option, str(tmp_path / name))]


def test_the_command_ranks_by_frames_and_the_same_twice(study: list[str], tmp_path: Path) -> None:
    tables = []
    for name in ("one.parquet", "two.parquet"):
        assert main(["audit", "rank", *study, "--out", str(tmp_path / name)]) == 0
        tables.append(pq.read_table(tmp_path / name))
    assert tables[0].equals(tables[1])
    assert tables[0].column_names[5:] == ["attention", "neighbors"]


def test_scorers_read_windows_where_the_recipe_names_some(
    study: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, scores = tmp_path / "study.yaml", []
    recipe = yaml.safe_load(place.read_text())
    for pooling in ("mean", "max", "learned", None):
        windows = {"length": 4.8, "hop": 0.96, "pooling": pooling} if pooling else None
        place.write_text(yaml.safe_dump({**recipe, "windows": windows}))
        out = str(tmp_path / f"{pooling}.parquet")
        assert main(["audit", "rank", *study, "--out", out]) == (2 if pooling == "learned" else 0)
        if pooling != "learned":
            scores.append(tuple(pq.read_table(out).sort_by("clip_id")["attention"].to_pylist()))
    assert "is fitted on validation rows" in capsys.readouterr().err
    assert len(set(scores)) == 3


def test_blocks_without_frames_are_refused_with_the_remedy(
    study: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = LogMelBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=6)
    rows = block.compute(np.random.default_rng(0).normal(size=(60, 4_000)).astype(np.float32))
    FeatureStore(study[3]).write_part(to_table(table_schema(block, {}, ("raw",)), NAMES, ["raw"] * 60, rows))
    command = ["audit", "rank", *study, "--out", str(tmp_path / "ranked.parquet"), "--blocks"]
    assert main([*command, "logmel"]) == 2
    assert "frames of none; extract one with the option `frames: true`" in capsys.readouterr().err
    assert main([*command, "logmel,vggish_released"]) == 0
