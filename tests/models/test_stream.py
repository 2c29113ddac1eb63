"""Frames streamed from the store: what is read, in which order, by how many workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from sklearn.metrics import roc_auc_score

from acoustic_env.config import classifier_settings
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.mel import LogMelFramesBlock
from acoustic_env.io.retry import StoreError
from acoustic_env.models.data import frames as sequences
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences, load_sequences
from acoustic_env.models.data.stored_frames import StoredFrames
from acoustic_env.models.estimators.fitting import make_estimator
from acoustic_env.models.training.loop import LocalSession, TrainingSpec, train_network
from acoustic_env.models.training.on_ray import train_on_ray
from acoustic_env.store.feature_store import FeatureStore
from tests.models.streams import examples, generate

PLAIN = {"kind": "attention", "hidden": [16], "heads": 2, "dropout": 0.0, "learning_rate": 1e-2, "max_epochs": 3}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """600 clips in 30 parts."""
    url = str(tmp_path_factory.mktemp("stream"))
    made = examples(url, *generate(url, 600, 20))
    return made.take(np.random.default_rng(0).permutation(600))


def test_streamed_rows_are_those_in_memory(stored: Examples) -> None:
    held = Sequences(stored.x.source)[stored.groups].hold()
    assert (held.streamed, stored.x.hold().streamed) == (False, True)
    assert held.shape == stored.x.shape == (600, 10, 128)
    some = np.random.default_rng(0).integers(600, size=50)  # some twice
    np.testing.assert_array_equal(stored.x[some][3:].load(), held[some].load()[3:])
    batches = [some[:20], some[:0], some[20:]]
    for found, rows in zip(stored.x.batches(batches), batches, strict=True):
        np.testing.assert_array_equal(found, held.load(rows))
    assert stored.x.digest() == stored.x[:].digest() != stored.x[::-1].digest()


def test_signals_stand_side_by_side_though_their_parts_differ(tmp_path: Path) -> None:
    block = LogMelFramesBlock("fast", sample_rate=8_000, n_fft=256, hop_length=128, n_mels=6)
    store, ids = FeatureStore(str(tmp_path)), [f"clip{number:02}" for number in range(12)]
    waves = np.random.default_rng(0).normal(size=(2, 12, 2_000)).astype(np.float32)
    for signal_name, part, own in (("raw", 4, waves[0]), ("original", 3, waves[1][:11])):
        schema = table_schema(block, {"signal": signal_name}, (signal_name,))
        for start in range(0, len(own), part):
            some = own[start : start + part]
            names = ids[start : start + len(some)]
            store.write_part(to_table(schema, names, [signal_name] * len(some), block.compute(some)))
    wanted = ids[::-1]
    found, there = load_sequences(store, wanted, block.name, store.resolve(block.name), in_memory=0)
    expected = np.concatenate([block.compute(one)["logmel"] for one in waves], axis=2)
    expected[11, :, 6:] = 0
    raw_first = list(there) == ["raw", "original"]
    expected = expected if raw_first else np.roll(expected, 6, axis=2)
    assert there["original"].tolist() == [False] + [True] * 11
    np.testing.assert_array_equal(found.load(), expected[::-1])
    np.testing.assert_array_equal(found.stored(), expected[::-1])


@dataclass(frozen=True)
class Counted(StoredFrames):
    """Notes which units are read, and how many wait to be used."""

    read: list[int] = field(default_factory=list)

    def stream(self, wanted: Sequence[tuple[int, Any]]) -> Iterator[npt.NDArray[Any]]:
        for (unit, _), values in zip(wanted, super().stream(wanted), strict=True):
            self.read.append(unit)
            yield values


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Sequences:
    """100,000 clips in 2,000 parts, their index alone, with a window of 4,800 clips."""
    places = np.arange(100_000, dtype=np.int32)
    row = 10 * 128
    monkeypatch.setattr(sequences, "WINDOW", 4_800 * row)
    unit = places // 50
    units = np.unique(unit)[:, None].astype(np.int32)
    frames = StoredFrames(
        "",
        ("frames",),
        (100_000, 10, 128),
        np.dtype(np.uint8),
        (),
        units,
        unit,
        places[:, None],
        np.ones_like(places)[:, None],
    )
    return Sequences(frames, in_memory=0)


def test_an_epoch_is_shuffled_and_each_worker_needs_few_parts_at_a_time(large: Sequences) -> None:
    rng = np.random.default_rng(0)
    order = large.shuffle(rng.permutation(100_000), rng)
    np.testing.assert_array_equal(np.sort(order), np.arange(100_000))
    part = order // 50
    for batch in part[: 48 * 2_000].reshape(2_000, 48):
        assert len(np.unique(batch)) >= 30
    for workers in (1, 2, 3, 12):
        own = part[::workers]
        parts, first = np.unique(own, return_index=True)
        last = len(own) - 1 - np.unique(own[::-1], return_index=True)[1]
        assert len(parts) <= 2_000 / workers + 2 * 12
        needed = np.cumsum(np.bincount(first, minlength=len(own)) - np.bincount(last, minlength=len(own)))
        assert needed.max() <= 1.3 * (4_800 / 50 + 2 * 12) / workers


def test_rows_that_come_several_times_or_never_keep_their_number(large: Sequences) -> None:
    rng = np.random.default_rng(0)
    rows = rng.choice(100_000, 5_000)
    np.testing.assert_array_equal(np.sort(large[::2].shuffle(rows % 50_000, rng)), np.sort(rows % 50_000))


def test_a_part_is_read_once_an_epoch(stored: Examples) -> None:
    counted = Counted(**vars(stored.x.source) | {"read": []})
    x = Sequences(counted, in_memory=0)
    rng = np.random.default_rng(0)
    order = x.shuffle(rng.permutation(600), rng)
    assert sum(len(found) for found in x.batches(np.array_split(order, 25))) == 600
    assert sorted(counted.read) == list(range(30))


def test_streamed_training_learns_and_its_network_scores_streamed_rows_in_their_order(stored: Examples) -> None:
    settings = classifier_settings({**PLAIN, "augment": {"mixup": 0.1}})
    train, new = stored.take(np.arange(400)), stored.take(np.arange(400, 600))
    models = [make_estimator(settings, 5).fit(train.x, train.y, X_val=new.x, y_val=new.y) for _ in range(2)]
    found = models[0].predict_proba(new.x)
    assert roc_auc_score(new.y, found[:, 1]) > 0.9
    np.testing.assert_array_equal(found, models[1].predict_proba(new.x))
    np.testing.assert_allclose(found, models[0].predict_proba(new.x.load()), atol=1e-6)
    assert 0 < models[0].history_[-1]["data_seconds"] < models[0].history_[-1]["seconds"]


def test_a_part_that_vanished_is_named(tmp_path: Path) -> None:
    made = examples(str(tmp_path), *generate(str(tmp_path), 40, 20))
    next(iter((tmp_path / "features").rglob("*.parquet"))).unlink()
    with pytest.raises(StoreError, match=r"part-.*parquet.*store verify"):
        made.x.load()


def _workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_end_with_the_weights_of_one_process(
    stored: Examples, tmp_path: Path
) -> None:
    settings: Any = classifier_settings({**PLAIN, "max_epochs": 30, "learning_rate": 1e-3, "workers": 2})
    train, held = stored.take(np.arange(400)), stored.take(np.arange(400, 600))
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        deadline = time.monotonic() + 200
        while not killed and time.monotonic() < deadline:
            time.sleep(0.05)
            if list(tmp_path.glob("attention-*/progress.safetensors")):
                killed.append(_workers()[0].pid)
                os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_after_a_checkpoint)
    killer.start()
    found = train_on_ray(TrainingSpec(settings, "binary", 2), train, held, str(tmp_path), checkpoint_s=0.2)
    killer.join()
    assert killed
    expected = train_network(TrainingSpec(settings, "binary", 2), train, held, LocalSession())
    losses = [[epoch["validation_loss"] for epoch in one.history] for one in (found, expected)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)  # rounding alone, though it grows
    assert len(losses[0]) == 30
