"""The table of sources: what is the same audio in another spelling, what is not, and what a damaged table does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.sources import Relocation, parse_relocation
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import UsageError
from acoustic_env.store import sources
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.sources import Admission, record
from acoustic_env.store.verify import verify
from tests.store.tables import FakeBlock, fake_errors, fake_fingerprint, fake_table

Row = tuple[str, str, float | None, float | None]


def clips(*rows: Row) -> pa.Table:
    return clip_table([dict(zip(("clip_id", "uri", "start_s", "end_s"), row, strict=True)) for row in rows])


def admit(
    store: FeatureStore,
    table: pa.Table,
    relocated: Sequence[str] = (),
    listed_in: str = "a list",
    beside: Callable[[], Sequence[str]] = list,
) -> Admission:
    """Compare a short list with the recorded sources."""
    return sources.admit(store, Listed([table]), relocated, listed_in, beside)


def store_of(tmp_path: Path, *rows: Row) -> FeatureStore:
    """A store with rows and sources of the clips."""
    store = FeatureStore(str(tmp_path / "store"))
    record(store, admit(store, clips(*rows)), "run-0")
    store.write_part(fake_table([row[0] for row in rows]))
    return store


def current(store: FeatureStore, *ids: str) -> list[tuple[Any, ...]]:
    """Location and segment of each id's last entry."""
    sources.compare(store, listed := Listed([]))
    last = {row["clip_id"]: row for row in listed.sql("FROM recorded").to_pylist()}
    return [(last[clip_id]["uri"], last[clip_id]["start_s"], last[clip_id]["end_s"]) for clip_id in ids]


@pytest.mark.parametrize(
    ("recorded", "listed"),
    [
        (("/d/a.wav", None, None), ("/d/x/../a.wav", 0.0, None)),
        (("/d/a.wav", 1.0, 2.0), ("file:///d//a.wav", 1.0000001, 2.0)),
        (("a b.wav", None, None), ("./a b.wav", None, None)),
        (("tar://m/1.wav::s.tar", None, None), ("tar://m/1.wav::./x/../s.tar", None, None)),
        (("s3://b/a.wav", None, None), ("s3://b/a.wav", 0.0, None)),
        (
            ("https://h/a.wav?X-Amz-Date=1&X-Amz-Signature=secret", None, None),
            ("https://h/a.wav?X-Amz-Date=2&X-Amz-Signature=other", None, None),
        ),
        (("https://h/get?id=5&Expires=1&Signature=secret", None, None), ("https://h/get?id=5", None, None)),
    ],
)
def test_one_place_in_two_spellings_is_the_same_audio(tmp_path: Path, recorded: Any, listed: Any) -> None:
    store = store_of(tmp_path, ("x", *recorded))
    assert admit(store, clips(("x", *listed))).added == 0
    assert "secret" not in str(current(store, "x"))


@pytest.mark.parametrize(
    ("recorded", "listed"),
    [
        (("/d/a.wav", None, None), ("/d/b.wav", None, None)),
        (("/d/a.wav", None, None), ("/d/a.wav", None, 10.0)),
        (("/d/a.wav", 0.0, 10.0), ("/d/a.wav", 0.001, 10.0)),
        (("tar://1.wav::/d/s.tar", None, None), ("tar://2.wav::/d/s.tar", None, None)),
        (("https://h/get?id=5", None, None), ("https://h/get?id=6", None, None)),
        (("s3://b/a.wav", None, None), ("S3://b/A.wav", None, None)),
        (("audioset://abc/30000", None, None), ("audioset://abd/30000", None, None)),
        (("audioset://abc/30000", None, None), ("/v/abc.m4a", 20.0, 30.0)),
    ],
)
def test_another_file_or_segment_is_refused_with_both_sources(tmp_path: Path, recorded: Any, listed: Any) -> None:
    store = store_of(tmp_path, ("x", *recorded), ("y", "/d/y.wav", None, None))
    with pytest.raises(UsageError, match=r"list\.csv: 1 clips have ids under which .* other audio:\n  x: rows of"):
        admit(store, clips(("y", "/d/y.wav", None, None), ("x", *listed)), listed_in="list.csv")


