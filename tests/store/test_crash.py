"""Stopped anywhere and run again: the same rows, each once, and no reader ever sees half a file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acoustic_env.clips.table import clip_table
from acoustic_env.io.retry import StoreError
from acoustic_env.store.feature_store import STALE_S, FeatureStore
from acoustic_env.store.lease import acquire_lease
from acoustic_env.store.verify import verify
from tests.store.tables import SIGNALS, fake_errors, fake_fingerprint, fake_table

FP = fake_fingerprint()
CLIPS = [f"clip-{i:02d}" for i in range(17)]
BROKEN = {"clip-03", "clip-11"}


class Killed(BaseException):
    """Stands for SIGKILL at one place of a run."""


def one_run(store: FeatureStore, cut: int, dies_at: int | None, how: str) -> None:
    """The job in small: what is missing, in batches of `cut` clips, parts before errors; killed at a step."""
    step = 0

    def maybe_die(write_half: bool) -> None:
        nonlocal step
        if step == dies_at:
            if write_half and how == "in the middle":
                store.filesystem.write(".tmp/dead.partial", b"PAR1 half of it")
            raise Killed
        step += 1

    missing = store.missing(CLIPS, SIGNALS, "fake", FP)
    store.clean_up(["fake"])
    pending = [clip for clip in CLIPS if clip in set(missing["clip_id"].to_pylist())]
    for start in range(0, len(pending), cut):
        batch = pending[start : start + cut]
        good = [clip for clip in batch if clip not in BROKEN]
        owed = missing.filter(pc.is_in(missing["clip_id"], value_set=pa.array(good, pa.string())))
        maybe_die(write_half=True)
        for signal in SIGNALS if how == "a part a signal" else [None]:
            ids = owed if signal is None else owed.filter(pc.equal(owed["signal"], signal))
            if ids.num_rows:
                table = fake_table(good)
                keep = [
                    key in rows(ids)
                    for key in zip(*(table[n].to_pylist() for n in table.column_names[:2]), strict=True)
                ]
                store.write_part(table.filter(pa.array(keep)))
            maybe_die(write_half=True)
        bad = [(clip, "decode", "not_audio", True, 1) for clip in batch if clip in BROKEN]
        if bad:
            store.write_errors(fake_errors(*bad))
        maybe_die(write_half=False)


def rows(keys: pa.Table) -> set[tuple[str, str]]:
    return set(zip(keys["clip_id"].to_pylist(), keys["signal"].to_pylist(), strict=True))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(1, 9),
            st.integers(0, 12),
            st.sampled_from(["between", "in the middle", "a part a signal"]),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_any_sequence_of_crashes_ends_in_the_undisturbed_table(crashes: list[tuple[int, int, str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(folder)
        for cut, dies_at, how, truncates in crashes:
            with suppress(Killed):
                one_run(store, cut, dies_at, how)
            parts = store.parts("fake", FP)
            if truncates and parts:  # a disk that lost what it had promised to keep
                path = Path(folder) / parts[0].path
                path.write_bytes(path.read_bytes()[:-7])
        one_run(store, 5, None, "between")
        wanted = fake_table([clip for clip in CLIPS if clip not in BROKEN])
        table = store.read("fake")
        assert table.sort_by([("clip_id", "ascending"), ("signal", "descending")]).equals(wanted)
        report = verify(store, clip_table([{"clip_id": clip, "uri": "x"} for clip in CLIPS]))
        assert report.issues == []
        assert report.blocks[0].duplicates == 0
        assert [(b.rows, b.permanent, b.pending) for b in report.blocks[0].counts] == [(15, 2, 0)] * 2
        assert store.missing(CLIPS, SIGNALS, "fake", FP).num_rows == 0


WRITER = """
import sys, time
from acoustic_env.store.feature_store import FeatureStore
from tests.store.tables import fake_table
store = FeatureStore(sys.argv[1])
for number in range(time.time_ns(), sys.maxsize):
    store.write_part(fake_table([f"clip {number} {i}" for i in range(200)]))
"""


def test_a_killed_writer_leaves_whole_parts_only(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    for _ in range(3):
        before = len(store.parts("fake", FP))
        process = subprocess.Popen([sys.executable, "-c", WRITER, store.url])
        try:
            deadline = time.monotonic() + 30
            while len(store.parts("fake", FP)) < before + 3:
                assert verify(store).issues == []  # a reader during the writing
                assert time.monotonic() < deadline
        finally:
            process.kill()
            process.wait(timeout=10)
        report = verify(store, read_all=True)
        assert report.issues == []
        assert report.blocks[0].rows % 400 == 0


def test_files_of_dead_writers_are_noted_and_removed_after_a_day(tmp_path: Path) -> None:
    import os

    store = FeatureStore(str(tmp_path))
    store.write_part(fake_table(["a"]))
    old, fresh = tmp_path / ".tmp" / "old.partial", tmp_path / ".tmp" / "fresh.partial"
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - STALE_S - 1,) * 2)
    report = verify(store)
    assert report.issues == []
    assert len(report.notes) == 2
    assert store.clean_up(["fake"]) == [".tmp/old.partial: stale temporary file, removed"]
    assert (old.exists(), fresh.exists()) == (False, True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_said_and_what_is_there_stays_whole(small_disk: Path) -> None:
    store = FeatureStore(str(small_disk / "store"))
    written = 0
    tables = (fake_table([f"{number} {i} {'long' * 20}" for i in range(500)]) for number in range(100))
    with suppress(StoreError):
        for table in tables:
            store.write_part(table)
            written += 1
    with pytest.raises(StoreError, match=r"disk or quota is full; free some space, then run"):
        store.write_part(next(tables))
    assert written > 0
    report = verify(store, read_all=True)
    assert report.issues == []
    assert report.notes == []  # no remains of the one that did not fit
    assert report.blocks[0].rows == written * 1000


def test_a_read_only_place_is_said_before_anything_starts(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="mounted read-only"), acquire_lease(str(small_disk / "store"), "x"):
        pass
    with pytest.raises(StoreError, match="mounted read-only"):
        FeatureStore(str(small_disk / "store")).write_part(fake_table(["a"]))


def test_a_full_disk_is_said_on_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = FeatureStore(str(tmp_path))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="disk or quota is full"):
        store.write_part(fake_table(["a"]))
    monkeypatch.undo()
    assert store.blocks() == {}
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_file_in_the_place_of_the_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    with pytest.raises(StoreError, match="cannot be written: "):
        FeatureStore(str(tmp_path / "store")).write_part(fake_table(["a"]))
