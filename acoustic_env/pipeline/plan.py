"""Plan the worker pools of a run on the nodes there are, or refuse with node, pool and shortfall.

Ray Data hangs without a message when actor pools together want every CPU and something else needs one. So the plan
divides the CPUs before anything starts, node by node, and leaves a share unallocated. One pool does all that runs on
CPUs, a worker a CPU. Its workers also decode where audio is local; remote audio waits on the network and gets readers
of its own. One worker a GPU runs all networks and the modulation spectrum of a task, so that waveforms cross the object
store once. Memory bounds the number of workers.

Workers of a pool are alike (Ray Data knows one request a pool), and Ray spreads them over the nodes in turn. The plan
places them the same way, so what it accepts can start.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
GPU_POOL_BYTES: Final = 2 * GIB  # of the machine's memory, not the GPU's; beside it CPU_NETWORK_BYTES a network
MIN_CPUS: Final = 0.1  # free on a node that gets workers
TYPICAL_S: Final = 10.0  # of a clip, to bound the bytes of a task
MAX_GPU_TASK_BYTES: Final = GIB // 4  # of prepared signals; they wait in the object store
MIN_TASK_CLIPS: Final = 4
MAX_TASK_CLIPS: Final = 64
MAX_REMOTE_TASK_CLIPS: Final = 16  # whose waveforms wait in the object store
TASKS_PER_WORKER: Final = 24  # progress, and work at hand for every worker


@dataclass(frozen=True)
class Resources:
    """What a cluster offers in all: logical CPUs, GPUs and bytes of memory."""

    cpus: float
    gpus: float
    memory: int


@dataclass(frozen=True)
class Node:
    """What one node offers: logical CPUs, GPUs and bytes of memory that no other job holds.

    Attributes:
        node_id: Ray's.
        name: of its machine.
    """

    node_id: str
    name: str
    cpus: float
    gpus: float
    memory: int

    @property
    def label(self) -> str:
        """Its name and the start of its id: several nodes may share a machine."""
        return f"{self.name} {self.node_id[:8]}".strip()


@dataclass(frozen=True)
class Pool:
    """Workers of one stage.

    Attributes:
        name: the stage's name: decode, cpu, gpu or write.
        blocks: blocks it computes (none for decode and write).
        workers: how many start; no fewer while the run lasts.
        cpus: logical CPUs each, a fraction.
        gpus: GPUs each.
        memory: bytes each is expected to need at most.
        most: workers that it may grow to as nodes join.
    """

    name: str
    blocks: tuple[BlockWork, ...]
    workers: int
    cpus: float
    gpus: float
    memory: int
    most: int


@dataclass(frozen=True)
class Plan:
    """Pools, and how clips are cut into tasks.

    Attributes:
        decode: readers of remote audio; None where the first compute pool decodes.
        compute: in the order of the graph; the first normalizes and separates.
        write: the sink.
        task_clips: clips a task, at most.
        device: where blocks run that can run on either.
        placement: node id -> pool -> workers, as Ray is expected to place them.
    """

    decode: Pool | None
    compute: tuple[Pool, ...]
    write: Pool
    task_clips: int
    device: str
    placement: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools in the order of the graph."""
        return (*((self.decode,) if self.decode else ()), *self.compute, self.write)

    @property
    def in_work(self) -> int:
        """Clips that may have been begun and not yet computed; Ray Data gives each worker two tasks at once."""
        return 2 * self.task_clips * sum(pool.workers for pool in self.pools[:-1])

    @property
    def memory(self) -> int:
        """Bytes all workers together are expected to need at most."""
        return sum(pool.workers * pool.memory for pool in self.pools)


