"""What is done is what can be read back."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pytest

from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import LocalFilesystem
from acoustic_env.io.retry import StoreError
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.verify import verify
from tests.store.tables import SIGNALS, FakeBlock, fake_errors, fake_fingerprint, fake_table, missing

FP = fake_fingerprint()


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(str(tmp_path / "a store"))


def file_of(store: FeatureStore, path: str) -> Path:
    assert isinstance(store.filesystem, LocalFilesystem)
    return store.filesystem.folder / path


def keys(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["clip_id"].to_pylist(), table["signal"].to_pylist(), strict=True))


def test_the_same_rows_in_any_order_are_the_same_file(store: FeatureStore) -> None:
    first = store.write_part(fake_table(["b", "a", "c"]))
    data = file_of(store, first).read_bytes()
    second = store.write_part(fake_table(["c", "b", "a"], ("fg", "raw")))
    assert first == second
    assert file_of(store, second).read_bytes() == data


def test_other_rows_or_another_fingerprint_are_another_file(store: FeatureStore) -> None:
    paths = {
        store.write_part(fake_table(["a"])),
        store.write_part(fake_table(["b"])),
        store.write_part(fake_table(["a", "b"])),
        store.write_part(fake_table(["a"], ["raw"])),
        store.write_part(fake_table(["a"], block=FakeBlock(scale=2.0))),
    }
    assert len(paths) == 5
    assert all(Path(path).name.startswith("part-") for path in paths)


def test_ids_that_only_join_to_the_same_text_do_not_share_a_name(store: FeatureStore) -> None:
    assert store.write_part(fake_table(["ab", "c"])) != store.write_part(fake_table(["a", "bc"]))


def test_rows_come_back_once_each_in_key_order_with_nulls_and_metadata(store: FeatureStore) -> None:
    store.write_part(fake_table(["z", "silent"]))
    store.write_part(fake_table(["a"]))
    table = store.read("fake")
    assert keys(table) == [(c, s) for c in ("a", "silent", "z") for s in ("fg", "raw")]
    assert table["x"].to_pylist()[2:4] == [None, None]
    assert table.schema.equals(fake_table(["a"]).schema, check_metadata=True)


def test_read_takes_only_what_was_asked_for(store: FeatureStore) -> None:
    store.write_part(fake_table(["a", "b"]))
    store.write_part(fake_table(["c", "d"]))
    table = store.read("fake", signals=["raw"], columns=["v"], clip_ids=["d", "a", "unknown"])
    assert keys(table) == [("a", "raw"), ("d", "raw")]
    assert table.column_names == ["clip_id", "signal", "v"]
    with pytest.raises(UsageError, match="no column 'w'; expected one of: clip_id, signal, x, v"):
        store.read("fake", columns=["w"])
    with pytest.raises(UsageError, match=r"holds no block 'other' \(there: fake\)"):
        store.read("other")


def test_a_key_in_two_parts_is_read_once_and_its_values_compared(store: FeatureStore) -> None:
    store.write_part(fake_table(["a", "b"]))
    store.write_part(fake_table(["b", "c"]))
    assert keys(store.read("fake")) == [(c, s) for c in "abc" for s in ("fg", "raw")]
    assert store.committed_keys("fake", FP).num_rows == 6
    report = verify(store)
    assert not report.issues
    assert report.blocks[0].duplicates == 2
    other = fake_table(["c"])
    store.write_part(other.set_column(2, other.schema.field("x"), pa.array([1.0, None])))
    (fault,) = verify(store).issues
    assert "2 of them with different values" in fault


def test_two_versions_of_a_block_do_not_mix(store: FeatureStore) -> None:
    store.write_part(fake_table(["a"]))
    loud = FakeBlock(scale=2.0)
    store.write_part(fake_table(["a"], block=loud))
    with pytest.raises(UsageError, match="several versions") as raised:
        store.read("fake")
    assert FP in str(raised.value)
    assert fake_fingerprint(loud) in str(raised.value)
    one, two = store.read("fake", FP), store.read("fake", fake_fingerprint(loud)[:8])
    assert two["x"].to_pylist() == [2 * x for x in one["x"].to_pylist()]
    assert [version.parameters for version in store.fingerprints("fake")] in (
        [{"scale": 1.0}, {"scale": 2.0}],
        [{"scale": 2.0}, {"scale": 1.0}],
    )


def test_a_chosen_version_is_that_of_its_signals_and_the_other_signals_have_their_only_one(store: FeatureStore) -> None:
    raw, fg, other = (FakeBlock(scale=scale) for scale in (1.0, 2.0, 3.0))
    for block, signal in ((raw, "raw"), (fg, "fg"), (other, "fg")):
        store.write_part(fake_table(["a"], [signal], block))
    prints = [fake_fingerprint(block) for block in (raw, fg, other)]
    with pytest.raises(UsageError, match="several versions for signal fg"):
        store.resolve("fake")
    assert store.resolve("fake", ["raw"]) == {"raw": prints[0]}
    assert store.resolve("fake", None, [prints[2]]) == {"raw": prints[0], "fg": prints[2]}
    joined = store.read("fake", store.resolve("fake", None, [prints[2]]))
    assert keys(joined) == [("a", "fg"), ("a", "raw")]
    assert keys(store.read("fake", prints[0])) == [("a", "raw")]


def test_a_table_with_several_frames_a_clip_keeps_them_all(store: FeatureStore) -> None:
    block = FakeBlock(name="framed", frame_hop_s=0.5)
    fingerprint = fake_fingerprint(block)
    store.write_part(fake_table(["b", "a"], block=block))
    store.write_part(fake_table(["a", "c"], block=block))
    table = store.read("framed")
    assert table["frame"].to_pylist() == [0, 1, 2] * 6
    assert store.committed_keys("framed", fingerprint).num_rows == 6
    report = verify(store)
    assert not report.issues
    assert (report.blocks[0].rows, report.blocks[0].clips, report.blocks[0].duplicates) == (18, 3, 6)


def test_a_repeated_or_empty_key_is_refused(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="is twice in one part"):
        store.write_part(fake_table(["a", "a"]))
    with pytest.raises(ValueError, match="needs rows"):
        store.write_part(fake_table([]))
    assert not file_of(store, "").exists()


def test_missing_is_the_list_without_rows_and_permanent_errors(store: FeatureStore) -> None:
    store.write_part(fake_table(["done"]))
    store.write_part(fake_table(["half"], ["raw"]))
    store.write_errors(
        fake_errors(
            ("broken", "source", "not_audio", True, 1),
            ("refused", "fake", "compute_failed", True, 1),
            ("slow", "source", "download_failed", False, 1),
            ("elsewhere", "other", "compute_failed", True, 1),
        )
    )
    listed = ["slow", "half", "done", "broken", "refused", "elsewhere", "new"]
    assert missing(store, listed) == [(c, "raw") for c in ("slow", "elsewhere", "new")] + [
        (c, "fg") for c in ("slow", "half", "elsewhere", "new")
    ]
    again = missing(store, listed, ["raw"], retry_errors=True)
    assert again == [(c, "raw") for c in ("slow", "broken", "refused", "elsewhere", "new")]


def test_the_last_attempt_at_a_subject_says_whether_its_error_is_final(store: FeatureStore) -> None:
    store.write_errors(
        fake_errors(
            ("now passing", "fake", "compute_failed", True, 1),
            ("decoded since", "source", "decode_failed", True, 1),
            ("worse", "source", "download_failed", False, 1),
            ("refused once", "fake", "compute_failed", True, 1),
        )
    )
    store.write_errors(
        fake_errors(
            ("now passing", "fake", "out_of_memory", False, 2),
            ("decoded since", "source", "resolved", False, 2),
            ("worse", "source", "not_audio", True, 2),
            ("refused once", "source", "download_failed", False, 2),
            run_id="run-2",
        )
    )
    found = missing(store, ["now passing", "decoded since", "worse", "refused once"], ["raw"])
    assert [clip for clip, _ in found] == ["now passing", "decoded since"]


def test_an_error_is_of_one_version_signal_and_source(store: FeatureStore) -> None:
    store.write_errors(fake_errors(("a", "fake", "compute_failed", True, 1)).slice(0, 1))  # of raw
    store.write_errors(fake_errors(("b", "source", "empty", True, 1)))
    assert missing(store, ["a", "b"]) == [("a", "fg")]
    assert missing(store, ["a", "b"], fingerprint="0" * 16) == [("a", "raw"), ("a", "fg")]
    assert missing(store, ["a", "b"], ["raw"], "other") == [("a", "raw")]
    assert missing(store, ["a", "b"], ["raw"], uri="another file") == [("a", "raw"), ("b", "raw")]


def test_an_empty_store_misses_everything(store: FeatureStore) -> None:
    assert len(missing(store, ["a", "b"])) == 4
    assert store.errors().num_rows == 0
    assert store.runs() == []
    assert not file_of(store, "").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "not parquet", "footer cut"])
def test_a_damaged_part_is_named_and_computed_again(
    store: FeatureStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fake_table(["a", "b"])
    path = store.write_part(whole)
    store.write_part(fake_table(["c"]))
    file = file_of(store, path)
    data = file.read_bytes()
    file.write_bytes(
        {"truncated": data[: len(data) // 2], "empty": b"", "not parquet": b"x" * 999, "footer cut": data[:-1]}[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert missing(store, ["a", "b", "c"]) == [(c, s) for s in SIGNALS for c in ("a", "b")]
    assert path in caplog.text
    assert any(path in fault for fault in verify(store).issues)
    with pytest.raises(StoreInconsistentError, match=f"{path}.*its rows are lost"):
        store.read("fake")
    (line,) = store.begin("fake", FP, 1)
    assert path in line
    assert "4 rows of clips a to b are lost" in line
    store.write_part(fake_table(["a"]), 1)  # computed again, cut otherwise
    store.write_part(fake_table(["b"]), 1)
    assert not verify(store).issues
    assert store.read("fake").num_rows == 6


def test_a_part_that_is_gone_is_named_and_counted_as_lost(store: FeatureStore) -> None:
    """Three of four parts deleted: every clip was accounted for, exit 0."""
    paths = [store.write_part(fake_table([clip])) for clip in "abcd"]
    for path in paths[:3]:
        file_of(store, path).unlink()
    issues = verify(store).issues
    assert [any(path in issue for issue in issues) for path in paths] == [True, True, True, False]
    assert [clip for clip, _ in missing(store, list("abcd"), ["raw"])] == ["a", "b", "c"]


def test_damage_inside_a_column_is_found_by_reading_all(store: FeatureStore) -> None:
    path = store.write_part(fake_table([f"clip-{i}" for i in range(50)]))
    file = file_of(store, path)
    data = bytearray(file.read_bytes())
    import pyarrow.parquet as pq

    column = pq.ParquetFile(file).metadata.row_group(0).column(3)
    end = column.data_page_offset + column.total_compressed_size
    data[end - 4] ^= 0xFF
    file.write_bytes(bytes(data))
    assert not verify(store).issues
    assert any(path in fault for fault in verify(store, read_all=True).issues)
    with pytest.raises(StoreInconsistentError, match=path):
        store.read("fake")


def test_a_part_in_the_wrong_folder_does_not_count(store: FeatureStore) -> None:
    path = store.write_part(fake_table(["a"], block=FakeBlock(scale=2.0)))
    right = file_of(store, store.write_part(fake_table(["a"])))
    right.write_bytes(file_of(store, path).read_bytes())
    assert missing(store, ["a"], ["raw"]) == [("a", "raw")]
    assert any("its metadata name fake/" in fault for fault in verify(store).issues)


def test_errors_and_runs_come_back_and_a_repeated_write_stands_once(store: FeatureStore) -> None:
    errors = fake_errors(("b", "source", "empty", True, 1), ("a", "source", "not_found", False, 1))
    assert store.write_errors(errors, "slice") == store.write_errors(errors.take([1, 0]), "slice")
    store.write_errors(errors)
    assert store.errors()["clip_id"].to_pylist() == ["a", "b"]
    store.write_run("2", {"run_id": "2", "rows": {"fake": 3}})
    store.write_run("1", {"run_id": "1"})
    assert [run["run_id"] for run in store.runs()] == ["1", "2"]
    with pytest.raises(UsageError):
        store.write_run("../escape", {})


def test_a_store_in_memory_is_a_store(request: pytest.FixtureRequest) -> None:
    store = FeatureStore(f"memory://{request.node.name}")
    store.write_part(fake_table(["a"]))
    assert store.read("fake", clip_ids=["a"]).num_rows == 2
    assert missing(store, ["a", "b"], ["raw"]) == [("b", "raw")]


def test_a_protocol_nobody_knows_is_said_so() -> None:
    with pytest.raises(StoreError, match="nosuch://x: cannot be opened"):
        FeatureStore("nosuch://x")
