"""A folder at any location: on this machine, on S3, or on any other filesystem fsspec knows.

A file is written whole or not at all: on a disk under another name, flushed, then renamed (`whole_file`); on object
stores as one upload that becomes visible when it is complete. What can pass (throttling, timeouts, dropped connections)
is tried again with growing pauses; what cannot becomes a `StoreError` with the remedy.
"""

from __future__ import annotations

import errno
import fcntl
import io
import math
import os
import shutil
import stat
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from acoustic_env.errors import UsageError
from acoustic_env.io.location import FILE_SCHEME, NOT_ABSOLUTE, local_path, scrub
from acoustic_env.io.retry import StoreError, retrying, s3_code, store_error

TMP: Final = ".tmp"
LOCK: Final = ".lock"
CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 20
BLOCK_BYTES: Final = 8 * 2**20  # of a remote file that is read piece by piece; a clip of 10 s is smaller
# Protocols whose paths may hold "::", which chains the others.
UNCHAINED: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https"})
# What can write under a condition, by fsspec's first name of the protocol.
CONDITIONAL: Final = frozenset({"s3", "gs", "abfs", "memory"})
CONFLICTS: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
UNSUPPORTED: Final = frozenset({"NotImplemented", "501"})
SAFE: Final = (
    "write to a local disk, NFS 4, S3 (AWS, MinIO since 2024, Ceph since Squid), Google Cloud Storage or Azure Blobs"
)
STREAMS: Final = frozenset({"/dev", "/dev/fd", "/proc/self/fd"})
_CREATING: Final = threading.Lock()


@dataclass(frozen=True)
class Entry:
    """A file of a store."""

    path: str  # below the store's root, with "/"
    size: int  # bytes
    modified: float  # Unix time of the last write in s, infinite where the filesystem does not say


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
    return remote_filesystem(url)


@lru_cache(maxsize=32)
def remote_filesystem(url: str) -> Filesystem:
    """Return the filesystem behind a URL with a protocol, of a folder or of one file (its path is then "").

    Raises:
        StoreError: as `open_filesystem`.
    """
    import fsspec

    protocol = url.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        options["config_kwargs"] = {"retries": {"max_attempts": 0}, **timeouts}
    elif protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    try:
        if url.startswith(FILE_SCHEME):
            raise ValueError(NOT_ABSOLUTE)
        if protocol in UNCHAINED:
            cls = fsspec.get_filesystem_class(protocol)
            filesystem, root = cls(**{**cls._get_kwargs_from_urls(url), **options}), cls._strip_protocol(url)
        else:
            filesystem, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StoreError(scrub(f"{url}: cannot be opened: {error}; give a path or s3://BUCKET/PREFIX")) from error
    if hasattr(filesystem, "retries"):
        filesystem.retries = 1  # s3fs's own tries inside each of ours would take minutes to give up
    kinds = {"s3": S3Filesystem, "s3a": S3Filesystem, "http": HttpFilesystem, "https": HttpFilesystem}
    return kinds.get(protocol, Filesystem)(url, filesystem, root if "?" in root else root.rstrip("/"))


