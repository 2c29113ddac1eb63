"""Plan the worker pools of a run on the nodes there are, or refuse with node, pool and shortfall.

Ray Data hangs without a message when actor pools together want every CPU and something else needs one. So the plan
divides the CPUs before anything starts, node by node, and leaves a share unallocated. One pool does all that runs on
CPUs, a worker a CPU; threads of the same worker fetch remote audio ahead. One worker a GPU runs all networks and the
modulation spectrum of a task, so that waveforms cross the object store once. Memory bounds the number of workers.

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
from acoustic_env.pipeline.pending import Pending
from acoustic_env.pipeline.work import BlockWork

Device = Literal["auto", "cpu", "cuda"]

GIB: Final = 1 << 30
WRITE_SHARE: Final = 0.05  # of all CPUs, for the sink
SPARE_SHARE: Final = 0.05  # of all CPUs, unallocated: the pending list is read on them
READ_CPUS: Final = 0.001
CPUS_PER_WRITER: Final = 32
MEMORY_SHARE: Final = 0.8  # of the machines' memory that workers may count on; the system and the driver need some
WRITE_BYTES: Final = GIB
CPU_POOL_BYTES: Final = int(1.5 * GIB)  # measured: 0.6 with clips of 10 s
BASE_BYTES: Final = GIB  # of a worker, before a long clip
PREPARE_BYTES_PER_S: Final = 3 * 2**19  # to decode and separate a long clip; measured: 1.1 MiB for each second
LEAST_LONGEST_S: Final = 120.0
CPU_NETWORK_BYTES: Final = GIB // 2  # beside it; measured: indices, mps, mn04, YAMNet and CNN14 together 1.5
GPU_POOL_BYTES: Final = 2 * GIB  # of the machine's memory, not the GPU's; beside it CPU_NETWORK_BYTES a network
MIN_CPUS: Final = 0.1  # free on a node that gets workers
MAX_GPU_TASK_BYTES: Final = GIB // 4  # of prepared signals; they wait in the object store
MIN_TASK_S: Final = 40.0  # of audio
MAX_TASK_S: Final = 1280.0
MAX_TASK_BYTES: Final = GIB // 32  # of rows
HOUR_S: Final = 3600.0  # in which rows of frames are all the rows there are
TASKS_PER_WORKER: Final = 24  # progress, and work at hand for every worker


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
        name: the stage's name: cpu, gpu or write.
        blocks: blocks it computes.
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
        compute: in the order of the graph; the first decodes, normalizes and separates.
        write: the sink.
        task_s: seconds of audio a task, at most.
        least_s: of a task that each clip takes at least, for its rows.
        in_work: clips that may have been begun and not yet computed; Ray Data gives each worker two tasks at once.
        longest_s: the longest clip that the workers have memory for, in s.
        device: where blocks run that can run on either.
        placement: node id -> pool -> workers, as Ray is expected to place them.
    """

    compute: tuple[Pool, ...]
    write: Pool
    task_s: float
    least_s: float
    in_work: int
    longest_s: float
    device: str
    placement: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools in the order of the graph."""
        return (*self.compute, self.write)

    @property
    def memory(self) -> int:
        """Bytes all workers together are expected to need at most."""
        return sum(pool.workers * pool.memory for pool in self.pools)


def make_plan(
    works: Sequence[BlockWork],
    audio: Pending,
    nodes: Sequence[Node],
    device: Device,
    *,
    elastic: bool = False,
    max_workers: int | None = None,
) -> Plan:
    """Pools for a run, placed on nodes.

    Args:
        works: blocks with something pending.
        audio: the pending clips, 1 or more; no pool has more workers than that.
        nodes: of the cluster, as they are now. Those without CPUs (a head) get no worker.
        device: auto puts networks and the modulation spectrum on GPUs where there are any.
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
    # A node without memory for any worker would give its share of CPUs to workers that run elsewhere.
    usable = [node for node in usable if node.memory * MEMORY_SHARE >= WRITE_BYTES] or usable
    gpus = sum(int(node.gpus) for node in usable)
    if device == "cuda" and not gpus:
        msg = "--device cuda, but the cluster has no GPU; use --device auto, or join a cluster that has one (--address)"
        raise UsageError(msg)
    gpu_blocks = tuple(work for work in works if work.gpu_pool is not None)
    on_gpu = bool(gpu_blocks) and device != "cpu" and gpus > 0
    pools = _wanted_pools(works, audio, usable, gpu_blocks if on_gpu else (), max_workers)
    longest_s = _longest_s(works, pools, usable)
    for_longest = int(min(audio.longest_s, longest_s) * _bytes_per_s(works))
    pools["cpu"] = replace(pools["cpu"], memory=max(pools["cpu"].memory, BASE_BYTES + for_longest))
    placement = _place(pools, usable)
    placed = {name: sum(counts[name] for counts in placement.values()) for name in pools}
    task_s = _task_s(works, audio, placed["cpu"], on_gpu=on_gpu)
    least_s = task_s * sum(work.row_bytes(0.0) for work in works) / MAX_TASK_BYTES
    grown = min(audio.clips, math.ceil(audio.seconds / task_s)) if elastic else 1
    limits = {"write": 1} | ({"cpu": max_workers} if max_workers is not None else {})
    pools = {
        name: replace(pool, workers=placed[name], most=max(placed[name], min(grown, limits.get(name, grown))))
        for name, pool in pools.items()
    }
    compute = tuple(pools[name] for name in ("cpu", "gpu") if name in pools)
    in_work = math.ceil(2 * task_s / max(audio.mean_s, least_s)) * sum(pool.workers for pool in compute)
    return Plan(compute, pools["write"], task_s, least_s, in_work, longest_s, "cuda" if on_gpu else "cpu", placement)


