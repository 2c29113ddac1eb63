"""Bytes of a clip's audio from any filesystem; what fails is told apart: gone, forbidden or transient."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, Final, cast

from acoustic_env.errors import ClipError, ErrorCode
from acoustic_env.io.filesystem import BLOCK_BYTES, LocalFilesystem, open_filesystem
from acoustic_env.io.location import local_path, scrub
from acoustic_env.io.ranged import RangedFile
from acoustic_env.io.retry import StoreError

TAIL_BYTES: Final = 64 * 2**10  # with the footer of a Parquet file
# Wrong settings of this machine, by name (botocore's classes); `InvalidURL` (aiohttp) is a fault of the clip's URL.
SETTINGS_CLASSES: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError", "ConfigParseError"}
)


def open_url(url: str) -> BinaryIO:
    """Open a local path or any fsspec URL for reading, seekable.

    A remote file of fewer than `BLOCK_BYTES` is fetched by one request; a longer one is read in such blocks.

    Raises:
        ClipError: not_found, unreachable, access_denied, or download_failed after the tries of io.retry.
    """
    with _as_clip_error(url):
        filesystem = open_filesystem(url)
        if isinstance(filesystem, LocalFilesystem):
            return filesystem.open("")
        first = filesystem.read_first("", BLOCK_BYTES)
        if len(first) != BLOCK_BYTES:
            return io.BytesIO(first)
        size = filesystem.size("")
        return cast(BinaryIO, RangedFile(partial(read_range, url), size, known=first, block_bytes=BLOCK_BYTES))


def open_within(url: str, size: int | None = None) -> BinaryIO:
    """Open a file of which only some ranges are read, each by one request.

    Args:
        url: a local path or any fsspec URL.
        size: bytes of the file, where known; else it is asked for, and the end is fetched with it.

    Raises:
        ClipError: as `open_url`.
    """
    with _as_clip_error(url):
        filesystem = open_filesystem(url)
        if isinstance(filesystem, LocalFilesystem):
            return filesystem.open("")
        end = filesystem.size("") if size is None else size
        start = max(0, end - TAIL_BYTES)
        tail = filesystem.read_range("", start, end) if size is None and end else b""
        return cast(BinaryIO, RangedFile(partial(read_range, url), end, tail, start))


def read_range(url: str, start: int, end: int) -> bytes:
    """Read bytes [start, end) of a file; fewer when it ends before.

    Raises:
        ClipError: as `open_url`.
    """
    with _as_clip_error(url):
        return open_filesystem(url).read_range("", start, end)


@contextmanager
def _as_clip_error(where: str) -> Iterator[None]:
    try:
        yield
    except ClipError:
        raise
    except Exception as error:  # every filesystem raises its own kinds; each becomes a code
        path = local_path(where)
        if path is not None and "\0" in where:
            raise ClipError("not_found", f"{where!r}: no file has such a name") from error
        if isinstance(error, FileNotFoundError) and path is not None and not path.parent.is_dir():
            msg = f"{path}: there is no folder {path.parent} on this machine; is its disk mounted?"
            raise ClipError("unreachable", msg) from error
        cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
        named = str(error) if isinstance(error, StoreError) else f"{where}: {type(error).__name__}: {error}"
        raise ClipError(failure_code(cause), scrub(named).removesuffix(": ")) from error


def failure_code(error: BaseException) -> ErrorCode:
    """Return what a filesystem's exception means for the clip; what is not clearly final is a failed transfer.

    >>> failure_code(FileNotFoundError()), failure_code(TimeoutError())
    ('not_found', 'download_failed')
    """
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
