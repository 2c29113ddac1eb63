"""Files that end before their own header says.

libsndfile reads a truncated WAV, AIFF, AU or Ogg silently and returns what is left. A clip that is shorter than
meant has other numbers, so the header is checked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

# Sizes that writers to a pipe leave behind: "unknown", not a promise.
_UNKNOWN_SIZES: Final = (0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF)
_OGG_LARGEST_PAGE: Final = 27 + 255 + 255 * 255
_OGG_END_OF_STREAM: Final = 0x04
_W64_HEADER_BYTES: Final = 24  # a 16-byte GUID and a 64-bit size that counts both


@dataclass(frozen=True)
class Payload:
    """Bytes of sample data: what the header announces and what is there.

    >>> Payload(announced=200, present=150).cut
    True
    """

    announced: int
    present: int

    @property
    def cut(self) -> bool:
        """Return whether bytes are missing."""
        return self.present < self.announced


def sample_data(source: BinaryIO) -> Payload | None:
    """Return the size of the sample data of an uncompressed file, announced and present; the read position is lost.

    Returns:
        None for a container without such a header (FLAC, Ogg, MP3, whatever ffmpeg reads) or with a size left open.

    >>> import io, numpy, soundfile
    >>> file = io.BytesIO()
    >>> soundfile.write(file, numpy.zeros(100), 16_000, format="WAV", subtype="PCM_16")
    >>> sample_data(io.BytesIO(file.getvalue()[:-50]))
    Payload(announced=200, present=150)
    """
    length = source.seek(0, 2)
    source.seek(0)
    magic = source.read(4)
    if magic in (b"RIFF", b"RIFX", b"RF64"):
        found = _riff_data(source, ">" if magic == b"RIFX" else "<", length)
    elif magic == b"FORM":
        found = _find_chunk(source, b"SSND", ">", 12, length)
    elif magic == b".snd":
        found = _au_data(source)
    elif magic == b"riff":
        found = _w64_data(source, length)
    else:
        found = None
    if found is None or found[1] in _UNKNOWN_SIZES:
        return None
    offset, announced = found
    return Payload(announced, max(0, min(length - offset, announced)))


def ogg_ends_early(source: BinaryIO) -> bool:
    """Return whether an Ogg file is cut inside a page, or has none marked as its end; False for other files.

    >>> import io
    >>> ogg_ends_early(io.BytesIO(b"RIFF"))
    False
    >>> ogg_ends_early(io.BytesIO(b"OggS"))
    True
    """
    source.seek(0)
    if source.read(4) != b"OggS":
        return False
    length = source.seek(0, 2)
    source.seek(max(0, length - _OGG_LARGEST_PAGE))
    tail = source.read()
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    complete = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) < complete or not page[5] & _OGG_END_OF_STREAM


def _find_chunk(source: BinaryIO, wanted: bytes, order: str, start: int, length: int) -> tuple[int, int] | None:
    """Find a chunk of an IFF-like file: offset of the content, announced bytes."""
    offset = start
    while offset + 8 <= length:
        source.seek(offset)
        name, size = struct.unpack(f"{order}4sI", source.read(8))
        if name == wanted:
            return offset + 8, size
        offset += 8 + size + size % 2
    return None


def _riff_data(source: BinaryIO, order: str, length: int) -> tuple[int, int] | None:
    found = _find_chunk(source, b"data", order, 12, length)
    if found is None or found[1] != 0xFFFFFFFF:
        return found
    ds64 = _find_chunk(source, b"ds64", order, 12, length)  # RF64 keeps the real sizes there
    if ds64 is None:
        return None
    source.seek(ds64[0] + 8)
    size = source.read(8)
    return (found[0], struct.unpack(f"{order}Q", size)[0]) if len(size) == 8 else None


def _au_data(source: BinaryIO) -> tuple[int, int] | None:
    header = source.read(8)
    return struct.unpack(">II", header) if len(header) == 8 else None


def _w64_data(source: BinaryIO, length: int) -> tuple[int, int] | None:
    offset = _W64_HEADER_BYTES + 16
    while offset + _W64_HEADER_BYTES <= length:
        source.seek(offset)
        name, size = struct.unpack("<4s12xQ", source.read(_W64_HEADER_BYTES))
        if name == b"data":
            return offset + _W64_HEADER_BYTES, size - _W64_HEADER_BYTES
        if size < _W64_HEADER_BYTES:
            return None
        offset += (size + 7) // 8 * 8
    return None
