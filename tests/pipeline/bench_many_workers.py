"""The graph with many workers that sleep instead of computing: what a task and a million clips cost the driver.

    python -m tests.pipeline.bench_many_workers [--workers 200] [--clips 200000] [--task-clips 128] [--sleep-ms 4000]

All workers are on this machine, with a fraction of a CPU each, so that what takes time is the scheduling. A task is a
row of a pending list on disk and sleeps; its rows are zeros. Printed are the tasks a second,
the seconds that a worker waits between two tasks (beside its sleep), and CPU and memory of the driver.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.features.block import to_table
from acoustic_env.pipeline import graph
from acoustic_env.pipeline.compute import ComputeSettings
from acoustic_env.pipeline.pending import cut_tasks, stored
from acoustic_env.pipeline.plan import Plan, Pool
from acoustic_env.pipeline.task import WORK_SCHEMA, RowError, Task
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from tests.pipeline.tasks import works
from tests.store.bench_planning import clip_ids
from tests.store.tables import begin

CLIP_S = 10.0
FILE_CLIPS = 2**17


class Sleeping:
    """A stage that sleeps for each task and gives every clip a row of zeros."""

    def __init__(self, settings: ComputeSettings) -> None:
        (self.work,) = settings.blocks
        self.columns = [column.name for column in self.work.spec.make().columns]

    def __call__(self, task: Task) -> Task:
        time.sleep(task.clips["end_s"][0].as_py())  # which says how long
        ids = task.clips["clip_id"].to_pylist()
        vectors = {field.name: field.type for field in self.work.schema if field.name in self.columns}
        zeros = {name: np.zeros((len(ids), getattr(kind, "list_size", 1))) for name, kind in vectors.items()}
        task.rows[self.work.spec.name] = [to_table(self.work.schema, ids, ["raw"] * len(ids), zeros)]
        return task

    def decode(self, task: Task) -> Task:
        return task

    def skip(self, task: Task, error: RowError) -> Task:
        raise AssertionError(error)

    def check(self) -> None:
        """Nothing can be wrong with sleeping."""


def pending(clips: int, sleep_s: float) -> Iterator[pa.Table]:
    """A list whose clips end when a worker shall wake up."""
    for first in range(0, clips, FILE_CLIPS):
        ids = clip_ids(first, min(clips, first + FILE_CLIPS))
        columns = {
            "clip_id": ids,
            "uri": pc.binary_join_element_wise("s3://bucket/audio", ids, "/"),
            "end_s": pa.repeat(sleep_s, len(ids)),
        }
        columns |= {"need": pa.repeat(1, len(ids)), "attempt": pa.repeat(pa.scalar(1, pa.int32()), len(ids))}
        columns |= {"seconds": pa.repeat(CLIP_S, len(ids))}
        nulls = {field.name: pa.nulls(len(ids), field.type) for field in WORK_SCHEMA if field.name not in columns}
        yield pa.table({**columns, **nulls}).select(WORK_SCHEMA.names).cast(WORK_SCHEMA)


def measure(workers: int, clips: int, task_clips: int, sleep_s: float, work: BlockWork) -> None:
    import ray

    with tempfile.TemporaryDirectory(prefix="acoustic-env-many-") as url:
        tables = (cut_tasks(rows, task_clips * CLIP_S) for rows in pending(clips, sleep_s))
        pools = (Pool("cpu", (work,), workers, 1.8 / workers, 0.0, 0, workers),)
        plan = Plan(pools, Pool("write", (), 1, 0.1, 0.0, 0, 1), task_clips * CLIP_S, 0.0, 0, float("inf"), "cpu")
        with (
            acquire_blocks(url, [work.spec.name], "bench") as leases,
            stored(FeatureStore(url), "bench", tables) as files,
        ):
            begin(url, [work], leases)
            tasks = sum(files.values())
            job = graph.Job(url, "bench", [work], leases.tokens, files)
            done, started, first = 0, time.perf_counter(), 0.0
            before = _cpu_s()
            with closing(graph.run(job, plan, count())) as slices:
                for written in slices:
                    first = first or time.perf_counter() - started
                    done += written.clips
            wall, spent = time.perf_counter() - started, _cpu_s() - before
        ray.shutdown()
    assert done == clips, (done, clips)
    between = (wall - first) * workers / tasks - sleep_s
    print(f"{workers} workers, {tasks} tasks of {task_clips} clips that take {sleep_s:g} s each:")
    print(f"  first rows after {first:.0f} s, all after {wall:.0f} s, {tasks / (wall - first):.0f} tasks/s")
    print(f"  {between:.2f} s between two tasks of a worker")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"  driver: {1e3 * spent / tasks:.1f} ms of CPU a task, {1e6 * spent / clips:.0f} s a million clips")
    print(f"  driver: {memory:.0f} MiB at most")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--task-clips", type=int, default=128)
    parser.add_argument("--sleep-ms", type=int, default=4000)
    given = parser.parse_args()
    graph.Compute = Sleeping  # type: ignore[misc,assignment]
    (work,) = works("placeholder", signals=("raw",))
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    measure(given.workers, given.clips, given.task_clips, given.sleep_ms / 1e3, work)


if __name__ == "__main__":
    main()
