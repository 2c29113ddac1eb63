"""Ray on one machine that nobody watches, without what it keeps for a dashboard and an autoscaler.

Ray starts three processes for the dashboard's server, the autoscaler and the collection of logs, and waits for the
first: 2.5 s of each run. Beside a job's workers Ray Data starts three actors of its own: one gathers statistics for the
dashboard, one shares out the nodes of a growing cluster, one remembers which worker lives on which node. A local run
has no dashboard and one node, and on two cores a job of 1,241 clips did 0.82 of a plain loop's clips per second with
the three and 0.90 without.

This is the one module that touches Ray's private names, those of the release that pyproject.toml pins. A run that
joins a cluster leaves Ray as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any


class _OneMachine:
    """In place of the coordinator of an autoscaled cluster: all of this machine, always."""

    def __init__(self, requester_id: str, subcluster_selector: dict[str, str] | None = None) -> None:
        import ray
        from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import STANDARD_RESOURCE_TYPES

        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._total = {name: total[name] for name in STANDARD_RESOURCE_TYPES if name in total}

    def request_resources(self, **_: object) -> None:
        """There is nowhere to ask for more."""

    def cancel_request(self) -> None:
        """Nothing was asked for."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """What the only run on this machine may use, under one node's name."""
        return {"this machine": dict(self._total)}


class _Nobody:
    """In place of a handle: whatever is called on the actor goes nowhere."""

    def __getattr__(self, method: str) -> _Nobody:
        if method.startswith("_"):
            raise AttributeError(method)
        return self

    def remote(self, *_: object) -> None:
        """No call."""


@contextlib.contextmanager
def without_daemons() -> Iterator[None]:
    """A Ray started within the block has no dashboard's server, no autoscaler and nobody who collects logs."""
    from ray._private.node import Node

    def none(node: object, **_: object) -> None:
        """Nothing is started."""

    with _replaced([(Node, name, none) for name in ("start_api_server", "start_monitor", "start_log_monitor")]):
        yield


@contextlib.contextmanager
def without_bookkeeping() -> Iterator[None]:
    """Within the block, this process's Ray Data runs start no actors but the job's own."""
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
    from ray.data._internal.execution.operators import actor_pool_map_operator

    silent = staticmethod(lambda *_, **__: None)
    replacements: list[tuple[Any, str, object]] = [
        (rate_based_cluster_autoscaler, "DefaultAutoscalingCoordinator", _OneMachine),
        (actor_pool_map_operator, "get_or_create_actor_location_tracker", _Nobody),
        (actor_pool_map_operator, "get_actor_locations", lambda _: {}),
        (stats._StatsManager, "register_dataset_to_stats_actor", silent),
        (stats._StatsManager, "update_execution_metrics", silent),
        (stats._StatsManager, "update_iteration_metrics", silent),
    ]
    with _replaced(replacements):
        yield


@contextlib.contextmanager
def _replaced(replacements: Sequence[tuple[Any, str, object]]) -> Iterator[None]:
    """Each owner's attribute of this name is ours, for the length of the block."""
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in replacements]
    try:
        for owner, name, ours in replacements:
            setattr(owner, name, ours)
        yield
    finally:
        for owner, name, theirs in before:
            setattr(owner, name, theirs)
