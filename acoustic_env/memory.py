"""How this process's memory allocator treats large arrays."""

from __future__ import annotations

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
