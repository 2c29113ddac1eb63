"""Few large parts in place of many: whenever it stops and whoever reads meanwhile, each key once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import combinations_with_replacement, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import LeaseHeld, StoreInconsistentError
from acoustic_env.io.filesystem import Entry, Filesystem, LocalFilesystem
from acoustic_env.store import compact as compact_module
from acoustic_env.store import gc as gc_module
from acoustic_env.store import layout
from acoustic_env.store.compact import compact
from acoustic_env.store.export import export
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.gc import collect_garbage
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.snapshot import Snapshot, read_snapshot
from acoustic_env.store.verify import verify
from tests.s3 import S3Server
from tests.store.tables import SIGNALS, FakeBlock, fake_fingerprint, fake_table

FP = fake_fingerprint()
FOLDER = layout.block_folder("fake", FP)
IDS = [f"clip {i * 7 % 30:02d}" for i in range(30)]
PART_BYTES = 700
PARTS = 4  # of so many bytes for the clips above


class Killed(BaseException):
    """Stands for SIGKILL at one place of a compaction."""


def fill(url: str, cut: int = 5) -> FeatureStore:
    store = FeatureStore(url)
    for start in range(0, len(IDS), cut):
        store.write_part(fake_table(IDS[start : start + cut]))
    store.write_part(fake_table(IDS[3:7]))  # keys that are in two parts
    return store


def keys(tables: Iterator[pa.Table]) -> list[tuple[str, str]]:
    found = [zip(t["clip_id"].to_pylist(), t["signal"].to_pylist(), strict=True) for t in tables]
    return sorted(key for pairs in found for key in pairs)


def pieces(store: FeatureStore) -> Iterator[pa.Table]:
    return store.pieces("fake", dict.fromkeys(SIGNALS, FP), store.schema("fake", FP))


@contextmanager
def steps(call: Callable[[int], None]) -> Iterator[None]:
    """Call a function before and after each write of a part and each change of a snapshot."""
    number = 0

    def wrapped(of: object, name: str) -> None:
        real = getattr(of, name)

        def step(*arguments: object) -> object:
            nonlocal number
            if name == "write" and not layout.is_part(str(arguments[1])):
                return real(*arguments)
            call(number := number + 1)
            result = real(*arguments)
            call(number := number + 1)
            return result

        patch.setattr(of, name, step)

    with pytest.MonkeyPatch.context() as patch:
        wrapped(compact_module, "change_snapshot")
        wrapped(gc_module, "change_snapshot")
        wrapped(LocalFilesystem, "write")
        wrapped(Filesystem, "write")
        yield


def kill_at(step: int) -> Callable[[int], None]:
    def call(number: int) -> None:
        if number == step:
            raise Killed

    return call


def count_steps(url: str) -> int:
    counted = []
    with steps(counted.append):
        list(compact(url, part_bytes=PART_BYTES))
    return len(counted)


def check_killed_at_steps(url: str, every: int) -> None:
    wanted = fill(url).read("fake")
    last = count_steps(url)
    assert last == 2 * (2 + PARTS)
    for step in range(1, last + 1, every):
        store = fill(f"{url}-{step}", cut=15)
        with suppress(Killed), steps(kill_at(step)):
            list(compact(store.url, part_bytes=PART_BYTES))
        assert store.read("fake").equals(wanted)
        list(compact(store.url, part_bytes=PART_BYTES))
        assert keys(pieces(store)) == sorted((clip, signal) for clip in IDS for signal in SIGNALS)
        assert store.read("fake").equals(wanted)
        assert len(store.parts("fake", FP)) == PARTS


def test_a_compaction_killed_at_any_step_goes_on_on_a_disk(tmp_path: Path) -> None:
    check_killed_at_steps(str(tmp_path / "store"), every=1)


@pytest.mark.slow
def test_a_killed_compaction_goes_on_on_s3(s3: S3Server) -> None:
    check_killed_at_steps(s3.url, every=4)


def test_a_compaction_on_s3_survives_faults(s3: S3Server) -> None:
    wanted = fill(s3.url, cut=15).read("fake")
    s3.choose = lambda _method, _path, number: ("throttle", "drop_answer")[number % 2] if number % 15 == 0 else None
    (done,) = compact(s3.url)
    assert (done.rows, done.duplicates, done.before, done.parts) == (60, 8, 3, 1)
    assert len(collect_garbage(s3.url, 0.0).files) == 3
    assert set(s3.done) == {"throttle", "drop_answer"}
    assert FeatureStore(s3.url).read("fake").equals(wanted)


def test_what_a_killed_compaction_wrote_is_taken_over(tmp_path: Path) -> None:
    store = fill(str(tmp_path))
    last = count_steps(fill(f"{tmp_path}-count").url)
    with suppress(Killed), steps(kill_at(last - 1)):
        list(compact(store.url, part_bytes=PART_BYTES))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("part-*.parquet")}
    list(compact(store.url, part_bytes=PART_BYTES))
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("part-*.parquet")} == before


def test_a_reader_beside_compactions_sees_each_key_once(tmp_path: Path) -> None:
    store = fill(str(tmp_path))
    list(compact(store.url, part_bytes=PART_BYTES))
    done = sorted((clip, signal) for clip in IDS for signal in SIGNALS)
    ended = threading.Event()
    seen: list[list[tuple[str, str]]] = []

    def read() -> None:
        while not ended.is_set():
            seen.append(keys(pieces(store)))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(5):
            store.write_part(fake_table([f"new {number}"]))
            list(compact(store.url, part_bytes=PART_BYTES + 50 * number))
    finally:
        ended.set()
        thread.join(timeout=30)
    assert len(seen) > 2
    for found in seen:
        assert [key for key in found if not key[0].startswith("new")] == done
        assert len(set(found)) == len(found)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.just("write"), st.just("gc"), st.integers(0, 20)), min_size=2, max_size=7))
@example([4, "write", "gc", 0])
def test_a_reader_that_lists_at_any_step_and_reads_the_snapshot_at_any_later_one_sees_each_key_once(
    actions: list[str | int],
) -> None:
    """A number is a compaction that is killed at this step, if it has so many."""
    store = FeatureStore(f"memory://steps-{time.time_ns()}")
    content: dict[str, list[tuple[str, str]]] = {}
    observed: list[tuple[list[Entry], Snapshot, int]] = []
    collected = 0

    def observe(_: int = 0) -> None:
        listed = store.filesystem.entries(FOLDER)
        for entry in listed:
            if layout.is_part(entry.path) and entry.path not in content:
                part = store.scan_one(entry, ["clip_id", "signal"])
                content[entry.path] = keys(iter([part.table]))  # type: ignore[union-attr]
        observed.append((listed, read_snapshot(store.filesystem, FOLDER), collected))

    for number, action in enumerate(["write", "write", *actions]):
        with suppress(Killed), steps(lambda step, action=action: (observe(), kill_at(action)(step))):  # type: ignore[misc]
            if action == "write":
                store.write_part(fake_table([f"clip {number}", f"clip {number} too"]))
            elif action == "gc":
                collected += 1
                collect_garbage(store.url, 0.0)
            else:
                list(compact(store.url, part_bytes=150))
    observe()
    for (listed, then, gc_then), (_, snapshot, gc_now) in combinations_with_replacement(observed, 2):
        if gc_now - gc_then < 2:  # a reader between the two is slower than two runs of gc
            found = sorted(key for entry in snapshot.visible(listed, FOLDER) for key in content[entry.path])
            at_least = {key for entry in then.visible(listed, FOLDER) for key in content[entry.path]}
            assert len(set(found)) == len(found)
            assert at_least <= set(found)


def test_every_reader_agrees_before_and_after(tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"))
    clips = clip_table([{"clip_id": clip, "uri": "x"} for clip in [*IDS, "new"]])

    def answers(name: str) -> list[object]:
        export(store, "fake", str(tmp_path / name))
        report = verify(store, clips, read_all=True)
        missing = store.missing([*IDS, "new"], SIGNALS, "fake", FP).to_pylist()
        counts = [(block.rows, block.clips, block.signals, block.counts) for block in report.blocks]
        return [
            (tmp_path / name).read_bytes(),
            report.issues,
            counts,
            missing,
            store.blocks(),
            store.fingerprints("fake"),
        ]

    before = answers("before.csv")
    list(compact(store.url, part_bytes=PART_BYTES))
    assert answers("after.csv") == before
    collect_garbage(store.url, 0.0)
    assert answers("gc.csv") == before
    store.write_part(fake_table(["new"]))
    assert store.missing([*IDS, "new"], SIGNALS, "fake", FP).num_rows == 0


def test_parts_are_sorted_by_clip_and_a_clip_is_in_one_of_them(tmp_path: Path) -> None:
    block = FakeBlock(name="framed", frame_hop_s=0.5)
    store = FeatureStore(str(tmp_path))
    for start in range(0, 30, 5):
        store.write_part(fake_table(IDS[start : start + 5], block=block))
    wanted = store.read("framed")
    list(compact(store.url, part_bytes=1500))
    collect_garbage(store.url, 0.0)
    parts = [pq.read_table(file)["clip_id"].to_pylist() for file in tmp_path.rglob("part-*.parquet")]
    ranges = sorted((ids[0], ids[-1]) for ids in parts)
    assert len(ranges) > 3
    assert all(ids == sorted(ids) for ids in parts)
    assert all(one[1] < other[0] for one, other in pairwise(ranges))
    assert store.read("framed").equals(wanted)


def test_old_parts_stay_for_a_day_and_gc_says_what_it_removes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(str(tmp_path))
    assert main(["store", "compact", store.url, "--block", "fake"]) == 0
    assert f"fake/{FP}: 60 rows, 7 parts -> 1, 8 repeated rows left out" in capsys.readouterr().out
    assert main(["store", "compact", store.url]) == 0
    assert "nothing to compact" in capsys.readouterr().out
    assert collect_garbage(store.url, 24 * 3600.0).files == []
    store.filesystem.write("set-aside/features/x/part-1.parquet", b"damaged")
    assert main(["store", "gc", store.url, "--older-than", "0", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 files" in said
    assert "would be removed" in said
    assert "replaced by a compaction" in said
    assert main(["store", "gc", store.url, "--older-than", "0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 8
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert store.read("fake").num_rows == 60
    assert main(["store", "gc", store.url, "--older-than", "-1"]) == 2


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_ages_are_told_by_the_clock_of_the_store_whatever_those_of_its_writers_say(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, day, clock = str(tmp_path) if place == "disk" else request.getfixturevalue("s3").url, 24 * 3600.0, time.time
    store = fill(url)
    store.filesystem.write(".tmp/half.partial", b"of a writer at work")
    monkeypatch.setattr(time, "time", lambda: clock() + 3 * day)
    list(compact(url))
    assert store.clean_up(["fake"]) == []
    assert collect_garbage(url, day).files == []
    monkeypatch.setattr(time, "time", lambda: clock() - 3 * day)
    assert collect_garbage(url, day).files == []
    assert len(collect_garbage(url, 0.0).files) == 7
    if place == "disk":
        os.utime(tmp_path / ".tmp" / "half.partial", (clock() - 2 * day,) * 2)
        assert len(store.clean_up(["fake"])) == 1


def test_a_block_that_another_writer_holds_is_neither_compacted_nor_cleaned(tmp_path: Path) -> None:
    store = fill(str(tmp_path))
    with acquire_blocks(store.url, ["fake"], "extract run-1"):
        with pytest.raises(LeaseHeld, match="'extract run-1'"):
            list(compact(store.url))
        assert "'extract run-1'" in collect_garbage(store.url, 0.0).skipped[0]
    with acquire_blocks(store.url, ["other"], "extract run-2"):
        assert len(list(compact(store.url))) == 1


def test_a_damaged_compacted_part_gives_the_old_parts_back(tmp_path: Path) -> None:
    store = fill(str(tmp_path))
    wanted = store.read("fake")
    list(compact(store.url, part_bytes=PART_BYTES))
    damaged = tmp_path / store.parts("fake", FP)[2].path
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert collect_garbage(store.url, 0.0).files == []  # the old parts are all there is
    assert store.missing(IDS, SIGNALS, "fake", FP).num_rows > 0
    assert len(store.clean_up(["fake"])) == 1
    assert store.missing(IDS, SIGNALS, "fake", FP).num_rows == 0
    assert store.read("fake").equals(wanted)


def test_rows_of_a_damaged_part_are_computed_again_under_their_old_names(tmp_path: Path) -> None:
    store = fill(str(tmp_path))
    wanted = store.read("fake")
    list(compact(store.url))
    collect_garbage(store.url, 0.0)
    (tmp_path / store.parts("fake", FP)[0].path).unlink()
    assert store.missing(IDS, SIGNALS, "fake", FP).num_rows == 60
    store.clean_up(["fake"])
    fill(str(tmp_path))
    assert store.missing(IDS, SIGNALS, "fake", FP).num_rows == 0
    assert store.read("fake").equals(wanted)


def test_a_key_with_two_values_and_a_damaged_part_are_no_work_for_compaction(tmp_path: Path) -> None:
    store = fill(str(tmp_path / "two"))
    other = fake_table(IDS[:2])
    store.write_part(other.set_column(2, other.schema.field("x"), pa.array([1.0] * 4)))
    with pytest.raises(StoreInconsistentError, match="a key has two values of x; nothing was replaced"):
        list(compact(store.url))
    store = fill(str(tmp_path / "damaged"))
    path = tmp_path / "damaged" / store.parts("fake", FP)[0].path
    path.write_bytes(b"")
    with pytest.raises(StoreInconsistentError, match="nothing was replaced"):
        list(compact(store.url))
    assert len(store.parts("fake", FP)) == 7
