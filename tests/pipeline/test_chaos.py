"""What a cluster can lose, lost in mid-run: the table is that of a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from acoustic_env.api import compute
from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.errors import ClipError, LeaseHeld
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from tests.pipeline.raylets import Driver, Machine, Raylets, driver, join_all, raylets
from tests.pipeline.test_extract import BLOCKS, rows, write_noise
from tests.s3 import Fault, S3Server

CLIPS = 160
BAD = {"gone": "not_found", "text": "not_audio"}  # clip -> the code of its error
FEATURES = ("--blocks", "placeholder", "--signals", "raw", "--max-error-rate", "0.1")

# Waits until a cluster has no more than so many nodes.
LOST = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="error", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) > int(sys.argv[2]):
    time.sleep(0.2)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def write_list(folder: Path) -> Path:
    """A clip list over short noise files, two of its clips bad."""
    good = write_noise(folder, CLIPS, seconds=1.0)
    (folder / "text.wav").write_text("no audio" * 100)
    bad = clip_table([{"clip_id": name, "uri": str(folder / f"{name}.wav")} for name in BAD])
    write_clips(pa.concat_tables([read_clips(str(good)), bad]), str(folder / "all.parquet"))
    return folder / "all.parquet"


def upload(server: S3Server, clips: Path) -> str:
    """The list and its files in the bucket; returns the URL of the list."""
    files, table, listed = open_filesystem(f"s3://{server.bucket}"), read_clips(str(clips)), []
    for clip_id, uri in zip(table["clip_id"].to_pylist(), table["uri"].to_pylist(), strict=True):
        if clip_id != "gone":
            files.write(f"audio/{clip_id}.wav", Path(uri).read_bytes())
        listed.append({"clip_id": clip_id, "uri": f"s3://{server.bucket}/audio/{clip_id}.wav"})
    write_clips(clip_table(listed), f"s3://{server.bucket}/clips.parquet")
    return f"s3://{server.bucket}/clips.parquet"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(tmp_path_factory.mktemp("chaos") / "audio")


@pytest.fixture(scope="module")
def undisturbed(clips: Path) -> pa.Table:
    """What a run that nothing disturbs stores of the good clips, computed in this process."""
    tables = []
    for clip in read_clips(str(clips)).to_pylist():
        with contextlib.suppress(ClipError):
            tables.append(compute(clip["uri"], BLOCKS, ("raw",)).assign(clip_id=clip["clip_id"]))
    return pa.Table.from_pandas(pd.concat(tables), preserve_index=False).sort_by("clip_id")


def assert_undisturbed(store: str, clips: str, undisturbed: pa.Table) -> None:
    """The store has the undisturbed table, each key once, and an error for every other clip."""
    found, keys = rows(store), ["clip_id", "signal"]
    assert undisturbed.num_rows == CLIPS
    assert found.select(keys).to_pylist() == undisturbed.select(keys).to_pylist()
    for name in set(found.column_names) - set(keys):
        np.testing.assert_allclose(numbers(found[name]), numbers(undisturbed[name]), 1e-5, 1e-5, err_msg=name)
    errors = FeatureStore(store).errors()
    codes = set(zip(errors["clip_id"].to_pylist(), errors["code"].to_pylist(), strict=True))
    assert codes == set(BAD.items())
    assert main(["store", "verify", store, "--clips", clips]) == 0


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    column = column.combine_chunks()
    return np.asarray(column.flatten() if pa.types.is_nested(column.type) else column, dtype=float)


def record_of(ended: Driver) -> dict[str, Any]:
    """What --json printed; Ray may tell of lost nodes after it, until the process ends."""
    record: dict[str, Any] = json.loads(ended.printed.read_text().splitlines()[0])
    return record


def parts(store: str) -> int:
    return sum(entry.path.endswith(".parquet") for entry in open_filesystem(store).entries("features"))


def wait_until(what: Callable[[], bool], run: Driver, limit_s: float = 400.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        if run.process.poll() is not None:
            pytest.fail(f"the run ended before it could be disturbed: {run.end()}")
        assert time.monotonic() < deadline, f"nothing after {limit_s:.0f} s: {run.said.read_text()}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Raylets, str, list[str]]]:
    """A head and two nodes, its address and the numbers of its nodes; the tests share it until one kills its head."""
    with raylets() as found:
        address = found.tell("start")
        yield found, address, [found.tell("add") for _ in range(2)]


class FaultyServer:
    """Every ninth request goes wrong, and for a while all do."""

    def __init__(self) -> None:
        self.away_until = 0.0

    def __call__(self, _method: str, _path: str, number: int) -> Fault | None:
        if time.monotonic() < self.away_until:
            return "throttle"
        faults: tuple[Fault, ...] = ("throttle", "drop", "fail", "drop_answer")
        return faults[number // 9 % 4] if number % 9 == 0 else None


def test_nodes_killed_and_added_while_s3_throttles_and_drops_cost_no_clip(
    cluster: tuple[Raylets, str, list[str]],
    clips: Path,
    undisturbed: pa.Table,
    s3: S3Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (nodes, address, alive), random, server = cluster, Random(17), FaultyServer()
    listed = upload(s3, clips)
    s3.choose = server
    arguments = ("--clips", listed, "--store", s3.url, *FEATURES, "--json")
    with driver(address, tmp_path, *arguments) as run:
        wait_until(lambda: parts(s3.url) > 0, run)
        for _ in range(2):
            victim = random.choice(alive)
            alive.remove(victim)
            nodes.tell("kill", victim)
            server.away_until = time.monotonic() + random.uniform(1, 3)
            alive.append(nodes.tell("add"))
        code, said = run.end()
    assert code == 0, said
    record = record_of(run)
    assert (record["finished"], record["failed"], record["left"]) == (CLIPS + 2, 2, 1)
    assert s3.done
    s3.choose = lambda _method, _path, _number: None
    assert main(["extract", *arguments, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["pending"] == 1
    assert_undisturbed(s3.url, listed, undisturbed)


def test_a_driver_killed_and_a_head_lost_leave_work_that_a_later_driver_ends_whatever_their_clocks_say(
    cluster: tuple[Raylets, str, list[str]], clips: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    (nodes, address, _), store, hours = cluster, str(tmp_path / "store"), 5 * 3600.0
    arguments = ("--clips", str(clips), "--store", store, *FEATURES, "--json")
    with driver(address, tmp_path, *arguments, clock_s=hours) as ahead:
        wait_until(lambda: parts(store) > 0, ahead)
    found = parts(store)
    with driver(address, tmp_path, *arguments, clock_s=-hours) as behind:
        wait_until(lambda: parts(store) > found, behind)
        with pytest.raises(LeaseHeld, match=f"host clock -{hours:g}"), acquire_blocks(store, ["placeholder"], "me"):
            pass
        nodes.tell("kill", "head")
        code, said = behind.end()
        assert code not in (0, 2, 3, 4, 5), said
    with raylets() as later:
        address = later.tell("start")
        for _ in range(2):
            later.tell("add")
        with driver(address, tmp_path, *arguments) as last:
            code, said = last.end()
        assert code == 0, said
        assert 0 < record_of(last)["pending"] < CLIPS
    assert_undisturbed(store, str(clips), undisturbed)


def test_a_node_cut_off_and_back_and_a_node_whose_disk_is_full_cost_no_clip(
    clips: Path, undisturbed: pa.Table, own_machines: list[Machine], tmp_path: Path
) -> None:
    head, second, third = own_machines
    head.lead("--include-dashboard=false")
    join_all(head, [second, third])
    address, store, gate = f"{head.address}:6379", str(tmp_path / "store"), tmp_path / "gate"

    def waiting(host: str) -> int:
        return len(list(gate.glob(f"{host} *")))

    with driver(address, tmp_path, "--clips", str(clips), "--store", store, *FEATURES, "--json", on=head) as run:
        wait_until(lambda: waiting("node2") + waiting("node3") == 2, run)
        head.run("ip", "link", "set", f"cable{third.number}", "down")
        head.run(sys.executable, "-c", LOST, address, "2")
        head.run("ip", "link", "set", f"cable{third.number}", "up")
        third.run("sh", "-c", "while pgrep -x raylet; do sleep 0.2; done")  # it finds that it is dead, and ends
        third.join(head)
        wait_until(lambda: waiting("node3") == 2, run)
        second.fill_disk()
        (gate / "open").touch()
        code, said = run.end()
    assert code == 0, said
    record = record_of(run)
    assert (record["finished"], record["failed"], record["left"]) == (CLIPS + 2, 2, 1)
    (fault,) = record["faults"]
    assert (fault["host"], fault["left_out"]) == ("node2", True)
    assert "No space left on device; free some space there, or set TMPDIR" in said
    assert_undisturbed(store, str(clips), undisturbed)
