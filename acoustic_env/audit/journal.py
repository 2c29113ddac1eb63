"""An append-only file of lines, each durable before `append` returns, on a disk or in an object store.

On a disk a line is written and flushed (fsync), under a file lock. An object store cannot append: the object is
replaced as a whole, which is one upload, under a lease (`store.lease`) beside it. Both hold the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from acoustic_env.errors import AcousticEnvError, UsageError
from acoustic_env.io.filesystem import remote_filesystem
from acoustic_env.io.location import local_path
from acoustic_env.store.lease import acquire_lease

LEASE_SUFFIX = ".lease"


def open_journal(url: str, holder: str) -> DiskJournal | ObjectJournal:
    """Open a journal, made if missing, for this process alone.

    Args:
        url: the file, a path or an fsspec URL.
        holder: what it is for, shown to a second process.

    Raises:
        UsageError: it cannot be written, or another process of this machine holds the local file.
        LeaseHeld: another process holds the object.
    """
    path = local_path(url)
    return ObjectJournal(url, holder) if path is None else DiskJournal(path, holder)


class DiskJournal:
    """A journal on a disk."""

    def __init__(self, path: Path, holder: str) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(
                f"{path}: another `{holder}` writes its answers here; open the address it printed "
                "(several annotators share one session), or choose another --out"
            ) from error

    def lines(self) -> list[bytes]:
        """Return the whole lines; half a line left by a crash is cut off."""
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file.fileno(), whole)
        return data[:whole].splitlines()

    def append(self, line: bytes) -> None:
        """Store one line, which ends in a newline.

        Raises:
            OSError: it could not be stored; the journal is as it was.
        """
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(f"{self._path}: the disk took {written} of {len(line)} bytes")
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), end)  # half a line would spoil the next one
            raise

    def close(self) -> None:
        """Release the file."""
        self._file.close()


class ObjectJournal:
    """A journal in an object store: as on a disk, but the whole object is replaced with every line."""

    def __init__(self, url: str, holder: str) -> None:
        self._object = remote_filesystem(url)
        self._held = ExitStack()
        self._lease = self._held.enter_context(acquire_lease(f"{url}{LEASE_SUFFIX}", holder))
        try:
            self._data = self._object.read("")
        except FileNotFoundError:
            self._data = b""
        except BaseException:
            self._held.close()
            raise
        self._data = self._data[: self._data.rfind(b"\n") + 1]

    def lines(self) -> list[bytes]:
        """Return the whole lines."""
        return self._data.splitlines()

    def append(self, line: bytes) -> None:
        """Store one line, or raise OSError."""
        try:
            self._lease.check()
            self._object.write("", self._data + line)
        except AcousticEnvError as error:
            raise OSError(errno.EIO, str(error)) from error
        self._data += line

    def close(self) -> None:
        """Release the object."""
        self._held.close()
