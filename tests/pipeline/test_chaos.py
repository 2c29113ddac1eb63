"""What a cluster can lose, lost in mid-run: the table is that of a run that nothing disturbed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.errors import LeaseHeld
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from tests.pipeline.raylets import Driver, driver, environment, raylets
from tests.pipeline.test_extract import command, write_noise
from tests.s3 import Fault, S3Server

CLIPS = 160
BAD = {"gone": "not_found", "text": "not_audio"}  # clip -> the code of its error
FEATURES = ("--blocks", "placeholder", "--signals", "raw", "--max-error-rate", "0.1")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def write_list(folder: Path) -> Path:
    """A clip list over short noise files, two of its clips bad."""
    good = write_noise(folder, CLIPS, seconds=1.0)
    (folder / "text.wav").write_text("no audio" * 100)
    bad = clip_table([{"clip_id": name, "uri": str(folder / f"{name}.wav")} for name in BAD])
    write_clips(pa.concat_tables([read_clips(str(good)), bad]), str(folder / "all.parquet"))
    return folder / "all.parquet"


def upload(server: S3Server, clips: Path) -> str:
    """The list and its files in the bucket; returns the URL of the list."""
    files, table, rows = open_filesystem(f"s3://{server.bucket}"), read_clips(str(clips)), []
    for clip_id, uri in zip(table["clip_id"].to_pylist(), table["uri"].to_pylist(), strict=True):
        if clip_id != "gone":
            files.write(f"audio/{clip_id}.wav", Path(uri).read_bytes())
        rows.append({"clip_id": clip_id, "uri": f"s3://{server.bucket}/audio/{clip_id}.wav"})
    write_clips(clip_table(rows), f"s3://{server.bucket}/clips.parquet")
    return f"s3://{server.bucket}/clips.parquet"


def sorted_rows(store: str) -> pa.Table:
    table = FeatureStore(store).read("placeholder")
    return table.sort_by([("clip_id", "ascending"), ("signal", "ascending")]).combine_chunks()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(tmp_path_factory.mktemp("chaos") / "audio")


@pytest.fixture(scope="module")
def undisturbed(clips: Path) -> pa.Table:
    """The table of a run that nothing disturbs, on a cluster of its own."""
    store = clips.parent / "undisturbed"
    run = [*command(clips, store), *FEATURES]
    subprocess.run(run, env=environment(), capture_output=True, timeout=200, check=True)
    return sorted_rows(str(store))


def assert_undisturbed(store: str, clips: str, undisturbed: pa.Table) -> None:
    """The store has the undisturbed table, each key once, and an error for every other clip."""
    table = sorted_rows(store)
    keys = table.select(["clip_id", "signal"])
    assert keys.equals(undisturbed.select(["clip_id", "signal"]))
    assert len(set(zip(*keys.to_pydict().values(), strict=True))) == CLIPS
    for name in set(table.column_names) - set(keys.column_names):
        np.testing.assert_allclose(values(table, name), values(undisturbed, name), rtol=1e-5, err_msg=name)
    errors = FeatureStore(store).errors()
    codes = set(zip(errors["clip_id"].to_pylist(), errors["code"].to_pylist(), strict=True))
    assert codes == set(BAD.items())
    assert main(["store", "verify", store, "--clips", clips]) == 0


def values(table: pa.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    return np.asarray(column.flatten() if pa.types.is_nested(column.type) else column, dtype=float)


def record_of(ended: Driver) -> dict[str, Any]:
    """What --json printed; Ray may tell of lost nodes after it, until the process ends."""
    record: dict[str, Any] = json.loads(ended.printed.read_text().splitlines()[0])
    return record


def parts(store: str) -> int:
    return sum(entry.path.endswith(".parquet") for entry in open_filesystem(store).entries("features"))


def wait_until(what: Callable[[], bool], run: Driver, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        if run.process.poll() is not None:
            pytest.fail(f"the run ended before it could be disturbed: {run.end()}")
        assert time.monotonic() < deadline, f"nothing after {limit_s:.0f} s"
        time.sleep(0.1)


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
    clips: Path, undisturbed: pa.Table, s3: S3Server, tmp_path: Path
) -> None:
    listed, random, server = upload(s3, clips), Random(17), FaultyServer()
    s3.choose = server
    arguments = ("--clips", listed, "--store", s3.url, *FEATURES, "--json")
    with raylets() as cluster:
        address = cluster.tell("start")
        alive = [cluster.tell("add") for _ in range(2)]
        with driver(address, tmp_path, *arguments) as run:
            wait_until(lambda: parts(s3.url) > 0, run)
            for _ in range(2):
                victim = random.choice(alive)
                alive.remove(victim)
                cluster.tell("kill", victim)
                server.away_until = time.monotonic() + random.uniform(1, 3)
                alive.append(cluster.tell("add"))
            code, said = run.end()
        assert code == 0, said
        record = record_of(run)
        assert (record["finished"], record["failed"], record["left"]) == (CLIPS + 2, 2, 0)
        assert s3.done
        s3.choose = lambda _method, _path, _number: None
        with driver(address, tmp_path, *arguments) as again:
            code, said = again.end()
        assert record_of(again)["pending"] == 0, said
    assert_undisturbed(s3.url, listed, undisturbed)


def test_a_driver_killed_and_a_head_lost_leave_work_that_a_later_driver_ends_whatever_their_clocks_say(
    clips: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    store, hours = str(tmp_path / "store"), 5 * 3600.0
    arguments = ("--clips", str(clips), "--store", store, *FEATURES, "--json")
    with raylets() as cluster:
        address = cluster.tell("start")
        for _ in range(2):
            cluster.tell("add")
        with driver(address, tmp_path, *arguments, clock_s=hours) as ahead:
            wait_until(lambda: parts(store) > 0, ahead)
        found = parts(store)
        with driver(address, tmp_path, *arguments, clock_s=-hours) as behind:
            wait_until(lambda: parts(store) > found, behind)
            with pytest.raises(LeaseHeld, match=f"host clock -{hours:g}"), acquire_blocks(store, ["placeholder"], "me"):
                pass
            cluster.tell("kill", "head")
            code, said = behind.end()
            assert code not in (0, 2, 3, 4, 5), said
    with raylets() as cluster:
        address = cluster.tell("start")
        for _ in range(2):
            cluster.tell("add")
        with driver(address, tmp_path, *arguments) as last:
            code, said = last.end()
        assert code == 0, said
        assert 0 < record_of(last)["pending"] < CLIPS
    assert_undisturbed(store, str(clips), undisturbed)
