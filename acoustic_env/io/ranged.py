"""Remote files read by ranges through fsspec's block cache: seekable, as decoders and Parquet readers want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fsspec.spec import AbstractBufferedFile

BLOCKS_KEPT: Final = 4


class RangedFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file of known size whose bytes come by ranges.

    Args:
        fetch: returns the bytes from start (included) to end (excluded).
        size: bytes in all.
        known: bytes that were read already.
        known_start: of the first of them.
        block_bytes: whole blocks of so many bytes are fetched, and `BLOCKS_KEPT` kept; None fetches what is asked for.
    """

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        size: int,
        known: bytes = b"",
        known_start: int = 0,
        block_bytes: int | None = None,
    ) -> None:
        self._fetch, self._known, self._known_start = fetch, known, known_start
        cache = {"cache_type": "blockcache", "cache_options": {"maxblocks": BLOCKS_KEPT}}
        super().__init__(
            None, "", size=size, block_size=block_bytes, **(cache if block_bytes else {"cache_type": "none"})
        )

    def _fetch_range(self, start: int, end: int) -> bytes:
        first, end = start - self._known_start, min(end, self.size)
        if first >= 0 and end <= self._known_start + len(self._known):
            return self._known[first : end - self._known_start]
        return self._fetch(start, end)
