"""The training loop on Ray Train: one group of workers for many networks, resumed after a killed worker or driver.

A group starts once and takes one network after another from an actor, which also keeps the checkpoint of the network in
training: workers need not see where checkpoints are stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from acoustic_env.errors import AcousticEnvError, UsageError
from acoustic_env.io.files import read_if_there, write_bytes
from acoustic_env.io.location import join, local_path
from acoustic_env.models.data.arrays import dump_arrays, load_arrays
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.training.loop import DistributedSession, Progress, TrainingSpec, train_network
from acoustic_env.models.training.settings import NetworkSettings
from acoustic_env.pipeline.cluster import cluster_resources

log = logging.getLogger("acoustic_env.models.training.on_ray")

CHECKPOINT_S: Final = 5.0  # at most this many seconds of training are done twice after a worker died
# How often Ray looks after the workers; its own 2 s would be waited for at the end.
HEALTH_CHECK_S: Final = "0.25"
MAX_FAILURES: Final = 3
CLOSE_S: Final = 60.0
PROGRESS: Final = "progress.safetensors"


class TrainingFailed(AcousticEnvError):  # noqa: N818  the outcome's own name
    """Workers failed more often than they may; the message is the last one's."""

    exit_code = 3


@dataclass(frozen=True)
class Job:
    """A network to train.

    Attributes:
        spec: what to train.
        data: reference to training and validation rows in Ray's object store.
        place: of its checkpoints, None to keep them in memory alone.
        checkpoint_s: seconds between checkpoints.
        kept: the last checkpoint.
        number: of the network in its group, from 1.
    """

    spec: TrainingSpec
    data: Any
    place: str | None
    checkpoint_s: float
    kept: bytes | None = None
    number: int = 0


