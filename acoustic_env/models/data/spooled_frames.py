"""Frames too long for memory, on this machine's disk: read from the store there once, then at random."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.models.data.stored_frames import StoredFrames

LOCK = "lock"


class SpooledFrames:
    """Frames [clips, frames, bands] in a file that all processes of a machine share; an index of clips reads them.

    The first process that asks for a clip writes the file; the last one that used it removes it. What a killed process
    left is found by the next one with the same clips, or removed by the next with others.

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

    def of_frames(self, frames: int) -> SpooledFrames:
        """Return the clips with so many frames each."""
        return SpooledFrames(self.stored.of_frames(frames))

    def __getstate__(self) -> dict[str, Any]:
        return {"stored": self.stored, "_file": None}  # another process opens the file itself

    def __getitem__(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return some clips (index).

        Raises:
            UsageError: the disk has too little room.
            StoreError: the store cannot be read.
        """
        if self._file is None:
            self._file = self._open()
        stored = self.stored
        found = np.empty((len(rows), stored.part.shape[1], stored.shape[1], stored.bands), stored.dtype)
        for place, row in zip(found, rows.tolist(), strict=True):
            os.preadv(self._file.fileno(), [place.data.cast("B")], row * stored.row_bytes)
        return found.transpose(0, 2, 1, 3).reshape(len(rows), *stored.shape[1:])

    def _open(self) -> IO[bytes]:
        folder = Path(tempfile.gettempdir(), f"acoustic-env-frames-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        place = folder / self.stored.digest()
        with _alone(folder):
            if not place.exists():
                _remove_unused(folder)
                self._write(place)
            file = place.open("rb", buffering=0)
            fcntl.flock(file, fcntl.LOCK_SH)
        weakref.finalize(self, _leave, folder, file)
        return file

    def _write(self, place: Path) -> None:
        """Write the frames [clips, signals, frames, bands]."""
        unfinished, need, stored = place.with_suffix(".part"), self.shape[0] * self.stored.row_bytes, self.stored
        signals = stored.part.shape[1]
        with unfinished.open("wb", buffering=0) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, need)
            except OSError as error:
                unfinished.unlink()
                msg = f"{place.parent}: {error.strerror}: {need / 2**30:.1f} GiB needed for frames; set TMPDIR"
                raise UsageError(msg) from error
            for clips, signal, values in stored.pieces():
                for clip, own in zip(clips.tolist(), np.ascontiguousarray(values, stored.dtype), strict=True):
                    os.pwrite(file.fileno(), own.data, (clip * signals + signal) * own.nbytes)
        unfinished.rename(place)


@contextlib.contextmanager
def _alone(folder: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    with (folder / LOCK).open("wb") as lock:
        fcntl.flock(lock, how)
        yield


def _leave(folder: Path, file: IO[bytes]) -> None:
    """Close a file and remove what nobody uses, unless another is opening one, who removes it then.

    Never waits: the garbage collector may come here in the middle of an opening of this process.
    """
    file.close()
    with contextlib.suppress(OSError), _alone(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
        _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Remove the files that no process maps, and unfinished ones."""
    for place in folder.iterdir():
        if place.name == LOCK:
            continue
        with place.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place.unlink()
