"""This process's memory: how its allocator treats large arrays, and how much it has needed."""

from __future__ import annotations

import resource
import sys
from functools import cache
from typing import Final

import numpy as np

# glibc follows the largest block freed so far up to 32 MiB: just under it.
_LARGEST_FOLLOWED: Final = 31 << 20


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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