def _wanted_pools(
    works: Sequence[BlockWork],
    audio: Pending,
    nodes: Sequence[Node],
    gpu_blocks: tuple[BlockWork, ...],
    max_workers: int | None,
) -> dict[str, Pool]:
    """Pools as they would be with memory enough. A worker's CPUs are what the tightest node has for each of them."""
    writers: Counter[str] = Counter()
    for _ in range(max(1, min(round(sum(node.cpus for node in nodes) / CPUS_PER_WRITER), audio.clips))):
        writers[max(nodes, key=lambda node: node.cpus / (writers[node.node_id] + 1)).node_id] += 1
    each_writes = _floor(min(WRITE_SHARE * n.cpus / writers[n.node_id] for n in nodes if writers[n.node_id]))
    each_computes = min((n.cpus * (1 - SPARE_SHARE) - writers[n.node_id] * each_writes) / _workers(n) for n in nodes)
    cpu_blocks = tuple(work for work in works if work not in gpu_blocks)
    memory = CPU_POOL_BYTES + _networks(cpu_blocks) * CPU_NETWORK_BYTES
    workers = min(audio.clips, sum(_workers(node) for node in nodes), max_workers or audio.clips)
    pools = [Pool("write", (), writers.total(), each_writes, 0.0, WRITE_BYTES, 0)]
    if gpu_blocks:
        of_gpu = GPU_POOL_BYTES + _networks(gpu_blocks) * CPU_NETWORK_BYTES
        gpus = min(audio.clips, sum(int(node.gpus) for node in nodes))
        pools.append(Pool("gpu", gpu_blocks, gpus, 0.0, 1.0, of_gpu, 0))
    pools.append(Pool("cpu", cpu_blocks, workers, _floor(min(1.0, each_computes)), 0.0, memory, 0))
    return {pool.name: pool for pool in pools}


def _workers(node: Node) -> int:
    """CPU workers on a node, memory aside: one a CPU."""
    return max(1, int(node.cpus))


def _networks(works: Sequence[BlockWork]) -> int:
    return len({work.architecture for work in works} - {None})


def _bytes_per_s(works: Sequence[BlockWork]) -> int:
    return PREPARE_BYTES_PER_S + max(work.bytes_per_s for work in works)


def _longest_s(works: Sequence[BlockWork], pools: Mapping[str, Pool], nodes: Sequence[Node]) -> float:
    """The longest clip for which the nodes have memory with a clip of that length in every CPU worker at once."""
    share = pools["cpu"].workers / sum(map(_workers, nodes))
    others = sum(pool.memory * pool.workers for pool in pools.values() if pool.name != "cpu") / len(nodes)
    each = min((node.memory * MEMORY_SHARE - others) / max(1.0, _workers(node) * share) for node in nodes)
    return max(LEAST_LONGEST_S, (each - BASE_BYTES) / _bytes_per_s(works))


def _task_s(works: Sequence[BlockWork], audio: Pending, workers: int, *, on_gpu: bool) -> float:
    """Seconds of audio a task: some tasks for each worker, but no more bytes than the object store and a GPU like."""
    task_s = max(audio.seconds / (TASKS_PER_WORKER * workers), min(MIN_TASK_S, audio.seconds / workers))
    limits = [MAX_TASK_S, MAX_TASK_BYTES * HOUR_S / sum(work.row_bytes(HOUR_S) for work in works)]
    if on_gpu:
        waves = {(work.sample_rate, signal) for work in works if work.gpu_pool for signal in work.spec.signals}
        limits.append(MAX_GPU_TASK_BYTES / sum(4 * rate for rate, _ in waves))
    return min(task_s, *limits)


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
        f"tasks     {plan.task_s:.0f} s of audio each; clips of up to {plan.longest_s:,.0f} s",
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
