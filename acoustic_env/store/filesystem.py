"""The one door to where a store lies: a local folder, S3, or any other filesystem fsspec knows.

A file is written whole or not at all: on a disk under `.tmp/`, flushed, then renamed; on object stores as one upload
that becomes visible when it is complete. What can pass (throttling, timeouts, dropped connections) is tried again with
growing pauses; what cannot becomes a `StoreError` that says what to do.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from acoustic_env.clips.location import local_path
from acoustic_env.errors import AcousticEnvError

T = TypeVar("T")

TMP: Final = ".tmp"
TRIES: Final = 7
FIRST_PAUSE_S: Final = 0.1  # doubled after every try, up to MAX_PAUSE_S
MAX_PAUSE_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 20

# s3fs raises these for throttling, a server's own failures and overlapping operations.
TRANSIENT_ERRNOS: Final = frozenset(
    {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.EAGAIN, errno.ETIMEDOUT}
)
TRANSIENT_S3: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
     "TooManyRequests", "OperationAborted", "RequestTimeTooSkewed", "IncompleteBody", "XAmzContentSHA256Mismatch",
     "429", "500", "502", "503", "504"}
)  # fmt: skip
# Classes of botocore, aiohttp, urllib3 and fsspec, by name: none of them is imported for a local store.
TRANSIENT_CLASSES: Final = frozenset(
    {"HTTPClientError", "ResponseParserError", "ClientPayloadError", "ClientConnectionError", "IncompleteRead",
     "FSTimeoutError", "TimeoutError", "ConnectionError"}
)  # fmt: skip
CREDENTIAL_CLASSES: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"})


class StoreError(AcousticEnvError):
    """The store cannot be read or written; the message says which file, why, and what to do."""


@dataclass(frozen=True)
class Entry:
    """A file of a store.

    Attributes:
        path: below the store's root, with "/".
        size: bytes.
        modified: Unix time of the last write in s, 0 where the filesystem does not say.
    """

    path: str
    size: int
    modified: float


class Filesystem(ABC):
    """Files below one root; every path is relative to it, with "/"."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"

    def place(self, path: str) -> str:
        """The full URL of a path, for messages."""
        return f"{self.url}/{path}" if path else self.url

    @abstractmethod
    def entries(self, folder: str) -> list[Entry]:
        """All files below a folder, by path; none when it does not exist."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it cannot be read.
        """

    @abstractmethod
    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes start (included) to end (excluded) of a file; raises as `read`."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all, over an older one of that name.

        Raises:
            StoreError: it cannot be written.
        """

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; nothing when it is not there."""

    @abstractmethod
    def move(self, path: str, to: str) -> None:
        """Give a file another name."""

    @abstractmethod
    def remove_stale(self, older_than_s: float) -> list[str]:
        """Remove temporary files of writers that died that long ago; returns their paths."""


def open_filesystem(url: str) -> Filesystem:
    """The filesystem of a store: a plain path, `file://`, `s3://`, or any protocol of fsspec.

    S3 takes its endpoint, region and credentials from the usual places (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3,
    AWS_ACCESS_KEY_ID, ~/.aws, the machine's role).

    Raises:
        StoreError: no such protocol, or its library is not installed.
    """
    path = local_path(url)
    if path is not None:
        return LocalFilesystem(path)
    return remote_filesystem(url.rstrip("/"))


