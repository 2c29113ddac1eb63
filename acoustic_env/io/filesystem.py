"""A folder at any location: on this machine, on S3, or on any other filesystem fsspec knows.

A file is written whole or not at all: on a disk under `.tmp/`, flushed, then renamed; on object stores as one upload
that becomes visible when it is complete. What can pass (throttling, timeouts, dropped connections) is tried again with
growing pauses; what cannot becomes a `StoreError` with the remedy.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from acoustic_env.io.location import local_path
from acoustic_env.io.retry import StoreError, retrying, s3_code, store_error

TMP: Final = ".tmp"
CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 20
BLOCK_BYTES: Final = 8 * 2**20  # of a remote file that is read piece by piece; a clip of 10 s is smaller


@dataclass(frozen=True)
class Entry:
    """A file of a store."""

    path: str  # below the store's root, with "/"
    size: int  # bytes
    modified: float  # Unix time of the last write in s, 0 where the filesystem does not say


def open_filesystem(url: str) -> Filesystem:
    """Return the filesystem of a folder: a plain path, `file://`, `s3://`, or any protocol of fsspec.

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
def remote_filesystem(url: str) -> Filesystem:
    """Return the filesystem behind a URL with a protocol, of a folder or of one file (its path is then "").

    Raises:
        StoreError: as `open_filesystem`.
    """
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("s3://", "s3a://")):
        timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        options["config_kwargs"] = {"retries": {"max_attempts": 0}, **timeouts}
    elif url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StoreError(f"{url}: cannot be opened: {error}; give a path or s3://BUCKET/PREFIX") from error
    if hasattr(filesystem, "retries"):
        filesystem.retries = 1  # s3fs's own tries inside each of ours would take minutes to give up
    kind = S3Filesystem if hasattr(filesystem, "call_s3") else Filesystem
    return kind(url, filesystem, root.rstrip("/"))