class Filesystem:
    """Files below one root of an fsspec filesystem; every path is relative to it, with "/"."""

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url, self.filesystem, self.root = url.rstrip("/") or "/", filesystem, root
        self.keeps_conditions = False  # not known yet

    def place(self, path: str) -> str:
        """Return the full URL of a path without credentials, for messages."""
        return scrub(f"{self.url}/{path}" if path else self.url)

    def full(self, path: str) -> str:
        """Return the path as the fsspec filesystem names it."""
        return f"{self.root}/{path}" if path else self.root

    def check(self) -> None:
        """Raise StoreError where it is known that nothing can be written: no bucket, no credentials."""

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        """List the files below a folder whose path in it starts with `prefix`, by path; none when it does not exist."""
        skip, wanted = len(self.root) + 1, f"{folder}/{prefix}" if folder else prefix
        found = self._infos(folder, prefix, deep=True)
        listed = (Entry(info["name"][skip:], int(info.get("size") or 0), _modified(info)) for info in found)
        named = (entry for entry in listed if entry.path.startswith(wanted) and not f"/{entry.path}".endswith("/"))
        return sorted(named, key=lambda entry: entry.path)

    def _infos(self, folder: str, prefix: str = "", *, deep: bool) -> list[dict[str, Any]]:
        """Return what fsspec tells of what is in a folder, or of all files below it."""

        def ask() -> list[dict[str, Any]]:
            if deep:
                return [*self.filesystem.find(self.full(folder), detail=True).values()]
            return cast(list[dict[str, Any]], self.filesystem.ls(self.full(folder), detail=True))

        with suppress(FileNotFoundError):
            return retrying(ask, self.place(folder), "listed")
        return []

    def others(self) -> list[str]:
        """Return the paths of what is neither file nor folder, sorted: links to nothing, pipes, devices."""
        return []

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, sorted; none when it does not exist."""
        found = (info["name"] for info in self._infos(folder, deep=False) if info["type"] == "directory")
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def is_folder(self) -> bool:
        """Return whether the root is a folder, as far as the store knows folders."""
        with suppress(FileNotFoundError):
            about = retrying(lambda: self.filesystem.info(self.full("")), self.place(""), "read")
            return cast(str, about["type"]) == "directory"
        return False

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
            if len(data) < end - start and start + len(data) < self._size(path):
                raise ConnectionError(f"{len(data):,} of {end - start:,} bytes came")
            return data

        return retrying(fetch, self.place(path), "read")

    def read_first(self, path: str, count: int) -> bytes:
        """Read a file of fewer than `count` bytes whole, of a longer one so many; in one request."""
        return retrying(lambda: self._cat(path, 0, count), self.place(path), "read")

    def _cat(self, path: str, start: int, end: int) -> bytes:
        try:
            data = cast(bytes, self.filesystem.cat_file(self.full(path), start=start, end=end))
        except Exception as error:
            refused = s3_code(error) == "InvalidRange" or "range" in str(error).lower()
            if refused and self._size(path) <= start:
                return b""  # S3 refuses a range that begins after the end, and any of an empty object
            raise
        return data if len(data) <= end - start else data[start:end]  # a filesystem without ranges gave all of it

    def size(self, path: str) -> int:
        """Return the size of a file in bytes; raises as `read`."""
        return retrying(lambda: self._size(path), self.place(path), "read")

    def _size(self, path: str) -> int:
        size = self.filesystem.size(self.full(path))
        if size is None:
            raise OSError("the server does not say how long the file is")
        return int(size)

    def matches(self) -> list[str]:
        """Return the URLs of the files that the root matches as a pattern; of the root alone where it is a file."""

        def find() -> list[str]:
            if self.filesystem.exists(self.root):
                return [self.url]
            return [self.filesystem.unstrip_protocol(name) for name in self.filesystem.glob(self.root)]

        return retrying(find, self.place(""), "listed")

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

    def create(self, path: str, data: bytes) -> bool:
        """Write a file whole unless one of that name is there; return whether the file there is `data`.

        Raises:
            UsageError: such a filesystem cannot tell two writers apart.
            StoreError: it cannot be written.
        """
        names = self.filesystem.protocol
        kinds = CONDITIONAL.intersection([names] if isinstance(names, str) else names)
        if not kinds:
            raise UsageError(f"{self.place('')}: two writers cannot be kept apart there; {SAFE}")
        with _CREATING:  # the threads of a process that share a filesystem in memory
            created = self._create(path, data)
            if created and "s3" in kinds and not self.keeps_conditions:
                if self._create(path, data):
                    raise UsageError(f"{self.place(path)}: this S3 server ignores conditions; {SAFE}")
                self.keeps_conditions = True
            try:
                return created or self.read(path) == data  # ours, when only the answer to it was lost
            except FileNotFoundError as error:  # another writer's, removed meanwhile
                raise store_error(self.place(path), "written", error) from error

    def _create(self, path: str, data: bytes) -> bool:
        """Write under the condition that there is no such file; return whether it held."""

        def put() -> None:
            try:
                self.filesystem.pipe_file(self.full(path), data, mode="create")
            except Exception as error:
                if s3_code(error) in UNSUPPORTED:
                    msg = f"{self.place(path)}: this S3 server knows no conditional writes; {SAFE}"
                    raise UsageError(msg) from error
                if s3_code(error) in CONFLICTS or getattr(error, "status_code", None) == 412:  # the second is Azure's
                    raise FileExistsError(path) from error
                raise

        try:
            self._put(path, put)
        except FileExistsError:
            return False
        return True

    def remove(self, path: str) -> None:
        """Remove a file; nothing when it is not there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self.filesystem.rm_file(self.full(path))

        retrying(delete, self.place(path), "removed")

    def now(self) -> float:
        """Return the time by the clock that `Entry.modified` is told by, in s: that of a file written for it.

        Clocks of the machines that write here may be apart from it, and from each other. Raises as `write`.
        """
        path = f"{TMP}/{uuid.uuid4().hex}.clock"
        self.write(path, b"")
        try:
            now = _modified(retrying(lambda: self.filesystem.info(self.full(path)), self.place(path), "read"))
        finally:
            self.remove(path)
        if now == math.inf:
            raise StoreError(f"{self.place('')}: does not tell when files were written, so their age is unknown")
        return now


