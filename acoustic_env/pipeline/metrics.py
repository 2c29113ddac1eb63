"""Metrics of a run for Prometheus, exported by the agent of every Ray node.

Ray adds the prefix `ray_` to a name, `_total` to a counter, and the label `NodeAddress`. `cluster/dashboard.json` and
`cluster/alerts.yaml` read what is defined here. Recorded once per batch; outside of Ray nothing is recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from acoustic_env.io import retry


@dataclass(frozen=True)
class Metric:
    """A counter or gauge.

    Attributes:
        name: in Ray.
        kind: class of `ray.util.metrics`.
        description: its help text.
        tag: name of its label, empty without one.
    """

    name: str
    kind: Literal["Counter", "Gauge"]
    description: str
    tag: str = ""

    def record(self, value: float, tag: str = "") -> None:
        """Add to the counter, or set the gauge, where Ray runs.

        Args:
            value: 0 or more.
            tag: value of the label.
        """
        ray: Any = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        tags = {self.tag: tag} if self.tag else {}
        if self.kind == "Gauge":
            _in_ray(self).set(value, tags)
        elif value > 0:
            _in_ray(self).inc(value, tags)


CLIPS: Final = Metric("acoustic_env_clips", "Counter", "Clips stored: done, or the code of their error.", "outcome")
ROWS: Final = Metric("acoustic_env_rows", "Counter", "Rows written.", "block")
STAGE_SECONDS: Final = Metric("acoustic_env_stage_seconds", "Counter", "Seconds that workers spent on clips.", "stage")
STAGE_CLIPS: Final = Metric("acoustic_env_stage_clips", "Counter", "Clips that went through a stage.", "stage")
PENDING: Final = Metric("acoustic_env_pending_clips", "Gauge", "Clips that the run has still to do.")
RETRIES: Final = Metric("acoustic_env_retries", "Counter", "Requests to storage and tasks that were repeated.", "what")
LEASES_LOST: Final = Metric("acoustic_env_leases_lost", "Counter", "Runs stopped because another took their lease.")


def record_stages(seconds: Mapping[str, float], clips: int) -> None:
    """Record a batch that went through stages of this worker, and the requests that were repeated for it.

    Args:
        seconds: stage -> seconds in all.
        clips: in the batch.
    """
    for stage, spent in seconds.items():
        STAGE_SECONDS.record(spent, stage)
        STAGE_CLIPS.record(clips, stage)
    RETRIES.record(retry.take_repeats(), "request")


@lru_cache
def _in_ray(metric: Metric) -> Any:
    """The metric of this process; Ray wants one object per name."""
    from ray.util import metrics

    tags = (metric.tag,) if metric.tag else ()
    return getattr(metrics, metric.kind)(metric.name, metric.description, tags)