@lru_cache(maxsize=32)
def remote_filesystem(url: str) -> RemoteFilesystem:
    """The filesystem behind a URL with a protocol; raises as `open_filesystem`."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("s3://", "s3a://")):
        options["config_kwargs"] = {
            "retries": {"max_attempts": 0},
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
        }
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        msg = f"{url}: cannot be opened as a store: {error}; give a folder or s3://BUCKET/PREFIX"
        raise StoreError(msg) from error
    if hasattr(filesystem, "retries"):
        filesystem.retries = 1  # s3fs's own tries inside each of ours would take minutes to give up
    kind = S3Filesystem if hasattr(filesystem, "call_s3") else RemoteFilesystem
    return kind(url, filesystem, root.rstrip("/"))


class LocalFilesystem(Filesystem):
    """A folder of this machine (or one mounted)."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

    def entries(self, folder: str) -> list[Entry]:
        found: list[Entry] = []
        self._collect(self.root / folder, folder, found)
        return sorted(found, key=lambda entry: entry.path)

    def _collect(self, directory: Path, below: str, found: list[Entry]) -> None:
        try:
            with os.scandir(directory) as items:
                for item in items:
                    path = f"{below}/{item.name}" if below else item.name
                    if item.is_dir():
                        self._collect(Path(item.path), path, found)
                    else:
                        with suppress(FileNotFoundError):  # removed while we looked
                            status = item.stat()
                            found.append(Entry(path, status.st_size, status.st_mtime))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise store_error(self.place(below), "listed", error) from error

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise store_error(self.place(path), "read", error) from error

    def read_range(self, path: str, start: int, end: int) -> bytes:
        try:
            with (self.root / path).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise store_error(self.place(path), "read", error) from error

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        partial = self.root / TMP / f"{uuid.uuid4().hex}.partial"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(target)
                sync_folder(target.parent)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(self.place(path), "written", error, free=_free(self.root)) from error

    def remove(self, path: str) -> None:
        try:
            (self.root / path).unlink(missing_ok=True)
        except OSError as error:
            raise store_error(self.place(path), "removed", error) from error

    def move(self, path: str, to: str) -> None:
        target = self.root / to
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise store_error(self.place(path), "moved", error) from error

    def remove_stale(self, older_than_s: float) -> list[str]:
        limit = time.time() - older_than_s
        stale = [entry.path for entry in self.entries(TMP) if entry.modified < limit]
        for path in stale:
            self.remove(path)
        return stale


class RemoteFilesystem(Filesystem):
    """An fsspec filesystem whose uploads appear only when they are complete (S3, other object stores, memory)."""

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        super().__init__(url)
        self.filesystem = filesystem
        self.root = root

    def full(self, path: str) -> str:
        """The path as the fsspec filesystem wants it."""
        return f"{self.root}/{path}" if path else self.root

    def entries(self, folder: str) -> list[Entry]:
        def find() -> dict[str, dict[str, Any]]:
            return cast(dict[str, dict[str, Any]], self.filesystem.find(self.full(folder), detail=True))

        try:
            found = retrying(find, self.place(folder), "listed")
        except FileNotFoundError:
            return []
        skip = len(self.root) + 1
        return sorted(
            (Entry(name[skip:], int(info.get("size") or 0), _modified(info)) for name, info in found.items()),
            key=lambda entry: entry.path,
        )

    def read(self, path: str) -> bytes:
        return retrying(lambda: cast(bytes, self.filesystem.cat_file(self.full(path))), self.place(path), "read")

    def read_range(self, path: str, start: int, end: int) -> bytes:
        return retrying(
            lambda: cast(bytes, self.filesystem.cat_file(self.full(path), start=start, end=end)),
            self.place(path),
            "read",
        )

    def write(self, path: str, data: bytes) -> None:
        def put() -> None:
            self.filesystem.pipe_file(self.full(path), data)

        try:
            retrying(put, self.place(path), "written")
        except FileNotFoundError as error:
            raise store_error(self.place(path), "written", error) from error

    def upload(self, file: Path, path: str) -> None:
        """Write a local file's content, piece by piece, visible when complete; raises as `write`."""

        def put() -> None:
            self.filesystem.put_file(str(file), self.full(path))

        try:
            retrying(put, self.place(path), "written")
        except FileNotFoundError as error:
            raise store_error(self.place(path), "written", error) from error

    def remove(self, path: str) -> None:
        def delete() -> None:
            with suppress(FileNotFoundError):
                self.filesystem.rm_file(self.full(path))

        retrying(delete, self.place(path), "removed")

    def move(self, path: str, to: str) -> None:
        self.write(to, self.read(path))
        self.remove(path)

    def remove_stale(self, older_than_s: float) -> list[str]:
        return []  # an upload that was not completed leaves no file