def make_plan(
    works: Sequence[BlockWork],
    clips: int,
    nodes: Sequence[Node],
    device: Device,
    *,
    remote: bool,
    elastic: bool = False,
    max_workers: int | None = None,
) -> Plan:
    """Pools for a run, placed on nodes.

    Args:
        works: blocks with something pending.
        clips: pending clips, 1 or more; no pool has more workers than that.
        nodes: of the cluster, as they are now. Those without CPUs (a head) get no worker.
        device: auto puts networks and the modulation spectrum on GPUs where there are any.
        remote: whether any audio comes over a network.
        elastic: whether pools may grow as nodes join.
        max_workers: of the CPU pool.

    Raises:
        UsageError: no node can hold a worker of one of the pools, or there is no GPU although one is demanded; states
            node, pool and shortfall.
    """
    usable = [node for node in nodes if node.cpus >= MIN_CPUS]
    if not usable:
        raise UsageError(
            "no worker node has joined the cluster: no node has a free CPU; start nodes "
            "(ray start --address HEAD:PORT), wait for them with --wait-for-nodes N, or wait for other jobs to end"
        )
    gpus = sum(int(node.gpus) for node in usable)
    if device == "cuda" and not gpus:
        msg = "--device cuda, but the cluster has no GPU; use --device auto, or join a cluster that has one (--address)"
        raise UsageError(msg)
    gpu_blocks = tuple(work for work in works if work.gpu_pool is not None)
    on_gpu = bool(gpu_blocks) and device != "cpu" and gpus > 0
    pools = _wanted_pools(works, clips, usable, gpu_blocks if on_gpu else (), remote=remote)
    if max_workers is not None:
        pools["cpu"] = replace(pools["cpu"], workers=min(max_workers, pools["cpu"].workers))
    placement = _place(pools, usable)
    placed = {name: sum(counts[name] for counts in placement.values()) for name in pools}
    task_clips = _task_clips(works, clips, placed["cpu"], remote=remote, on_gpu=on_gpu)
    grown = math.ceil(clips / task_clips) if elastic else 1
    limits = {"write": 1} | ({"cpu": max_workers} if max_workers is not None else {})
    pools = {
        name: replace(pool, workers=placed[name], most=max(placed[name], min(grown, limits.get(name, grown))))
        for name, pool in pools.items()
    }
    compute = tuple(pools[name] for name in ("cpu", "gpu") if name in pools)
    where = "cuda" if on_gpu else "cpu"
    return Plan(pools.get("decode"), compute, pools["write"], task_clips, where, placement)


def _wanted_pools(
    works: Sequence[BlockWork], clips: int, nodes: Sequence[Node], gpu_blocks: tuple[BlockWork, ...], *, remote: bool
) -> dict[str, Pool]:
    """Pools as they would be with memory enough. A worker's CPUs are what the tightest node has for each of them."""
    readers = {node.node_id: math.ceil(node.cpus / 2) if remote else 0 for node in nodes}
    writers: Counter[str] = Counter()
    for _ in range(max(1, min(round(sum(node.cpus for node in nodes) / CPUS_PER_WRITER), clips))):
        writers[max(nodes, key=lambda node: node.cpus / (writers[node.node_id] + 1)).node_id] += 1
    each_writes = _floor(min(WRITE_SHARE * n.cpus / writers[n.node_id] for n in nodes if writers[n.node_id]))
    each_reads = _floor(min(DECODE_SHARE * n.cpus / readers[n.node_id] for n in nodes)) if remote else 0.0
    each_computes = min(
        (n.cpus * (1 - SPARE_SHARE) - readers[n.node_id] * each_reads - writers[n.node_id] * each_writes) / _workers(n)
        for n in nodes
    )
    cpu_blocks = tuple(work for work in works if work not in gpu_blocks)
    memory = CPU_POOL_BYTES + _networks(cpu_blocks) * CPU_NETWORK_BYTES
    workers = min(clips, sum(_workers(node) for node in nodes))
    pools = [Pool("write", (), writers.total(), each_writes, 0.0, WRITE_BYTES, 0)]
    if remote:
        pools.append(Pool("decode", (), min(clips, sum(readers.values())), each_reads, 0.0, DECODE_BYTES, 0))
    if gpu_blocks:
        of_gpu = GPU_POOL_BYTES + _networks(gpu_blocks) * CPU_NETWORK_BYTES
        gpus = min(clips, sum(int(node.gpus) for node in nodes))
        pools.append(Pool("gpu", gpu_blocks, gpus, 0.0, 1.0, of_gpu, 0))
    pools.append(Pool("cpu", cpu_blocks, workers, _floor(min(1.0, each_computes)), 0.0, memory, 0))
    return {pool.name: pool for pool in pools}


def _workers(node: Node) -> int:
    """CPU workers on a node, memory aside: one a CPU."""
    return max(1, int(node.cpus))


def _networks(works: Sequence[BlockWork]) -> int:
    return len({work.architecture for work in works} - {None})


