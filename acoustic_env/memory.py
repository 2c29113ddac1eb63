"""This process's memory: how its allocator treats large arrays, and how much it has needed."""

from __future__ import annotations

import resource
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

# glibc follows the largest block freed so far up to 32 MiB: just under it.
_LARGEST_FOLLOWED: Final = 31 << 20
_STATUS: Final = Path("/proc/self/status")


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
