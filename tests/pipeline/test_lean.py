"""A run of its own on one machine has nothing beside it that a single machine does not need."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from acoustic_env.pipeline.lean import without_bookkeeping
from tests.pipeline.test_extract import command, rows, write_noise

BOOKKEEPERS = ("_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker")


DAEMONS = ("dashboard/dashboard.py", "autoscaler/_private/monitor.py", "autoscaler/v2/monitor.py", "log_monitor.py")


def processes_and_policies(run: subprocess.Popen[str]) -> dict[str, set[tuple[int, int]]]:
    """Command line of every process that the run ever had, with the scheduling policies and niceness it was seen at."""
    seen: dict[str, set[tuple[int, int]]] = {}
    while run.poll() is None:
        for process in psutil.Process(run.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
                seen.setdefault(title, set()).add((os.sched_getscheduler(process.pid), process.nice()))
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        time.sleep(0.02)
    return seen


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the policy for batch work is Linux's")
def test_a_local_run_starts_nothing_but_its_own_workers_and_they_are_batch_work_that_does_not_yield(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    clips = write_noise(tmp_path / "audio", 12)
    with subprocess.Popen(command(clips, tmp_path / "store"), stderr=subprocess.DEVNULL, text=True) as run:
        seen = processes_and_policies(run)
    assert run.returncode == 0
    assert rows(tmp_path / "store").num_rows == 36
    assert any("CrashIsolatedStage" in title for title in seen)
    assert any("Write" in title for title in seen)
    assert not [title for title in seen if any(name in title for name in (*BOOKKEEPERS, *DAEMONS))]
    policies = {policy for title, several in seen.items() if title.startswith("ray::") for policy in several}
    assert policies == {(os.SCHED_BATCH, os.nice(0))}


def test_ray_is_as_it_was_after_the_block() -> None:
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
    from ray.data._internal.stats import _StatsManager

    def names() -> tuple[object, object]:
        return rate_based_cluster_autoscaler.DefaultAutoscalingCoordinator, _StatsManager.update_execution_metrics

    before = names()
    with contextlib.suppress(KeyboardInterrupt), without_bookkeeping():
        within = names()
        raise KeyboardInterrupt
    assert not set(before) & set(within)
    assert names() == before
