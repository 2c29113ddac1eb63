"""The nodes of the connected cluster: which there are, waiting for them, room for a plan, and what they can read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from acoustic_env.audio.fetch import local_file
from acoustic_env.errors import AcousticEnvError, UsageError
from acoustic_env.io.location import local_path
from acoustic_env.pipeline.health import ask_nodes
from acoustic_env.pipeline.plan import GIB, Node, Plan
from acoustic_env.pipeline.work import BlockWork

Log = Callable[[str], None]

WAIT_S: Final = 900.0  # for nodes to join, and for room for the plan
SAY_S: Final = 10.0  # between two messages while waiting
SETTLE_S: Final = 5.0  # until what an earlier run held is free
PROBE_S: Final = 120.0  # for a node to say what it can read: it may start its first worker
MAX_FOLDERS: Final = 32  # of audio, of which one file each is probed


def joined_nodes(left_out: Collection[str] = ()) -> list[Node]:
    """Return the nodes with CPUs, in full, but for those of these ids. A head without CPUs gets no work."""
    import ray

    return [
        Node(
            str(node["NodeID"]),
            str(node["NodeManagerHostname"]),
            offered["CPU"],
            offered.get("GPU", 0.0),
            int(offered.get("memory", 0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] not in left_out and (offered := node["Resources"]).get("CPU")
    ]


def free_nodes() -> list[Node]:
    """Return the nodes less what other jobs hold.

    Ray tells publicly what is held in the whole cluster only, so each node is taken to hold its share. Where that is
    not so, `wait_for_room` finds out before anything starts.
    """
    import ray

    nodes, deadline = joined_nodes(), time.monotonic() + SETTLE_S
    while True:
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        share = {name: min(1.0, free.get(name, 0.0) / whole) for name, whole in total.items() if whole}
        held = any(share.get(name, 1.0) < 1.0 for name in ("CPU", "GPU", "memory"))
        if not held or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return [
        replace(
            node,
            cpus=node.cpus * share.get("CPU", 1.0),
            gpus=math.floor(node.gpus * share.get("GPU", 1.0)),
            memory=int(node.memory * share.get("memory", 1.0)),
        )
        for node in nodes
    ]


def as_of_now(nodes: Sequence[Node], left_out: Collection[str]) -> list[Node]:
    """Return the nodes of a further round: without those that have left, with those that have joined meanwhile.

    The others keep what was free at the start: workers of the last round may still hold theirs (`wait_for_room`).
    """
    known = {node.node_id: node for node in nodes}
    return [known.get(node.node_id, node) for node in joined_nodes(left_out)]


def wait_for_nodes(count: int, log: Log, limit_s: float = WAIT_S) -> None:
    """Wait until so many nodes with CPUs have joined; an autoscaler is asked for them.

    Raises:
        UsageError: fewer have joined within the limit.
    """

    def all_there() -> bool:
        return len(joined_nodes()) >= count

    def state() -> str:
        return f"{len(joined_nodes())} of {count} nodes with CPUs have joined"

    remedy = f"start more (ray start --address HEAD:PORT), or use a smaller --wait-for-nodes than {count}"
    if not all_there():
        log(f"waiting   {state()}")
        _wait([{"CPU": 1.0}] * count, "STRICT_SPREAD", all_there, state, remedy, log, limit_s)


def wait_for_room(plan: Plan, log: Log, left_out: Collection[str] = (), limit_s: float = WAIT_S) -> bool:
    """Wait until the cluster has room for all workers of the plan at once, on other nodes than those of these ids.

    Returns:
        True; False as soon as a node that the plan places workers on has left: another plan is due.

    Raises:
        UsageError: it had none within the limit; says what was free.
    """
    bundles = [
        {name: amount for name, amount in (("CPU", pool.cpus), ("GPU", pool.gpus), ("memory", pool.memory)) if amount}
        for pool in plan.pools
        for _ in range(pool.workers)
    ]
    planned = {node for node, workers in plan.placement.items() if workers}

    def node_left() -> bool:
        return not planned <= {node.node_id for node in joined_nodes()}

    def state() -> str:
        return f"no room for {len(bundles)} workers: {_needed(plan)}"

    remedy = "wait for other jobs to end, add nodes, or use --max-workers"
    return _wait(bundles, "SPREAD", node_left, state, remedy, log, limit_s, left_out)


def _wait(
    bundles: Sequence[dict[str, float]],
    strategy: str,
    over: Callable[[], bool],
    state: Callable[[], str],
    remedy: str,
    log: Log,
    limit_s: float,
    left_out: Collection[str] = (),
) -> bool:
    """Wait for a placement group, which Ray's autoscaler sees as demand; return False where it is `over` before.

    It is waited for in steps, between which Ctrl-C is heard.

    Raises:
        UsageError: neither within the limit; names state and remedy.
    """
    from ray.util import placement_group, remove_placement_group

    selectors: Any = [node_selector(left_out)] * len(bundles) if left_out else None
    group = placement_group(list(bundles), strategy=strategy, bundle_label_selector=selectors)
    started = said = time.monotonic()
    try:
        while not over():
            if group.wait(1):
                return True
            now = time.monotonic()
            if now - started > limit_s:
                raise UsageError(f"{state()} after {limit_s:.0f} s; {remedy}")
            if now - said >= SAY_S:
                said = now
                log(f"waiting   {now - started:.0f} s: {state()}")
        return False
    finally:
        remove_placement_group(group)


def not_started(plan: Plan) -> str:
    """Return the message of a run whose workers Ray has not started in time."""
    return (
        f"the workers did not start within {WAIT_S:.0f} s: {_needed(plan)}. See the logs of Ray (ray logs cluster), "
        "add nodes, wait for other jobs to end, or use --max-workers"
    )


def _needed(plan: Plan) -> str:
    """What the plan's workers need, and what is free."""
    import ray

    pools = ", ".join(f"{pool.workers} {pool.name} of {pool.memory / GIB:.1f} GiB" for pool in plan.pools)
    cpus = sum(pool.workers * pool.cpus for pool in plan.pools)
    gpus = sum(pool.workers * pool.gpus for pool in plan.pools)
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return (
        f"they need {cpus:.2f} CPUs, {gpus:g} GPUs, {plan.memory / GIB:.1f} GiB ({pools}); {free.get('CPU', 0.0):.2f} "
        f"CPUs, {free.get('GPU', 0.0):g} GPUs, {free.get('memory', 0.0) / GIB:.1f} GiB are free on "
        f"{len(joined_nodes())} nodes"
    )


