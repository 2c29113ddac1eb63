"""The same training loop in this process and on Ray Train, through a killed worker."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import distributed

from acoustic_env.config import classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.estimators.mlp import MLPSettings
from acoustic_env.models.estimators.network_classifier import NetworkClassifier
from acoustic_env.models.training import on_ray
from acoustic_env.models.training.loop import (
    Arrays,
    DistributedSession,
    Diverged,
    LocalSession,
    Progress,
    TrainingSpec,
    train_network,
    validation_score,
)
from acoustic_env.models.training.on_ray import dump_progress, load_progress, one_group, train_on_ray
from acoustic_env.stats.ranking import Ranking

SETTINGS = MLPSettings(layers=(16,), dropout=0.2, learning_rate=3e-3, batch_size=64, max_epochs=30, patience=30)


def rows(n: int, seed: int) -> Examples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 8)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + x[:, 2] + 0.5 * random.normal(size=n) > 0).astype(np.int64)
    return Examples(x, y, np.arange(n))


TRAIN, VALIDATION, NEW = rows(600, 0), rows(300, 1), rows(2000, 2)


def auc(weights: Arrays) -> float:
    model = NetworkClassifier(SETTINGS)
    model.weights_, model.task_, model.classes_ = weights, "binary", np.arange(2)
    model.n_features_in_, model.shape_, model.cut_ = 8, (8,), None
    return Ranking(NEW.y == 1, model.predict_proba(NEW.x)[:, 1]).auc()


class Interrupted(Exception):  # noqa: N818
    pass


class Recorder(LocalSession):
    """Keeps the progress of an epoch on disk, and stops there when told to."""

    def __init__(self, folder: Path, stop_at: int | None = None) -> None:
        self.folder, self.stop_at, self.epochs = folder, stop_at, []

    def resume(self) -> Progress | None:
        kept = self.folder / "progress"
        return load_progress(kept.read_bytes()) if kept.exists() else None

    def report(self, state: Progress, snapshot: Callable[[], Progress], *, last: bool) -> None:
        self.epochs.append(state.epoch)
        if state.epoch == self.stop_at:
            (self.folder / "progress").write_bytes(dump_progress(snapshot()))
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


# ---- numbers that are not finite


@pytest.mark.parametrize("held", [VALIDATION, None])
def test_a_network_that_diverges_is_an_error_that_says_what_to_set(held: Examples | None) -> None:
    spec = TrainingSpec(SETTINGS.replace(learning_rate=1e30), "binary", 2)
    with pytest.raises(Diverged, match=r"mlp diverged in epoch 1 at learning rate 1e\+30.*lower `learning_rate`"):
        train_network(spec, TRAIN, held, LocalSession())


def test_logits_that_are_not_finite_have_no_score() -> None:
    logits = np.array([[np.nan], [np.nan], [np.nan], [np.nan]], np.float32)
    assert np.isnan(validation_score(logits, np.array([1, 1, 0, 0]), "binary")).all()


def test_a_step_is_no_longer_than_the_largest_gradient_allows() -> None:
    wild = replace(TRAIN, x=TRAIN.x * 1e6)
    lengths = []

    def norm(parameters: Any, largest: float) -> torch.Tensor:
        found = clip(parameters, largest)
        lengths.append(float(torch.linalg.vector_norm(torch.cat([each.grad.flatten() for each in parameters]))))
        return found

    clip = torch.nn.utils.clip_grad_norm_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", norm)
        train_network(TrainingSpec(SETTINGS.replace(max_epochs=1), "binary", 2), wild, None, LocalSession())
    assert lengths[0] == pytest.approx(10, rel=1e-3)


# ---- several workers


def _in_process(
    rank: int, workers: int, rendezvous: str, settings: Any, data: tuple[Examples, Examples], out: str
) -> None:
    """Train as one of several processes; write the weights and the history that this one ends with."""
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    trained = train_network(TrainingSpec(settings, "binary", 2), *data, DistributedSession("cpu"))
    Path(f"{out}-{rank}").write_bytes(dump_progress(trained))
    distributed.destroy_process_group()


def in_processes(folder: Path, settings: Any, data: list[tuple[Examples, Examples]]) -> list[Progress]:
    """Train in one process for each pair of training and validation rows; return where each got to."""
    context = multiprocessing.get_context("spawn")
    arguments = (len(data), f"file://{folder}/rendezvous", settings)
    out = str(folder / "trained")
    processes = [
        context.Process(target=_in_process, args=(rank, *arguments, own, out)) for rank, own in enumerate(data)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * len(data)
    return [load_progress(Path(f"{out}-{rank}").read_bytes()) for rank in range(len(data))]


def frames(rows: Examples) -> Examples:
    return replace(rows, x=Sequences.of(rows.x[:, None, :].repeat(4, 1)))


def test_all_workers_stop_when_the_first_one_does_though_they_would_disagree(tmp_path: Path) -> None:
    """Each worker's batch norm has seen other rows; here they validate on other rows, too."""
    made = {"kind": "cnn", "layers": [{"channels": 4, "pool": [1, 1]}], "max_epochs": 60, "patience": 2}
    settings: Any = classifier_settings({**made, "learning_rate": 0.01, "batch_size": 64})
    turned = replace(VALIDATION, y=1 - VALIDATION.y)  # the better the network, the worse its score
    both = in_processes(tmp_path, settings, [(frames(TRAIN), frames(VALIDATION)), (frames(TRAIN), frames(turned))])
    assert both[0].epoch == both[1].epoch < 60
    assert both[0].best_epoch == both[1].best_epoch
    scores = [[epoch["validation_score"] for epoch in one.history] for one in both]
    assert scores[0] == scores[1]
    assert both[0].best_score > 0.55  # of the first worker's rows


