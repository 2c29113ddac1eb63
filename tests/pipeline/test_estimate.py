"""What a dry run says about hours and the bottleneck."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acoustic_env.cli import main
from acoustic_env.errors import UsageError
from acoustic_env.pipeline.estimate import Rates, bench_rates, describe_estimate, estimate, recorded_rates
from acoustic_env.pipeline.stages import REMOTE_READERS
from acoustic_env.store.feature_store import FeatureStore
from tests.known_issues.test_exit_three import clips_of_which_fail

CPU = {"cpu": {"workers": 4, "stages": ["prepare", "decode", "mps"]}, "write": {"workers": 1, "stages": ["write"]}}


def record(clips: int, **changes: Any) -> dict[str, Any]:
    """A run of so many clips with three signals: 0.5 s of `mps` a clip, workers busy half of the time."""
    seconds = {"decode": 0.1 * clips, "prepare": 0.2 * clips, "mps": 0.5 * clips, "write": 0.01 * clips}
    return {
        "settings": {"engine": "fast"},
        "pending": clips,
        "finished": clips,
        "pairs": {"mps": 3 * clips},
        "pools": CPU,
        "seconds": seconds | {"wall": 0.8 * clips / 4 / 0.5},
    } | changes


def test_a_run_like_the_last_takes_as_long_a_clip() -> None:
    rates = recorded_rates([record(200)], CPU, "fast")
    assert rates.utilization == pytest.approx(0.5)
    found = estimate(CPU, 1_000_000, {"mps": 3_000_000}, [], rates)
    assert found.hours["cpu"] / rates.utilization == pytest.approx(record(200)["seconds"]["wall"] / 200 * 1e6 / 3600)
    assert found.parts == pytest.approx({"reading": 0.1, "DSP": 0.7, "networks": 0.0, "writing": 0.01})
    assert found.bottleneck == ("cpu", "DSP")
    assert not found.unknown


def test_pairs_that_are_there_already_cost_nothing() -> None:
    rates = recorded_rates([record(200)], CPU, "fast")
    third = estimate(CPU, 1000, {"mps": 1000}, [], rates)
    assert third.parts["DSP"] == pytest.approx(0.2 + 0.5 / 3)


def test_a_run_that_stopped_half_way_has_the_same_rates() -> None:
    half = record(100, pending=200, pairs={"mps": 600})
    assert recorded_rates([half], CPU, "fast").seconds == pytest.approx(
        recorded_rates([record(9)], CPU, "fast").seconds
    )


def test_runs_of_another_engine_or_on_other_workers_do_not_count() -> None:
    gpu = {"cpu": {"workers": 4, "stages": ["prepare", "decode"]}, "mps": {"workers": 1, "stages": ["mps"]}}
    on_gpu = recorded_rates([record(200, pools=gpu)], CPU, "fast")
    assert estimate(CPU, 10, {"mps": 30}, [], on_gpu).unknown == ("mps",)
    assert not recorded_rates([record(200), {"settings": {"engine": "fast"}}], CPU, "reference").seconds


def test_the_bottleneck_is_the_pool_that_takes_longest_and_readers_wait_side_by_side() -> None:
    pools = {
        "decode": {"workers": 1, "stages": ["decode"]},
        "cpu": {"workers": 8, "stages": ["prepare", "yamnet"]},
        "write": {"workers": 1, "stages": ["write"]},
    }
    rates = Rates({"decode": 4.0, "prepare": 0.1, "yamnet": 0.3, "write": 0.0}, 1.0, "1 run")
    found = estimate(pools, 3600, {"yamnet": 3600}, ["yamnet"], rates)
    assert found.hours["decode"] == pytest.approx(4.0 / REMOTE_READERS)
    assert found.bottleneck == ("decode", "reading")
    cpu = estimate(pools | {"decode": {"workers": 16, "stages": ["decode"]}}, 3600, {"yamnet": 3600}, ["yamnet"], rates)
    assert cpu.bottleneck == ("cpu", "networks")
    assert "3,600 clips: 0.05 h" in describe_estimate(cpu, 3600, 2)[0]
    assert "0.10 node-hours" in describe_estimate(cpu, 3600, 2)[0]


def test_without_a_rate_the_lines_say_how_to_get_one() -> None:
    nothing = estimate(CPU, 10, {"mps": 30}, [], recorded_rates([], CPU, "fast"))
    [line] = describe_estimate(nothing, 10, 1)
    assert "mps" in line
    assert "--limit 200" in line


def test_bench_gives_rates_and_another_file_is_refused(tmp_path: Path) -> None:
    stages = [
        {"stage": "decode", "fast_s_per_clip": 0.01},
        {"stage": "separation", "fast_s_per_clip": 0.03},
        {"stage": "modulation", "fast_s_per_clip": 0.15},
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"stages": stages}))
    rates = bench_rates(str(tmp_path / "bench.json"), "fast")
    assert rates.seconds == pytest.approx({"decode": 0.01, "prepare": 0.03, "mps": 0.05})
    assert not estimate(CPU, 10, {"mps": 30}, [], rates).unknown
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="bench --json"):
        bench_rates(str(tmp_path / "other.json"), "fast")


def test_a_dry_run_estimates_from_the_runs_of_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, store = clips_of_which_fail(tmp_path / "audio", good=8, bad=0), str(tmp_path / "store")
    command = ["extract", "--clips", str(clips), "--store", store, "--blocks", "placeholder", "--dry-run"]
    assert main(command) == 0
    assert "estimate  none" in capsys.readouterr().err
    pools = {"cpu": {"workers": 2, "stages": ["prepare", "decode", "placeholder"]}, "write": CPU["write"]}
    seconds = {"decode": 1.0, "prepare": 1.0, "placeholder": 1.0, "write": 0.1, "wall": 2.0}
    run = record(4, pools=pools, seconds=seconds, pairs={"placeholder": 12})
    FeatureStore(store).write_run("20261123T000000Z-0", run)
    assert main(command) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("estimate")]
    assert len(lines) == 3
    assert "8 clips: " in lines[0]
    assert "(4 clips of earlier runs)" in lines[0]
    assert "reading 0.2500, DSP 0.2500, networks 0.2500, writing 0.0250" in lines[1]
