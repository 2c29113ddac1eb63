"""Few large parts in place of many: whenever it stops and whoever reads meanwhile, each key once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import LeaseHeld, StoreInconsistentError
from acoustic_env.store import layout
from acoustic_env.store.compact import compact
from acoustic_env.store.export import export
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.gc import collect_garbage
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.verify import verify
from tests.s3 import S3Server
from tests.store.tables import SIGNALS, FakeBlock, fake_errors, fake_fingerprint, fake_table, missing

FP = fake_fingerprint()
IDS = [f"clip {i * 7 % 30:02d}" for i in range(30)]
PART_BYTES = 700


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
    return store.pieces("fake", dict.fromkeys(SIGNALS, FP), store.joint_schema("fake", {"raw": FP}))


def test_a_compaction_on_s3_survives_faults(s3: S3Server) -> None:
    wanted = fill(s3.url, cut=15).read("fake")
    s3.choose = lambda _method, _path, number: ("throttle", "drop_answer")[number % 2] if number % 15 == 0 else None
    (done,) = compact(s3.url)
    assert (done.rows, done.duplicates, done.before, done.parts) == (60, 8, 3, 1)
    assert len([file for file in collect_garbage(s3.url, 0.0).files if file.path.endswith(".parquet")]) == 3
    assert set(s3.done) == {"throttle", "drop_answer"}
    assert FeatureStore(s3.url).read("fake").equals(wanted)


def test_every_reader_agrees_before_and_after(tmp_path: Path) -> None:
    store = fill(str(tmp_path / "store"))
    clips = clip_table([{"clip_id": clip, "uri": "x"} for clip in [*IDS, "new"]])

    def answers(name: str) -> list[object]:
        export(store, "fake", str(tmp_path / name))
        report = verify(store, clips, read_all=True)
        counts = [(block.rows, block.clips, block.signals, block.counts) for block in report.blocks]
        return [
            (tmp_path / name).read_bytes(),
            report.issues,
            counts,
            missing(store, [*IDS, "new"]),
            store.blocks(),
            store.fingerprints("fake"),
        ]

    before = answers("before.csv")
    list(compact(store.url, part_bytes=PART_BYTES))
    assert answers("after.csv") == before
    collect_garbage(store.url, 0.0)
    assert answers("gc.csv") == before
    store.write_part(fake_table(["new"]))
    assert missing(store, [*IDS, "new"]) == []


def test_parts_are_sorted_by_clip_and_a_clip_is_in_one_of_them(tmp_path: Path) -> None:
    block = FakeBlock(name="framed", frame_hop_s=0.5)
    store = FeatureStore(str(tmp_path))
    ids = [f"clip {i * 7 % 1000:03d}" for i in range(1000)]
    for start in range(0, 1000, 100):
        store.write_part(fake_table(ids[start : start + 100], block=block))
    wanted = store.read("framed")
    list(compact(store.url, part_bytes=100_000))
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
    assert main(["store", "compact", store.url, "--blocks", "fake"]) == 0
    assert f"fake/{FP}: 7 parts -> 1, 60 rows" in capsys.readouterr().out
    assert main(["store", "compact", store.url]) == 0
    assert "nothing to compact" in capsys.readouterr().out
    assert collect_garbage(store.url, 24 * 3600.0).files == []
    assert main(["store", "gc", store.url, "--older-than", "0", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "15 files" in said  # seven parts, each with its manifest, and the base
    assert "would be removed" in said
    assert "no manifest names it" in said
    assert main(["store", "gc", store.url, "--older-than", "0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 15
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert store.read("fake").num_rows == 60
    assert main(["store", "gc", store.url, "--older-than", "-1"]) == 2


def test_the_errors_table_is_merged_too(tmp_path: Path) -> None:
    store = fill(str(tmp_path))
    for number in range(4):
        store.write_errors(fake_errors((f"bad {number}", "source", "not_audio", True, 1)), f"run-1-{number}")
    before = store.errors()
    list(compact(store.url))
    assert len(store.side_entries(layout.ERRORS)) == 1
    assert store.errors().equals(before)


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_ages_are_told_by_the_clock_of_the_store_whatever_those_of_its_writers_say(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, day, clock = str(tmp_path) if place == "disk" else request.getfixturevalue("s3").url, 24 * 3600.0, time.time
    store = fill(url)
    store.filesystem.write(".tmp/half.partial", b"of a writer at work")
    monkeypatch.setattr(time, "time", lambda: clock() + 3 * day)
    list(compact(url))
    assert collect_garbage(url, day).files == []
    monkeypatch.setattr(time, "time", lambda: clock() - 3 * day)
    assert collect_garbage(url, day).files == []
    assert len([file for file in collect_garbage(url, 0.0).files if file.path.endswith(".parquet")]) == 7
    if place == "disk":
        os.utime(tmp_path / ".tmp" / "half.partial", (clock() - 2 * day,) * 2)
        assert ".tmp/half.partial" in [file.path for file in collect_garbage(url, 0.0).files]


def test_a_block_that_another_writer_holds_is_neither_compacted_nor_cleaned(tmp_path: Path) -> None:
    store = fill(str(tmp_path))
    with acquire_blocks(store.url, ["fake"], "extract run-1"):
        with pytest.raises(LeaseHeld, match="'extract run-1'"):
            list(compact(store.url))
        assert "'extract run-1'" in collect_garbage(store.url, 0.0).skipped[0]
    with acquire_blocks(store.url, ["other"], "extract run-2"):
        assert len(list(compact(store.url))) == 1


def test_a_key_with_two_values_and_a_damaged_part_are_no_work_for_compaction(tmp_path: Path) -> None:
    store = fill(str(tmp_path / "two"))
    other = fake_table(IDS[:2])
    store.write_part(other.set_column(2, other.schema.field("x"), pa.array([1.0] * 4)))
    with pytest.raises(StoreInconsistentError, match="has two values; nothing was replaced"):
        list(compact(store.url))
    store = fill(str(tmp_path / "damaged"))
    path = tmp_path / "damaged" / store.parts("fake", FP)[0].path
    path.write_bytes(b"")
    with pytest.raises(StoreInconsistentError, match="its rows are lost"):
        list(compact(store.url))
    assert len(store.parts("fake", FP)) == 7
