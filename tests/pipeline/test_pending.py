"""The pending list holds what clips lack, once, in tasks bounded by seconds of audio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import UsageError
from acoustic_env.pipeline.pending import cut_tasks, measure, pending_rows, read_tasks, remove_leftovers, stored
from acoustic_env.pipeline.task import ASSUMED_S, WORK_SCHEMA, unpack
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.schema import ERROR_SCHEMA
from tests.pipeline.tasks import pending
from tests.store.tables import fake_errors

NO_ERRORS = ERROR_SCHEMA.empty_table()


def rows(seconds: list[float | None], shards: list[int | None] | None = None) -> pa.Table:
    shards = shards or [None] * len(seconds)
    return pa.Table.from_pylist(
        [
            {"clip_id": f"c{i}", "uri": f"tar://{i}::/{shard}.tar", "need": 1, "attempt": 1, "seconds": length}
            | ({} if shard is None else {"byte_offset": i, "byte_size": 1})
            for i, (length, shard) in enumerate(zip(seconds, shards, strict=True))
        ],
        WORK_SCHEMA,
    )


@pytest.mark.parametrize("at_once", [1, 9, 100])
def test_it_holds_every_clip_that_lacks_something_once(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acoustic_env.pipeline.pending.FILE_CLIPS", at_once)
    clips = clip_table({"clip_id": f"c{i}", "uri": f"/{i}.wav", "start_s": 1.0} for i in range(40))
    need = np.arange(len(clips)) % 3
    found = pending(clips, need, fake_errors(("c4", "source", "unreachable", False, 3)))
    assert found["clip_id"].to_pylist() == [f"c{i}" for i in range(40) if i % 3]
    assert found["need"].to_pylist() == [i % 3 for i in range(40) if i % 3]
    assert {row["clip_id"]: row["attempt"] for row in found.to_pylist() if row["attempt"] > 1} == {"c4": 4}
    assert len(pending(clips, need * 0)) == 0


def test_a_clip_is_as_long_as_its_segment_or_as_the_list_says() -> None:
    clips = clip_table(
        [
            {"clip_id": "a", "uri": "/a.wav", "start_s": 2.0, "end_s": 5.0, "duration_s": 9.0},
            {"clip_id": "b", "uri": "/b.wav", "duration_s": 9.0},
            {"clip_id": "c", "uri": "/c.wav"},
            {"clip_id": "d", "uri": "/d.wav", "duration_s": 0.0},
        ]
    )
    assert pending(clips)["seconds"].to_pylist() == [3.0, 9.0, None, None]
    figures = measure(Listed([clips]), np.ones(4, np.int64), NO_ERRORS)
    assert (figures.clips, figures.seconds, figures.longest_s) == (4, 12.0 + 2 * ASSUMED_S, 9.0)


def test_clips_too_short_to_count_by_seconds_still_fill_a_task() -> None:
    assert [len(task.clips) for task in unpack(cut_tasks(rows([1e-9] * 10), 8.0, least_s=2.0))] == [4, 4, 2]


@pytest.mark.parametrize(
    ("uri", "secret"),
    [("/data/a?token=x.wav", False), ("https://host/a.wav?v=1", False), ("https://host/a.wav?token=x", True)],
)
def test_it_knows_where_urls_hold_credentials(uri: str, secret: bool) -> None:
    listed = Listed([clip_table([{"clip_id": "a", "uri": uri}])])
    assert measure(listed, np.ones(1, np.int64), NO_ERRORS).secret == secret


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(0.1, 7200), min_size=1, max_size=60), st.floats(1, 5000))
def test_no_task_has_more_seconds_than_allowed_unless_one_clip_has(seconds: list[float | None], task_s: float) -> None:
    tasks = unpack(cut_tasks(rows(seconds), task_s))
    assert sorted(clip for task in tasks for clip in task.clips["clip_id"].to_pylist()) == sorted(
        f"c{i}" for i in range(len(seconds))
    )
    for task in tasks:
        lengths = [ASSUMED_S if length is None else length for length in task.clips["seconds"].to_pylist()]
        assert len(lengths) == 1 or sum(lengths) <= task_s * (1 + 1e-6)


def test_clips_of_like_length_share_a_task_the_longest_first_and_neighbors_of_a_shard_follow_one_another() -> None:
    lengths = [task.clips["seconds"].to_pylist() for task in unpack(cut_tasks(rows([10.0, 1.0, 10.0, 1.0]), 10.0))]
    assert lengths == [[10.0], [10.0], [1.0, 1.0]]
    tasks = unpack(cut_tasks(rows([5.0, 4.0, 3.0, 2.0], [1, 2, 1, 2]), 100.0))
    assert [task.clips["clip_id"].to_pylist() for task in tasks] == [["c0", "c2", "c1", "c3"]]


def test_files_read_back_as_they_were_written_and_are_gone_in_the_end(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path))
    tables = [cut_tasks(rows([10.0] * 5), 20.0), cut_tasks(rows([1.0]), 20.0)]
    with stored(store, "run-1", tables) as files:
        assert list(files.values()) == [3, 1]
        assert [read_tasks(store.url, path).equals(table) for path, table in zip(files, tables, strict=True)] == [
            True
        ] * 2
        assert all(path.startswith("runs/run-1/pending/") for path in files)
    assert not list(tmp_path.glob("runs/run-1/pending/*"))


def test_a_pending_list_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    def tables() -> Iterator[pa.Table]:
        yield cut_tasks(rows([10.0]), 20.0)
        raise UsageError("disk full")

    with pytest.raises(UsageError), stored(FeatureStore(str(tmp_path)), "run-1", tables()):
        pass
    assert not list(tmp_path.glob("runs/run-1/pending/*"))


def test_files_of_a_killed_run_are_removed_and_those_of_a_run_beside_this_one_stay(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path))
    for run in ("killed", "beside"):
        store.filesystem.write(f"runs/{run}/pending/part-00000.parquet", b"")
        store.write_run(run, {})
    with acquire_blocks(store.url, ["mps"], "extract beside"), acquire_blocks(store.url, ["indices"], "own") as leases:
        remove_leftovers(store, leases.others)
    files = {str(path.relative_to(tmp_path / "runs")) for path in tmp_path.glob("runs/*/**/*.*")}
    assert files == {"killed/record.json", "beside/record.json", "beside/pending/part-00000.parquet"}


def test_rows_of_a_long_list_come_file_by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acoustic_env.pipeline.pending.FILE_CLIPS", 3)
    clips = clip_table({"clip_id": f"c{i}", "uri": f"/{i}.wav"} for i in range(8))
    found = pending_rows(Listed([clips]), np.ones(8, np.int64), NO_ERRORS)
    assert [len(table) for table in found] == [3, 3, 2]
