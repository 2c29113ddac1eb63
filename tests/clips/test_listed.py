"""Clip lists of any length: what is on the disk finds the same clips as the whole list would."""

from __future__ import annotations

import gc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.clips import listed as listed_module
from acoustic_env.clips import table as table_module
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.sources import listed_sources
from acoustic_env.clips.table import clip_table, read_clip_batches, read_clips, write_clips
from acoustic_env.errors import UsageError

IDS = st.lists(st.text(max_size=20), unique=True, max_size=50)


@settings(deadline=None, max_examples=30)
@given(IDS, st.lists(st.text(max_size=20), max_size=30))
def test_a_list_gives_the_positions_that_a_dictionary_gives(ids: list[str], asked: list[str]) -> None:
    position = {clip_id: number for number, clip_id in enumerate(ids)}
    wanted = [*asked, *ids[::-1]]
    found = Listed([pa.table({"clip_id": pa.array(ids, pa.string()), "uri": pa.array(ids, pa.string())}
                             | {name: pa.nulls(len(ids), pa.float64()) for name in ("start_s", "end_s")})])  # fmt: skip
    assert found.positions(pa.chunked_array([pa.array(["skipped", *wanted], pa.string()).slice(1)])).tolist() == [
        position.get(clip_id, -1) for clip_id in wanted
    ]


def test_an_id_in_two_batches_is_named_with_both_rows() -> None:
    batches = [clip_table([{"clip_id": name, "uri": "/a.wav"}]) for name in ("a", "b", "a")]
    with pytest.raises(UsageError, match=r"list\.csv: row 3, column clip_id: 'a' is already in row 1"):
        Listed(batches, "list.csv")


def test_a_list_read_in_batches_has_the_rows_of_the_whole_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "BATCH_CLIPS", 7)
    monkeypatch.setattr(listed_module, "BATCH_CLIPS", 5)
    out = str(tmp_path / "clips.parquet")
    write_clips(clip_table({"clip_id": f"c{i}", "uri": f"/{i}.wav", "start_s": i, "site": "x"} for i in range(30)), out)
    expected = listed_sources(read_clips(out))
    found = Listed(read_clip_batches(out))
    assert found.num_rows == 30
    assert [(rows.start, len(table)) for rows, table in found.tables()] == [(first, 5) for first in range(0, 30, 5)]
    sources = found.sql("SELECT * EXCLUDE row FROM sources ORDER BY row").cast(expected.schema)
    assert sources.equals(expected)
    assert pa.concat_tables([table for _, table in found.tables()])["uri"].to_pylist() == expected["uri"].to_pylist()
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


def test_a_list_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    listed = Listed([clip_table([{"clip_id": "a", "uri": "/a.wav"}])])
    assert len(list(tmp_path.iterdir())) == 1
    del listed
    gc.collect()
    assert not list(tmp_path.iterdir())
