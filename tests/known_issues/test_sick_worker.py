"""A sick worker wrote a permanent error for every clip it drew, and being quick to fail it drew most of the list.

A broken CUDA context, a missing library or an unmounted disk on one node barred thousands of sound clips for good; so
did a wrong endpoint or missing credentials anywhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acoustic_env.audio.fetch import failure_code, open_source
from acoustic_env.errors import ClipError
from acoustic_env.features.golden import check_decoders
from acoustic_env.pipeline.guard import CrashIsolatedStage
from acoustic_env.pipeline.health import (
    MAX_ASKED,
    MAX_STRIKES,
    Health,
    NoHealthyWorkerError,
    SickWorkerError,
    nodes_to_ask,
)
from acoustic_env.pipeline.task import RowError, Task, unpack
from tests.pipeline.raylets import environment
from tests.pipeline.sick import VARIABLE
from tests.pipeline.tasks import errors_of, named
from tests.pipeline.test_extract import write_noise

CLIPS = 40


class FallibleStage:
    """Fail the clips named bad-*; from a clip named poison on, fail everything, the golden clip included.

    Args:
        sick: whether it is so from the start.
    """

    def __init__(self, sick: bool = False) -> None:
        self.sick = sick

    def __call__(self, task: Task) -> Task:
        for position, clip_id in enumerate(task.clips["clip_id"].to_pylist()):
            self.sick = self.sick or clip_id == "poison"
            if self.sick or clip_id.startswith("bad"):
                task.errors.append((position, RowError("compute", "compute_failed", "CUDA error", permanent=True)))
        return task

    def decode(self, task: Task) -> Task:
        return task

    def check(self) -> None:
        if self.sick:
            msg = "CUDA error: an illegal memory access was encountered"
            raise RuntimeError(msg)

    def parts(self, task: Task) -> list[Task]:
        return [task]

    def skip(self, task: Task, error: RowError) -> Task:
        task.errors.append((0, error))
        return task


class ImportingStage(FallibleStage):
    """A stage whose library is not installed on this node."""

    def __init__(self) -> None:
        raise ImportError("libcudart.so.12: cannot open shared object file")


@pytest.fixture(autouse=True)
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


class TestAWorker:
    def test_that_can_do_the_golden_clip_records_its_clips_failure(self) -> None:
        done = CrashIsolatedStage(FallibleStage, (), "run", "cpu")(named("a", "bad-1", "b").pack())
        assert [len(errors) for errors in errors_of(unpack(done)[0]).values()] == [0, 1, 0]

    def test_that_cannot_records_nothing_and_names_itself(self) -> None:
        with pytest.raises(SickWorkerError, match="illegal memory access") as fault:
            CrashIsolatedStage(FallibleStage, (), "run", "cpu")(named("a", "poison", "b").pack())
        assert fault.value.clip_id == "poison"
        assert fault.value.exit_code == 1

    @pytest.mark.parametrize(("stage", "arguments"), [(FallibleStage, (True,)), (ImportingStage, ())])
    def test_that_is_sick_from_the_start_does_no_clip(self, stage: type, arguments: tuple[object, ...]) -> None:
        with pytest.raises(SickWorkerError) as fault:
            CrashIsolatedStage(stage, arguments, "run", "cpu")(named("a").pack())
        assert fault.value.clip_id is None

    @pytest.mark.slow
    def test_a_clip_that_breaks_every_worker_is_known_in_a_process_of_its_own(self) -> None:
        guarded = CrashIsolatedStage(FallibleStage, (), "run", "cpu", suspects=["poison"])
        (done,) = unpack(guarded(named("a", "poison", "b").pack()))
        assert [len(several) for several in errors_of(done).values()] == [0, 1, 0]
        ((_, error),) = done.errors
        assert error.permanent
        assert "golden clip" in error.message


class TestARun:
    def test_leaves_out_a_node_that_is_sick_from_the_start_and_stops_without_another(self) -> None:
        health = Health()
        fault = health.note(SickWorkerError("a", "node-a", "no driver"), ["node-a", "node-b"], [])
        assert fault.left_out
        with pytest.raises(NoHealthyWorkerError, match=r"a: no driver; b: no disk"):
            health.note(SickWorkerError("b", "node-b", "no disk"), ["node-a", "node-b"], [])

    def test_gives_a_node_new_workers_before_it_leaves_it_out(self) -> None:
        health = Health()
        faults = [
            health.note(SickWorkerError("a", "node-a", "CUDA", f"clip {i}"), ["node-a", "node-b"], [])
            for i in range(MAX_STRIKES)
        ]
        assert [fault.left_out for fault in faults] == [False] * (MAX_STRIKES - 1) + [True]

    def test_does_not_blame_a_node_for_clips_that_break_every_worker(self) -> None:
        health, guilty = Health(), [f"clip {i}" for i in range(9)]
        for clip in guilty:
            assert not health.note(SickWorkerError("a", "node-a", "CUDA", clip), ["node-a"], guilty).left_out


def test_the_nodes_asked_for_a_file_are_not_the_same_ones_everywhere() -> None:
    nodes = [{"NodeID": f"{i:02}", "Alive": i != 7, "Resources": {"CPU": 1.0} if i else {}} for i in range(40)]
    asked = [node["NodeID"] for here in nodes for node in nodes_to_ask(nodes, here["NodeID"], "/a.wav")]
    assert len(asked) == 40 * MAX_ASKED
    assert max(asked.count(node) for node in asked) <= 4 * MAX_ASKED
    assert not {"00", "07"} & set(asked), "the head has no processors, another node is gone"


class TestAFileThatCannotBeRead:
    def test_is_missing_for_good_where_its_folder_is_there(self, tmp_path: Path) -> None:
        with pytest.raises(ClipError) as error:
            open_source(str(tmp_path / "gone.wav"))
        assert (error.value.code, error.value.permanent) == ("not_found", False)

    def test_may_be_there_again_where_its_folder_is_not(self, tmp_path: Path) -> None:
        for uri in (f"{tmp_path}/mnt/audio/a.wav", f"tar://a.wav::{tmp_path}/mnt/shard.tar"):
            with pytest.raises(ClipError, match="mounted") as error:
                open_source(uri)
            assert (error.value.code, error.value.permanent) == ("unreachable", False)

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("Invalid endpoint: s3.example"),
            ImportError("install gcsfs"),
            type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"),
        ],
    )
    def test_for_wrong_settings_is_never_missing_for_good(self, error: Exception) -> None:
        assert not ClipError(failure_code(error), "").permanent


def test_the_golden_clip_goes_through_both_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    check_decoders((16_000, 32_000))

    def gone(*_: object, **__: object) -> None:
        raise OSError("libavformat is gone")

    monkeypatch.setattr("av.open", gone)
    with pytest.raises(OSError, match="libavformat"):
        check_decoders((16_000,))


SCENARIOS = """
import json, os, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from acoustic_env.cli import main
from acoustic_env.store.feature_store import FeatureStore

