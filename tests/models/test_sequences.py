"""Networks on sequences: frames from the store, training, storage, the whole way through the commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from sklearn.metrics import roc_auc_score

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.config import CLASSIFIERS, ClassifierSettings, Task, classifier_settings
from acoustic_env.features import vggish_released
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.mel import LogMelFramesBlock
from acoustic_env.features.registry import make_block
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.data import frames as frames_module
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences, load_sequences
from acoustic_env.models.data.spooled_frames import SpooledFrames
from acoustic_env.models.estimators.fitting import fit, make_estimator, predict_proba
from acoustic_env.models.estimators.frames_settings import SequenceSettings, rarity
from acoustic_env.models.estimators.layers import AugmentSettings
from acoustic_env.models.estimators.modules import Augment, Scale
from acoustic_env.models.estimators.storage import dump_estimator, load_estimator
from acoustic_env.store.feature_store import FeatureStore

KINDS = [kind for kind in CLASSIFIERS.names() if CLASSIFIERS.load(kind).reads_sequences]
TASKS: list[tuple[Task, int]] = [("binary", 2), ("multiclass", 3), ("multilabel", 3)]
LAYERS = [{"channels": 8, "pool": [2, 1]}, {"channels": 8, "pool": [1, 2]}]
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"layers": LAYERS},
    "resnet": {"stem": [{"channels": 8, "pool": [1, 1]}], "blocks": [8, 16]},
    "attention": {"hidden": [16], "heads": 2},
    "crnn": {"layers": LAYERS, "units": 8},
}


def settings(kind: str, **changes: Any) -> ClassifierSettings:
    small = {"kind": kind, "dropout": 0.1, "learning_rate": 1e-2, "max_epochs": 20, **SMALL[kind], **changes}
    return classifier_settings(small)


def rows(task: Task, n: int = 160, seed: int = 0) -> Examples:
    """Noise of 8 frames and 6 bands in which a class raises one band for two frames somewhere."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 8, 6)).astype(np.float32)
    present = random.random((n, 3)) < 0.5
    if task != "multilabel":
        present = np.eye(3, dtype=bool)[random.integers(2 if task == "binary" else 3, size=n)]
    for clip, own in zip(x, present, strict=True):
        for band in np.flatnonzero(own):
            first = random.integers(7)
            clip[first : first + 2, band] += 4
    y = present if task == "multilabel" else present.argmax(1)
    return Examples(Sequences.of(x), y, np.arange(n))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "classes"), TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_every_task_and_survives_being_stored(kind: str, task: Task, classes: int) -> None:
    made = settings(kind)
    model = fit(make_estimator(made, 23), rows(task), rows(task, seed=2))
    new = rows(task, seed=1)
    found = predict_proba(model, new.x, classes)
    truth = new.y if task == "multilabel" else np.eye(classes, dtype=bool)[new.y]
    assert roc_auc_score(truth, found, average="macro") > 0.85
    suffix, data = dump_estimator(model)
    again = load_estimator(data, f"classifier-0.{suffix}", made.estimator(0))
    np.testing.assert_allclose(predict_proba(again, new.x, classes), found, atol=1e-6)
    assert again.history_ == model.history_
    assert [epoch["epoch"] for epoch in model.history_] == list(range(1, len(model.history_) + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_name": "bce"},
        {"loss_name": "focal", "label_smoothing": 0.1},
        {"class_weight": "balanced"},
        {"sampler": "balanced"},
        {"upsample": 3.0},
        {"scale": "clip"},
        {"scale": "all", "precision": "bf16"},
        {"schedule": "cosine"},
        {"augment": {"mixup": 0.2, "roll": 0.5, "permute": 0.2, "time_masks": 1, "band_masks": 1, "band_mask": 0.2}},
    ],
)
def test_every_way_to_train_learns(changes: dict[str, Any]) -> None:
    model = fit(make_estimator(settings("cnn", **changes), 23), rows("multiclass"), rows("multiclass", seed=2))
    new = rows("multiclass", seed=1)
    assert roc_auc_score(np.eye(3)[new.y], model.predict_proba(new.x)) > 0.8


