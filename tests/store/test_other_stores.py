"""Two writers on stores other than disks and S3: conditional writes, or a refusal.

Google's and Azure's clients are fakes with the conditions of the real ones; `exclusive` was run once by hand with
gcsfs against a fake of the JSON API, and with adlfs against Azurite.
"""

from __future__ import annotations

import itertools
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from acoustic_env.errors import LeaseHeld, UsageError
from acoustic_env.io.filesystem import Filesystem, open_filesystem
from acoustic_env.io.retry import StoreError
from acoustic_env.store import lease as lease_module
from acoustic_env.store.exclusive import exclusive_file
from acoustic_env.store.lease import acquire_blocks, acquire_lease, held_leases

NUMBERS = itertools.count(1)


class ConditionError(Exception):
    """As azure.core's: the condition of a request did not hold."""

    status_code = 412


class Client(MemoryFileSystem):
    """A client whose files have versions."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs: list[str] = [""]
        self.versions: dict[str, str] = {}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        found = super().info(path)
        version = self.versions.get(self._strip_protocol(path))
        return {**found, "generation": version, "etag": version}

    def rm_file(self, path: str) -> None:
        self.versions.pop(self._strip_protocol(path))
        super().rm_file(path)

    def put(self, path: str, data: bytes) -> None:  # type: ignore[override]
        super().pipe_file(path, data)
        self.versions[self._strip_protocol(path)] = str(next(NUMBERS))


class Google(Client):
    protocol = ("gs", "gcs")
    _location = "https://storage.googleapis.com"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        self.put(path, value)

    def call(self, method: str, path: str, *, data: bytes, name: str, **condition: Any) -> None:
        assert (method, path) == ("POST", f"{self._location}/upload/storage/v1/b/bucket/o")
        if condition["ifGenerationMatch"] != self.versions.get(f"/bucket/{name}"):
            raise FileExistsError(name)
        self.put(f"bucket/{name}", data)


class Azure(Client):
    protocol = "abfs"

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        if options.get("mode") == "create" and self.exists(path):
            raise FileExistsError(path)
        if "etag" in options and options["etag"] != self.versions.get(f"/{path}"):
            assert options["match_condition"] == "if not modified"
            raise ConditionError
        self.put(path, value)


@pytest.fixture(params=[Google, Azure, MemoryFileSystem])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Filesystem:
    core = types.ModuleType("azure.core")
    core.MatchConditions = types.SimpleNamespace(IfNotModified="if not modified")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azure", types.ModuleType("azure"))
    monkeypatch.setitem(sys.modules, "azure.core", core)
    root = f"bucket/{next(NUMBERS)}"
    return Filesystem(f"memory://{root}", request.param(), root)


def test_a_stale_view_cannot_be_swapped(files: Filesystem) -> None:
    file = exclusive_file(files, "lease.json")
    assert file.load() is None
    assert file.swap(None, b"1")
    assert not file.swap(None, b"2")
    seen = file.load()
    assert file.swap(seen, b"3")
    assert not file.swap(seen, b"4")
    now = file.load()
    assert now is not None
    assert now.data == b"3"
    files.remove("lease.json")
    assert not file.swap(now, b"5")


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
