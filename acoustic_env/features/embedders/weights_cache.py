"""Where weights lie: a cache on any filesystem that fsspec knows, and a verified copy on each node.

A file of the cache counts only together with its record `FILE.json` (sha256, size, origin), which is written last and
agrees with it. A file that somebody placed by hand gets its record on first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, Literal, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.weights_registry import WeightsSource

ENVIRONMENT: Final = "ACOUSTIC_ENV_WEIGHTS"
CHUNK: Final = 1 << 20

Trust = Literal["published", "given", "first fetch"]


@dataclass(frozen=True)
class Record:
    """What is known of a file in the cache.

    Attributes:
        sha256: 64 hex digits.
        size: bytes.
        origin: where it came from.
        trust: published (the registry's checksum), given (--sha256), first fetch (nothing to compare with).
        fetched: UTC time, ISO 8601.
        details: plain data kept with converted weights.
    """

    sha256: str
    size: int
    origin: str
    trust: Trust
    fetched: str
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


def user_cache() -> Path:
    """The user's cache folder of this program."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acoustic-env"


class WeightsCache:
    """The cache of weights that `ACOUSTIC_ENV_WEIGHTS` names (any fsspec URL), or ~/.cache/acoustic-env/weights.

    Attributes:
        url: as named.
        node: local folder the verified files are in; the cache itself when it is local.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get(ENVIRONMENT) or str(user_cache() / "weights")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            msg = f"{ENVIRONMENT}={self.url}: {error}"
            raise UsageError(msg) from error
        self.is_local = isinstance(self._fs, LocalFileSystem)
        copy = user_cache() / "weights-node" / hashlib.sha256(self.url.encode()).hexdigest()[:12]
        self.node = Path(self._root) if self.is_local else copy

    def place(self, file_name: str) -> str:
        """Where a file of the cache is, for people."""
        return f"{self.url.rstrip('/')}/{file_name}"

    def by_hand(self, source: WeightsSource) -> str:
        """How to bring a file where there is no network, for people."""
        return (
            f"Without a network: bring {source.url} from another machine as {source.file_name} and run acoustic-env "
            f"weights fetch {source.name} --from {source.file_name}, or place it as {self.place(source.file_name)}"
        )

    def record(self, source: WeightsSource) -> Record:
        """The record of weights that are in the cache.

        Raises:
            UsageError: they are not; says how to get them there.
        """
        record = self._read_record(source.file_name)
        if record is None:
            self.local(source)  # a file placed by hand gets its record
            record = self._read_record(source.file_name)
        if record is None:
            raise UsageError(self._absent(source))
        return record

    def holds(self, source: WeightsSource) -> Record | None:
        """The record, or None when the weights are not in the cache or not recorded yet."""
        return self._read_record(source.file_name)

    def local(self, source: WeightsSource) -> Path:
        """A verified local file, copied from a remote cache once per node.

        Raises:
            UsageError: absent or damaged, or no space for the copy.
        """
        with self._lock(source.file_name):
            record = self._read_record(source.file_name) or self._adopt(source)
            return self._verified(source.file_name, record, f"acoustic-env weights fetch {source.name} --force")

    def verify(self, source: WeightsSource) -> None:
        """Read the cache's own file again, not only the node's copy of it.

        Raises:
            UsageError: absent, or not what its record says.
        """
        record = self.record(source)
        with temporary_file(self.node, record.size) as copy:
            self._download(self._path(source.file_name), copy)
            sha256, _ = _digest(copy)
        if sha256 != record.sha256:
            msg = (
                f"{self.place(source.file_name)}: damaged since it was fetched: sha256 is {sha256}, its record says "
                f"{record.sha256}. Remedy: acoustic-env weights fetch {source.name} --force"
            )
            raise UsageError(msg)

    def derived(self, file_name: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
        """A file made from weights, made once: here under the lock if the cache does not hold it yet.

        Args:
            file_name: within the cache; must name everything it is made from.
            build: writes the file and returns plain data to keep with it.
        """
        with self._lock(file_name):
            record = self._read_record(file_name)
            if record is None:
                with temporary_file(self.node) as made:
                    details = build(made)
                    sha256, size = _digest(made)
                    record = Record(sha256, size, "converted", "given", _now(), details)
                    self._store(made, file_name, record)
            remedy = f"delete {self.place(file_name)} and {self.place(file_name)}.json"
            return self._verified(file_name, record, remedy), record.details

    def derived_details(self, file_name: str) -> dict[str, Any] | None:
        """What was kept with a derived file; None when there is none."""
        record = self._read_record(file_name)
        return None if record is None else record.details

    def put(self, source: WeightsSource, file: Path, origin: str, sha256: str | None = None) -> Record:
        """Verify a local file and place it in the cache, whole or not at all.

        Args:
            source: what the file should be.
            file: local, left as it is.
            origin: where it came from, for the record.
            sha256: what the caller knows it to be, instead of the registry's.

        Raises:
            UsageError: the file is not what it should be, or there is no space.
        """
        actual, size = _digest(file)
        expected = sha256 or source.sha256
        if expected is not None and actual != expected:
            truncated = source.size is not None and size < source.size
            what = f"truncated ({size:,} of {source.size:,} bytes)" if truncated else "not the published file"
            msg = (
                f"{origin}: {what}: sha256 is {actual}, expected {expected}. Nothing was placed in the cache. Fetch it "
                f"again; if the origin has a new edition that you trust, pass --sha256 {actual}"
            )
            raise UsageError(msg)
        if expected is None and source.size is not None and size != source.size:
            msg = f"{origin}: {size:,} bytes, expected {source.size:,}. Nothing was placed in the cache; fetch it again"
            raise UsageError(msg)
        trust: Trust = "first fetch" if expected is None else "published" if sha256 is None else "given"
        record = Record(actual, size, origin, trust, _now())
        with self._lock(source.file_name):
            self._store(file, source.file_name, record)
        return record

    def _adopt(self, source: WeightsSource) -> Record:
        """The record of a file that was placed by hand."""
        where = self._path(source.file_name)
        if not self._exists(where):
            raise UsageError(self._absent(source))
        with temporary_file(self.node) as copy:
            self._download(where, copy)
            sha256, size = _digest(copy)
        if source.sha256 is not None and sha256 != source.sha256:
            msg = (
                f"{self.place(source.file_name)}: truncated or not the published file: sha256 is {sha256}, expected "
                f"{source.sha256}. Fetch it: acoustic-env weights fetch {source.name}"
            )
            raise UsageError(msg)
        trust: Trust = "first fetch" if source.sha256 is None else "published"
        record = Record(sha256, size, "placed by hand", trust, _now())
        self._write_record(source.file_name, record)
        return record

    def _verified(self, file_name: str, record: Record, remedy: str) -> Path:
        """The local file, its bytes agreeing with the record; a stale copy of a remote file is made again."""
        path = self.node / file_name
        if path.is_file() and _digest(path)[0] == record.sha256:
            return path
        if self.is_local:
            state = "damaged since it was fetched" if path.is_file() else "gone, only its record is there"
            msg = f"{path}: {state}. Remedy: {remedy}"
            raise UsageError(msg)
        with temporary_file(self.node, record.size) as copy:
            self._download(self._path(file_name), copy)
            sha256, _ = _digest(copy)
            if sha256 != record.sha256:
                msg = f"{self.place(file_name)}: sha256 is {sha256}, its record says {record.sha256}. Remedy: {remedy}"
                raise UsageError(msg)
            path.parent.mkdir(parents=True, exist_ok=True)
            copy.replace(path)
        return path

    def _store(self, file: Path, file_name: str, record: Record) -> None:
        if self.is_local:
            path = self.node / file_name
            with temporary_file(path.parent, record.size) as copy:
                with no_space(path.parent, record.size):
                    shutil.copyfile(file, copy)
                copy.replace(path)
        else:
            with _reached(self.place(file_name), "written"):
                self._fs.makedirs(str(PurePosixPath(self._path(file_name)).parent), exist_ok=True)
                self._fs.put_file(str(file), self._path(file_name))
        self._write_record(file_name, record)

    def _write_record(self, file_name: str, record: Record) -> None:
        text = json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True)
        if self.is_local:
            path = self.node / f"{file_name}.json"
            with temporary_file(path.parent) as made:
                made.write_text(text, encoding="utf-8")
                made.replace(path)
        else:
            with _reached(self.place(f"{file_name}.json"), "written"):
                self._fs.pipe_file(self._path(f"{file_name}.json"), text.encode())

    def _read_record(self, file_name: str) -> Record | None:
        try:
            with _reached(self.place(f"{file_name}.json"), "read"):
                text = self._fs.cat_file(self._path(f"{file_name}.json"))
        except FileNotFoundError:
            return None
        try:
            return Record(**json.loads(text))
        except (ValueError, TypeError) as error:
            msg = f"{self.place(file_name)}.json: not a record of weights ({error}); delete it and fetch again"
            raise UsageError(msg) from error

    def _exists(self, path: str) -> bool:
        with _reached(self.url, "read"):
            return bool(self._fs.exists(path))

    def _download(self, path: str, target: Path) -> None:
        with no_space(target.parent, None):
            try:
                with _reached(path, "read"):
                    self._fs.get_file(path, str(target))
            except FileNotFoundError as error:
                msg = f"{path}: gone, only its record is in the cache; fetch the weights again"
                raise UsageError(msg) from error

    def _path(self, file_name: str) -> str:
        return f"{self._root.rstrip('/')}/{file_name}"

    def _absent(self, source: WeightsSource) -> str:
        return (
            f"weights {source.name!r} are not in the cache {self.url}. With a network: acoustic-env weights fetch "
            f"{source.name}. {self.by_hand(source)}"
        )

    @contextlib.contextmanager
    def _lock(self, file_name: str) -> Iterator[None]:
        """One process of the node at a time for one file; the operating system frees it when a process dies."""
        lock = self.node / f".lock-{hashlib.sha256(file_name.encode()).hexdigest()[:16]}"
        with contextlib.ExitStack() as held:
            try:
                with no_space(self.node, None):
                    self.node.mkdir(parents=True, exist_ok=True)
                    stream = held.enter_context(lock.open("w"))
            except UsageError:
                if not (self.is_local and os.access(self.node, os.R_OK)):
                    raise
                # A cache mounted read-only can be read without a lock; whoever has to write in it fails there.
            else:
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def _reached(place: str, verb: str) -> Iterator[None]:
    """Turn whatever a filesystem raises into one clear error, but for a missing file and a full disk.

    Args:
        place: what was read or written.
        verb: "read" or "written".
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        msg = f"{place}: cannot be {verb} ({type(error).__name__}: {error}); check {ENVIRONMENT} and your credentials"
        raise UsageError(msg) from error


@contextlib.contextmanager
def no_space(folder: Path, needed: int | None) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one clear error.

    Args:
        folder: where the writing happens.
        needed: bytes to be written; None when not known.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        want = f" for {needed / 1e6:,.0f} MB" if needed else ""
        what = f"no space left{want}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "not writable"
        msg = f"{folder}: {what}; free some or name another place for weights with {ENVIRONMENT}"
        raise UsageError(msg) from error


@contextlib.contextmanager
def temporary_file(folder: Path, needed: int | None = None) -> Iterator[Path]:
    """A file in the folder that is gone afterwards unless it was moved to its place."""
    with no_space(folder, needed):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if needed is not None and needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        handle, name = tempfile.mkstemp(prefix=".partial-", dir=folder)
    os.fchmod(handle, 0o644)  # a cache is shared
    os.close(handle)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        return copy_digest(stream, None)


class Readable(Protocol):
    """Anything with `read`."""

    def read(self, size: int, /) -> bytes: ...


def copy_digest(source: Readable, target: BinaryIO | None) -> tuple[str, int]:
    """sha256 and size of a stream, copied on the way when there is a target."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest(), size


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
