"""What a dry run says about hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from acoustic_env.cli import main
from acoustic_env.pipeline.estimate import describe_estimate
from acoustic_env.pipeline.plan import Plan, Pool
from acoustic_env.store.feature_store import FeatureStore
from tests.known_issues.test_exit_three import clips_of_which_fail

PLAN = Plan((Pool("cpu", (), 4, 1.0, 0.0, 1, 4),), Pool("write", (), 1, 0.1, 0.0, 1, 1), 80.0, 1.0, 8, 600.0, "cpu")
PLANNED = {"settings": {"engine": "fast", "device": "auto"}, "fingerprints": {"mps": {"raw": "0f"}}}


def record(clips: int, **changes: Any) -> dict[str, Any]:
    """A run of so many clips by two workers, half a second of each a clip."""
    wall = {"seconds": {"wall": 0.25 * clips}, "pools": {"cpu": 2, "write": 1}}
    return {**PLANNED, "run_id": "last", "finished": clips, **wall} | changes


def test_a_run_takes_as_long_a_clip_and_worker_as_the_last_of_the_same_versions() -> None:
    runs = [record(10, seconds={"wall": 1e6}), record(200)]
    line = describe_estimate(runs, PLANNED, PLAN, 1_000_000, 3)
    hours = 0.5 * 1_000_000 / 4 / 3600
    assert f"1,000,000 clips: {hours:.2f} h, {3 * hours:.2f} node-hours: 0.500 worker seconds a clip" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"engine": "reference", "device": "auto"}},
        {"fingerprints": {"mps": {"raw": "1e"}}},
        {"finished": 0},
        {"pools": {}},
        {"seconds": {}},
    ],
)
def test_other_runs_do_not_count_and_the_line_says_how_to_get_one(changes: dict[str, Any]) -> None:
    assert "--limit 200" in describe_estimate([record(200, **changes)], PLANNED, PLAN, 10, 1)


@pytest.mark.usefixtures("ray_cluster")
def test_a_dry_run_estimates_from_the_runs_of_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, store = clips_of_which_fail(tmp_path / "audio", good=8, bad=0), str(tmp_path / "store")
    command = ["extract", "--clips", str(clips), "--store", store, "--blocks", "placeholder"]
    assert main([*command, "--dry-run"]) == 0
    assert "estimate  none" in capsys.readouterr().err
    assert main([*command, "--limit", "4"]) == 0
    (run,) = FeatureStore(store).runs()
    assert main([*command, "--dry-run"]) == 0
    assert f"as in run {run['run_id']} of 4 clips" in capsys.readouterr().err
