"""Clip lists of any length: what is held in memory finds the same clips as the whole list would."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.clips import listed as listed_module
from acoustic_env.clips import table as table_module
from acoustic_env.clips.listed import IdIndex, Listed, hash_sources, hash_strings
from acoustic_env.clips.sources import listed_sources
from acoustic_env.clips.table import clip_table, read_clip_batches, read_clips, write_clips
from acoustic_env.errors import UsageError
from acoustic_env.io.spool import Spool

IDS = st.lists(st.text(max_size=20), unique=True, max_size=50)


@settings(deadline=None)
@given(IDS, st.lists(st.text(max_size=20), max_size=30))
def test_an_index_gives_the_positions_that_a_dictionary_gives(ids: list[str], asked: list[str]) -> None:
    position = {clip_id: number for number, clip_id in enumerate(ids)}
    chunks = pa.chunked_array([pa.array(ids[:7], pa.string()), pa.array(ids[7:], pa.string())])
    wanted = [*asked, *ids[::-1]]
    found = IdIndex(chunks).positions(pa.chunked_array([pa.array(["skipped", *wanted], pa.string()).slice(1)]))
    assert found.tolist() == [position.get(clip_id, -1) for clip_id in wanted]


def test_ids_whose_hashes_collide_are_still_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    real = hash_strings

    def colliding(values: pa.Array, seed: int = 0) -> np.ndarray:
        return real(values, seed) % np.uint64(3 if seed == 0 else 2**60)

    monkeypatch.setattr(listed_module, "hash_strings", colliding)
    index = IdIndex(pa.chunked_array([[f"clip {i}" for i in range(20)]]))
    assert index.positions(pa.array(["clip 7", "other", "clip 19"])).tolist() == [7, -1, 19]


def test_an_id_in_two_batches_is_named_with_both_rows() -> None:
    batches = [clip_table([{"clip_id": name, "uri": "/a.wav"}]) for name in ("a", "b", "a")]
    with pytest.raises(UsageError, match=r"list\.csv: row 3, column clip_id: 'a' is already in row 1"):
        Listed(batches, "list.csv")


def test_hashes_of_sources_differ_where_the_audio_does() -> None:
    rows = [
        ("/a.wav", None, None),
        ("/a.wav", 1.0, None),
        ("/a.wav", None, 1.0),
        ("/b.wav", None, None),
        ("", 1.0, 1.0),
    ]
    table = pa.table(
        {"clip_id": [str(i) for i in range(5)], "uri": [row[0] for row in rows]}
        | {name: pa.array([row[i] for row in rows], pa.float64()) for i, name in ((1, "start_s"), (2, "end_s"))}
    )
    assert len(set(hash_sources(table).tolist())) == 5
    whole = table.set_column(2, "start_s", pa.array([0.0, 1.0, 0.0, 0.0, 1.0]))
    assert (hash_sources(whole) == hash_sources(table)).all()


def test_a_list_read_in_batches_has_the_rows_of_the_whole_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BATCH_CLIPS", 7)
    monkeypatch.setattr(listed_module, "BATCH_CLIPS", 5)
    out = str(tmp_path / "clips.parquet")
    write_clips(clip_table({"clip_id": f"c{i}", "uri": f"/{i}.wav", "start_s": i, "site": "x"} for i in range(30)), out)
    expected = listed_sources(read_clips(out))
    found = Listed(read_clip_batches(out))
    assert found.num_rows == 30
    assert [rows.start for rows, _ in found.tables()] == [0, 5, 7, 12, 14, 19, 21, 26, 28]
    assert found.take(np.array([29, 3, 3, 12])).equals(expected.take([29, 3, 3, 12]))
    assert Listed(read_clip_batches(out), limit=13).num_rows == 13


def test_a_bad_row_of_a_later_batch_is_named_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BATCH_CLIPS", 4)
    out = tmp_path / "clips.parquet"
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"clip_id": [f"c{i}" for i in range(9)], "uri": ["/a.wav"] * 6 + [""] + ["/b.wav"] * 2}), out
    )
    with pytest.raises(UsageError, match="row 7, column uri: is empty"):
        list(read_clip_batches(str(out)))


def test_a_spool_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool(pa.schema([("n", pa.int64())]))
    spool.append(pa.table({"n": [1]}))
    assert [table.num_rows for table in spool.tables()] == [table.num_rows for table in spool.tables()] == [1]
    assert len(list(tmp_path.iterdir())) == 1
    del spool
    gc.collect()
    assert not list(tmp_path.iterdir())
