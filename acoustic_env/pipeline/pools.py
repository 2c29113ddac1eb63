"""What a plan is made of: nodes, the audio there is to do, pools of workers; and the plan as text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from acoustic_env.pipeline.work import BlockWork

GIB: Final = 1 << 30


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
class Audio:
    """The pending clips: how many, seconds of audio in all, and the longest known length in s."""

    clips: int
    seconds: float
    longest_s: float = 0.0

    @property
    def mean_s(self) -> float:
        """Seconds a clip."""
        return self.seconds / self.clips


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
