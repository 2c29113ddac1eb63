"""The Ray Data graph of a planned run: tasks from the pending list through the pools, and writers that take the rows.

Rows never pass the driver: it sees references to them, joins these to slices and hands each slice to a writer.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from acoustic_env.errors import AcousticEnvError, UsageError
from acoustic_env.pipeline.compute import Compute, ComputeSettings
from acoustic_env.pipeline.guard import CrashIsolatedStage
from acoustic_env.pipeline.health import Health, NoHealthyWorkerError
from acoustic_env.pipeline.nodes import WAIT_S, node_selector, not_started
from acoustic_env.pipeline.plan import GIB, READ_CPUS, Plan, Pool
from acoustic_env.pipeline.sink import Write, Written
from acoustic_env.pipeline.work import BlockWork

SLICE_BYTES: Final = 96 * 2**20  # of finished tasks in memory; a part of 64 MB or a little more
FIRST_WAIT_S: Final = 2.0
FIRST_TASKS: Final = 4
LONGEST_WAIT_S: Final = 60.0
WRITE_S: Final = 3600.0  # for one slice, the repeated requests of a storage that fails included
WRITER_DEATHS: Final = 10  # of one writer, those of lost nodes included, before the run ends
ADDED_BY_RAY: Final = "\nFailed to "  # and on retries, to the message of an error in a worker
Tasks: TypeAlias = Mapping[Any, int]  # files of the pending list (paths in the store, or references): their tasks


@dataclass(frozen=True)
class Job:
    """What the workers of a run have to know.

    Attributes:
        store_url: the store.
        run_id: goes into the errors table.
        works: the blocks, as planned.
        leases: path -> fencing id of the leases that the run holds.
        tasks: what there is to do.
    """

    store_url: str
    run_id: str
    works: Sequence[BlockWork]
    leases: Mapping[str, int]
    tasks: Tasks


def run(
    job: Job, plan: Plan, numbers: Iterator[int], health: Health | None = None, *, elastic: bool = False
) -> Generator[Written, None, None]:
    """Stream the pending clips through the plan's pools into the store.

    However it ends, closed early and by an error included, nothing is written after it: what the writers have in hand
    is awaited.

    Args:
        job: the tasks and their store.
        plan: from `plan.make_plan`.
        numbers: of the slices that are written, each once in a run.
        health: nodes to leave out and clips to do apart.
        elastic: whether the cluster is one that nodes join and leave: workers that do not start end the run.

    Yields:
        What each slice was, once it is in the store.

    Raises:
        UsageError: workers found no node in time.
        SickWorkerError: a worker is at fault; its task and those in work are not recorded.
        NoHealthyWorkerError: a writer died again and again.
        AcousticEnvError: what a worker refused with (a lost lease, a full disk).
    """
    import ray

    health = health or Health()
    selector = node_selector(health.left_out) if health.left_out else None
    data = _source(job.tasks, job.store_url, elastic=elastic)
    for position, pool in enumerate(plan.compute):
        later = tuple(work for after in plan.compute[position + 1 :] for work in after.blocks)
        settings = ComputeSettings(pool.blocks, later, position == 0, plan.device, plan.longest_s)
        arguments = (Compute, (settings,), job.run_id, pool.name, tuple(sorted(health.suspects)))
        data = _through(data, pool, arguments, selector)
    free = _writers(job, plan.write, selector)
    starting = [writer.ready.remote() for writer in free]  # beside the workers
    busy: dict[Any, Any] = {}  # reference to what comes back -> writer
    try:
        with contextlib.closing(slices(data.iter_internal_ref_bundles())) as pieces:
            for piece in pieces:
                if starting:
                    ray.get(starting, timeout=WAIT_S if elastic else None)
                    starting.clear()
                if not free:
                    yield _written(busy, free)
                _write(busy, free, next(numbers), piece)
        while busy:
            yield _written(busy, free)
    except ray.exceptions.GetTimeoutError as error:
        raise UsageError(not_started(plan)) from error
    except (ray.exceptions.ActorDiedError, ray.exceptions.OutOfMemoryError, TimeoutError) as error:
        raise NoHealthyWorkerError(
            f"a writer died {WRITER_DEATHS + 1} times, or took more than {WRITE_S:.0f} s for a slice: it is "
            f"planned with {plan.write.cpus:g} CPUs and {plan.write.memory / GIB:.1f} GiB: {error}"
        ) from error
    except ray.exceptions.RayError as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from error
    finally:
        if busy:
            ray.wait(list(busy), num_returns=len(busy), timeout=WRITE_S)
        busy.clear()  # the frame of an error that somebody keeps would keep the writers, too
        free.clear()
        gc.collect()  # the slices held the last reference to Ray Data's execution, which ends before Ray is shut down


def _write(busy: dict[Any, Any], free: list[Any], number: int, piece: Sequence[Any]) -> None:
    writer = free.pop()  # not a name of `run`, whose frame an error may keep
    busy[writer.__call__.remote(number, *piece)] = writer


def _written(busy: dict[Any, Any], free: list[Any]) -> Written:
    """Wait for the next slice in the store; its writer is free again.

    Raises:
        TimeoutError: none in `WRITE_S`; the writers are ended.
    """
    import ray

    done, _ = ray.wait(list(busy), timeout=WRITE_S)
    if not done:
        while busy:
            ray.kill(busy.popitem()[1])
        raise TimeoutError("no answer")
    free.append(busy.pop(done[0]))
    slice_: Written = ray.get(done[0])
    return slice_


def _source(tasks: Tasks, store_url: str, *, elastic: bool) -> Any:
    """Return the tasks as a dataset, one a block."""
    import ray
    from ray.data import DataContext

    from acoustic_env.pipeline.source import PendingFiles

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = int(WAIT_S) if elastic else -1
    context.raise_original_map_exception = True  # Ray Data's own wrapper arrives without what it wraps
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised here all the same
    blocks = len(tasks) * max(tasks.values())  # Ray Data cuts each file to the same number, if it has so many rows
    return ray.data.read_datasource(PendingFiles(store_url, tasks), override_num_blocks=blocks, num_cpus=READ_CPUS)


def _through(data: Any, pool: Pool, arguments: tuple[Any, ...], selector: dict[str, str] | None) -> Any:
    """Return the dataset after a pool of workers."""
    from ray.data import ActorPoolStrategy

    return data.map_batches(
        CrashIsolatedStage,
        fn_constructor_args=arguments,
        batch_format="pyarrow",
        batch_size=1 if pool.gpus else None,  # Ray Data asks for a number where there are GPUs
        compute=ActorPoolStrategy(min_size=pool.workers, max_size=pool.most, initial_size=pool.workers),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        memory=pool.memory,
        label_selector=selector,
    )


def _writers(job: Job, pool: Pool, selector: dict[str, str] | None) -> list[Any]:
    import ray

    actor = ray.remote(Write).options(
        num_cpus=pool.cpus,
        memory=pool.memory,
        label_selector=selector,
        max_restarts=WRITER_DEATHS,
        max_task_retries=-1,  # as often as it is started again; a writer out of reach counts as a try, too
    )
    return [actor.remote(job.store_url, job.leases, job.works, job.run_id) for _ in range(pool.workers)]


def slices(bundles: Iterable[Any]) -> Generator[list[Any], None, None]:
    """Join references to finished tasks to slices that are written at once.

    A slice ends with `SLICE_BYTES`. The first ones are small, so that errors are noticed soon: after `FIRST_WAIT_S` or
    `FIRST_TASKS`, doubled with each slice. None takes longer than `LONGEST_WAIT_S`, so that little is lost with a run
    that is killed.

    Args:
        bundles: of Ray Data, as they leave the last stage.
    """
    waiting: list[Any] = []
    size, wait, tasks, since = 0, FIRST_WAIT_S, FIRST_TASKS, time.monotonic()
    for bundle in bundles:
        waiting += bundle.block_refs
        size += bundle.size_bytes()
        if size >= SLICE_BYTES or len(waiting) >= tasks or time.monotonic() - since >= wait:
            yield waiting
            waiting, size = [], 0
            wait, tasks, since = min(2 * wait, LONGEST_WAIT_S), 2 * tasks, time.monotonic()
    if waiting:
        yield waiting


def _refusal(error: BaseException) -> AcousticEnvError | None:
    """The error of ours that a worker raised, out of what Ray wrapped around it and without what Ray Data added."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    if not isinstance(error, AcousticEnvError):
        return None
    error.args = tuple(text.partition(ADDED_BY_RAY)[0] if isinstance(text, str) else text for text in error.args)
    return error