def test_the_loss_of_several_workers_is_that_of_all_their_rows(tmp_path: Path) -> None:
    settings = SETTINGS.replace(dropout=0.0, max_epochs=3)
    both = in_processes(tmp_path, settings, [(TRAIN, VALIDATION)] * 2)
    one = train_network(TrainingSpec(settings, "binary", 2), TRAIN, VALIDATION, LocalSession())
    losses = [[epoch["train_loss"] for epoch in each.history] for each in (*both, one)]
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-5)


def _train_workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_networks_of_a_run_share_their_workers_are_as_good_as_of_one_process_and_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrainingSpec(SETTINGS.replace(workers=2), "binary", 2)
    seen = []
    with one_group():
        for seed in (1, 2):
            own = replace(spec, settings=spec.settings.replace(seed=seed))
            trained = train_on_ray(own, TRAIN, VALIDATION, str(tmp_path))
            expected = train_network(own, TRAIN, VALIDATION, LocalSession())
            assert auc(trained.best_weights) == pytest.approx(auc(expected.best_weights), abs=0.02)
            seen.append({worker.pid for worker in _train_workers()})
        with pytest.raises(Diverged, match="the mlp diverged in epoch 1"):
            train_on_ray(replace(own, settings=own.settings.replace(learning_rate=1e30)), TRAIN, VALIDATION)
        seen.append({worker.pid for worker in _train_workers()})
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 2
    assert len(list(tmp_path.glob("mlp-*/progress.safetensors"))) == 2
    monkeypatch.setattr(on_ray, "Group", None)  # by what is stored: no worker starts
    again = train_on_ray(own, TRAIN, VALIDATION, str(tmp_path))
    assert again.history == list(trained.history)


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_cpus_are_refused_rather_than_waited_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="64 training workers need 64 CPUs and the cluster has 2"):
        train_on_ray(TrainingSpec(SETTINGS.replace(workers=64), "binary", 2), TRAIN, VALIDATION, str(tmp_path))