def _task_clips(works: Sequence[BlockWork], clips: int, workers: int, *, remote: bool, on_gpu: bool) -> int:
    """Clips a task: some tasks for each worker, but no more bytes at once than the object store and a GPU like."""
    task_clips = max(math.ceil(clips / (TASKS_PER_WORKER * workers)), min(MIN_TASK_CLIPS, math.ceil(clips / workers)))
    if not on_gpu:
        return min(MAX_REMOTE_TASK_CLIPS if remote else MAX_TASK_CLIPS, task_clips)
    waves = {(work.sample_rate, signal) for work in works if work.gpu_pool for signal in work.spec.signals}
    each = sum(int(4 * TYPICAL_S * rate) for rate, _ in waves)
    return max(1, min(MAX_TASK_CLIPS, task_clips, MAX_GPU_TASK_BYTES // each))


def _place(pools: Mapping[str, Pool], nodes: Sequence[Node]) -> dict[str, Counter[str]]:
    """Place one worker of each pool, then the others of each in turn while there is room."""
    cpus = {node.node_id: node.cpus for node in nodes}
    gpus = {node.node_id: int(node.gpus) for node in nodes}
    memory = {node.node_id: int(node.memory * MEMORY_SHARE) for node in nodes}
    placed: dict[str, Counter[str]] = {node.node_id: Counter() for node in nodes}
    largest = sorted(nodes, key=lambda node: (-int(node.gpus), -node.cpus))

    def place(pool: Pool, node: Node) -> bool:
        one = node.node_id
        if cpus[one] + 1e-9 < pool.cpus or gpus[one] < pool.gpus or memory[one] < pool.memory:
            return False
        cpus[one] -= pool.cpus
        gpus[one] -= int(pool.gpus)
        memory[one] -= pool.memory
        placed[one][pool.name] += 1
        return True

    for pool in pools.values():
        if not any(place(pool, node) for node in largest):
            raise _refusal(pool, nodes, cpus, memory)
    for pool in pools.values():
        left, room = pool.workers - 1, list(nodes)
        while left > 0 and room:
            for node in sorted(room, key=lambda node: placed[node.node_id][pool.name]):
                if left > 0 and place(pool, node):
                    left -= 1
                elif left > 0:
                    room.remove(node)
    return placed


def _refusal(pool: Pool, nodes: Sequence[Node], cpus: Mapping[str, float], memory: Mapping[str, int]) -> UsageError:
    """Name the node with most memory left among those with what else the pool needs, and what it lacks."""
    able = [node for node in nodes if cpus[node.node_id] + 1e-9 >= pool.cpus and node.gpus >= pool.gpus]
    if not able:
        node = max(nodes, key=lambda node: cpus[node.node_id])
        short = f"{pool.cpus - cpus[node.node_id]:.2f} CPUs short"
    else:
        node = max(able, key=lambda node: memory[node.node_id])
        short = f"{(pool.memory - memory[node.node_id]) / GIB:.1f} GiB short"
    remedy = "--device cpu, or " if pool.gpus else ""
    return UsageError(
        f"no node can hold a worker of pool {pool.name} ({pool.cpus:g} CPU, {pool.gpus:g} GPU, "
        f"{pool.memory / GIB:.1f} GiB) beside one of each other pool: node {node.label} with {node.cpus:g} CPUs, "
        f"{node.gpus:g} GPUs and {MEMORY_SHARE:.0%} of {node.memory / GIB:.1f} GiB is {short}; "
        f"{remedy}compute fewer --blocks in one run, or use a larger machine"
    )


def _floor(share: float) -> float:
    """Ray counts resources in ten-thousandths; rounding down keeps the sum within the whole."""
    return math.floor(share * 1000) / 1000


def describe(plan: Plan, nodes: Sequence[Node]) -> list[str]:
    """Return the plan as human-readable lines."""
    total = f"{sum(n.cpus for n in nodes):g} CPUs, {sum(n.gpus for n in nodes):g} GPUs"
    lines = [
        f"cluster   {len(nodes)} nodes, {total}, {sum(n.memory for n in nodes) / GIB:.1f} GiB",
        f"tasks     up to {plan.task_clips} clips each",
    ]
    for pool in plan.pools:
        blocks = ", ".join(work.spec.name for work in pool.blocks)
        gpu = f" + {pool.gpus:g} GPU" if pool.gpus else ""
        most = f", up to {pool.most} as nodes join" if pool.most > pool.workers else ""
        each = f"({pool.cpus:g} CPU{gpu}, up to {pool.memory / GIB:.1f} GiB)"
        lines.append(f"pool      {pool.name:<8} {pool.workers} x {each}{most}" + (f"  {blocks}" if blocks else ""))
    if len(nodes) > 1:
        lines += _placement_lines(plan, nodes)
    lines.append(f"memory    up to {plan.memory / GIB:.1f} GiB expected in all workers")
    return lines


def _placement_lines(plan: Plan, nodes: Sequence[Node]) -> list[str]:
    """One line for all nodes that get the same workers."""
    shares = {node.label: tuple(sorted(plan.placement.get(node.node_id, {}).items())) for node in nodes}
    lines = []
    for share, same in itertools.groupby(sorted(shares, key=lambda label: shares[label]), key=shares.__getitem__):
        labels = list(same)
        which = labels[0] if len(labels) == 1 else f"{len(labels)} nodes, such as {labels[0]}"
        lines.append(f"node      {which}: " + (", ".join(f"{count} {pool}" for pool, count in share) or "no worker"))
    return lines
