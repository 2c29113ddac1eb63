"""Remote files read by ranges through fsspec's block cache: seekable, as decoders and Parquet readers want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fsspec.spec import AbstractBufferedFile

if TYPE_CHECKING:
    from acoustic_env.io.filesystem import Filesystem

BLOCK_BYTES: Final = 2**20
BLOCKS_KEPT: Final = 4


class RangedFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file of known size whose bytes come by ranges, tried again as io.retry says.

    Args:
        filesystem: that holds it.
        path: in the filesystem.
        size: bytes in all.
        known: bytes that were read already.
        known_start: of the first of them.
        block_bytes: whole blocks of so many bytes are fetched, and `BLOCKS_KEPT` kept; None fetches what is asked for.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        path: str,
        size: int,
        known: bytes = b"",
        known_start: int = 0,
        block_bytes: int | None = None,
    ) -> None:
        self._known, self._known_start = known, known_start
        cache = {"cache_type": "blockcache", "cache_options": {"maxblocks": BLOCKS_KEPT}} if block_bytes else {}
        super().__init__(filesystem, path, size=size, block_size=block_bytes, **({"cache_type": "none"} | cache))

    def _fetch_range(self, start: int, end: int) -> bytes:
        first, end = start - self._known_start, min(end, self.size)
        if first >= 0 and end <= self._known_start + len(self._known):
            return self._known[first : end - self._known_start]
        return self.fs.read_range(self.path, start, end)  # type: ignore[no-any-return]