class Filesystem:
    """Files below one root of an fsspec filesystem; every path is relative to it, with "/"."""

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url, self.filesystem, self.root = url.rstrip("/") or "/", filesystem, root

    def place(self, path: str) -> str:
        """Return the full URL of a path, for messages."""
        return f"{self.url}/{path}" if path else self.url

    def full(self, path: str) -> str:
        """Return the path as the fsspec filesystem names it."""
        return f"{self.root}/{path}" if path else self.root

    def check(self) -> None:
        """Raise StoreError where it is known that nothing can be written: no bucket, no credentials."""

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        """List the files below a folder whose path in it starts with `prefix`, by path; none when it does not exist."""

        def find() -> dict[str, dict[str, Any]]:
            return cast(dict[str, dict[str, Any]], self.filesystem.find(self.full(folder), detail=True))

        try:
            found = retrying(find, self.place(folder), "listed")
        except FileNotFoundError:
            return []
        skip = len(self.root) + 1
        wanted = f"{folder}/{prefix}" if folder else prefix
        listed = (Entry(name[skip:], int(info.get("size") or 0), _modified(info)) for name, info in found.items())
        return sorted((entry for entry in listed if entry.path.startswith(wanted)), key=lambda entry: entry.path)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, sorted; none when it does not exist."""

        def find() -> list[dict[str, Any]]:
            return cast(list[dict[str, Any]], self.filesystem.ls(self.full(folder), detail=True))

        try:
            found = retrying(find, self.place(folder), "listed")
        except FileNotFoundError:
            return []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory")

    def read(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it cannot be read.
        """
        return retrying(lambda: cast(bytes, self.filesystem.cat_file(self.full(path))), self.place(path), "read")

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Read bytes start (included) to end (excluded) of a file, fewer where it ends before; raises as `read`."""

        def fetch() -> bytes:
            data = self._cat(path, start, end)
            if len(data) < end - start and start + len(data) < self.filesystem.size(self.full(path)):
                raise ConnectionError(f"{len(data):,} of {end - start:,} bytes came")
            return data

        return retrying(fetch, self.place(path), "read")

    def read_first(self, path: str, count: int) -> bytes:
        """Read a file of fewer than `count` bytes whole, of a longer one so many; in one request."""
        return retrying(lambda: self._cat(path, 0, count), self.place(path), "read")

    def _cat(self, path: str, start: int, end: int) -> bytes:
        try:
            return cast(bytes, self.filesystem.cat_file(self.full(path), start=start, end=end))
        except OSError as error:
            refused = s3_code(error) == "InvalidRange" or "range" in str(error).lower()
            if refused and self.filesystem.size(self.full(path)) == 0:
                return b""  # S3 refuses any range of an empty object
            raise

    def size(self, path: str) -> int:
        """Return the size of a file in bytes; raises as `read`."""
        return retrying(lambda: int(self.filesystem.size(self.full(path))), self.place(path), "read")

    def matches(self) -> list[str]:
        """Return the URLs of the files that the root matches as a pattern; of the root alone where it is a file."""

        def find() -> list[str]:
            if self.filesystem.exists(self.root):
                return [self.url]
            return [self.filesystem.unstrip_protocol(name) for name in self.filesystem.glob(self.root)]

        return retrying(find, self.url, "listed")

    def open(self, path: str, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
        """Open a file for reading, seekable, a remote one in blocks; raises as `read`."""
        from acoustic_env.io.ranged import RangedFile

        file = RangedFile(partial(self.read_range, path), self.size(path), block_bytes=block_bytes)
        return cast(BinaryIO, file)

    def download(self, path: str, target: Path, callback: Any = None) -> None:
        """Copy a file to a local one, piece by piece; `callback` is fsspec's, for a progress bar. Raises as `read`."""
        from fsspec.callbacks import DEFAULT_CALLBACK

        def get() -> None:
            self.filesystem.get_file(self.full(path), str(target), callback=callback or DEFAULT_CALLBACK)

        retrying(get, self.place(path), "read")

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all, over an older one of that name.

        Raises:
            StoreError: it cannot be written.
        """
        self._put(path, lambda: self.filesystem.pipe_file(self.full(path), data))

    def upload(self, file: Path, path: str) -> None:
        """Write a local file's content, piece by piece, visible when complete; raises as `write`."""
        self._put(path, lambda: self.filesystem.put_file(str(file), self.full(path)))

    def _put(self, path: str, call: Callable[[], Any]) -> None:
        try:
            retrying(call, self.place(path), "written")
        except FileNotFoundError as error:
            raise store_error(self.place(path), "written", error) from error

    def remove(self, path: str) -> None:
        """Remove a file; nothing when it is not there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self.filesystem.rm_file(self.full(path))

        retrying(delete, self.place(path), "removed")

    def move(self, path: str, to: str) -> None:
        """Give a file another name."""
        self.write(to, self.read(path))
        self.remove(path)

    def now(self) -> float:
        """Return the time by the clock that `Entry.modified` is told by, in s: that of a file written for it.

        Clocks of the machines that write here may be apart from it, and from each other. Raises as `write`.
        """
        path = f"{TMP}/{uuid.uuid4().hex}.clock"
        self.write(path, b"")
        try:
            return next(entry.modified for entry in self.entries(TMP) if entry.path == path)
        finally:
            self.remove(path)

    def remove_stale(self, older_than_s: float) -> list[str]:
        """Remove temporary files of writers that died that long ago; returns their paths."""
        return []  # an upload that was not completed leaves no file


class LocalFilesystem(Filesystem):
    """A folder of this machine (or one mounted), whose files are flushed to the disk before they have their names."""

    def __init__(self, folder: Path) -> None:
        from fsspec.implementations.local import LocalFileSystem

        super().__init__(str(folder), LocalFileSystem(), str(folder.absolute()))
        self.folder = folder

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        found: list[Entry] = []
        self._collect(self.folder / folder, folder, found)
        wanted = f"{folder}/{prefix}" if folder else prefix
        return sorted((entry for entry in found if entry.path.startswith(wanted)), key=lambda entry: entry.path)

    def folders(self, folder: str) -> list[str]:
        directory = self.folder / folder
        with self._errors(folder, "listed"), suppress(FileNotFoundError):
            return sorted(item.name for item in directory.iterdir() if item.is_dir())
        return []

    def _collect(self, directory: Path, below: str, found: list[Entry]) -> None:
        if directory.is_file():
            return
        with suppress(FileNotFoundError), self._errors(below, "listed"), os.scandir(directory) as items:
            for item in items:
                path = f"{below}/{item.name}" if below else item.name
                if item.is_dir():
                    self._collect(Path(item.path), path, found)
                else:
                    with suppress(FileNotFoundError):  # removed meanwhile
                        status = item.stat()
                        found.append(Entry(path, status.st_size, status.st_mtime))

    def open(self, path: str, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
        return retrying(lambda: (self.folder / path).open("rb"), self.place(path), "read")

    def write(self, path: str, data: bytes) -> None:
        self._write(path, lambda file: file.write(data))

    def upload(self, file: Path, path: str) -> None:
        with file.open("rb") as source:
            self._write(path, lambda target: shutil.copyfileobj(source, target))

    def _write(self, path: str, fill: Callable[[BinaryIO], Any]) -> None:
        target = self.folder / path
        partial = self.folder / TMP / f"{uuid.uuid4().hex}.partial"
        with self._errors(path, "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("xb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(target)
                sync_folder(target.parent)
            finally:
                partial.unlink(missing_ok=True)

    def move(self, path: str, to: str) -> None:
        target = self.folder / to
        with self._errors(path, "moved"):
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).replace(target)
            os.utime(target)  # as of the copy on other filesystems: its age counts from here
            sync_folder(target.parent)

    def remove_stale(self, older_than_s: float) -> list[str]:
        found = self.entries(TMP)
        limit = self.now() - older_than_s if found else 0.0
        stale = [entry.path for entry in found if entry.modified < limit]
        for path in stale:
            self.remove(path)
        return stale

    @contextmanager
    def _errors(self, path: str, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError) and done == "listed":
                raise
            free = _free(self.folder) if done == "written" else None
            raise store_error(self.place(path), done, error, free=free) from error


class S3Filesystem(Filesystem):
    """S3 and what speaks its protocol."""

    def check(self) -> None:
        bucket, _, prefix = self.root.partition("/")
        self._page(bucket, prefix, {"MaxKeys": 1}, "")

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        skip = len(self._key("")) + 1 if self._key("") else 0
        found = [
            Entry(item["Key"][skip:], int(item["Size"]), item["LastModified"].timestamp())
            for page in self._pages(folder, prefix, {})
            for item in page.get("Contents", [])
            if not item["Key"].endswith("/")
        ]
        return sorted(found, key=lambda entry: entry.path)

    def folders(self, folder: str) -> list[str]:
        pages = self._pages(folder, "", {"Delimiter": "/"})
        found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def _key(self, folder: str) -> str:
        return "/".join(name for name in (self.root.partition("/")[2], folder) if name)

    def _pages(self, folder: str, prefix: str, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
        bucket, below = self.root.partition("/")[0], self._key(folder)
        token: dict[str, Any] = {}
        while True:
            page = self._page(bucket, f"{below}/{prefix}" if below else prefix, settings | token, folder)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, bucket: str, below: str, token: dict[str, Any], folder: str) -> dict[str, Any]:
        """One request, tried again by itself: a long listing does not start over."""

        def ask() -> dict[str, Any]:
            answer = self.filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=below, **token)
            return cast(dict[str, Any], answer)

        try:
            return retrying(ask, self.place(folder), "listed")
        except FileNotFoundError as error:
            raise store_error(self.url, "opened", error) from error


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
