"""The plan of a run against the machines there are: pools that leave room for the readers, or a refusal with numbers.

Ray Data hangs without a word when actor pools together want every CPU, since the readers then never get one. So the
plan divides the CPUs before anything starts: a share for reading and writing, the rest among the pools as fractions. A
pool may have as many actors as there are CPUs, each a fraction of one, because the operating system shares the cores
better than a fixed split would: the slowest pool takes what the others leave. Memory bounds the number of actors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from acoustic_env.errors import UsageError
from acoustic_env.pipeline.work import BlockWork

Device = Literal["auto", "cpu", "cuda"]

GIB: Final = 1 << 30
DECODE_SHARE: Final = 0.15  # of all CPUs, for fetching and decoding
WRITE_SHARE: Final = 0.05  # of all CPUs, for the sink
MEMORY_SHARE: Final = (
    0.8  # of the machines' memory that workers may count on; the rest is the system's and the driver's
)
DECODE_BYTES: Final = GIB // 2
WRITE_BYTES: Final = GIB
CPU_POOL_BYTES: Final = int(1.5 * GIB)
MODEL_POOL_BYTES: Final = 2 * GIB
MAX_TASK_CLIPS: Final = 64
MIN_PART_CLIPS: Final = 16
MAX_PART_CLIPS: Final = 512


@dataclass(frozen=True)
class Resources:
    """What a cluster offers in all: logical CPUs, GPUs and bytes of memory."""

    cpus: float
    gpus: float
    memory: int


@dataclass(frozen=True)
class Pool:
    """Workers of one stage.

    Attributes:
        name: the stage's name: decode, dsp, an embedder's block, or write.
        blocks: blocks it computes (none for decode and write).
        workers: how many.
        cpus: logical CPUs each, a fraction.
        gpus: GPUs each, a fraction.
        memory: bytes each is expected to need at most.
    """

    name: str
    blocks: tuple[BlockWork, ...]
    workers: int
    cpus: float
    gpus: float
    memory: int


@dataclass(frozen=True)
class Plan:
    """Pools in the order of the graph, and how clips are cut into tasks and parts.

    Attributes:
        pools: decode, the compute pools, write.
        task_clips: clips a task.
        part_clips: clips a part file, at most.
        device: where embedders run.
    """

    pools: tuple[Pool, ...]
    task_clips: int
    part_clips: int
    device: str

    @property
    def compute(self) -> tuple[Pool, ...]:
        """The pools between decode and write."""
        return self.pools[1:-1]

    @property
    def memory(self) -> int:
        """Bytes all workers together are expected to need at most."""
        return sum(pool.workers * pool.memory for pool in self.pools)


def make_plan(works: Sequence[BlockWork], clips: int, resources: Resources, device: Device) -> Plan:
    """Pools for a run.

    Args:
        works: blocks with something pending.
        clips: pending clips.
        resources: of the cluster, as it is now.
        device: auto puts embedders on a GPU where there is one.

    Raises:
        UsageError: the machines cannot hold one worker of every pool, or there is no GPU although one is demanded;
            says how much is missing.
    """
    dsp = tuple(work for work in works if work.architecture is None)
    models: dict[str, tuple[BlockWork, ...]] = {}
    for work in works:
        if work.architecture is not None:
            models[work.architecture] = (*models.get(work.architecture, ()), work)
    on_gpu = _on_gpu(device, resources, bool(models))
    cpu_pools = 1 + (0 if on_gpu else len(models))
    workers = _workers(resources, cpu_pools, len(models), on_gpu)
    share = resources.cpus * (1 - DECODE_SHARE - WRITE_SHARE) / (cpu_pools * workers)
    pools = [
        Pool(
            "decode",
            (),
            max(1, math.ceil(resources.cpus / 2)),
            *_split(resources.cpus * DECODE_SHARE, resources.cpus / 2),
            DECODE_BYTES,
        ),
        Pool("dsp", dsp, workers, _floor(share), 0.0, CPU_POOL_BYTES),
    ]
    for name, blocks in models.items():
        if on_gpu:
            actors = max(1, int(resources.gpus))
            pools.append(Pool(name, blocks, actors, 0.0, _floor(1 / len(models)), MODEL_POOL_BYTES))
        else:
            pools.append(Pool(name, blocks, workers, _floor(share), 0.0, MODEL_POOL_BYTES))
    pools.append(Pool("write", (), 1, _floor(resources.cpus * WRITE_SHARE), 0.0, WRITE_BYTES))
    task_clips = max(1, min(MAX_TASK_CLIPS, math.ceil(clips / (8 * workers))))
    part_clips = max(task_clips, min(MAX_PART_CLIPS, max(MIN_PART_CLIPS, math.ceil(clips / 8))))
    return Plan(tuple(pools), task_clips, part_clips, "cuda" if on_gpu else "cpu")


def _on_gpu(device: Device, resources: Resources, wanted: bool) -> bool:
    if device == "cuda" and resources.gpus < 1:
        msg = "--device cuda, but the cluster has no GPU; use --device auto, or join a cluster that has one (--address)"
        raise UsageError(msg)
    return wanted and device != "cpu" and resources.gpus >= 1


def _workers(resources: Resources, cpu_pools: int, models: int, on_gpu: bool) -> int:
    """Actors of each CPU pool: one a CPU, fewer where memory is short."""
    usable = int(resources.memory * MEMORY_SHARE)
    gpu_actors = models * max(1, int(resources.gpus)) if on_gpu else 0
    fixed = max(1, math.ceil(resources.cpus / 2)) * DECODE_BYTES + WRITE_BYTES + gpu_actors * MODEL_POOL_BYTES
    each = CPU_POOL_BYTES + (cpu_pools - 1) * MODEL_POOL_BYTES
    fitting = (usable - fixed) // each
    if fitting < 1:
        short = (fixed + each - usable) / GIB
        msg = (
            f"not enough memory: one worker of each pool needs {(fixed + each) / GIB:.1f} GiB, "
            f"{MEMORY_SHARE:.0%} of the cluster's {resources.memory / GIB:.1f} GiB is {short:.1f} GiB short; "
            "compute fewer --blocks in one run, or use a larger machine"
        )
        raise UsageError(msg)
    return max(1, min(int(resources.cpus), fitting))


def _split(total: float, workers: float) -> tuple[float, float]:
    """(CPUs each, GPUs each) of a pool that shares `total` CPUs."""
    return _floor(total / max(1, math.ceil(workers))), 0.0


def _floor(share: float) -> float:
    """Ray counts resources in ten-thousandths; rounding down keeps the sum within the whole."""
    return math.floor(share * 1000) / 1000


def describe(plan: Plan, resources: Resources) -> list[str]:
    """The plan for a person, a line each."""
    lines = [
        f"cluster   {resources.cpus:g} CPUs, {resources.gpus:g} GPUs, {resources.memory / GIB:.1f} GiB",
        f"tasks     {plan.task_clips} clips each; a part file holds up to {plan.part_clips} clips",
    ]
    for pool in plan.pools:
        blocks = ", ".join(work.spec.name for work in pool.blocks)
        gpu = f" + {pool.gpus:g} GPU" if pool.gpus else ""
        lines.append(
            f"pool      {pool.name:<8} {pool.workers} x ({pool.cpus:g} CPU{gpu}, up to {pool.memory / GIB:.1f} GiB)"
            + (f"  {blocks}" if blocks else "")
        )
    lines.append(f"memory    up to {plan.memory / GIB:.1f} GiB expected in all workers")
    return lines
