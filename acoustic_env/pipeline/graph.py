"""The Ray Data graph of a planned run, and the writers that take its batches."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from acoustic_env.errors import AcousticEnvError, UsageError
from acoustic_env.pipeline.guard import CrashIsolatedStage, Stage
from acoustic_env.pipeline.health import Health
from acoustic_env.pipeline.missing import cut_tasks
from acoustic_env.pipeline.nodes import WAIT_S, node_selector, not_started
from acoustic_env.pipeline.plan import Plan, Pool
from acoustic_env.pipeline.rows import ROWS
from acoustic_env.pipeline.sink import Write, Written
from acoustic_env.pipeline.stages import Compute, ComputeSettings, Decode
from acoustic_env.pipeline.work import BlockWork

SLICE_BYTES: Final = 96 * 2**20  # of rows in memory; a part of 64 MB or a little more
WAITING_BYTES: Final = 160 * 2**20
FIRST_WAIT_S: Final = 2.0
FIRST_CLIPS: Final = 64
LONGEST_WAIT_S: Final = 60.0
ADDED_BY_RAY: Final = "\nFailed to "  # and on retries, to the message of an error in a worker


def run(
    pending: pa.Table,
    plan: Plan,
    works: Sequence[BlockWork],
    store_url: str,
    leases: Mapping[str, int],
    run_id: str,
    health: Health | None = None,
    *,
    numbers: Iterator[int] | None = None,
    elastic: bool = False,
) -> Generator[Written, None, None]:
    """Stream the pending clips through the plan's pools into the store.

    However it ends, closed early and by an error included, nothing is written after it: what the writers have in hand
    is awaited.

    Args:
        pending: rows of `rows.WORK_SCHEMA`.
        plan: from `plan.make_plan`.
        works: the blocks, as planned.
        store_url: the store.
        leases: path -> fencing id of the leases this run holds.
        run_id: goes into the errors table.
        health: nodes to leave out and clips to do apart.
        numbers: of the slices that are written, each once in a run; None counts from 0.
        elastic: whether the cluster is one that nodes join and leave: workers that do not start end the run.

    Yields:
        What each slice was, once it is in the store.

    Raises:
        UsageError: workers found no node in time.
        SickWorkerError: a worker is at fault; its task and those in work are not recorded.
        AcousticEnvError: what a worker refused with (a lost lease, a full disk).
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.util import ActorPool

    health, numbers = health or Health(), numbers or itertools.count()
    selector = node_selector(health.left_out) if health.left_out else None
    suspects = tuple(sorted(health.suspects))
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = int(WAIT_S) if elastic else -1
    context.raise_original_map_exception = True  # Ray Data's own wrapper arrives without what it wraps
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised here all the same
    rates = tuple(sorted({work.sample_rate for work in works}))
    data = ray.data.from_blocks(cut_tasks(pending, plan.task_clips))
    stages: list[tuple[type[Stage], tuple[Any, ...], Pool]] = []
    if plan.decode is not None:
        stages.append((Decode, (rates,), plan.decode))
    for position, pool in enumerate(plan.compute):
        later = tuple(work for after in plan.compute[position + 1 :] for work in after.blocks)
        decodes = rates if position == 0 and plan.decode is None else ()
        settings = ComputeSettings(pool.blocks, decodes, position == 0, later, plan.device)
        stages.append((Compute, (settings,), pool))
    for stage, arguments, pool in stages:
        data = data.map_batches(
            CrashIsolatedStage,
            fn_constructor_args=(stage, arguments, run_id, pool.name, suspects),
            batch_format="pyarrow",
            batch_size=plan.task_clips if pool.gpus else None,  # Ray Data asks for a number where there are GPUs
            compute=ActorPoolStrategy(min_size=pool.workers, max_size=pool.most, initial_size=pool.workers),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            memory=pool.memory,
            label_selector=selector,
        )
    actor = ray.remote(Write).options(
        num_cpus=plan.write.cpus,
        memory=plan.write.memory,
        label_selector=selector,
        max_restarts=-1,
        max_task_retries=-1,
    )
    writers: Any = ActorPool([actor.remote(store_url, leases, works, run_id) for _ in range(plan.write.workers)])
    try:
        batches: Any = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        with contextlib.closing(batches):  # ends the execution before Ray may be shut down, after Ctrl-C, too
            for piece in slices(batches):
                writers.submit(lambda writer, some: writer.__call__.remote(*some), (piece, next(numbers)))
                if not writers.has_free():
                    yield writers.get_next_unordered()
        while writers.has_next():
            yield writers.get_next_unordered()
    except ray.exceptions.GetTimeoutError as error:
        raise UsageError(not_started(plan)) from error
    except ray.exceptions.RayError as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from error
    finally:
        for _ in range(plan.write.workers):  # which have one batch each at most
            with contextlib.suppress(ray.exceptions.RayError, StopIteration):
                writers.get_next_unordered()


def slices(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join finished clips to slices that are written at once.

    A slice ends with `SLICE_BYTES` of rows of one block, or `WAITING_BYTES` of all. The first ones are small, so that
    errors are noticed soon: after `FIRST_WAIT_S` or `FIRST_CLIPS`, doubled with each slice. None takes longer than
    `LONGEST_WAIT_S`, so that little is lost with a run that is killed.

    Args:
        batches: tables as they leave the last stage.
    """
    waiting: list[pa.Table] = []
    sizes: Counter[str] = Counter()
    wait, clips, since = FIRST_WAIT_S, FIRST_CLIPS, time.monotonic()
    for batch in batches:
        waiting.append(batch)
        sizes.update({name: batch[name].nbytes for name in batch.column_names if name.startswith(ROWS)})
        enough = time.monotonic() - since >= wait or sum(map(len, waiting)) >= clips
        if enough or max(sizes.values(), default=0) >= SLICE_BYTES or sizes.total() >= WAITING_BYTES:
            yield pa.concat_tables(waiting)
            waiting, sizes = [], Counter()
            wait, clips, since = min(2 * wait, LONGEST_WAIT_S), 2 * clips, time.monotonic()
    if waiting:
        yield pa.concat_tables(waiting)


def _refusal(error: BaseException) -> AcousticEnvError | None:
    """The error of ours that a worker raised, out of what Ray wrapped around it and without what Ray Data added."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    if not isinstance(error, AcousticEnvError):
        return None
    error.args = tuple(text.partition(ADDED_BY_RAY)[0] if isinstance(text, str) else text for text in error.args)
    return error
