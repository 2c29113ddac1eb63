"""Two writers on stores other than disks and S3: conditional writes, or a refusal.

Google's and Azure's clients are fakes with the condition of the real ones; `create` was run once by hand with gcsfs
against a fake of the JSON API, and with adlfs against Azurite.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from acoustic_env.errors import LeaseHeld, UsageError
from acoustic_env.io.filesystem import Filesystem, open_filesystem
from acoustic_env.io.retry import StoreError
from acoustic_env.store import lease as lease_module
from acoustic_env.store.lease import acquire_blocks, acquire_lease, held_leases

NUMBERS = itertools.count(1)


class Client(MemoryFileSystem):
    """A client whose files are created under a condition."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs: list[str] = [""]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value)


class Google(Client):
    protocol = ("gs", "gcs")


class Azure(Client):
    protocol = "abfs"


@pytest.fixture(params=[Google, Azure, MemoryFileSystem])
def files(request: pytest.FixtureRequest) -> Filesystem:
    root = f"/bucket/{next(NUMBERS)}"
    return Filesystem(f"memory:/{root}", request.param(), root)


def test_of_threads_that_create_a_file_in_memory_one_does() -> None:
    files = open_filesystem(f"memory://threads-{next(NUMBERS)}")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: files.create("manifest", str(number).encode()), range(40)))
    assert sum(made) == 1


def test_a_file_is_created_once(files: Filesystem) -> None:
    assert files.create("manifest", b"1")
    assert not files.create("manifest", b"2")
    assert files.create("manifest", b"1"), "its own write, of which the answer was lost"
    assert files.read("manifest") == b"1"


def test_a_lease_is_kept(files: Filesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "open_filesystem", lambda _url: files)
    with acquire_blocks("x://store", ["mps"], "first") as leases:
        leases.check()
        with pytest.raises(LeaseHeld, match="'first'"), acquire_blocks("x://store", ["mps"], "second"):
            pass
    assert held_leases("x://store") == {}


class Elsewhere(MemoryFileSystem):
    """A filesystem without conditions."""

    protocol = "sftp"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012


def test_a_lease_that_cannot_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Filesystem("sftp://user:SECRET@host/store", Elsewhere(), "store")
    monkeypatch.setattr(lease_module, "open_filesystem", lambda _url: files)
    expected = r"^sftp://host/store: two writers cannot be kept apart there; write to a local disk, NFS 4, S3"
    with pytest.raises(UsageError, match=expected), acquire_lease(files.url, "first"):
        pass
    with pytest.raises(UsageError, match=expected):
        files.create("manifest", b"1")
    assert held_leases(files.url) == {}, "it can be read"


def test_ages_are_unknown_where_the_store_tells_no_time() -> None:
    class Timeless(Elsewhere):
        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {name: value for name, value in super().info(path).items() if name != "created"}

        def find(self, path: str, **_: Any) -> dict[str, Any]:
            return {name: self.info(name) for name in super().find(path)}

    files = Filesystem("sftp://host/store", Timeless(), "store")
    files.write("part", b"1")
    assert [entry.modified for entry in files.entries("")] == [float("inf")], "never old"
    with pytest.raises(StoreError, match="does not tell when files were written"):
        files.now()


def test_the_time_of_the_store_does_not_wait_for_a_listing() -> None:
    class Late(Elsewhere):
        def find(self, path: str, **_: Any) -> dict[str, Any]:
            return {}

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "size": 0, "updated": "2026-11-24T12:00:00.5Z"}

    assert Filesystem("sftp://host/store", Late(), "store").now() == 1795521600.5


def test_a_disk_and_memory_tell_the_time(tmp_path: Any) -> None:
    for url in (str(tmp_path), "memory://clock"):
        files = open_filesystem(url)
        files.write("part", b"1")
        assert abs(files.now() - files.entries("")[0].modified) < 5
