"""Memory: what is left for this process, how its allocator treats large arrays, and how much it has needed."""

from __future__ import annotations

import contextlib
import resource
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

# glibc follows the largest block freed so far up to 32 MiB: just under it.
_LARGEST_FOLLOWED: Final = 31 << 20
_STATUS: Final = Path("/proc/self/status")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")
# Limit, use and cache that the kernel drops on demand, of version 2 and of version 1.
_FILES: Final = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@cache
def reuse_freed_memory() -> None:
    """Make freed arrays of up to 31 MiB available to the next ones; once a process, before work on many arrays.

    By default glibc gives freed arrays of more than 128 KiB back to the system, and each new one is faulted in again
    page by page, which costs the fast DSP engine a third of its time. Freeing one large array raises that threshold
    (mallopt(3), M_MMAP_THRESHOLD). Elsewhere it is one allocation without effect.
    """
    np.empty(_LARGEST_FOLLOWED, np.uint8)


def peak_memory() -> int:
    """The most bytes that were resident at once since this process began, pages shared with others included."""
    if _STATUS.exists():  # Linux; its getrusage counts what the process was before it became this program
        peak = next(line for line in _STATUS.read_text(errors="replace").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def available_memory(free: int, cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """Return the bytes this process may still use: what is free on the machine, within the container's limits.

    Of a limit, what the container uses already does not count, file cache that the kernel drops on demand excepted.

    Args:
        free: bytes free on the machine.
        cgroups: where control groups are mounted, of version 1 or 2.
        own: the file that names this process's groups.
    """
    return max(0, min([free, *(left for folder in _groups(cgroups, own) if (left := _left(folder)) is not None)]))


def _groups(cgroups: Path, own: Path) -> list[Path]:
    """The folders of this process's memory groups, those above them included; in a container, the mount itself."""
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="ascii").splitlines()]
    except OSError:
        lines = []
    folders = [cgroups, cgroups / "memory"]
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers in ("", "memory"):
            below = cgroups / controllers / path.lstrip("/")
            folders += [below, *(above for above in (below).parents if above.is_relative_to(cgroups))]
    return list(dict.fromkeys(folders))


def _left(folder: Path) -> int | None:
    """Bytes below the group's limit; None where it has none."""
    for limit, used, droppable in _FILES:
        try:
            bound = (folder / limit).read_text(encoding="ascii").strip()
            in_use = int((folder / used).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        return int(bound) - in_use + _stat(folder / "memory.stat", droppable) if bound.isdigit() else None
    return None


def _stat(file: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(dict(line.split(maxsplit=1) for line in file.read_text(encoding="ascii").splitlines()).get(name, 0))
    return 0
