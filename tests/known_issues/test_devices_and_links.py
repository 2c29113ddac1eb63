"""What stands at a path is kept: a device, a pipe, a link, a mode; and writers of one file do not meet.

`--out /dev/null` as root replaced the device by a file, which breaks the machine; a link was replaced, too; the
temporary name held only the process id: of 800 writes by four threads 122 failed. Nothing was flushed.
"""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from acoustic_env.errors import UsageError
from acoustic_env.io.files import check_place, files_below, new_file, put_file, read_bytes, write_bytes
from acoustic_env.io.filesystem import LocalFilesystem, open_filesystem


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
    except PermissionError:
        pytest.skip("only root makes devices")
    write_bytes(str(device), b"gone")
    with new_file(str(device)) as file:
        file.write_bytes(b"gone, too")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert device.read_bytes() == b""
    assert files_below(str(tmp_path)) == []


@pytest.mark.parametrize("way", ["write_bytes", "new_file", "put_file"])
def test_a_pipe_is_written_through(tmp_path: Path, way: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    if way == "write_bytes":
        write_bytes(str(pipe), b"data")
    elif way == "put_file":
        (tmp_path / "finished").write_bytes(b"data")
        put_file(tmp_path / "finished", str(pipe))
    else:
        with new_file(str(pipe)) as file:
            file.write_bytes(b"data")
    reader.join(timeout=5)
    assert read == [b"data"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_open_file_named_by_its_number_is_written_through() -> None:
    reading, writing = os.pipe()
    check_place(f"/dev/fd/{writing}")
    write_bytes(f"/dev/fd/{writing}", b"data")
    assert os.read(reading, 10) == b"data"
    os.close(reading)
    os.close(writing)


def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target, link, dangling = tmp_path / "disk" / "table.parquet", tmp_path / "link.parquet", tmp_path / "new.parquet"
    target.write_bytes(b"before")
    link.symlink_to("disk/table.parquet")
    dangling.symlink_to("disk/new.parquet")
    write_bytes(str(link), b"after")
    write_bytes(str(dangling), b"first")
    assert link.is_symlink()
    assert (target.read_bytes(), read_bytes(str(tmp_path / "disk" / "new.parquet"))) == (b"after", b"first")


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "private.csv"
    file.write_bytes(b"1")
    file.chmod(0o600)
    write_bytes(str(file), b"2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    place = str(tmp_path / "table")

    def write(number: int) -> None:
        write_bytes(place, bytes([number]) * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [number % 256 for number in range(800)]))
    assert len(set(read_bytes(place))) == 1
    assert files_below(str(tmp_path)) == ["table"]


def test_a_name_of_255_bytes_is_written(tmp_path: Path) -> None:
    write_bytes(str(tmp_path / ("n" * 255)), b"1")
    assert files_below(str(tmp_path)) == ["n" * 255]


@pytest.mark.parametrize("way", ["write_bytes", "new_file", "store"])
def test_file_and_folder_are_flushed_before_it_is_said(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if way == "store":
        open_filesystem(str(tmp_path)).write("part", b"1")
    elif way == "write_bytes":
        write_bytes(str(tmp_path / "part"), b"1")
    else:
        with new_file(str(tmp_path / "part")) as file:
            file.write_bytes(b"1")
    assert flushed == [False, True]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second filesystem")
def test_a_folder_of_a_store_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second filesystem")
        (tmp_path / "features").symlink_to(other)
        files = LocalFilesystem(tmp_path)
        files.write("features/part", b"1")
        assert [entry.path for entry in files.entries("features")] == ["features/part"]
        assert files.create("features/manifest", b"1")


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("set/a/1.wav", "set/b/2.wav", "elsewhere/3.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "to-b").symlink_to(tmp_path / "set" / "b")
    (tmp_path / "set" / "b" / "to-a").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "set" / "dangling.wav").symlink_to(tmp_path / "no.wav")
    os.mkfifo(tmp_path / "set" / "pipe.wav")
    found = files_below(str(tmp_path / "set"))
    assert found == ["a/1.wav", "b/2.wav", "linked/3.wav"], "each folder once"


def test_a_folder_in_the_place_of_a_file_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_bytes(str(tmp_path), b"1")


def test_a_file_is_created_once_by_threads(tmp_path: Path) -> None:
    files = open_filesystem(str(tmp_path / "store"))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: files.create("manifest", str(number).encode()), range(40)))
    assert sum(made) == 1
    assert files.read("manifest") == str(made.index(True)).encode()
    assert files.create("manifest", files.read("manifest")), "its own write, done before"
