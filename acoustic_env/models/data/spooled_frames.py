"""Frames too long for memory, on this machine's disk: read from the store there once, then at random."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.models.data.stored_frames import StoredFrames


class SpooledFrames:
    """Frames [clips, frames, bands] in a file that all processes of a machine share; an index of clips reads them.

    Whoever uses the file holds a shared lock on it (flock), its writer an exclusive one, which others with the same
    clips wait for. The last one that used it removes it: the one that gets an exclusive lock. What a killed process
    left is found by the next one with the same clips, or removed by the next that writes others.

    Plain reads and writes, no mapping: the pages belong to the system's cache, not to this process.

    Args:
        stored: where the store has them.
    """

    def __init__(self, stored: StoredFrames) -> None:
        self.stored = stored
        self._file: IO[bytes] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Clips, frames and bands."""
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self.stored.dtype

    def __getstate__(self) -> dict[str, Any]:
        return {"stored": self.stored, "_file": None}  # another process opens the file itself

    def __getitem__(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return some clips (index).

        Raises:
            UsageError: the folder of temporary files has too little room, or cannot be used.
            StoreError: the store cannot be read.
        """
        if self._file is None:
            try:
                self._file = self._open()
            except OSError as error:
                need = f"{self.shape[0] * self.stored.row_bytes / 2**30:.1f} GiB needed for frames"
                msg = f"{error.filename or tempfile.gettempdir()}: {error.strerror}: {need}; set TMPDIR to a local disk"
                raise UsageError(msg) from error
        stored = self.stored
        found = np.empty((len(rows), stored.part.shape[1], stored.shape[1], stored.bands), stored.dtype)
        for place, row in zip(found, rows.tolist(), strict=True):
            os.preadv(self._file.fileno(), [place.data.cast("B")], row * stored.row_bytes)
        return found.transpose(0, 2, 1, 3).reshape(len(rows), *stored.shape[1:])

    def _open(self) -> IO[bytes]:
        """Return the file, locked as shared and complete."""
        place = _own_folder() / self.stored.digest()
        while True:
            opened = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            file = os.fdopen(opened, "r+b", buffering=0)
            fcntl.flock(file, fcntl.LOCK_SH)
            if not self._is_complete(file):
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, place):
                break
            file.close()  # another one removed it meanwhile
        if not self._is_complete(file):
            try:
                _remove_unused(place.parent)
                self._write(file)
            except BaseException:
                place.unlink()
                file.close()
                raise
            fcntl.flock(file, fcntl.LOCK_SH)
        weakref.finalize(self, _leave, file, place, os.getpid())
        return file

    def _is_complete(self, file: IO[bytes]) -> bool:
        """Return whether the file has the byte that is written last."""
        return os.fstat(file.fileno()).st_size > self.shape[0] * self.stored.row_bytes

    def _write(self, file: IO[bytes]) -> None:
        """Write the frames [clips, signals, frames, bands], then one byte."""
        stored, signals, size = self.stored, self.stored.part.shape[1], self.shape[0] * self.stored.row_bytes
        os.posix_fallocate(file.fileno(), 0, size)
        for clips, signal, values in stored.pieces():
            for clip, own in zip(clips.tolist(), np.ascontiguousarray(values, stored.dtype), strict=True):
                os.pwrite(file.fileno(), own.data, (clip * signals + signal) * own.nbytes)
        os.pwrite(file.fileno(), b"\n", size)


def _own_folder() -> Path:
    """Return a folder that this user alone can write to, in that of temporary files."""
    folder = Path(tempfile.gettempdir(), f"acoustic-env-frames-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise UsageError(f"{folder}: not a folder of this user alone, where frames are to go; remove it or set TMPDIR")
    return folder


def _is_at(file: IO[bytes], place: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), place.lstat())
    return False


def _leave(file: IO[bytes], place: Path, opener: int) -> None:
    """Remove a file unless another process uses it; a forked child, which shares its parent's lock, does nothing."""
    if os.getpid() == opener:
        _remove_if_unused(file, place)
        file.close()


def _remove_unused(folder: Path) -> None:
    """Remove the files that no process has locked."""
    for place in folder.iterdir():
        with contextlib.suppress(OSError), place.open("r+b") as file:
            _remove_if_unused(file, place)


def _remove_if_unused(file: IO[bytes], place: Path) -> None:
    """Remove a file unless another one has locked it. Never waits: the garbage collector may come here anywhere."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, place):
            place.unlink()
