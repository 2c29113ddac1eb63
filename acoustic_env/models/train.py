"""The training loop on Ray Train: several workers, checkpoints, resumed after a killed worker or driver."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from acoustic_env.errors import AcousticEnvError, UsageError
from acoustic_env.io.arrow import arrow_filesystem
from acoustic_env.models.classifier import Examples
from acoustic_env.models.sequences import Sequences
from acoustic_env.models.training import LocalSession, Progress, TrainingSpec, train_network
from acoustic_env.pipeline.cluster import cluster_resources

if TYPE_CHECKING:
    import torch

log = logging.getLogger("acoustic_env.models.train")

# A report waits for the controller to look: at most this many seconds of training are done twice after a worker died.
CHECKPOINT_S: Final = 5.0
# How often the controller looks; its own 2 s would make a second of training take a minute of reports.
HEALTH_CHECK_S: Final = "0.25"
MAX_FAILURES: Final = 3
ARRAYS: Final = "progress.safetensors"
METADATA: Final = "progress.json"


class TrainingFailed(AcousticEnvError):  # noqa: N818  the outcome's own name
    """Workers failed more often than they may; the message is the last one's."""

    exit_code = 3


class RaySession(LocalSession):
    """One Ray Train worker's surroundings.

    Args:
        checkpoint_s: seconds between checkpoints; the first epoch and the last have one in any case.
    """

    def __init__(self, checkpoint_s: float) -> None:
        from ray import train

        context = train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self._checkpoint_s = checkpoint_s
        self._due = 0.0

    def resume(self) -> Progress | None:
        """Return the last checkpoint of the run."""
        from ray import train

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return read_progress(Path(folder))

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Average the gradients of the network over the workers."""
        from ray.train.torch import prepare_model

        return prepare_model(network)

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        """Report to the run, with a checkpoint that the first worker writes, when one is due."""
        from ray import train

        if not self._agree(last or time.monotonic() >= self._due):
            return
        if self.rank:
            train.report(dict(metrics))
        else:
            with tempfile.TemporaryDirectory() as folder:
                write_progress(Path(folder), progress())
                train.report(dict(metrics), checkpoint=train.Checkpoint.from_directory(folder))
        self._due = time.monotonic() + self._checkpoint_s

    def _agree(self, due: bool) -> bool:
        """Return the first worker's choice: a report waits for all workers, so all must make the same ones."""
        import torch

        shared = torch.tensor(int(due))
        if self.workers > 1:
            torch.distributed.broadcast(shared, src=0)
        return bool(shared)


def write_progress(folder: Path, progress: Progress) -> None:
    """Write a checkpoint: arrays as safetensors, the rest as JSON."""
    metadata = {name: value for name, value in vars(progress).items() if name != "arrays"}
    save_file(progress.arrays, folder / ARRAYS)
    (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")


def read_progress(folder: Path) -> Progress:
    """Read what `write_progress` wrote."""
    return Progress(**json.loads((folder / METADATA).read_text(encoding="utf-8")), arrays=load_file(folder / ARRAYS))


def train_on_ray(
    spec: TrainingSpec, train: Examples, validation: Examples | None, storage: str, checkpoint_s: float = CHECKPOINT_S
) -> Progress:
    """Train on `spec.settings.workers` Ray workers of one CPU each, joined to the cluster at hand.

    A worker that dies is replaced and the run goes on from its last checkpoint; the same call after a killed driver
    does so, too, because the run's name follows from what is trained.

    Args:
        spec: what to train.
        train, validation: rows; placed once in the object store, shared by the workers of a node. Each reads its own
            share of streamed ones from the feature store, which every node must see.
        storage: where checkpoints go, a folder or URL every node sees.
        checkpoint_s: seconds between checkpoints.

    Returns:
        The state after the last epoch.

    Raises:
        UsageError: the cluster has fewer CPUs than workers.
        TrainingFailed: workers died more than three times.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_S)
    workers = spec.settings.workers
    cpus = int(cluster_resources().cpus)
    if workers > cpus:
        msg = f"{workers} training workers need {workers} CPUs and the cluster has {cpus}; set fewer `model: workers`"
        raise UsageError(msg)
    filesystem, place = arrow_filesystem(storage)
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"spec": spec, "data": ray.put((train, validation)), "checkpoint_s": checkpoint_s},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=f"{spec.settings.kind}-{_digest(spec, train, validation)}",
            storage_path=place,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        msg = f"training failed more than {MAX_FAILURES} times; checkpoints are in {storage}: {error}"
        raise TrainingFailed(msg) from error
    assert result.checkpoint is not None  # the last epoch has one
    with result.checkpoint.as_directory() as folder:
        progress = read_progress(Path(folder))
    log.info("trained %d epochs, best %d (%.4f)", progress.epoch, progress.best_epoch, progress.best_score)
    return progress


def _run_worker(config: Mapping[str, Any]) -> None:
    import ray

    train, validation = ray.get(config["data"])
    # Arrays in the object store are read-only, and training does not write to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    train_network(config["spec"], train, validation, RaySession(config["checkpoint_s"]))


def _digest(spec: TrainingSpec, *data: Examples | None) -> str:
    plain = {"settings": spec.settings.as_json(), "task": spec.task, "classes": spec.classes}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for examples in data:
        for array in (examples.x, examples.y, examples.weights) if examples else ():
            match array:
                case None:
                    continue
                case Sequences():
                    digest.update(array.digest())
                case _:
                    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
