"""Whole files at any location: read, written whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from acoustic_env.errors import UsageError
from acoustic_env.io.filesystem import BLOCK_BYTES, open_filesystem, remote_filesystem, whole_file
from acoustic_env.io.location import join, local_path, without_credentials
from acoustic_env.io.retry import StoreError, store_error

if TYPE_CHECKING:
    import pyarrow as pa


class MissingFileError(UsageError):
    """There is no such file."""


def read_bytes(url: str) -> bytes:
    """Read a whole file.

    Raises:
        UsageError: it is not there (`MissingFileError`) or may not be read.
    """
    with _usable(url, "read"):
        return open_filesystem(url).read("")


def read_if_there(url: str) -> bytes | None:
    """Read a whole file; return None where there is none.

    Raises:
        UsageError: it may not be read.
    """
    with suppress(MissingFileError):
        return read_bytes(url)
    return None


def files_below(url: str) -> list[str] | None:
    """Return the paths of all files below a folder, sorted, with "/"; None where `url` is no folder.

    Links to folders are followed. A folder is listed once, under its own name if that is below `url`.

    Raises:
        UsageError: it cannot be listed.
    """
    path = local_path(url)
    if path is not None and not path.is_dir():
        return None
    with _usable(url, "listed"):
        found = [entry.path for entry in open_filesystem(url).entries("")]
    return found if found or path is not None else None


def is_folder(url: str) -> bool:
    """Return whether a location is a folder: there is one, or a URL ends with a slash.

    Raises:
        UsageError: it may not be read.
    """
    with _usable(url, "read"):
        filesystem = open_filesystem(url)
        return (local_path(url) is None and url.endswith("/")) or filesystem.is_folder()


def is_there(url: str) -> bool:
    """Return whether a location is a file or a folder.

    Raises:
        UsageError: it may not be read.
    """
    with suppress(MissingFileError), _usable(url, "read"):
        filesystem = open_filesystem(url)
        return filesystem.is_folder() or filesystem.size("") >= 0
    return False


def others_below(url: str) -> list[str]:
    """Return the paths below a folder of what is neither file nor folder, sorted: links to nothing, pipes, devices."""
    return open_filesystem(url).others()


def open_file(url: str, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
    """Open a file for reading, seekable; of a remote one only the blocks that are read are fetched.

    Raises:
        UsageError: it is not there or may not be read.
    """
    with _usable(url, "read"):
        return open_filesystem(url).open("", block_bytes)


def expand(pattern: str) -> list[str]:
    """Return the files that a pattern with `*`, `?` or `[...]` matches, sorted; what is no pattern is itself.

    Raises:
        UsageError: no file matches, or the place cannot be listed.
    """
    path = local_path(pattern)
    if path is not None and (path.exists() or not glob.has_magic(pattern)):
        return [str(path.absolute())]
    if path is None and (not glob.has_magic(pattern) or pattern.startswith(("http://", "https://"))):
        return [pattern]  # a "?" begins a query there
    with _usable(pattern, "listed"):
        found = glob.glob(str(path.absolute())) if path is not None else remote_filesystem(pattern).matches()  # noqa: PTH207
        if not found:
            raise FileNotFoundError
    return sorted(found)


def copy_to(url: str, target: Path, callback: Any = None) -> None:
    """Copy a file to a local one, written over; `callback` is fsspec's, for a progress bar.

    Raises:
        UsageError: it is not there or may not be read.
        OSError: the local file cannot be written.
    """
    try:
        with _usable(url, "read"):
            open_filesystem(url).download("", target, callback)
    except UsageError as error:
        failed = error.__cause__ and error.__cause__.__cause__
        if isinstance(failed, OSError) and failed.errno in (errno.ENOSPC, errno.EDQUOT):
            raise failed from error  # of the local file: no reading fills a disk
        raise


def for_arrow(data: bytes) -> pa.BufferReader:
    """Return the bytes as a file that Arrow's threads may read.

    They are copied into Arrow's own memory: its threads let go of what they read a little late, and one that holds a
    Python object while the interpreter ends aborts the process or hangs it (apache/arrow#50482).
    """
    import pyarrow as pa

    copy = pa.BufferOutputStream()
    copy.write(data)
    return pa.BufferReader(copy.getvalue())


def write_bytes(url: str, data: bytes) -> None:
    """Write a file whole or not at all: locally by renaming, elsewhere as one upload.

    Raises:
        UsageError: the place does not exist or may not be written.
    """
    with _usable(url, "written"):
        open_filesystem(url).write("", data)


def check_place(url: str, folder: bool = True) -> None:
    """Check before long work that a file or folder can be written, as far as this can be known.

    Raises:
        UsageError: no such bucket, no credentials, a folder that cannot be made or written, or a folder where `folder`
            is false.
    """
    with _usable(url, "written"):
        open_filesystem(url).check()
        path = local_path(url)
        if not folder and path is not None and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


@contextmanager
def new_file(url: str) -> Iterator[Path]:
    """Yield a local file to write; it appears at its place when the body ends well.

    Raises:
        UsageError: the place does not exist or may not be written.
    """
    check_place(url)
    path = local_path(url)
    if path is not None:
        with whole_file(path) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder:
        yield Path(folder, "file")
        put_file(Path(folder, "file"), url)


def put_file(file: Path, url: str) -> None:
    """Copy a finished local file to its place, which until then holds what it held.

    Raises:
        UsageError: the place does not exist or may not be written.
    """
    with _usable(url, "written"):
        open_filesystem(url).upload(file, "")


@contextmanager
def folder_of(url: str, last: str) -> Iterator[Path]:
    """Yield a local folder for libraries that write files themselves; a remote one gets them when the body ends well.

    The file `last` marks the folder as whole: a remote folder gets it last.

    Raises:
        UsageError: the place does not exist or may not be written.
    """
    path = local_path(url)
    if path is not None:
        with _usable(url, "written"):
            path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    check_place(url)
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as name:
        folder = Path(name)
        yield folder
        found = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        for below in sorted(found, key=lambda below: below == last):
            put_file(folder / below, join(url, below))


@contextmanager
def _usable(url: str, done: str) -> Iterator[None]:
    """Turn what a filesystem raises into UsageError."""
    try:
        yield
    except StoreError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and done != "written":
            raise MissingFileError(f"{without_credentials(url)}: no such file") from error
        raise UsageError(str(store_error(url, done, error))) from error