def test_a_name_without_a_place_takes_the_place_of_a_list_that_has_one(tmp_path: Path) -> None:
    store = store_of(tmp_path, ("abc_30000", "audioset://abc/30000", None, None))
    placed = clips(("abc_30000", "/v/abc.m4a", 30.0, 40.0))
    record(store, admit(store, placed), "run-1")
    assert current(store, "abc_30000") == [("/v/abc.m4a", 30.0, 40.0)]
    named = clips(("abc_30000", "audioset://abc/30000", None, None))
    assert admit(store, named).added == 0, "the place stays"
    with pytest.raises(UsageError, match="other audio"):
        admit(store, clips(("abc_30000", "/w/abc.m4a", 30.0, 40.0)))


def test_a_clip_without_rows_may_have_another_source(tmp_path: Path) -> None:
    store = store_of(tmp_path, ("x", "/d/x.wav", None, None))
    record(store, admit(store, clips(("bad", "/typo/bad.wav", None, None))), "run-1")
    store.write_errors(fake_errors(("bad", "source", "not_audio", True, 1)))
    admission = admit(store, clips(("bad", "/d/bad.wav", None, None), ("x", "/d/x.wav", None, None)))
    assert "1 clips without rows have another source" in admission.lines[0]
    record(store, admission, "run-2")
    assert current(store, "bad", "x") == [("/d/bad.wav", None, None), ("/d/x.wav", None, None)]


def test_relocations_move_whole_folders_files_and_shards(tmp_path: Path) -> None:
    rows: tuple[Row, ...] = (
        ("a", "/old/set/a.wav", None, None),
        ("b", "tar://m/b.wav::/old/set/s.tar", None, None),
        ("c", "/old/setback/c.wav", None, None),
    )
    store = store_of(tmp_path, *rows)
    moved = clips(("a", "s3://n/w/a.wav", None, None), ("b", "tar://m/b.wav::s3://n/w/s.tar", None, None), rows[2])
    with pytest.raises(UsageError, match="--relocated /old/set=s3://n/w"):
        admit(store, moved)
    admission = admit(store, moved, ["/old/set=s3://n/w", "/nothing=/here"])
    assert admission.relocations == [{"old": "/old/set", "new": "s3://n/w", "clips": 2}]
    with pytest.raises(UsageError, match="1 clips"):  # /old/setback is not below /old/set
        admit(store, clips(("c", "s3://n/wback/c.wav", None, None)), ["/old/set=s3://n/w"])
    with pytest.raises(UsageError, match="other audio"):  # the same file moved, another segment
        admit(store, clips(("a", "s3://n/w/a.wav", 0.0, 5.0)), ["/old/set=s3://n/w"])


def test_a_relocation_is_read_where_locations_hold_equals_signs() -> None:
    assert parse_relocation("s3://b/date=1=s3://c/date=1/") == Relocation("s3://b/date=1", "s3://c/date=1")
    assert parse_relocation("/a=b=/c") == Relocation("/a=b", "/c")
    assert parse_relocation("x=y").new == str(Path("y").absolute())
    for wrong in ("/a", "=/b", "/a="):
        with pytest.raises(UsageError, match="expected OLD=NEW"):
            parse_relocation(wrong)