def test_the_same_seed_gives_the_same_probabilities_and_another_seed_others() -> None:
    made, new = settings("cnn", augment={"mixup": 0.2, "time_masks": 1}, max_epochs=3), rows("binary", seed=1)
    found = [fit(make_estimator(made, seed), rows("binary")).predict_proba(new.x) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_frames_of_the_store_are_read_whole_in_the_order_asked_for(tmp_path: Path) -> None:
    block = LogMelFramesBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=6)
    waves = np.random.default_rng(0).normal(size=(3, 4_000)).astype(np.float32)
    store, schema = FeatureStore(str(tmp_path)), table_schema(block, {}, ("raw",))
    for first in (0, 2):
        own = waves[first : first + 2]
        ids = ["a", "b", "c"][first : first + 2]
        store.write_part(to_table(schema, ids, ["raw"] * len(own), block.compute(own)))
    found, there = load_sequences(store, ["c", "x", "a"], "logmel_frames", store.resolve("logmel_frames"))
    expected = block.compute(waves)["logmel"]
    np.testing.assert_array_equal(found.load(), np.stack([expected[2], expected[0] * 0, expected[0]]))
    assert there["raw"].tolist() == [True, False, True]


def test_released_frames_are_dequantized_and_repeated_to_ten(tmp_path: Path) -> None:
    frames = [np.arange(128 * n, dtype=np.uint8).reshape(n, 128) for n in (10, 3)]
    store = FeatureStore(str(tmp_path))
    store.write_part(vggish_released.rows(["a", "b"], frames))
    found, _ = load_sequences(store, ["b", "a"], "vggish_released", store.resolve("vggish_released"))
    assert found.shape == (2, 10, 128)
    assert found.source.dtype == np.uint8
    expected = frames[1][[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]].astype(float) * 4 / 255 - 2
    np.testing.assert_allclose(found.load(slice(0, 1))[0], expected, atol=1e-6)


def test_every_column_of_the_frames_is_read(tmp_path: Path) -> None:
    waves = np.random.default_rng(0).normal(size=(2, 4_000)).astype(np.float32)
    store = FeatureStore(str(tmp_path))
    for name, bands in (("mfcc_frames", 3 * 5), ("spectral_frames", 6 + 12)):
        block = make_block(name, "fast", {"sample_rate": 8_000, **({"n_mfcc": 5} if name == "mfcc_frames" else {})})
        columns = block.compute(waves)
        store.write_part(to_table(table_schema(block, {}, ("raw",)), ["a", "b"], ["raw"] * 2, columns))
        found, _ = load_sequences(store, ["b", "a"], name, store.resolve(name))
        expected = [values.reshape(*values.shape[:2], -1) for values in columns.values()]
        assert found.shape[2] == bands
        np.testing.assert_allclose(found.load()[::-1], np.concatenate(expected, axis=2), rtol=1e-6)


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_clips_of_other_lengths_are_cropped_to_their_start_or_repeated(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "memory_for_frames", lambda: memory)
    block = LogMelFramesBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=6)
    store, schema = FeatureStore(str(tmp_path)), table_schema(block, {}, ("raw",))
    rng, whole = np.random.default_rng(0), {}
    for name, samples in (("a", 4_000), ("b", 5_000), ("c", 4_000), ("d", 1_000)):
        found = block.compute(rng.normal(size=(1, samples)).astype(np.float32))
        store.write_part(to_table(schema, [name], ["raw"], found))
        whole[name] = found["logmel"][0]
    for wanted, frames in ((None, 32), (50, 50), (20, 20)):  # None: as most have
        clips, _ = load_sequences(store, list(whole), "logmel_frames", store.resolve("logmel_frames"), wanted)
        assert (clips.shape, isinstance(clips.source, SpooledFrames)) == ((4, frames, 6), memory == 0)
        assert clips.refitted == (2 if wanted is None else 4)
        expected = [np.resize(own, (frames, 6)) for own in whole.values()]
        np.testing.assert_array_equal(clips.load(), expected)
        np.testing.assert_array_equal(clips.of_frames(15).load(), [own[:15] for own in expected])


