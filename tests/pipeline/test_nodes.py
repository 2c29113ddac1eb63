"""Runs on several raylets of this machine: nodes that join and leave, and GPUs that are only claimed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.test_extract import write_noise

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.extract import extract
from acoustic_env.store.feature_store import FeatureStore

scenario, folder, clips = sys.argv[1:]
lines = []

def log(line):
    lines.append(line)
    print(line, file=sys.stderr, flush=True)

def settings(**more):
    wanted = {"blocks": ("placeholder",), "signals": ("raw",)} | more
    return ExtractSettings(clips=clips, store=f"{folder}/store", **wanted)

def start(cluster, settings, **options):
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error", **options)
    found = []
    run = threading.Thread(target=lambda: found.append(extract(settings, log)), daemon=True)
    run.start()
    return run, found

def wait_until(what, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not what() and time.monotonic() < deadline:
        time.sleep(0.2)

def parts():
    return len(list(Path(folder).glob("store/features/*/*/part-*")))

def finish(run, found):
    run.join()
    (block,) = found[0].rows
    table = FeatureStore(f"{folder}/store").read(block)
    print(json.dumps({"finished": found[0].finished, "rows": table.num_rows, "nodes": found[0].nodes,
                      "keys": len(set(table["clip_id"].to_pylist())), "lines": lines}), flush=True)
    ray.shutdown()
    cluster.shutdown()

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
"""

JOINS_AND_LEAVES = """
slow = {"worker_process_setup_hook": "tests.pipeline.raylets.take_time"}
run, found = start(cluster, settings(wait_for_nodes=1), runtime_env=slow)
wait_until(lambda: any(line.startswith("waiting") for line in lines))
first = cluster.add_node(num_cpus=1)
wait_until(lambda: parts() >= 1)
second = cluster.add_node(num_cpus=1)
wait_until(lambda: ray.available_resources().get("CPU", 0.0) < 1)
before = parts()
wait_until(lambda: parts() > before)
cluster.remove_node(first, allow_graceful=False)
finish(run, found)
"""

LOST = """
first, second = (cluster.add_node(num_cpus=1) for _ in range(2))
run, found = start(cluster, settings())
wait_until(lambda: parts() >= 1)
cluster.remove_node(first, allow_graceful=False)
finish(run, found)
"""

GPUS = """
import os
from acoustic_env.pipeline import extract as job
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
make = job.make_plan
def on_claimed_gpus(*arguments, **options):
    from dataclasses import replace
    plan = make(*arguments, **options)
    assert [pool.name for pool in plan.compute] == ["cpu", "gpu"]
    return replace(plan, device="cpu")
job.make_plan = on_claimed_gpus
for _ in range(2):
    cluster.add_node(num_cpus=1, num_gpus=1)
run, found = start(cluster, settings())
finish(run, found)
"""


def run_script(scenario: str, folder: Path, clips: Path) -> dict[str, Any]:
    """Run a scenario in a process of its own, since a process has one Ray; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    environment.pop("RAY_ADDRESS", None)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT + scenario, "scenario", str(folder), str(clips)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (found,) = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return dict(found)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_joins_in_mid_run_does_clips_and_a_node_that_is_lost_costs_none(tmp_path: Path) -> None:
    found = run_script(JOINS_AND_LEAVES, tmp_path, write_noise(tmp_path / "audio", 800, seconds=0.5))
    assert (found["rows"], found["keys"]) == (800, 800)
    assert len(found["nodes"]) == 2
    assert all(done["clips"] > 0 and done["seconds"] > 0 for done in found["nodes"].values())


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_node_lost_with_the_rows_that_wait_on_it_costs_no_clip(tmp_path: Path) -> None:
    found = run_script(LOST, tmp_path, write_noise(tmp_path / "audio", 80, seconds=0.5))
    assert (found["rows"], found["keys"], found["finished"]) == (80, 80, 80)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_nodes_with_a_gpu_each_share_the_networks_and_cpu_workers_feed_them(tmp_path: Path) -> None:
    found = run_script(GPUS, tmp_path, write_noise(tmp_path / "audio", 80, seconds=0.5))
    assert (found["rows"], found["finished"]) == (80, 80)
    assert any(line.split()[:4] == ["pool", "gpu", "2", "x"] for line in found["lines"])
    assert len(found["nodes"]) == 2