@pytest.mark.parametrize("column", range(5))
def test_a_damaged_part_is_found_and_its_ids_are_adopted_again(tmp_path: Path, column: int) -> None:
    listed = clips(("x", "/d/x.wav", None, None), ("y", "/d/y.wav", None, None))
    store = store_of(tmp_path, ("x", "/d/x.wav", None, None), ("y", "/d/y.wav", None, None))
    (part,) = (tmp_path / "store" / "clips").glob("*.parquet")
    described = pq.read_metadata(part).row_group(0).column(column)
    data = bytearray(part.read_bytes())
    data[described.data_page_offset + described.total_compressed_size // 2] ^= 255
    part.write_bytes(data)
    report = verify(store, listed)
    assert [fault.split(":")[0] for fault in report.issues] == [f"clips/{part.name}"]
    assert report.without_source == 2
    admission = admit(store, listed)
    assert "2 clips have rows but no recorded source" in admission.lines[0]
    record(store, admission, "run-1")
    assert verify(store, listed).issues == []
    assert current(store, "x", "y") == [("/d/x.wav", None, None), ("/d/y.wav", None, None)]
    assert not part.exists()


def test_two_current_sources_of_one_id_are_a_fault(tmp_path: Path) -> None:
    store = store_of(tmp_path, ("x", "/d/x.wav", None, None))
    other = FeatureStore(str(tmp_path / "other"))
    record(other, admit(other, clips(("x", "/d/other.wav", None, None))), "run-1")
    for part in (tmp_path / "other" / "clips").iterdir():  # a writer that had lost its lease
        part.rename(tmp_path / "store" / "clips" / part.name)
    (fault,) = verify(store).issues
    assert "1 clips have two recorded sources: x: " in fault
    for uri in ("/d/x.wav", "/d/other.wav"):
        with pytest.raises(UsageError, match="other audio"):
            admit(store, clips(("x", uri, None, None)))


def test_rows_of_released_embeddings_have_sources_too(tmp_path: Path, test_data: Path) -> None:
    folder = tmp_path / "bal_train"
    folder.mkdir()
    some = sorted((test_data / "audioset" / "embeddings" / "bal_train").glob("*.tfrecord"))[:2]
    for file in some:
        (folder / file.name).symlink_to(file)
    segments, out = str(test_data / "audioset" / "balanced_train_segments.csv"), str(tmp_path / "c.parquet")
    arguments = ["clips", "from-audioset-embeddings", str(folder), "--segments", segments, "--out", out]
    assert main([*arguments, "--store", str(tmp_path / "store")]) == 0
    store = FeatureStore(str(tmp_path / "store"))
    report = verify(store)
    assert report.without_source == 0
    clip_id = store.read("vggish_released", columns=[])["clip_id"][0].as_py()
    ytid, _, start_ms = clip_id.rpartition("_")
    assert current(store, clip_id) == [(f"audioset://{ytid}/{start_ms}", None, None)]
    assert json.loads(json.dumps(report.other_sources)) == []


def test_a_writer_beside_another_may_not_give_its_ids_other_audio(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path))
    with acquire_blocks(store.url, ["indices"], "cpu job") as first:
        record(store, admit(store, clips(("x", "/d/a.wav", None, None)), beside=first.others), "run-1")
        with acquire_blocks(store.url, ["yamnet"], "gpu job") as second:
            same = admit(store, clips(("x", "/d/a.wav", None, None)), beside=second.others)
            assert same.added == 0
            with pytest.raises(UsageError, match=r"whose rows another writer may compute now: 'cpu job'"):
                admit(store, clips(("x", "/d/b.wav", None, None)), beside=second.others)
    with acquire_blocks(store.url, ["yamnet"], "gpu job") as alone:  # the cpu job ended without a row
        assert admit(store, clips(("x", "/d/b.wav", None, None)), beside=alone.others).added == 1


def test_writers_of_two_blocks_side_by_side_leave_every_clip_accounted_for(tmp_path: Path) -> None:
    listed = [f"clip {i}" for i in range(40)]
    blocks = [FakeBlock(name="one"), FakeBlock(name="two")]

    def write(block: FakeBlock) -> None:
        store = FeatureStore(str(tmp_path))
        with acquire_blocks(store.url, [block.name], block.name) as leases:
            for start in range(0, 40, 10):
                leases.check()
                bad, good = listed[start], listed[start + 1 : start + 10]
                version = fake_fingerprint(block)
                store.write_errors(fake_errors((bad, block.name, "compute_failed", True, 1), fingerprint=version))
                store.write_part(fake_table(good, block=block))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, blocks))
    report = verify(FeatureStore(str(tmp_path)), clips(*((clip, "x", None, None) for clip in listed)))
    assert report.issues == []
    assert [(c.rows, c.permanent, c.pending) for block in report.blocks for c in block.counts] == [(36, 4, 0)] * 4
