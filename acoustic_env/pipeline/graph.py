"""The Ray Data graph of a planned run."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import Any, Final

import pyarrow as pa

from acoustic_env.errors import AcousticEnvError
from acoustic_env.pipeline.guard import CrashIsolatedStage
from acoustic_env.pipeline.health import Health
from acoustic_env.pipeline.plan import Plan, Pool
from acoustic_env.pipeline.sink import Write
from acoustic_env.pipeline.stages import Compute, ComputeSettings, Decode
from acoustic_env.pipeline.work import BlockWork

ADDED_BY_RAY: Final = "\nFailed to "  # and on retries, to the message of an error in a worker


def run(
    pending: pa.Table,
    plan: Plan,
    works: Sequence[BlockWork],
    store_url: str,
    token: int,
    run_id: str,
    health: Health | None = None,
) -> Generator[pa.Table, None, None]:
    """Stream the pending clips through the plan's pools into the store.

    Args:
        pending: rows of `rows.WORK_SCHEMA`.
        plan: from `plan.make_plan`.
        works: the blocks, as planned.
        store_url: the store.
        token: fencing id of the lease this run holds.
        run_id: goes into the errors table.
        health: nodes to leave out and clips to do apart.

    Yields:
        A summary of one row for each batch written: clips, failed, rows:<block>, seconds:<stage>,
        memory:<pool>.

    Raises:
        SickWorkerError: a worker is at fault; its task and those in work are not recorded.
        AcousticEnvError: what a worker refused with (a lost lease, a full disk).
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    health = health or Health()
    selector = {"ray.io/node-id": f"!in({','.join(sorted(health.left_out))})"} if health.left_out else None
    suspects = tuple(sorted(health.suspects))
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray Data's own wrapper arrives without what it wraps
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised here all the same
    pieces = [pending.slice(first, plan.task_clips) for first in range(0, pending.num_rows, plan.task_clips)]
    rates = tuple(sorted({work.sample_rate for work in works}))
    data = ray.data.from_blocks(pieces)
    stages: list[tuple[type, tuple[Any, ...], Pool, int | None]] = []
    if plan.decode is not None:
        stages.append((CrashIsolatedStage, (Decode, (rates,), run_id, plan.decode.name, suspects), plan.decode, None))
    for position, pool in enumerate(plan.compute):
        later = tuple(work for after in plan.compute[position + 1 :] for work in after.blocks)
        decodes = rates if position == 0 and plan.decode is None else ()
        settings = ComputeSettings(pool.blocks, decodes, position == 0, later, plan.device)
        stages.append((CrashIsolatedStage, (Compute, (settings,), run_id, pool.name, suspects), pool, None))
    stages.append((Write, (store_url, token, works, run_id), plan.write, plan.part_clips))
    for stage, arguments, pool, batch_size in stages:
        data = data.map_batches(
            stage,
            fn_constructor_args=arguments,
            batch_format="pyarrow",
            batch_size=batch_size,
            compute=ActorPoolStrategy(size=pool.workers),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            memory=pool.memory,
            label_selector=selector,
        )
    try:
        yield from data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise refusal from error


def _refusal(error: BaseException) -> AcousticEnvError | None:
    """The error of ours that a worker raised, out of what Ray wrapped around it and without what Ray Data added."""
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    if not isinstance(error, AcousticEnvError):
        return None
    error.args = tuple(text.partition(ADDED_BY_RAY)[0] if isinstance(text, str) else text for text in error.args)
    return error
