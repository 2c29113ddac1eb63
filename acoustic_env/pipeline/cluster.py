"""The Ray cluster a run uses: the one it is told to join, or one of its own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from acoustic_env.errors import UsageError
from acoustic_env.memory import available_memory
from acoustic_env.pipeline.plan import GIB, Node

OBJECT_STORE_SHARE: Final = 0.25
OBJECT_STORE_MOST: Final = 8 * GIB
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def local_node() -> Node:
    """This machine as a cluster's only node: the CPUs this process may use, and memory free within its container."""
    cpus = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with contextlib.suppress(OSError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cpus = min(cpus, max(1.0, int(quota) / int(period)))
    return Node("", platform.node(), cpus, 0.0, available_memory(psutil.virtual_memory().available))


def joins(address: str | None) -> bool:
    """Whether a run with this --address uses a cluster that exists already."""
    ray = sys.modules.get("ray")
    return address is not None or "RAY_ADDRESS" in os.environ or bool(ray and ray.is_initialized())


def workers_of_one_thread() -> None:
    """Processes started from now on compute on one thread: every core has a worker."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[Node | None]:
    """Connected to Ray for the length of the block; a cluster of our own is shut down after it.

    Args:
        address: of a cluster to join; None takes RAY_ADDRESS (set by `ray job submit`), else starts a local one.

    Yields:
        This machine where the cluster is our own, None where it is joined.

    Raises:
        UsageError: no cluster answers at the address, or Ray does not start on this machine.
    """
    import ray

    if ray.is_initialized():
        yield None
        return
    workers_of_one_thread()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        own = None if joins(address) else _start_local()
        if own is None:
            _join(address)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)  # Ray's handler dumps a stack and ends the process
        yield own
    finally:
        ray.shutdown()


def _join(address: str | None) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address or os.environ.get('RAY_ADDRESS')!r}: {error}; "
            "check --address (or RAY_ADDRESS) and that the cluster runs the same versions of Ray and Python"
        ) from error


def _start_local() -> Node:
    """Start Ray on this machine; return what its workers may use, as Ray does not see every limit of a container."""
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are about Ray's own internals
    # Ray's default of 15 starves the workers beside any busy process: a run of 3 clips took 114 s instead of 11.
    os.environ.setdefault("RAY_worker_niceness", "0")
    local = local_node()
    store = int(min(OBJECT_STORE_MOST, local.memory * OBJECT_STORE_SHARE, _shared_memory() * 0.9))
    try:
        with _silent_stderr():
            ray.init(
                address="local",
                num_cpus=int(local.cpus),
                num_gpus=None if torch_has_cuda() else 0,
                object_store_memory=max(store, 100 << 20),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"Ray does not start on this machine: {error}; it needs memory, and space in /dev/shm and in "
            f"{tempfile.gettempdir()} (TMPDIR); or join a cluster with --address"
        ) from error
    offered = cluster_resources()
    return replace(local, cpus=offered.cpus, gpus=offered.gpus, memory=min(offered.memory, local.memory - store))


def torch_has_cuda() -> bool:
    """Whether the PyTorch installed here could use a GPU; a wheel for processors cannot, whatever Ray counts."""
    return not version("torch").endswith("+cpu")


def may_use_gpu() -> bool:
    """Whether PyTorch may compute on a GPU here: one that it sees, and that Ray granted if this is a Ray worker."""
    import torch

    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        context = ray.get_runtime_context()
        if (context.get_task_id() or context.get_actor_id()) and not context.get_accelerator_ids()["GPU"]:
            return False
    return torch.cuda.is_available()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what Ray's C++ side writes about its own log level; a failed start still raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _shared_memory() -> int:
    try:
        return psutil.disk_usage("/dev/shm").free
    except OSError:
        return OBJECT_STORE_MOST


def cluster_resources() -> Node:
    """Return what the connected cluster offers in all, as if it were one node."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Node("", "", total.get("CPU", 0.0), total.get("GPU", 0.0), int(total.get("memory", 0)))
