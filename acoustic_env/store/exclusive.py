"""One small file that several processes change without losing each other's change: compare and swap.

| store           | how                                                                                          |
|-----------------|----------------------------------------------------------------------------------------------|
| local folder    | a kernel file lock (flock; over NFS a byte-range lock) around read, compare and rename        |
| S3              | conditional PUT: If-None-Match: * for the first, If-Match: etag for every later one           |
| other protocols | put, wait `SETTLE_S`, read again: the last one to put holds it, which assumes that two who    |
|                 | start within `SETTLE_S` of each other see each other's file (strongly consistent listings)    |
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

from acoustic_env.io.filesystem import Filesystem, LocalFilesystem, S3Filesystem
from acoustic_env.io.retry import StoreError, retrying, s3_code, store_error

SETTLE_S: Final = 2.0
LOCK_WAIT_S: Final = 30.0
CONFLICTS: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
UNSUPPORTED: Final = frozenset({"NotImplemented", "501"})
_IN_PROCESS: Final = threading.Lock()


class Seen(NamedTuple):
    """The file as it was read.

    Attributes:
        data: its bytes.
        version: what changes with every write; an etag or a digest.
    """

    data: bytes
    version: str


class ExclusiveFile:
    """A file changed only by those who saw its present content; its version is a digest of its bytes."""

    def __init__(self, filesystem: Filesystem, path: str) -> None:
        self.filesystem, self.path = filesystem, path

    def load(self) -> Seen | None:
        """Return the file as it is now, None when there is none.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            data = self.filesystem.read(self.path)
        except FileNotFoundError:
            return None
        return Seen(data, hashlib.sha256(data).hexdigest())

    def swap(self, seen: Seen | None, data: bytes) -> bool:
        """Write `data` if the file is still as seen (None: not there); return whether it was.

        Raises:
            StoreError: it cannot be written.
        """
        with _IN_PROCESS:
            if not self._compare_and_write(seen, data):
                return False
        # A filesystem in this process's memory needs no waiting: the lock keeps its threads apart.
        in_memory = "memory" in self.filesystem.filesystem.protocol
        return in_memory or self._settled(data)

    def _compare_and_write(self, seen: Seen | None, data: bytes) -> bool:
        now = self.load()
        if (now and now.version) != (seen and seen.version):
            return False
        self.filesystem.write(self.path, data)
        return True

    def _settled(self, data: bytes) -> bool:
        time.sleep(SETTLE_S)
        now = self.load()
        return now is not None and now.data == data


def exclusive_file(filesystem: Filesystem, path: str) -> ExclusiveFile:
    """Return the file at a path of the store, by what the store can do."""
    if isinstance(filesystem, LocalFilesystem):
        return _LockedFile(filesystem, path)
    if isinstance(filesystem, S3Filesystem):
        return _ConditionalFile(filesystem, path)
    return ExclusiveFile(filesystem, path)


class _LockedFile(ExclusiveFile):
    filesystem: LocalFilesystem

    def swap(self, seen: Seen | None, data: bytes) -> bool:
        with self._lock():
            return self._compare_and_write(seen, data)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold a kernel lock, which ends with the process at the latest."""
        import fcntl

        file, place = self.filesystem.folder / self.path, self.filesystem.place(self.path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise store_error(place, "written", error) from error
        try:
            deadline = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES) or time.monotonic() > deadline:
                        raise StoreError(
                            f"{place}: cannot be locked ({error.strerror}); the store needs a filesystem with file "
                            "locks (a local disk, NFS 4) or s3://"
                        ) from error
                time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)


class _ConditionalFile(ExclusiveFile):
    filesystem: S3Filesystem

    def __init__(self, filesystem: S3Filesystem, path: str) -> None:
        super().__init__(filesystem, path)
        self.place = filesystem.place(path)
        self.bucket, _, self.key = filesystem.full(path).partition("/")

    def load(self) -> Seen | None:
        def get() -> Seen:
            client = self.filesystem.filesystem
            answer = client.call_s3("get_object", Bucket=self.bucket, Key=self.key)
            return Seen(_body(client, answer), answer["ETag"])

        try:
            return retrying(get, self.place, "read")
        except FileNotFoundError as error:
            if s3_code(error) == "NoSuchBucket":
                raise store_error(self.place, "read", error) from error
            return None

    def swap(self, seen: Seen | None, data: bytes) -> bool:
        condition = {"IfNoneMatch": "*"} if seen is None else {"IfMatch": seen.version}
        try:
            self._put(data, condition)
        except _ConflictError:
            now = self.load()  # our own put may have come through and only its answer been lost
            return now is not None and now.data == data
        except FileNotFoundError as error:
            if s3_code(error) == "NoSuchBucket":
                raise store_error(self.place, "written", error) from error
            return False  # somebody removed the file we had seen
        if seen is None and not self._conditions_count(data):
            return self._settled(data)
        return True

    def _put(self, data: bytes, condition: dict[str, str]) -> None:
        def put() -> None:
            try:
                self.filesystem.filesystem.call_s3(
                    "put_object", Bucket=self.bucket, Key=self.key, Body=data, **condition
                )
            except Exception as error:
                code = s3_code(error)
                if code in CONFLICTS:
                    raise _ConflictError from error
                if code in UNSUPPORTED:
                    raise StoreError(
                        f"{self.place}: this S3 server knows no conditional writes, without which two writers cannot "
                        "be kept apart; use a server that does (AWS S3, MinIO since 2024, Ceph since Squid)"
                    ) from error
                raise

        retrying(put, self.place, "written")

    def _conditions_count(self, data: bytes) -> bool:
        """Whether the server keeps to conditions: the file is there, so `only if it is not there` must fail."""
        try:
            self._put(data, {"IfNoneMatch": "*"})
        except _ConflictError:
            return True
        return False


class _ConflictError(StoreError):
    """The condition of a put did not hold."""


def _body(client: Any, answer: dict[str, Any]) -> bytes:
    from fsspec.asyn import sync

    return cast(bytes, sync(client.loop, answer["Body"].read))
