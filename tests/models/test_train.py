"""The same training loop in this process and on Ray Train, through a killed worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from acoustic_env.config import classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.models.classifier import Examples
from acoustic_env.models.classifiers.mlp import MLPSettings
from acoustic_env.models.evaluate import Ranking
from acoustic_env.models.mlp import MLPClassifier
from acoustic_env.models.sequences import Sequences
from acoustic_env.models.train import read_progress, train_on_ray, write_progress
from acoustic_env.models.training import Arrays, LocalSession, Progress, TrainingSpec, train_network

SETTINGS = MLPSettings(layers=(16,), dropout=0.2, learning_rate=3e-3, batch_size=64, max_epochs=30, patience=30)


def rows(n: int, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 8)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + x[:, 2] + 0.5 * random.normal(size=n) > 0).astype(np.int64)
    return Examples(x, y, np.arange(n))


TRAIN, VALIDATION, NEW = rows(600, 0), rows(300, 1), rows(2000, 2)


def auc(weights: Arrays) -> float:
    model = MLPClassifier(layers=SETTINGS.layers)
    model.weights_, model.task_, model.classes_, model.n_features_in_ = weights, "binary", np.arange(2), 8
    return Ranking(NEW.y == 1, model.predict_proba(NEW.x)[:, 1]).auc()


class Interrupted(Exception):  # noqa: N818
    pass


class Recorder(LocalSession):
    """Keeps the progress of an epoch on disk, and stops there when told to."""

    def __init__(self, folder: Path, stop_at: int | None = None) -> None:
        self.folder, self.stop_at, self.epochs = folder, stop_at, []

    def resume(self) -> Progress | None:
        return read_progress(self.folder) if (self.folder / "progress.json").exists() else None

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        self.epochs.append(int(metrics["epoch"]))
        if int(metrics["epoch"]) == self.stop_at:
            write_progress(self.folder, progress())
            raise Interrupted


def test_a_run_stopped_and_resumed_ends_with_the_weights_it_would_have_had(tmp_path: Path) -> None:
    spec = TrainingSpec(SETTINGS, "binary", 2)
    with pytest.raises(Interrupted):
        train_network(spec, TRAIN, VALIDATION, Recorder(tmp_path, stop_at=12))
    second = Recorder(tmp_path)
    resumed = train_network(spec, TRAIN, VALIDATION, second)
    assert second.epochs[0] == 13
    expected = train_network(spec, TRAIN, VALIDATION, LocalSession())
    for name, weights in expected.best_weights.items():
        np.testing.assert_array_equal(resumed.best_weights[name], weights)
    assert [epoch["epoch"] for epoch in resumed.history] == [epoch["epoch"] for epoch in expected.history]


def test_a_network_on_frames_with_augmentation_resumes_as_well(tmp_path: Path) -> None:
    augment = {"mixup": 0.2, "roll": 0.5, "time_masks": 1, "band_masks": 1}
    made = {"kind": "cnn", "layers": [{"channels": 4, "pool": [1, 1]}], "max_epochs": 4, "augment": augment}
    settings: Any = classifier_settings(made)
    spec = TrainingSpec(settings, "binary", 2)
    train, held = (replace(rows, x=Sequences.of(rows.x[:, None, :].repeat(4, 1))) for rows in (TRAIN, VALIDATION))
    with pytest.raises(Interrupted):
        train_network(spec, train, held, Recorder(tmp_path, stop_at=2))
    resumed = train_network(spec, train, held, Recorder(tmp_path))
    expected = train_network(spec, train, held, LocalSession())
    for name, weights in expected.best_weights.items():
        np.testing.assert_array_equal(resumed.best_weights[name], weights)


def test_training_stops_after_the_patience_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    noise = Examples(VALIDATION.x, np.random.default_rng(0).integers(0, 2, 300), VALIDATION.groups)
    recorder = Recorder(tmp_path)
    settings = SETTINGS.replace(patience=4, max_epochs=200)
    train_network(TrainingSpec(settings, "binary", 2), TRAIN, noise, recorder)
    assert recorder.epochs[-1] < 100


def _train_workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    # Long enough to be killed in the middle.
    settings = SETTINGS.replace(workers=1, max_epochs=1000, patience=1000)
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        deadline = time.monotonic() + 200
        while not killed and time.monotonic() < deadline:
            time.sleep(0.05)
            if len(list(tmp_path.glob("mlp-*/checkpoint_*/progress.json"))) >= 2:
                for worker in _train_workers():
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.append(worker.pid)

    killer = threading.Thread(target=kill_after_a_checkpoint)
    killer.start()
    weights = train_on_ray(
        TrainingSpec(settings, "binary", 2), TRAIN, VALIDATION, str(tmp_path), checkpoint_s=0.5
    ).best_weights
    killer.join()
    assert killed
    expected = train_network(TrainingSpec(settings, "binary", 2), TRAIN, VALIDATION, LocalSession()).best_weights
    for name, array in expected.items():
        np.testing.assert_allclose(weights[name], array, atol=1e-5)
    assert auc(weights) == pytest.approx(auc(expected), abs=1e-4)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_two_workers_train_as_good_a_model_as_one(tmp_path: Path) -> None:
    both = train_on_ray(TrainingSpec(SETTINGS.replace(workers=2), "binary", 2), TRAIN, VALIDATION, str(tmp_path))
    one = train_network(TrainingSpec(SETTINGS, "binary", 2), TRAIN, VALIDATION, LocalSession())
    assert auc(both.best_weights) == pytest.approx(auc(one.best_weights), abs=0.02)


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_cpus_are_refused_rather_than_waited_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="64 training workers need 64 CPUs and the cluster has 2"):
        train_on_ray(TrainingSpec(SETTINGS.replace(workers=64), "binary", 2), TRAIN, VALIDATION, str(tmp_path))