class LocalFilesystem(Filesystem):
    """A folder of this machine (or one mounted), whose files are flushed to the disk before they have their names."""

    def __init__(self, folder: Path) -> None:
        from fsspec.implementations.local import LocalFileSystem

        super().__init__(str(folder), LocalFileSystem(), str(folder.absolute()))
        self.folder = folder

    def place(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def check(self) -> None:
        with self._errors("", "written"):
            place = self.folder
            if not _is_stream(place):
                place = Path(os.path.realpath(place)).parent
                place.mkdir(parents=True, exist_ok=True)
            if not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def is_folder(self) -> bool:
        return self.folder.is_dir()

    def entries(self, folder: str, prefix: str = "") -> list[Entry]:
        wanted = f"{folder}/{prefix}" if folder else prefix
        found = []
        for path, item in self._below(folder):
            if path.startswith(wanted) and _leads_to(item.is_file):
                with suppress(FileNotFoundError):  # removed meanwhile
                    status = item.stat()
                    found.append(Entry(path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.path)

    def others(self) -> list[str]:
        return sorted(path for path, item in self._below("") if not _leads_to(item.is_file))

    def folders(self, folder: str) -> list[str]:
        directory = self.folder / folder
        with self._errors(folder, "listed"), suppress(FileNotFoundError):
            return sorted(item.name for item in directory.iterdir() if item.is_dir())
        return []

    def _below(self, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield what is below a folder and no folder. Links are followed last, so that no folder is listed twice."""
        waiting, seen = deque([folder]), set[tuple[int, int]]()
        while waiting:
            below = waiting.popleft()
            with suppress(FileNotFoundError, NotADirectoryError), self._errors(below, "listed"):
                status = (self.folder / below).stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                for item in sorted(os.scandir(self.folder / below), key=lambda item: item.name):
                    path = f"{below}/{item.name}" if below else item.name
                    if _leads_to(item.is_dir):
                        (waiting.append if item.is_symlink() else waiting.appendleft)(path)
                    else:
                        yield path, item

    def read(self, path: str) -> bytes:  # fsspec cannot read pipes
        return retrying(lambda: (self.folder / path).read_bytes(), self.place(path), "read")

    def open(self, path: str, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
        return retrying(lambda: (self.folder / path).open("rb"), self.place(path), "read")

    def write(self, path: str, data: bytes) -> None:
        self._write(path, io.BytesIO(data))

    def upload(self, file: Path, path: str) -> None:
        with file.open("rb") as source:
            self._write(path, source)

    def _write(self, path: str, source: BinaryIO) -> None:
        aside = self.folder / TMP if path else None
        with self._errors(path, "written"), whole_file(self.folder / path, aside) as new, new.open("wb") as file:
            shutil.copyfileobj(source, file)

    def create(self, path: str, data: bytes) -> bool:
        with self.lock():
            if not os.path.lexists(self.folder / path):
                self.write(path, data)
            return self.read(path) == data

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's kernel lock, for one small write; it ends with the process at the latest.

        Raises:
            StoreError: the filesystem has no locks.
        """
        with ExitStack() as held:
            with self._errors(LOCK, "locked"):
                self.folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context((self.folder / LOCK).open("ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _errors(self, path: str, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) and done == "listed":
                raise
            raise store_error(self.place(path), done, error) from error


class S3Filesystem(Filesystem):
    """S3 and what speaks its protocol. A page of a listing is tried again by itself: a long one does not start over."""

    def check(self) -> None:
        self._page("", "", MaxKeys=1)

    def _infos(self, folder: str, prefix: str = "", *, deep: bool) -> list[dict[str, Any]]:
        found, bucket = list[dict[str, Any]](), self.root.partition("/")[0]
        settings = {} if deep else {"Delimiter": "/"}
        while True:
            page = self._page(folder, prefix, **settings)
            for item in page.get("Contents", []):
                found.append({**item, "name": f"{bucket}/{item['Key']}", "size": item["Size"], "type": "file"})
            found += [{"name": item["Prefix"], "type": "directory"} for item in page.get("CommonPrefixes", [])]
            if not page.get("IsTruncated"):
                return found
            settings["ContinuationToken"] = page["NextContinuationToken"]

    def _page(self, folder: str, prefix: str, **settings: Any) -> dict[str, Any]:
        bucket, _, below = f"{self.full(folder)}/{prefix}".partition("/")
        ask = partial(self.filesystem.call_s3, "list_objects_v2", Bucket=bucket, Prefix=below, **settings)
        try:
            return cast(dict[str, Any], retrying(ask, self.place(folder), "listed"))
        except FileNotFoundError as error:
            raise store_error(self.place(""), "opened", error) from error


class HttpFilesystem(Filesystem):
    """A web server. A long file whose server sends no ranges is fetched once, into a temporary file."""

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        super().__init__(url, filesystem, root)
        self._whole: dict[str, BinaryIO] = {}

    def is_folder(self) -> bool:
        return self.url.endswith("/")

    def _cat(self, path: str, start: int, end: int) -> bytes:
        from fsspec.asyn import sync

        if path not in self._whole:
            data = cast(bytes | None, sync(self.filesystem.loop, self._get, path, start, end))
            if data is not None:
                return data
        return os.pread(self._whole[path].fileno(), end - start, start)

    async def _get(self, path: str, start: int, end: int) -> bytes | None:
        """Return some bytes of a file; None where all of them came and are kept (`_whole`)."""
        client, url = self.filesystem, self.full(path)
        session = await client.set_session()
        for wanted in ({"Range": f"bytes={start}-{end - 1}"}, {}):
            headers = {**client.kwargs.get("headers", {}), "Accept-Encoding": "identity", **wanted}
            async with session.get(client.encode_url(url), **{**client.kwargs, "headers": headers}) as answer:
                if answer.status == 416 and wanted:
                    continue  # an empty file, or one that ends before
                client._raise_not_found_for_status(answer, url)
                if answer.status == 206:
                    sent = answer.headers.get("Content-Range", f"bytes {start}-")
                    if not sent.startswith(f"bytes {start}-"):
                        raise OSError(f"bytes {start}-{end - 1} were asked for, {sent} came")
                    return cast(bytes, await answer.read())[: end - start]
                file = cast(BinaryIO, tempfile.TemporaryFile(prefix="acoustic-env-"))  # noqa: SIM115
                async for piece in answer.content.iter_chunked(2**20):
                    file.write(piece)
                file.flush()
                if file.tell() <= BLOCK_BYTES:
                    return os.pread(file.fileno(), end - start, start)
                self._whole.setdefault(path, file)
                break
        return None

    def _size(self, path: str) -> int:
        whole = self._whole.get(path)
        return super()._size(path) if whole is None else os.fstat(whole.fileno()).st_size


@contextmanager
def whole_file(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Yield a new file to fill; when the body ends well, it is flushed and takes the place of `path`.

    A link stays, and what it leads to is replaced; a file keeps its mode. A device or a pipe is written to at the end,
    as a shell does.

    Args:
        path: of the file; missing folders are made.
        aside: where the new file is until then, if that is on the same disk; else beside `path`.
    """
    stream = _is_stream(path)
    target = path if stream else Path(os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if stream else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    if aside is not None and not stream:
        aside.mkdir(parents=True, exist_ok=True)
        folder = aside if aside.stat().st_dev == folder.stat().st_dev else folder
    partial = folder / f".{uuid.uuid4().hex}.partial"
    try:
        yield partial
        if stream:
            with partial.open("rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            return
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        with suppress(OSError):
            partial.chmod(stat.S_IMODE(target.stat().st_mode))
        partial.replace(target)
        with suppress(OSError), ExitStack() as opened:  # some network filesystems cannot flush it, and need not
            descriptor = os.open(target.parent, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            os.fsync(descriptor)
    finally:
        partial.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """Return whether a path is a device, a pipe or an open file, which has no other file in its place."""
    return str(path.parent) in STREAMS or (path.exists() and not path.is_file() and not path.is_dir())


def _leads_to(ask: Callable[[], bool]) -> bool:
    """Return what a directory entry answers; False for a link to itself, or to where this user may not look."""
    try:
        return ask()
    except OSError:
        return False


def _modified(info: dict[str, Any]) -> float:
    """Return when a file was written, by what fsspec's filesystems call it."""
    names = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
    value = next((info[name] for name in names if info.get(name)), math.inf)
    value = datetime.fromisoformat(value) if isinstance(value, str) else value
    return float(value.timestamp() if isinstance(value, datetime) else value)