def node_selector(left_out: Collection[str]) -> dict[str, str]:
    """Return the label selector of all nodes but those of these ids."""
    return {"ray.io/node-id": f"!in({','.join(sorted(left_out))})"}


def check_paths(
    nodes: Sequence[Node], uris: Collection[str], marker: str, works: Sequence[BlockWork], limit_s: float = PROBE_S
) -> None:
    """Ask every node whether it can read what is on a local disk: store, audio and weights.

    Args:
        nodes: that get work; one alone is not asked, the run shows what it cannot read.
        uris: of the clips; one file of each folder is probed.
        marker: a file of the store that this run has written.
        works: the blocks, whose version (weights and installation) must be the same everywhere.

    Raises:
        UsageError: names each node with what it cannot read.
    """
    if len(nodes) < 2:
        return
    paths = [str(path.absolute()) for path in (local_path(marker), *_one_a_folder(uris)) if path is not None]
    labels = {node.node_id: node.label for node in nodes}
    faults = [
        f"node {labels[node]}: {reason}"
        for node, lacks in ask_nodes(list(labels), limit_s, _unreadable, paths, works)
        for reason in lacks  # of a node that does not answer, the golden clip of its workers decides
    ]
    if faults:
        raise UsageError(
            f"not every node can read what the run needs: {'; '.join(faults)}. Mount the same disk on every node, or "
            "keep audio, store and weights (ACOUSTIC_ENV_WEIGHTS) on object storage"
        )


def _one_a_folder(uris: Collection[str]) -> list[Path]:
    """Return a local file of each of the first folders."""
    first: dict[Path, Path] = {}
    for uri in uris:
        path = local_file(uri)
        if path is not None:
            first.setdefault(path.parent, path)
            if len(first) == MAX_FOLDERS:
                break
    return [path for path in first.values() if path.exists()]  # what no node has is the clip's error


def _unreadable(paths: Sequence[str], works: Sequence[BlockWork]) -> list[str]:
    """On a node: what is not there, and blocks of another version."""
    from acoustic_env.pipeline.compute import planned_block

    reasons = [f"{path} is not there" for path in paths if not Path(path).exists()]
    for work in works:
        try:
            planned_block(work)
        except AcousticEnvError as error:
            reasons.append(str(error))
    return reasons