# ---- augmentation, scaling, balance


def augmented(x: torch.Tensor, **changes: Any) -> torch.Tensor:
    torch.manual_seed(0)
    found: torch.Tensor = Augment(AugmentSettings(**changes)).train()(x)
    return found


def test_masks_cover_one_stretch_of_at_most_the_width() -> None:
    ones = torch.ones(200, 20, 10)
    masked = augmented(ones, time_masks=1, time_mask=0.2)
    widths = (masked[:, :, 0] == 0).sum(1)
    assert (int(widths.min()), int(widths.max())) == (0, 4)
    assert (masked[:, :, 0].diff(dim=1).abs().sum(1) <= 2).all()
    assert torch.equal(masked[:, :, 0], masked[:, :, 9])
    bands = augmented(ones, band_masks=1, band_mask=0.3, mask_probability=0.5)
    assert 0.3 < float((bands[:, 0] == 0).any(1).float().mean()) < 0.45  # half of the masks, a quarter of no width
    assert torch.equal(Augment(AugmentSettings(time_masks=3)).eval()(ones), ones)


def test_rolled_frames_keep_their_order_and_permuted_ones_themselves() -> None:
    frames = torch.arange(10.0).repeat(50, 1)[:, :, None]
    rolled = augmented(frames, roll=1.0)[:, :, 0]
    assert {float(step) for step in rolled.diff(dim=1).unique()} == {1.0, -9.0}
    permuted = augmented(frames, permute=1.0)[:, :, 0]
    assert torch.equal(permuted.sort(1).values, frames[:, :, 0])
    assert not torch.equal(permuted, frames[:, :, 0])


def test_scaled_bands_have_mean_zero_and_deviation_one() -> None:
    x = np.random.default_rng(0).normal(3, 5, (40, 8, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    scale = Scale(6, by_clip=False)
    scale.fit(x, (0, 1))
    scaled = scale(torch.from_numpy(x))
    torch.testing.assert_close(scaled.mean((0, 1)), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std((0, 1)), torch.ones(6), atol=2e-2, rtol=0)
    by_clip = Scale(6, by_clip=True)(torch.from_numpy(x))
    torch.testing.assert_close(by_clip.mean((1, 2)), torch.zeros(40), atol=1e-5, rtol=0)


def test_rare_classes_come_more_often_when_asked() -> None:
    y = np.repeat([0, 1, 2], [80, 20, 10])
    rng = np.random.default_rng(0)

    def counts(**changes: Any) -> list[int]:
        made: Any = settings("cnn", **changes)
        return np.bincount(y[made.epoch_rows(y, rng)], minlength=3).tolist()

    assert counts() == [80, 20, 10]
    assert counts(upsample=3.0) == [80, 60, 30]
    balanced = counts(sampler="balanced")
    assert sum(balanced) == 110
    assert min(balanced) > 20
    assert rarity(y)[[0, -1]].tolist() == [1, 8]
    labels = np.array([[True, False], [True, True], [True, False], [False, False]])
    assert rarity(labels).tolist() == [1, 3, 1, 1]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_learning_rates_stay_within_the_largest_and_end_as_the_schedule_says(schedule: str) -> None:
    made: Any = settings("cnn", schedule=schedule, learning_rate=0.1)
    rates = [made.rate_at(step, 100) for step in range(100)]
    assert max(rates) <= 0.1 + 1e-12
    assert rates[-1] == pytest.approx(0.1 if schedule == "constant" else 0, abs=1e-3)


def test_two_ways_to_balance_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="set one of them"):
        settings("cnn", sampler="balanced", class_weight="balanced")


# ---- the whole way


@pytest.fixture
def study(tmp_path: Path) -> dict[str, str]:
    """Forty clips of a low or a high tone in noise, their frames in a store."""
    random, listed = np.random.default_rng(23), []
    for number in range(40):
        label = ("low", "high")[number % 2]
        tone = np.sin(2 * np.pi * (300 if label == "low" else 2_000) * np.arange(4_000) / 8_000)
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * tone + random.normal(0, 0.05, 4_000), 8_000)
        listed.append({"clip_id": f"c{number}", "uri": str(path), "labels": [label], "group": f"g{number}"})
    write_clips(clip_table(listed), str(tmp_path / "clips.parquet"))
    mel = {"sample_rate": 8_000, "n_fft": 256, "hop_length": 128, "n_mels": 8, "seconds": 0.5, "frames": True}
    recipe = {
        "task": "binary",
        "classes": {"low": {"labels": ["low"]}, "high": {"labels": ["high"]}},
        "signals": ["original"],
        "blocks": {"logmel": mel},
        "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
        "model": {"kind": "cnn", "layers": LAYERS, "max_epochs": 3, "learning_rate": 0.01, "batch_size": 8},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "--clips": str(tmp_path / "clips.parquet"),
        "--store": str(tmp_path / "store"),
        "--recipe": str(tmp_path / "study.yaml"),
    }


