"""Runs on several raylets of this machine: nodes that join and leave, and GPUs that are only claimed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from acoustic_env.pipeline.graph import FIRST_TASKS
from tests.pipeline.raylets import GATE, GATE_AFTER, environment
from tests.pipeline.test_extract import write_noise

CLIPS = 160
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Every scenario runs on the nodes that the ones before it left. Workers wait at the gate, which opens once, when they
# have done what makes a first slice: of 24 tasks, neither of two can do all before the other has had its share.
SCRIPT = """
import json, os, sys, threading, time
from dataclasses import replace
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline import extract as job
from acoustic_env.store.feature_store import FeatureStore

folder, clips, gate = Path(sys.argv[1]), sys.argv[2], Path(os.environ["ACOUSTIC_ENV_TEST_GATE"])

class Run:
    def __init__(self, name, **more):
        self.name, self.lines, self.ended = name, [], []
        settings = ExtractSettings(
            clips=clips, store=f"{folder}/{name}", blocks=("placeholder",), signals=("raw",), **more
        )
        self.thread = threading.Thread(target=lambda: self.ended.append(job.extract(settings, self.log)), daemon=True)
        self.thread.start()

    def log(self, line):
        self.lines.append(line)
        print(line, file=sys.stderr, flush=True)

    def until(self, what, happens, limit_s=400):
        deadline = time.monotonic() + limit_s
        while not happens():
            assert self.thread.is_alive(), f"{self.name}: the run ended before {what}"
            assert time.monotonic() < deadline, f"{self.name}: {what} did not happen in {limit_s} s"
            time.sleep(0.1)

    def parts(self):
        return len(list(folder.glob(f"{self.name}/features/*/*/part-*")))

    def end(self):
        self.thread.join()
        (record,) = self.ended
        (block,) = record.rows
        table = FeatureStore(f"{folder}/{self.name}").read(block)
        print(json.dumps({"name": self.name, "finished": record.finished, "rows": table.num_rows, "nodes": record.nodes,
                          "keys": len(set(table["clip_id"].to_pylist())), "lines": self.lines}), flush=True)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False, logging_level="error",
         runtime_env={"worker_process_setup_hook": "tests.pipeline.raylets.take_time"})

run = Run("joins and leaves", wait_for_nodes=1)
run.until("waiting for a node", lambda: any(line.startswith("waiting") for line in run.lines))
first = cluster.add_node(num_cpus=1)
run.until("a part of the first node's clips", lambda: run.parts() >= 1)
run.until("the first node at the gate", lambda: len(list(gate.iterdir())) == 1)
second = cluster.add_node(num_cpus=1)
run.until("the joined node at the gate", lambda: len(list(gate.iterdir())) == 2)
cluster.remove_node(first, allow_graceful=False)
(gate / "open").touch()
run.end()

third = cluster.add_node(num_cpus=1)
run = Run("lost")
run.until("a part", lambda: run.parts() >= 1)
cluster.remove_node(third, allow_graceful=False)
run.end()

cluster.remove_node(second)
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
make = job.make_plan
def on_claimed_gpus(*arguments, **options):
    plan = make(*arguments, **options)
    assert [pool.name for pool in plan.compute] == ["cpu", "gpu"]
    return replace(plan, device="cpu")
job.make_plan = on_claimed_gpus
for _ in range(2):
    cluster.add_node(num_cpus=1, num_gpus=1)
Run("claimed gpus").end()
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What a scenario printed; all run one after the other in a process of their own, since a process has one Ray."""
    folder, gate = tmp_path_factory.mktemp("nodes"), tmp_path_factory.mktemp("gate")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(write_noise(folder / "audio", CLIPS, seconds=0.5))],
        env=environment(**{GATE: str(gate), GATE_AFTER: str(FIRST_TASKS + 1)}),
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    found = {result["name"]: result for result in map(json.loads, filter(is_result, run.stdout.splitlines()))}

    def named(name: str) -> dict[str, Any]:
        assert name in found, run.stderr[-6000:]
        return found[name]

    return named


def is_result(line: str) -> bool:
    return line.startswith("{")


def test_a_node_that_joins_in_mid_run_does_clips_and_a_node_that_is_lost_costs_none(
    scenario: Callable[[str], dict[str, Any]],
) -> None:
    found = scenario("joins and leaves")
    assert (found["rows"], found["keys"]) == (CLIPS, CLIPS)
    assert len(found["nodes"]) == 2
    assert all(done["clips"] > 0 and done["seconds"] > 0 for done in found["nodes"].values())


def test_a_node_lost_with_the_rows_that_wait_on_it_costs_no_clip(scenario: Callable[[str], dict[str, Any]]) -> None:
    found = scenario("lost")
    assert (found["rows"], found["keys"], found["finished"]) == (CLIPS, CLIPS, CLIPS)


def test_two_nodes_with_a_gpu_each_share_the_networks_and_cpu_workers_feed_them(
    scenario: Callable[[str], dict[str, Any]],
) -> None:
    found = scenario("claimed gpus")
    assert (found["rows"], found["finished"]) == (CLIPS, CLIPS)
    assert any(line.split()[:4] == ["pool", "gpu", "2", "x"] for line in found["lines"])
    assert len(found["nodes"]) == 2