folder, clips, rule = Path(sys.argv[1]), sys.argv[2], Path(os.environ["ACOUSTIC_ENV_TEST_SICK"])
rule.write_text("none")
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False,
         runtime_env={"worker_process_setup_hook": "tests.pipeline.sick.install"})
sick = nodes[0].node_id
rules = {"decoder-node": f"decoder:node {sick}", "disk-node": f"disk:node {sick}",
         "decoder-once": f"decoder:once {folder}/marker", "decoder-all": "decoder:all"}
for name in rules:
    rule.write_text(rules[name])
    print(f"=== {name}", file=sys.stderr, flush=True)
    code = main(["extract", "--clips", clips, "--store", f"{folder}/{name}", "--blocks", "placeholder",
                 "--signals", "raw"])
    store = FeatureStore(f"{folder}/{name}")
    (run,) = store.runs()
    rows = store.read("placeholder").num_rows if store.blocks() else 0
    print(json.dumps({"name": name, "code": code, "rows": rows, "errors": store.errors().num_rows, "sick": sick,
                      "faults": run["faults"], "finished": run["finished"], "left": run["left"]}), flush=True)
ray.shutdown()
cluster.shutdown()
"""


Scenarios = Callable[[str], tuple[dict[str, Any], str]]


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenarios:
    """What came of a scenario, and what `extract` said; all run on one cluster of two nodes, one after the other."""
    folder = tmp_path_factory.mktemp("sick")
    clips = write_noise(folder / "audio", CLIPS, seconds=0.5)
    run = subprocess.run(
        [sys.executable, "-c", SCENARIOS, str(folder), str(clips)],
        env=environment(**{VARIABLE: str(folder / "rule")}),
        capture_output=True,
        text=True,
        timeout=1140,
        check=False,
    )
    found = {
        result["name"]: result
        for line in run.stdout.splitlines()
        if line.startswith("{")
        for result in [json.loads(line)]
    }
    said = {part.partition("\n")[0]: part for part in run.stderr.split("=== ")[1:]}

    def named(name: str) -> tuple[dict[str, Any], str]:
        assert name in found, run.stderr[-6000:]
        return found[name], said[name]

    return named


def assert_all_done(result: dict[str, Any], said: str) -> None:
    assert (result["code"], result["rows"], result["errors"]) == (0, CLIPS, 0)
    assert (result["finished"], result["left"]) == (CLIPS, 0)
    assert result["faults"]
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sick_node_costs_no_clip(scenario: Scenarios) -> None:
    result, said = scenario("decoder-node")
    assert_all_done(result, said)
    assert {fault["node"] for fault in result["faults"]} == {result["sick"]}
    assert result["faults"][-1]["left_out"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_without_a_sound_node_stops_and_says_why(scenario: Scenarios) -> None:
    result, said = scenario("decoder-all")
    assert (result["code"], result["rows"], result["errors"], result["left"]) == (1, 0, 0, CLIPS)
    assert "no worker is left" in said
    assert "libsndfile.so.1" in said
    assert "To resume: acoustic-env extract" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_node_without_the_disk_is_left_out(scenario: Scenarios) -> None:
    result, said = scenario("disk-node")
    assert_all_done(result, said)
    (fault,) = result["faults"]
    assert fault["node"] == result["sick"]
    assert fault["left_out"]
    assert f"which {fault['host']} can" in fault["reason"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_that_falls_sick_is_replaced(scenario: Scenarios) -> None:
    result, said = scenario("decoder-once")
    assert_all_done(result, said)
    assert not result["faults"][-1]["left_out"]