class Jobs:
    """The network that a group trains, as a Ray actor: the driver gives it, every worker takes it, the first answers.

    A worker that asks again after a failure gets the same one with its last checkpoint; once it is done, all wait for
    the next one.
    """

    def __init__(self) -> None:
        self._job: Job | None = None
        self._number = 0
        self._open = True
        self._outcome: Progress | UsageError | None = None
        self._changed = asyncio.Condition()

    async def train(self, job: Job) -> Progress | UsageError:
        """Have a network trained; return its last state, or the error that its settings led to."""
        async with self._changed:
            self._number += 1
            self._job, self._outcome = replace(job, number=self._number), None
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._outcome is not None)
            assert self._outcome is not None
            return self._outcome

    async def next(self, after: int) -> Job | None:
        """Return the network to train once there is one after a number; None once there will be none."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._open or (self._job and self._job.number > after))
            return self._job

    async def keep(self, checkpoint: bytes) -> None:
        """Keep a checkpoint of the network in training."""
        assert self._job is not None
        if self._job.place:
            write_bytes(self._job.place, checkpoint)
        self._job = replace(self._job, kept=checkpoint)

    async def finish(self, outcome: Progress | UsageError) -> None:
        """Take the last state of the network in training."""
        async with self._changed:
            self._job, self._outcome = None, outcome
            self._changed.notify_all()

    async def close(self) -> None:
        """Send the workers home."""
        async with self._changed:
            self._open = False
            self._changed.notify_all()


class RaySession(DistributedSession):
    """One Ray Train worker's surroundings while it trains a network.

    Args:
        device: of the worker.
        jobs: the actor `Jobs`.
        job: the network.
    """

    def __init__(self, device: str, jobs: Any, job: Job) -> None:
        super().__init__(device)
        self._jobs, self._job, self._due = jobs, job, 0.0

    def resume(self) -> Progress | None:
        """Return the last checkpoint of the network."""
        return load_progress(self._job.kept) if self._job.kept else None

    def report(self, state: Progress, snapshot: Callable[[], Progress], *, last: bool) -> None:
        """Have a checkpoint of the first worker kept when one is due: of the first epoch and the last in any case."""
        import ray

        if not self.rank and (last or time.monotonic() >= self._due):
            ray.get(self._jobs.keep.remote(dump_progress(snapshot())))
            self._due = time.monotonic() + self._job.checkpoint_s


def dump_progress(progress: Progress) -> bytes:
    """Return a checkpoint as safetensors.

    >>> load_progress(dump_progress(Progress(epoch=3, arrays={"best.bias": np.zeros(2)}))).epoch
    3
    """
    return dump_arrays(progress.arrays, {name: value for name, value in vars(progress).items() if name != "arrays"})


def load_progress(data: bytes) -> Progress:
    """Return the checkpoint that `dump_progress` stored."""
    arrays, described = load_arrays(data)
    return Progress(**described, arrays=arrays)


class Group:
    """Ray Train workers, one CPU each and one GPU each where a network is worth it and the cluster has as many.

    Args:
        settings: of the networks.

    Raises:
        UsageError: the cluster has fewer CPUs than workers.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        import ray

        self.wanted = _wanted(settings)
        workers, offered = settings.workers, cluster_resources()
        if workers > int(offered.cpus):
            raise UsageError(
                f"{workers} training workers need {workers} CPUs and the cluster has {int(offered.cpus)}; "
                "set fewer `model: workers`"
            )
        self._jobs: Any = ray.remote(num_cpus=0)(Jobs).remote()
        # In a task, not in this process, where it would block: the task ends, or fails, with the workers.
        environment = {"env_vars": {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": HEALTH_CHECK_S}}
        run = ray.remote(num_cpus=0, max_retries=0, runtime_env=environment)(_run_group)
        self._run = run.remote(self._jobs, workers, settings.uses_gpu and offered.gpus >= workers)

    def train(self, job: Job) -> Progress:
        """Train a network; return its last state.

        Raises:
            Diverged: as `train_network`.
            TrainingFailed: workers failed more than three times.
        """
        import ray

        outcome = self._jobs.train.remote(job)
        ended, _ = ray.wait([outcome, self._run])
        if outcome not in ended:
            try:
                ray.get(self._run)
            except ray.exceptions.RayError as error:
                kept = f"; checkpoints are in {job.place}: the same command goes on from them" if job.place else ""
                raise TrainingFailed(f"training failed more than {MAX_FAILURES} times{kept}: {error}") from error
        found: Progress | UsageError = ray.get(outcome)
        if isinstance(found, UsageError):
            raise found
        return found

    def close(self) -> None:
        """End the workers, which have nothing to train, and wait for it."""
        import ray

        self._jobs.close.remote()
        ray.wait([self._run], timeout=CLOSE_S)

    def cancel(self) -> None:
        """Have the workers end, whatever they do."""
        import ray

        ray.cancel(self._run)


def _wanted(settings: NetworkSettings) -> tuple[int, bool]:
    return settings.workers, settings.uses_gpu


_GROUPS: ContextVar[list[Group] | None] = ContextVar("groups", default=None)


@contextlib.contextmanager
def one_group() -> Iterator[None]:
    """Train all networks of the block, and of blocks within, on one group of workers, which the first of them starts.

    >>> with one_group():
    ...     pass  # train
    """
    if _GROUPS.get() is not None:
        yield
        return
    groups: list[Group] = []
    token = _GROUPS.set(groups)
    try:
        yield
    except KeyboardInterrupt:
        for group in groups:
            group.cancel()
        raise
    finally:
        _GROUPS.reset(token)
        for group in groups:
            group.close()


def train_on_ray(
    spec: TrainingSpec,
    train: Examples,
    validation: Examples | None,
    storage: str | None = None,
    checkpoint_s: float = CHECKPOINT_S,
) -> Progress:
    """Train on `spec.settings.workers` Ray workers, those of `one_group` within its block.

    A worker that dies is replaced and training goes on from the last checkpoint; the same call after a killed driver
    does so, too, where checkpoints are stored, because their place follows from what is trained.

    Args:
        spec: what to train.
        train, validation: rows; placed once in the object store, shared by the workers of a node. Frames that do not
            fit into memory are read from the feature store, which every node must see, onto the disk of each.
        storage: where checkpoints go, a folder or URL every node sees; None for memory alone.
        checkpoint_s: seconds between checkpoints.

    Returns:
        The state after the last epoch.

    Raises:
        UsageError: the cluster has fewer CPUs than workers, or training diverged.
        TrainingFailed: workers failed more than three times.
    """
    import ray

    place = _place(storage, spec, train, validation) if storage else None
    kept = read_if_there(place) if place else None
    if kept and (progress := load_progress(kept)).is_last(spec.settings):
        return progress
    with one_group():
        groups = _GROUPS.get()
        assert groups is not None
        if groups and groups[0].wanted != _wanted(spec.settings):
            groups.pop().close()
        if not groups:
            groups.append(Group(spec.settings))
        progress = groups[0].train(Job(spec, ray.put((train, validation)), place, checkpoint_s, kept))
    log.info("trained %d epochs, best %d (%.4f)", progress.epoch, progress.best_epoch, progress.best_score)
    return progress


def _run_group(jobs: Any, workers: int, use_gpu: bool) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with tempfile.TemporaryDirectory(prefix="acoustic-env-train-") as scratch:
        TorchTrainer(
            _run_worker,
            train_loop_config={"jobs": jobs, "use_gpu": use_gpu},
            # Not by whether PyTorch sees a GPU, which workers without one may.
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=scratch, failure_config=FailureConfig(max_failures=MAX_FAILURES)),
        ).fit()


def _run_worker(config: Mapping[str, Any]) -> None:
    """Train the networks of a group as one of its workers, until there are no more."""
    import ray
    import torch
    from ray.train.torch import get_device

    # Arrays in the object store are read-only, and training does not write to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    device, jobs, done = "cpu", config["jobs"], 0
    if config["use_gpu"]:
        device = str(get_device())
        torch.cuda.set_device(device)
    while (job := ray.get(jobs.next.remote(done))) is not None:
        train, validation = ray.get(job.data)
        session, done = RaySession(device, jobs, job), job.number
        outcome: Progress | UsageError
        try:
            outcome = train_network(job.spec, train, validation, session)
        except UsageError as error:  # of all workers alike: another attempt would end the same way
            outcome = error
        if not session.rank:
            ray.get(jobs.finish.remote(outcome))


def _place(storage: str, spec: TrainingSpec, *data: Examples | None) -> str:
    """Return where checkpoints of a network go: absolute, as the actor that writes them is in another folder."""
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
    path = local_path(storage)
    folder = storage if path is None else str(path.resolve())
    return join(folder, f"{spec.settings.kind}-{digest.hexdigest()[:16]}", PROGRESS)
