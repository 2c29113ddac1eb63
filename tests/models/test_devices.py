"""Every path of a network on a GPU, on fake CUDA tensors: they raise where tensors of two devices meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from acoustic_env.audio.separate_fast import separate_fast
from acoustic_env.config import classifier_settings
from acoustic_env.explain.gradients import LogOdds
from acoustic_env.explain.sequence_attribution import SequenceLogOdds
from acoustic_env.features.embedders import contract
from acoustic_env.features.embedders.cnn14 import Cnn14, Cnn14FrontEnd, PublishedCnn14
from acoustic_env.features.embedders.efficientat import Mn04, Mn04FrontEnd
from acoustic_env.features.modulation_fast import modulation_spectrum
from acoustic_env.features.registry import make_block
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.estimators.fitting import make_estimator
from acoustic_env.models.estimators.storage import dump_estimator, load_estimator
from acoustic_env.models.training import loop as training
from acoustic_env.models.training.loop import DistributedSession, LocalSession, Progress, TrainingSpec, train_network
from tests.models.fake_cuda import CUDA, fake_cuda

LAYERS = [{"channels": 4, "pool": [2, 1]}]
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"layers": LAYERS},
    "resnet": {"stem": LAYERS, "blocks": [4, 8]},
    "crnn": {"layers": LAYERS, "units": 4},
    "attention": {"hidden": [8], "heads": 2, "dense": [8]},
    "mlp": {"layers": [4]},
}
EVERYTHING = {"mixup": 0.2, "roll": 0.5, "permute": 0.2, "time_masks": 1, "band_masks": 1}
Y = np.arange(24) % 3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with fake_cuda(monkeypatch):
        yield


def settings(kind: str, **changes: Any) -> Any:
    return classifier_settings({"kind": kind, "max_epochs": 2, "batch_size": 8, **SMALL[kind], **changes})


def features(kind: str) -> Any:
    x = np.random.default_rng(0).normal(size=(24, 8, 6)).astype(np.float32)
    return x[:, 0] if kind == "mlp" else Sequences.of(x)


def on_gpu(kind: str, **changes: Any) -> Any:
    """Return a classifier of a kind that was fitted on the GPU."""
    model = make_estimator(settings(kind, **changes), 23)
    model.device = CUDA
    x = features(kind)
    return model.fit(x, Y, np.ones(24), X_val=x, y_val=Y)


def device_of(network: torch.nn.Module) -> str:
    return str(next(network.parameters()).device)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", SMALL)
def test_a_network_trains_predicts_and_is_loaded_on_the_gpu(kind: str) -> None:
    model = on_gpu(kind)
    assert device_of(model.network()) == CUDA
    assert model.network() is model.network()  # and is not built again
    assert model.predict_proba(features(kind)).shape == (24, 3)
    suffix, data = dump_estimator(model)
    loaded = load_estimator(data, f"classifier-0.{suffix}", settings(kind).estimator(0))
    loaded.device = CUDA
    assert loaded.predict_proba(features(kind)).shape == (24, 3)
    assert device_of(loaded.network()) == CUDA


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "changes",
    [
        *({"scale": scale} for scale in ("bands", "clip", "all", "none")),
        {"augment": EVERYTHING, "precision": "bf16"},
        {"loss_name": "focal", "class_weight": "balanced"},
    ],
)
def test_every_way_to_train_does_so_on_the_gpu(changes: dict[str, Any]) -> None:
    assert device_of(on_gpu("cnn", **changes).network()) == CUDA


class Interrupted(Exception):  # noqa: N818
    pass


class Stopping(LocalSession):
    """Stops after the first epoch and goes on from it."""

    kept: Progress | None = None

    def resume(self) -> Progress | None:
        return self.kept

    def report(self, state: Progress, snapshot: Callable[[], Progress], *, last: bool) -> None:
        if self.kept is None:
            self.kept = snapshot()
            raise Interrupted


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", SMALL)
def test_training_resumes_on_the_gpu(kind: str) -> None:
    rows, session = Examples(features(kind), Y, np.arange(24)), Stopping(CUDA)
    spec = TrainingSpec(settings(kind), "multiclass", 3)
    with pytest.raises(Interrupted):
        train_network(spec, rows, rows, session)
    assert train_network(spec, rows, rows, session).epoch == 2


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group", "gpu")
@pytest.mark.parametrize("kind", SMALL)
def test_one_of_several_workers_trains_on_its_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped(network: torch.nn.Module) -> torch.nn.Module:  # the real one reads the values of what it averages
        assert {tensor.device for tensor in network.state_dict().values()} == {torch.device(CUDA)}
        return network

    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", wrapped)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    rows = Examples(features(kind), Y, np.arange(24))
    assert train_network(TrainingSpec(settings(kind), "multiclass", 3), rows, rows, DistributedSession(CUDA)).epoch == 2


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", SMALL)
def test_explanations_differentiate_on_the_gpu_and_leave_the_network_as_it_was(kind: str) -> None:
    model = on_gpu(kind)
    function = LogOdds([model], 1) if kind == "mlp" else SequenceLogOdds([model], 1, (8, 6))
    rows = np.random.default_rng(0).normal(size=(3, 6 if kind == "mlp" else 48)).astype(np.float32)
    assert function.value(rows).shape == (3,)
    assert function.gradient(rows).shape == rows.shape
    assert next(model.network().parameters()).dtype == getattr(torch, model.settings.predicts_in)


@pytest.mark.parametrize("block", ["mn04", "panns"])
def test_networks_embed_on_the_gpu(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Any = make_block(block, "fast")
    published = PublishedCnn14.empty()
    parts = {"mn04": (Mn04FrontEnd(), Mn04(per_frame=False)), "panns": (Cnn14FrontEnd(published), Cnn14(published))}
    monkeypatch.setattr(type(made), "build", lambda block: parts[block.name])
    monkeypatch.setattr(contract, "check_device", lambda device, asked_by: None)
    monkeypatch.setattr(type(made), "step_samples", {CUDA: 1 << 20})
    with fake_cuda(monkeypatch):
        made._loaded = made.load_model(CUDA)  # without the record of its weights
        assert len(made.compute(np.zeros((2, made.sample_rate), np.float32))["embedding"]) == 2


@pytest.mark.usefixtures("gpu")
def test_signals_and_modulation_are_computed_on_the_gpu() -> None:
    waves = np.random.default_rng(0).normal(size=(2, 32_000)).astype(np.float32)
    assert separate_fast(waves, 16_000, CUDA).shape == waves.shape
    assert len(modulation_spectrum(waves, 16_000, CUDA)) == 2


# ---- which device, and how exactly


def granted() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        return training.default_device(settings("cnn"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_computes_on_a_gpu_only_if_it_was_granted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    assert granted() == "cuda"
    assert training.default_device(settings("mlp")) == "cpu"
    assert ray.get(ray.remote(num_cpus=0)(granted).remote()) == "cpu"
    context = ray.get_runtime_context()
    monkeypatch.setattr(type(context), "get_task_id", lambda context: "a worker's")
    assert granted() == "cpu"
    monkeypatch.setattr(type(context), "get_accelerator_ids", lambda context: {"GPU": ["0"]})
    assert granted() == "cuda"


def precisions() -> list[str]:
    return [each.fp32_precision for each in (torch.backends.cudnn.conv, torch.backends.cuda.matmul)]


def test_networks_compute_in_float32_and_leave_the_settings_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda own, x: (seen.append(precisions()), run(own, x))[1])
    monkeypatch.setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")
    before, x = precisions(), features("cnn")
    model = make_estimator(settings("cnn", max_epochs=1), 23).fit(x, Y, X_val=x, y_val=Y)
    built = len(seen)  # the last ones are of the probe that gives lazy layers their size
    model.predict_proba(x)
    SequenceLogOdds([model], 1, (8, 6)).gradient(x.load())
    assert built > 3
    assert seen.count(["ieee", "ieee"]) >= len(seen) - 4
    assert seen[-1] == ["ieee", "ieee"]
    assert precisions() == before == ["tf32", "tf32"]
