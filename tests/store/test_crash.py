"""Writers that are killed and disks that are full leave whole parts; `test_manifest` has the points of the protocol."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from acoustic_env.io.retry import StoreError
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_lease
from acoustic_env.store.verify import verify
from tests.store.tables import fake_fingerprint, fake_table

FP = fake_fingerprint()
CLIPS = [f"clip-{i:02d}" for i in range(17)]
BROKEN = {"clip-03", "clip-11"}


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
            deadline = time.monotonic() + 200
            while len(store.parts("fake", FP)) < before + 3:
                assert verify(store).issues == []  # a reader during the writing
                assert time.monotonic() < deadline
        finally:
            process.kill()
            process.wait(timeout=100)
        report = verify(store, read_all=True)
        assert report.issues == []
        assert report.blocks[0].rows % 400 == 0


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
    with pytest.raises(StoreError, match="File exists"):
        FeatureStore(str(tmp_path / "store")).write_part(fake_table(["a"]))