class S3Filesystem(RemoteFilesystem):
    """S3 and what speaks its protocol."""

    def entries(self, folder: str) -> list[Entry]:
        bucket, _, prefix = self.root.partition("/")
        below = "".join(f"{name}/" for name in (prefix, folder) if name)
        skip = len(prefix) + 1 if prefix else 0
        found: list[Entry] = []
        token: dict[str, str] = {}
        while True:
            page = self._page(bucket, below, token, folder)
            found += [
                Entry(item["Key"][skip:], int(item["Size"]), item["LastModified"].timestamp())
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            ]
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda entry: entry.path)
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, bucket: str, below: str, token: dict[str, str], folder: str) -> dict[str, Any]:
        """One request, tried again by itself: a long listing does not start over."""

        def ask() -> dict[str, Any]:
            answer = self.filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=below, **token)
            return cast(dict[str, Any], answer)

        try:
            return retrying(ask, self.place(folder), "listed")
        except FileNotFoundError as error:
            raise store_error(self.url, "opened", error) from error


def retrying(call: Callable[[], T], place: str, done: str) -> T:
    """Call until it succeeds, with growing pauses while the failure is one that passes.

    Args:
        call: without side effects that a second call would double.
        place: URL for the message.
        done: what was to be done to it, as a participle.

    Raises:
        FileNotFoundError: as it came, for the caller knows whether that is an answer.
        StoreError: the failure stays, or does not pass.
    """
    for attempt in range(TRIES):
        try:
            return call()
        except (FileNotFoundError, AcousticEnvError):
            raise
        except Exception as error:  # every filesystem has its own exceptions
            if not transient(error):
                raise store_error(place, done, error) from error
            if attempt == TRIES - 1:
                raise store_error(place, done, error, tries=TRIES) from error
        time.sleep(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * (0.5 + random.random()))
    raise AssertionError  # the loop returns or raises


def transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    if s3_code(error) in TRANSIENT_S3:
        return True
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS:
        return True
    return bool(TRANSIENT_CLASSES & {kind.__name__ for kind in type(error).__mro__})


def s3_code(error: BaseException | None) -> str | None:
    """The S3 error code ("SlowDown", "PreconditionFailed", ...) behind an exception, if there is one."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return None


def store_error(
    place: str, done: str, error: BaseException, tries: int | None = None, free: int | None = None
) -> StoreError:
    """What happened to a file of the store, for a person, with the remedy.

    Args:
        place: the file's URL.
        done: what was to be done to it, as a participle.
        error: what came.
        tries: how often it was tried.
        free: bytes free on the disk, where known.
    """
    number = error.errno if isinstance(error, OSError) else None
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & CREDENTIAL_CLASSES:
        reason = f"no credentials ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws"
    elif number in (errno.ENOSPC, errno.EDQUOT):
        left = "" if free is None else f" ({free / 2**20:.0f} MiB free)"
        reason = f"the disk or quota is full{left}; free some space, then run the same command again"
    elif number == errno.EROFS:
        reason = "the filesystem is mounted read-only; use a place that can be written"
    elif isinstance(error, PermissionError):
        reason = f"permission denied ({s3_code(error) or error.strerror or error}); check the rights of this user"
    elif isinstance(error, FileNotFoundError):
        reason = "there is no such bucket or folder; create it, or check the URL and AWS_ENDPOINT_URL"
    elif tries is not None:
        reason = f"{_said(error)}, after {tries} tries; when the service answers again, run the same command again"
    else:
        reason = _said(error)
    return StoreError(f"{place}: cannot be {done}: {reason}")


def _said(error: BaseException) -> str:
    code = s3_code(error)
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{code or type(error).__name__}: {text}"


def sync_folder(folder: Path) -> None:
    """Flush a rename to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network filesystems cannot, and need not
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(folder: Path) -> int | None:
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def _modified(info: dict[str, Any]) -> float:
    value = info.get("LastModified") or info.get("mtime") or info.get("created")
    if value is None:
        return 0.0
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)