def options(of: dict[str, str], *names: str) -> list[str]:
    return [word for name in names or of for word in (name, of[name])]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_network_is_trained_evaluated_and_predicts_through_the_commands(
    study: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tmp_path / "bundle")
    assert main(["extract", *options(study)]) == 0
    assert main(["train", *options(study), "--out", bundle]) == 0
    loaded = Bundle.load(bundle)
    assert isinstance(loaded.recipe.model, SequenceSettings)
    assert len(loaded.classifier.members[0].history_) == 3
    assert loaded.recipe.blocks["logmel_frames"]["seconds"] == 0.5
    out = str(tmp_path / "predictions.parquet")
    assert main(["predict", "--bundle", bundle, *options(study, "--clips", "--store"), "--out", out]) == 0
    capsys.readouterr()
    capsys.readouterr()
    assert main(["train", *options(study), "--out", str(tmp_path / "none"), "--overfit", "1"]) == 0
    assert "on 8 clips: the network can learn" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    page = tmp_path / "report.html"
    assert main(["report", "--bundle", bundle, "--out", str(page)]) == 0
    assert "Training history" in page.read_text()
    assert re.search(r"Layers, [\d,]+ parameters", page.read_text())
    into = ["--out", str(tmp_path / "study")]
    assert main(["compare", *options(study), *into, "--json"]) == 0
    assert "logmel_frames" in capsys.readouterr().out
    assert main(["compare", *options(study), *into, "--models", "cnn,mlp"]) == 2
    assert "do not read the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "shape", "outputs", "parameters"),
    [
        ("urbansound8k-mel-cnn", (174, 60), 10, 2_204_538),
        ("urbansound8k-mfcc-cnn", (174, 40), 10, 44_602),
        ("household-8", (216, 128), 8, 443_064 - 32),  # a bias before batch normalization does nothing
    ],
)
def test_the_networks_of_the_published_studies_have_their_numbers_of_parameters(
    recipe: str, shape: tuple[int, int], outputs: int, parameters: int
) -> None:
    made: Any = load_recipe(recipe)
    options: Any = next(iter(made.blocks.values()))
    block: Any = make_block(f"{next(iter(made.blocks))}_frames", "fast", options)
    frames = next(iter(block.compute(np.zeros((1, block.sample_rate), np.float32)).values()))
    assert frames.shape[1:] == shape
    body = made.model.network(shape, outputs, "multiclass").body
    tensors = [*body.parameters(), *(buffer for buffer in body.buffers() if buffer.ndim)]  # Keras counts running means
    assert sum(tensor.numel() for tensor in tensors) == parameters
