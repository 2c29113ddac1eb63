"""A file of known size that is read by ranges, as decoders and Parquet readers want it: seekable."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from typing import Any


class RangedFile(io.RawIOBase):
    """The position within a file whose bytes come from elsewhere.

    Args:
        size: bytes in all.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    @abstractmethod
    def range(self, start: int, end: int) -> bytes:
        """Bytes from `start`, at least one and not beyond `end`; 0 <= start < end <= size."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        start, end = self._position, min(self._size, self._position + len(buffer))
        if start >= end:
            return 0
        data = self.range(start, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
