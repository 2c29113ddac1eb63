"""Windows inside clips: how they are cut, how their probabilities are pooled, and what counts as a clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from sklearn.metrics import roc_auc_score

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.config import Pooling, Recipe, Task, WindowSettings, classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.explain.material import gather
from acoustic_env.explain.sequence_plots import sequence_plots
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.mel import LogMelFramesBlock
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.data import frames as frames_module
from acoustic_env.models.data.cut import Cut
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences, load_sequences
from acoustic_env.models.data.spooled_frames import SpooledFrames
from acoustic_env.models.data.windows import (
    EXPONENTS,
    Windows,
    at_level,
    fit_exponent,
    in_windows,
    learn_recordings,
    pool,
    recording_targets,
)
from acoustic_env.models.estimators.fitting import fit, make_estimator
from acoustic_env.models.estimators.storage import dump_estimator, load_estimator
from acoustic_env.models.learn import bundle_matrix
from acoustic_env.models.predictor import Predictor
from acoustic_env.pipeline.work import BlockSpec, block_work
from acoustic_env.store.feature_store import FeatureStore

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
TASKS: tuple[Task, ...] = get_args(Task)
WINDOWS = 7  # of a clip of `study`
LAYERS = [{"channels": 8, "pool": [1, 1]}, {"channels": 8, "pool": [1, 1]}]


def probabilities(task: Task, rows: int, seed: int = 0) -> Any:
    """Random probabilities [rows, classes]."""
    found = np.random.default_rng(seed).random((rows, 2 if task == "binary" else 4))
    return found if task == "multilabel" else found / found.sum(axis=1, keepdims=True)


# ---- cutting


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_windows_are_those_a_loop_cuts_and_the_rest_is_dropped(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "memory_for_frames", lambda: memory)
    block = LogMelFramesBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=3)
    waves = np.random.default_rng(0).normal(size=(5, 1_280)).astype(np.float32)
    store, ids = FeatureStore(str(tmp_path)), list("abcde")
    for rows in (slice(0, 3), slice(3, 5)):
        own = block.compute(waves[rows])
        store.write_part(to_table(table_schema(block, {}, ("raw",)), ids[rows], ["raw"] * len(ids[rows]), own))
    clips, _ = load_sequences(store, ids, "logmel_frames", store.resolve("logmel_frames"))
    assert isinstance(clips.source, SpooledFrames) == (not memory)
    windows = Windows(clips, Cut(4, 3, "mean"))
    x = block.compute(waves)["logmel"]
    expected = [clip[start : start + 4] for clip in x for start in range(0, 11, 3) if start + 4 <= 11]
    assert windows.shape == (15, 4, 3)
    np.testing.assert_array_equal(windows.load(), np.stack(expected))
    assert windows.owners.tolist() == np.repeat(np.arange(5), 3).tolist()
    some = windows[np.array([14, 2, 2])]
    np.testing.assert_array_equal(some.load(), np.stack([expected[14], expected[2], expected[2]]))
    assert some.owners.tolist() == [4, 0, 0]
    assert len({windows.digest(), some.digest(), Windows(clips, Cut(3, 3, "mean")).digest()}) == 3


def test_a_window_as_long_as_the_clip_is_the_clip_and_a_longer_one_is_refused() -> None:
    clips = Sequences.of(np.ones((2, 5, 3), np.float32))
    np.testing.assert_array_equal(Windows(clips, Cut(5, 2, "max")).load(), clips.load())
    with pytest.raises(UsageError, match="6 frames are longer than the clips, which have 5"):
        Windows(clips, Cut(6, 2, "max"))


def test_windows_have_target_group_and_weight_of_their_clip() -> None:
    clips = Sequences.of(np.zeros((3, 5, 2), np.float32))
    plain = Examples(clips, np.array([2, 0, 1]), np.array([7, 7, 9]), np.array([1.0, 2.0, 3.0]))
    assert in_windows(plain) is plain
    clips.cut = Cut(3, 2, "mean")
    assert Sequences.joined([clips, clips]).cut == clips.cut  # of clips and their variants
    found = in_windows(plain)
    assert found.y.tolist() == [2, 2, 0, 0, 1, 1]
    assert found.groups.tolist() == [7, 7, 7, 7, 9, 9]
    assert found.weights is not None
    assert found.weights.tolist() == [1, 1, 2, 2, 3, 3]


def test_seconds_become_frames_of_the_block() -> None:
    settings = WindowSettings(length=1.0, hop=0.001)
    options = {"sample_rate": 16_000, "hop_length": 320}
    assert Cut.of(settings, "logmel_frames", options) == Cut(50, 1, "mean")
    assert Cut.of(WindowSettings(length=3.0, hop=1.0), "vggish_released", {})[:2] == (3, 1)


# ---- pooling


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooled_values_are_probabilities_whatever_the_order_of_the_windows(pooling: Pooling, task: Task) -> None:
    p, owners = probabilities(task, 60), np.repeat(np.arange(6), [1, 4, 9, 6, 30, 10])
    found = pool(p, owners, pooling, task, 3.0)
    assert found.shape == (6, p.shape[1])
    assert ((found >= 0) & (found <= 1)).all()
    if task != "multilabel":
        np.testing.assert_allclose(found.sum(axis=1), 1)
    shuffled = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(pool(p[shuffled], owners[shuffled], pooling, task, 3.0), found, atol=1e-12)
    if pooling != "vote":
        np.testing.assert_allclose(found[0], p[0], atol=1e-12)  # one window


@pytest.mark.parametrize("task", TASKS)
def test_pooled_values_are_their_formulas(task: Task) -> None:
    p, owners = probabilities(task, 24).reshape(4, 6, -1), np.repeat(np.arange(4), 6)
    own = p[..., 1:] if task == "binary" else p
    called = np.eye(4)[own.argmax(axis=2)] if task == "multiclass" else own >= 0.5
    weights = np.exp(2.0 * own)
    expected = {
        "mean": own.mean(axis=1),
        "max": own.max(axis=1),
        "vote": called.mean(axis=1),
        "noisy-or": 1 - np.prod(1 - own, axis=1),
        "learned": (weights * own).sum(axis=1) / weights.sum(axis=1),
    }
    for pooling in POOLINGS:
        found = pool(p.reshape(24, -1), owners, pooling, task, 2.0)
        right = expected[pooling]
        if task == "multiclass":
            right = right / right.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, 1:] if task == "binary" else found, right, atol=1e-12)


def test_a_certain_window_is_certain_by_noisy_or() -> None:
    p, owners = np.array([[0.0, 1.0], [0.7, 0.3]]), np.array([0, 0])
    assert pool(p, owners, "noisy-or", "binary").tolist() == [[0.0, 1.0]]


def test_the_exponent_says_whether_one_window_or_all_of_them_tell_the_class() -> None:
    rng, owners, y = np.random.default_rng(0), np.repeat(np.arange(200), 8), np.arange(200) % 2
    one = rng.uniform(0.0, 0.3, (200, 8))
    one[y == 1, 3] = 0.95
    every = np.where(y[:, None] == 1, 0.9, 0.1) + rng.uniform(-0.09, 0.09, (200, 8))
    every[y == 0, 0] = 0.9  # a misleading window in each negative clip
    found = [fit_exponent(np.stack([1 - p.ravel(), p.ravel()], axis=1), owners, y, "binary") for p in (one, every)]
    assert found[0] > 5
    assert found[1] < 1


# ---- training on windows


def bursts(n: int, seed: int, pooling: Pooling = "learned") -> Examples:
    """Clips of 64 frames of noise, windows of four; class 1 has a band raised in one window."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 64, 4)).astype(np.float32), np.arange(n) % 2
    for row, first in zip(np.flatnonzero(y), rng.integers(0, 16, n // 2) * 4, strict=True):
        x[row, first : first + 4, 1] += 2.0
    clips = Sequences.of(x)
    clips.cut = Cut(4, 4, pooling)
    return Examples(clips, y, np.arange(n))


def test_one_telling_window_is_found_by_max_and_noisy_or_better_than_by_the_mean() -> None:
    settings: Any = classifier_settings(
        {"kind": "attention", "hidden": [8], "heads": 1, "max_epochs": 3, "learning_rate": 0.03, "dropout": 0.0}
    )
    model, new, auc = fit(make_estimator(settings, 23), bursts(100, 0), bursts(60, 1)), bursts(200, 2), {}
    assert model.shape_ == (4, 4)
    assert model.exponent_ > 1
    found = model.predict_proba(new.x)
    assert found.shape == (200, 2)
    again = load_estimator(dump_estimator(model)[1], "classifier-0.safetensors", settings.estimator(0))
    np.testing.assert_array_equal(again.predict_proba(new.x), found)
    for pooling in POOLINGS:
        model.cut_ = Cut(4, 4, pooling)
        auc[pooling] = roc_auc_score(new.y, model.predict_proba(new.x)[:, 1])
    assert min(auc["max"], auc["noisy-or"], auc["learned"]) > auc["mean"] > auc["vote"]


# ---- recordings


def test_recordings_have_the_class_of_their_clips_or_all_their_labels() -> None:
    assert recording_targets(np.array([2, 0, 2]), ["b", "a", "b"]).tolist() == [0, 2]
    labels = np.array([[True, False], [False, False], [False, True]])
    assert recording_targets(labels, ["b", "a", "b"]).tolist() == [[False, False], [True, True]]
    with pytest.raises(UsageError, match="recording 'b' are of different classes"):
        recording_targets(np.array([2, 0, 1]), ["b", "a", "b"])


def test_clips_count_unless_recordings_are_asked_for() -> None:
    y, p, names = np.array([1, 0, 1]), probabilities("binary", 3), ["b", "a", "b"]
    for windows in (None, WindowSettings(length=1, hop=1)):
        truth, found, groups = at_level(Recipe(name="r", windows=windows), y, p, names)
        assert (truth.tolist(), groups.tolist()) == ([1, 0, 1], [1, 0, 1])
        np.testing.assert_array_equal(found, p)
    windows = WindowSettings(length=1, hop=1, level="recording", pooling="max")
    truth, found, groups = at_level(Recipe(name="r", windows=windows), y, p, names)
    assert (truth.tolist(), groups.tolist()) == ([0, 1], [0, 1])
    np.testing.assert_allclose(found[:, 1], [p[1, 1], max(p[0, 1], p[2, 1])])


@pytest.mark.parametrize("task", TASKS)
def test_a_recording_is_pooled_by_the_exponent_of_other_recordings_until_one_is_given(task: Task) -> None:
    recipe = Recipe(name="r", task=task, windows=WindowSettings(length=1, hop=1, level="recording", pooling="learned"))
    rng, count, own = np.random.default_rng(0), 60, 8
    names = [f"r{number:02}" for number in np.repeat(np.arange(count), own)]
    of_recording = rng.integers(0, 2, count) if task != "multilabel" else rng.random((count, 4)) < 0.5
    y, p = np.repeat(of_recording, own, axis=0), probabilities(task, count * own)
    exponent = learn_recordings(recipe, y, p, names)
    assert exponent in EXPONENTS
    truth, pooled, _ = at_level(recipe, y, p, names, exponent)
    np.testing.assert_array_equal(truth, of_recording)
    np.testing.assert_array_equal(pooled, pool(p, np.repeat(np.arange(count), own), "learned", task, exponent))
    held_out = at_level(recipe, y, p, names)[1]
    flipped = y.copy()
    flipped[:own] = ~y[:own] if task == "multilabel" else 1 - y[:own]
    np.testing.assert_array_equal(at_level(recipe, flipped, p, names)[1][0], held_out[0])  # not by its own target
    order = rng.permutation(len(y))
    shuffled = at_level(recipe, y[order], p[order], [names[row] for row in order])[1]
    np.testing.assert_allclose(shuffled, held_out, atol=1e-12)


def test_one_recording_alone_is_pooled_by_the_mean() -> None:
    recipe = Recipe(name="r", windows=WindowSettings(length=1, hop=1, level="recording", pooling="learned"))
    p = probabilities("binary", 3)
    found = at_level(recipe, np.array([1, 1, 1]), p, ["a", "a", "a"])[1]
    np.testing.assert_allclose(found, p.mean(axis=0, keepdims=True))


def test_learned_pooling_without_validation_rows_is_refused() -> None:
    cut = WindowSettings(length=1, hop=1, pooling="learned")
    with pytest.raises(ValueError, match="fitted on validation rows"):
        Recipe(name="r", windows=cut, model=classifier_settings({"kind": "cnn", "patience": None}))


def test_learned_pooling_of_windows_that_are_not_pooled_is_refused() -> None:
    with pytest.raises(ValueError, match="leave `pooling` out"):
        WindowSettings(length=1, hop=1, level="window", pooling="learned")


# ---- the whole way


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Sixty clips of thirty recordings with a low or a high tone, their frames in a store; returns command options."""
    block = LogMelFramesBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=8)
    rng, time = np.random.default_rng(23), np.arange(4_000) / 8_000
    ids = [f"c{number:02}" for number in range(60)]
    labels = [("low", "high")[number // 2 % 2] for number in range(60)]
    tones = np.stack([np.sin(2 * np.pi * (300 if label == "low" else 2_000) * time) for label in labels])
    waves = (0.1 * tones + rng.normal(0, 0.05, tones.shape)).astype(np.float32)
    schema = table_schema(block, {}, ("original",))
    FeatureStore(str(tmp_path / "store")).write_part(
        to_table(schema, ids, ["original"] * len(ids), block.compute(waves))
    )
    listed = [
        {"clip_id": i, "uri": f"{i}.wav", "labels": [label], "group": f"g{number // 2}"}
        for number, (i, label) in enumerate(zip(ids, labels, strict=True))
    ]
    write_clips(clip_table(listed), str(tmp_path / "clips.parquet"))

    def options(windows: dict[str, Any], kind: str = "cnn") -> list[str]:
        recipe = {
            "classes": {"low": {"labels": ["low"]}, "high": {"labels": ["high"]}},
            "signals": ["original"],
            "blocks": {"logmel": {"sample_rate": 8_000, "n_fft": 256, "hop_length": 128, "n_mels": 8}},
            "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
            "windows": {"length": 0.128, "hop": 0.064, **windows},
            "model": {"kind": kind, **({"layers": LAYERS, "max_epochs": 1} if kind == "cnn" else {})},
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(recipe))
        return [*inputs, "--recipe", str(tmp_path / "study.yaml")]

    inputs = ["--clips", str(tmp_path / "clips.parquet"), "--store", str(tmp_path / "store")]
    return options


@pytest.mark.parametrize(
    ("windows", "test_rows"),
    [
        ({"pooling": "learned"}, 12),
        ({"pooling": "noisy-or", "level": "recording"}, 6),
        ({"pooling": "learned", "level": "recording"}, 6),
    ],
)
def test_commands_count_what_the_recipe_asks_for(
    study: Any, windows: dict[str, Any], test_rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, bundle, level = study(windows), str(tmp_path / "bundle"), windows.get("level", "clip")
    assert main(["train", *options, "--out", bundle]) == 0
    assert f"{test_rows * 4} {level}s in 24 groups" in capsys.readouterr().out
    learned = Bundle.load(bundle)
    assert learned.classifier.members[0].cut_[:2] == (8, 4)
    assert (learned.exponent in EXPONENTS) == (windows == {"pooling": "learned", "level": "recording"})
    assert main(["evaluate", "--bundle", bundle, *options[:4], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["clips"], found["groups"], found["level"]) == (test_rows, 6, level)
    out = str(tmp_path / "predictions.parquet")
    assert main(["predict", "--bundle", bundle, *options[:4], "--out", out]) == 0
    assert f"{test_rows * 5} {level}s x 2 classes" in capsys.readouterr().out
    table = pq.read_table(out)
    assert table.column_names == ["clip_id" if level == "clip" else "group", "label", "posterior"]
    assert table.num_rows == test_rows * 5 * 2
    if level == "recording":
        assert main(["compare", *options, "--out", str(tmp_path / "table")]) == 0


def test_windows_count_where_the_recipe_asks_for_them_with_intervals_by_group(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, bundle = study({"level": "window"}), str(tmp_path / "bundle")
    assert main(["train", *options, "--out", bundle]) == 0
    assert f"{48 * WINDOWS} windows in 24 groups" in capsys.readouterr().out
    assert main(["evaluate", "--bundle", bundle, *options[:4], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["clips"], found["groups"], found["level"]) == (12 * WINDOWS, 6, "window")
    by_clip = str(tmp_path / "by-clip")
    assert main(["train", *study({}), "--out", by_clip]) == 0
    assert Bundle.load(by_clip).training_hash == Bundle.load(bundle).training_hash
    assert main(["evaluate", "--bundle", by_clip, *options[:4], "--json"]) == 0
    assert found["clips_hash"] == json.loads(capsys.readouterr().out.splitlines()[-1])["clips_hash"]
    assert main(["compare", *study({"level": "window"}), "--out", str(tmp_path / "table")]) == 0
    out = str(tmp_path / "predictions.parquet")
    assert main(["predict", "--bundle", bundle, *options[:4], "--out", out]) == 0
    table = pq.read_table(out)
    assert table.column_names == ["clip_id", "start_s", "end_s", "label", "posterior"]
    assert table.num_rows == 60 * WINDOWS * 2
    first = table.slice(0, WINDOWS * 2).to_pydict()
    assert set(first["clip_id"]) == {"c00"}
    np.testing.assert_allclose(first["start_s"][::2], np.arange(WINDOWS) * 0.064)
    np.testing.assert_allclose(np.subtract(first["end_s"], first["start_s"]), 0.128)
    store = FeatureStore(options[3])
    matrix = bundle_matrix(Bundle.load(bundle), ["c00"], store)
    own = np.reshape(first["posterior"], (WINDOWS, 2))
    np.testing.assert_allclose(Bundle.load(bundle).predict_proba(matrix), own.mean(axis=0, keepdims=True))


def test_a_bundle_of_windows_answers_for_each_window_of_a_file_and_with_their_mean_for_the_whole(
    study: Any, tmp_path: Path
) -> None:
    bundle, out = str(tmp_path / "bundle"), str(tmp_path / "found.parquet")
    assert main(["train", *study({"level": "window"}), "--out", bundle]) == 0
    trained = Bundle.load(bundle)
    ((block, own),) = trained.fingerprints.items()
    spec = BlockSpec(block, "fast", 0, tuple(own), trained.recipe.block_options(block))
    trained.fingerprints = {block: dict(block_work(spec).fingerprints)}  # of the signal, which the fixture left out
    trained.save(bundle)
    tone = (0.1 * np.sin(2 * np.pi * 300 * np.arange(4_000) / 8_000)).astype(np.float32)
    file = str(tmp_path / "tone.wav")
    soundfile.write(file, tone, 8_000, subtype="FLOAT")
    assert main(["predict", "--bundle", bundle, file, "--out", out]) == 0
    table = pq.read_table(out)
    assert table.column_names == ["clip_id", "start_s", "end_s", "unlike", "label", "posterior"]
    assert table.num_rows == WINDOWS * 2
    low = [row["posterior"] for row in table.to_pylist() if row["label"] == "low"]
    predictor = Predictor.load(bundle)
    whole = predictor.predict(file)
    assert whole.posterior["low"] == pytest.approx(np.mean(low))
    assert predictor.pool([whole]).posterior["low"] == pytest.approx(np.mean(low))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_settings_of_networks_on_windows_are_searched_on_inner_folds(study: Any, tmp_path: Path) -> None:
    options, out = study({"pooling": "max"}), tmp_path / "tune"
    assert main(["tune", *options, "--trials", "2", "--inner-folds", "2", "--out", str(out)]) == 0
    trials = pa_csv.read_csv(out / "trials.csv").to_pylist()
    assert not any(row["error"] for row in trials)
    assert 1 >= trials[0]["score"] >= trials[1]["score"] >= 0
    chosen = json.loads((out / "best.json").read_text())
    assert chosen["augment"]["mixup"] == trials[0]["mixup"]


def test_windows_that_cannot_be_cut_are_refused_with_the_remedy(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "bundle")]
    assert main(["train", *study({"length": 60.0}), *out]) == 2
    assert "set a shorter `windows: length`" in capsys.readouterr().err
    assert main(["train", *study({}, "logistic"), *out]) == 2
    assert "`windows` are for networks on sequences" in capsys.readouterr().err


def test_explain_and_the_report_answer_for_clips_where_a_bundle_answers_for_windows(study: Any, tmp_path: Path) -> None:
    options, bundle, page = study({"level": "window"}), str(tmp_path / "bundle"), tmp_path / "report.html"
    assert main(["train", *options, "--out", bundle]) == 0
    assert main(["evaluate", "--bundle", bundle, *options[:4]]) == 0
    assert main(["report", "--bundle", bundle, *options[:4], "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert f"{12 * WINDOWS} test windows" in text
    assert "of 12 test clips" in text
    material = gather(Bundle.load(bundle), read_clips(options[1]), FeatureStore(options[3]), lambda _: None)
    *drawn, _ = sequence_plots(material)
    assert drawn
    assert "the mean of those of the clip's windows" in drawn[0].caption
    held_out = {material.targets.clip_ids[row] for scorer in material.scorers for row in scorer.rows}
    assert set(drawn[0].data["clip_id"].to_pylist()) <= held_out
    assert max(drawn[0].data["end_s"].to_pylist()) > 0.4, "a window is 0.128 s, a clip 0.5 s"
