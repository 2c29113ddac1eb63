"""Plan the worker pools of a run on the machines there are, or refuse with the shortfall.

Ray Data hangs without a message when actor pools together want every CPU and something else needs one. So the plan
divides the CPUs before anything starts and leaves a share unallocated. One pool does all that runs on CPUs, a worker a
CPU. Its workers also decode where audio is local; remote audio waits on the network and gets readers of its own. Memory
bounds the number of workers.
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
DECODE_SHARE: Final = 0.15  # of all CPUs, for fetching and decoding remote audio
WRITE_SHARE: Final = 0.05  # of all CPUs, for the sink
SPARE_SHARE: Final = 0.05  # of all CPUs, unallocated
CPUS_PER_WRITER: Final = 32
MEMORY_SHARE: Final = 0.8  # of the machines' memory that workers may count on; the system and the driver need some
DECODE_BYTES: Final = GIB // 2
WRITE_BYTES: Final = GIB
CPU_POOL_BYTES: Final = int(1.5 * GIB)  # measured: 0.6 with 16 clips of 10 s; longer clips need more
CPU_NETWORK_BYTES: Final = GIB // 2  # beside it; measured: indices, mps, mn04, YAMNet and CNN14 together 1.5
GPU_POOL_BYTES: Final = 2 * GIB  # of the machine's memory, not the GPU's
MIN_TASK_CLIPS: Final = 4
MAX_TASK_CLIPS: Final = 64
MAX_REMOTE_TASK_CLIPS: Final = 16  # whose waveforms wait in the object store
TASKS_PER_WORKER: Final = 24  # progress, and work at hand for every worker
MIN_PART_CLIPS: Final = 16
MAX_PART_CLIPS: Final = 256  # what a killed run loses at most, and what the sink holds in memory


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
        name: the stage's name: decode, cpu, a network or mps (on GPUs), or write.
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
    """Pools, and how clips are cut into tasks and parts.

    Attributes:
        decode: readers of remote audio; None where the first compute pool decodes.
        compute: in the order of the graph; the first normalizes and separates.
        write: the sink.
        task_clips: clips a task, at most.
        part_clips: clips a part file, at most.
        device: where blocks run that can run on either.
    """

    decode: Pool | None
    compute: tuple[Pool, ...]
    write: Pool
    task_clips: int
    part_clips: int
    device: str

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools in the order of the graph."""
        return (*((self.decode,) if self.decode else ()), *self.compute, self.write)

    @property
    def in_work(self) -> int:
        """Clips that may have been begun and not yet written; Ray Data gives each worker two tasks at once."""
        computing = 2 * self.task_clips * sum(pool.workers for pool in self.pools[:-1])
        return computing + self.part_clips * self.write.workers

    @property
    def memory(self) -> int:
        """Bytes all workers together are expected to need at most."""
        return sum(pool.workers * pool.memory for pool in self.pools)


def make_plan(works: Sequence[BlockWork], clips: int, resources: Resources, device: Device, *, remote: bool) -> Plan:
    """Pools for a run.

    Args:
        works: blocks with something pending.
        clips: pending clips, 1 or more; no pool has more workers than that.
        resources: of the cluster, as it is now.
        device: auto puts networks and the modulation spectrum on a GPU where there is one.
        remote: whether any audio comes over a network.

    Raises:
        UsageError: the machines cannot hold one worker of every pool, or there is no GPU although one is demanded;
            states the shortfall.
    """
    if device == "cuda" and resources.gpus < 1:
        msg = "--device cuda, but the cluster has no GPU; use --device auto, or join a cluster that has one (--address)"
        raise UsageError(msg)
    names = dict.fromkeys(work.gpu_pool for work in works if work.gpu_pool is not None)
    on_gpu = bool(names) and device != "cpu" and resources.gpus >= 1

    def on_gpus(name: str) -> Pool:
        blocks = tuple(work for work in works if work.gpu_pool == name)
        return Pool(name, blocks, min(int(resources.gpus), clips), 0.0, _floor(1 / len(names)), GPU_POOL_BYTES)

    def on_cpus(name: str, workers: float, share: float, memory: int) -> Pool:
        workers = max(1, min(round(workers), clips))
        return Pool(name, (), workers, _floor(resources.cpus * share / workers), 0.0, memory)

    decode = on_cpus("decode", math.ceil(resources.cpus / 2), DECODE_SHARE, DECODE_BYTES) if remote else None
    write = on_cpus("write", resources.cpus / CPUS_PER_WRITER, WRITE_SHARE, WRITE_BYTES)
    gpu_pools = [on_gpus(name) for name in names] if on_gpu else []
    networks = {work.architecture for work in works} - {None}
    memory = CPU_POOL_BYTES + (0 if on_gpu else len(networks)) * CPU_NETWORK_BYTES
    others = [pool for pool in (decode, write, *gpu_pools) if pool is not None]
    workers = min(clips, _workers(resources, memory, sum(pool.workers * pool.memory for pool in others)))
    left = resources.cpus * (1 - SPARE_SHARE) - sum(pool.workers * pool.cpus for pool in others)
    blocks = tuple(work for work in works if work.gpu_pool is None or not on_gpu)
    cpu = Pool("cpu", blocks, workers, _floor(min(1.0, left / workers)), 0.0, memory)
    task_clips = max(math.ceil(clips / (TASKS_PER_WORKER * workers)), min(MIN_TASK_CLIPS, math.ceil(clips / workers)))
    task_clips = min(MAX_REMOTE_TASK_CLIPS if remote and not on_gpu else MAX_TASK_CLIPS, task_clips)
    part_clips = min(MAX_PART_CLIPS, max(MIN_PART_CLIPS, math.ceil(clips / 4)))
    part_clips = max(1, part_clips // task_clips) * task_clips  # whole tasks: few are cut
    return Plan(decode, (cpu, *gpu_pools), write, task_clips, part_clips, "cuda" if on_gpu else "cpu")


def _workers(resources: Resources, each: int, others: int) -> int:
    """Workers of the CPU pool, of `each` bytes beside `others` bytes: one a CPU, fewer where memory is short."""
    usable = int(resources.memory * MEMORY_SHARE)
    fitting = (usable - others) // each
    if fitting < 1:
        short = (others + each - usable) / GIB
        msg = (
            f"not enough memory: one worker of each pool needs {(others + each) / GIB:.1f} GiB, "
            f"{MEMORY_SHARE:.0%} of the cluster's {resources.memory / GIB:.1f} GiB is {short:.1f} GiB short; "
            "compute fewer --blocks in one run, or use a larger machine"
        )
        raise UsageError(msg)
    return max(1, min(int(resources.cpus), fitting))


def _floor(share: float) -> float:
    """Ray counts resources in ten-thousandths; rounding down keeps the sum within the whole."""
    return math.floor(share * 1000) / 1000


def describe(plan: Plan, resources: Resources) -> list[str]:
    """Return the plan as human-readable lines."""
    lines = [
        f"cluster   {resources.cpus:g} CPUs, {resources.gpus:g} GPUs, {resources.memory / GIB:.1f} GiB",
        f"tasks     up to {plan.task_clips} clips each; a part file holds up to {plan.part_clips} clips",
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
