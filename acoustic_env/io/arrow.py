"""Filesystems as Arrow wants them, for libraries that write through it (Ray Train and Ray Tune)."""

from __future__ import annotations

from typing import Any

from acoustic_env.io.filesystem import remote_filesystem
from acoustic_env.io.location import local_path


def arrow_filesystem(url: str) -> tuple[Any, str]:
    """Return the Arrow filesystem of a location and the path in it; None and the absolute path of a local one.

    It is fsspec's, wrapped: Arrow's own reads fewer protocols and takes its settings from elsewhere.
    """
    path = local_path(url)
    if path is not None:
        return None, str(path.resolve())
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    remote = remote_filesystem(url)
    return PyFileSystem(FSSpecHandler(remote.filesystem)), remote.root
