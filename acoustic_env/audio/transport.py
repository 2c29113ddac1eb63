"""Bytes from any filesystem, with the few ways this fails told apart: gone, forbidden, or worth another try."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

from acoustic_env.clips.ranged import RangedFile
from acoustic_env.errors import ClipError, ErrorCode
from acoustic_env.io.location import local_path

T = TypeVar("T")

TRIES: Final = 3
BACKOFF_S: Final = 0.2
# One request brings a whole 10 s clip; what is longer is read piece by piece.
PIECE_BYTES: Final = 8 * 2**20
PIECES_KEPT: Final = 4
CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 15.0  # without a byte

# Wrong settings of this machine, by name (botocore's classes); `InvalidURL` (aiohttp) is a fault of the clip's URL.
SETTINGS_CLASSES: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError", "ConfigParseError"}
)


class RemoteFile(RangedFile):
    """A remote file read in pieces of `PIECE_BYTES`, each tried `TRIES` times.

    Attributes:
        failure: why a piece could not be had; a decoder that swallows the exceptions of its input leaves it here.
    """

    def __init__(self, filesystem: Any, path: str, size: int, first: bytes) -> None:
        super().__init__(size)
        self._filesystem, self._path = filesystem, path
        self._pieces: dict[int, bytes] = {0: first}
        self.failure: ClipError | None = None

    def range(self, start: int, end: int) -> bytes:
        """Bytes of the piece that holds `start`, up to its end."""
        index, offset = divmod(start, PIECE_BYTES)
        return self._piece(index)[offset : offset + end - start]

    def _piece(self, index: int) -> bytes:
        if index not in self._pieces:
            start = index * PIECE_BYTES
            end = min(start + PIECE_BYTES, self._size)
            try:
                piece = cat_range(self._filesystem, self._path, start, end)
            except ClipError as error:
                self.failure = error
                raise
            if len(self._pieces) == PIECES_KEPT:  # the first holds the header and stays
                del self._pieces[list(self._pieces)[1]]
            self._pieces[index] = piece
        return self._pieces[index]


def open_url(url: str) -> BinaryIO:
    """Open a local path or any fsspec URL for reading, seekable.

    A remote file of up to `PIECE_BYTES` is fetched by one request; a longer one becomes a buffered `RemoteFile`.

    Raises:
        ClipError: not_found, unreachable, access_denied, or download_failed after `TRIES` tries.
    """
    path = local_path(url)
    if path is not None:
        return _open_local(path, url)
    filesystem, remote = with_retries(url, lambda: _filesystem(url))
    first = with_retries(url, lambda: _first_piece(filesystem, remote))
    if len(first) != PIECE_BYTES:
        return io.BytesIO(first)
    size = int(with_retries(url, lambda: filesystem.size(remote)))
    return cast(BinaryIO, io.BufferedReader(RemoteFile(filesystem, remote, size, first)))


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a file; fewer when it ends before.

    Raises:
        ClipError: as `open_url`.
    """
    path = local_path(url)
    if path is None:
        filesystem, remote = with_retries(url, lambda: _filesystem(url))
        return cat_range(filesystem, remote, start, end)
    with _open_local(path, url) as file:
        file.seek(start)
        return file.read(end - start)


def _open_local(path: Path, url: str) -> BinaryIO:
    """Open a local file; without even its folder it is `unreachable`, as where its disk is not mounted."""
    try:
        return with_retries(url, lambda: path.open("rb"))
    except ClipError as error:
        try:
            absent = error.code == "not_found" and not path.parent.is_dir()
        except (OSError, ValueError):
            absent = False
        if absent:
            msg = f"{url}: there is no folder {path.parent} on this machine; is its disk mounted?"
            raise ClipError("unreachable", msg) from error
        if "\0" in str(path):
            raise ClipError("not_found", error.message) from error
        raise


def cat_range(filesystem: Any, path: str, start: int, end: int) -> bytes:
    """Bytes [start, end) of a remote file by one request; an answer cut short counts as a broken transfer."""

    def fetch() -> bytes:
        data = cast(bytes, filesystem.cat_file(path, start=start, end=end))
        if len(data) < end - start and start + len(data) < filesystem.size(path):
            msg = f"{len(data):,} of {end - start:,} bytes came"
            raise ConnectionError(msg)
        return data

    return with_retries(path, fetch)


def with_retries(where: str, action: Callable[[], T]) -> T:
    """The action's result, tried `TRIES` times while it fails in a way that may pass.

    Raises:
        ClipError: not_found, unreachable, access_denied or download_failed, naming `where`.
    """
    for attempt in range(TRIES):
        try:
            return action()
        except Exception as error:  # every filesystem raises its own kinds; each becomes a code
            code = failure_code(error)
            if code != "download_failed" or attempt == TRIES - 1:
                msg = f"{where}: {type(error).__name__}: {error}" if str(error) else f"{where}: {type(error).__name__}"
                raise ClipError(code, msg) from error
        time.sleep(BACKOFF_S * 4**attempt * random.uniform(0.5, 1.5))
    raise AssertionError


def failure_code(error: Exception) -> ErrorCode:
    """What a filesystem's exception means for the clip; whatever is not clearly final counts as a failed transfer."""
    status = getattr(error, "status", None)  # aiohttp
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or status in (404, 410):
        return "not_found"
    if "InvalidURL" in names:
        return "not_found"
    # A bad endpoint is a ValueError. It, a missing driver (`pip install gcsfs`) and missing credentials can be mended.
    if isinstance(error, ValueError | ImportError) or names & SETTINGS_CLASSES:
        return "unreachable"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access_denied"
    return "download_failed"


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.partition("://")[0]
    options: dict[str, Any] = {}
    if scheme in ("s3", "s3a"):
        # botocore and s3fs would otherwise try 25 times inside each of our tries.
        timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        options = {"config_kwargs": {"retries": {"max_attempts": 0}, **timeouts}}
    elif scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        options = {"client_kwargs": {"timeout": timeout}}
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    if scheme in ("s3", "s3a"):
        filesystem.retries = 1
    return filesystem, path


def _first_piece(filesystem: Any, path: str) -> bytes:
    try:
        return cast(bytes, filesystem.cat_file(path, start=0, end=PIECE_BYTES))
    except OSError as error:
        if "range" in str(error).lower() and filesystem.size(path) == 0:  # S3's answer to any range of an empty object
            return b""
        raise
