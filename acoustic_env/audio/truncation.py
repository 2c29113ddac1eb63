"""Files that end before their own header says.

libsndfile reads a truncated WAV, AIFF, AU, CAF or Ogg silently and returns what is left. A clip that is shorter than
meant has other numbers, so the header is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

# Sizes that writers to a pipe leave behind: "unknown", not a promise.
_UNKNOWN_SIZES: Final = (0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF)
_OGG_HEADER_BYTES: Final = 27
_OGG_LARGEST_PAGE: Final = _OGG_HEADER_BYTES + 255 + 255 * 255
_OGG_BEGIN_OF_STREAM: Final = 0x02
_OGG_CHUNK_BYTES: Final = 1 << 20
# By the file's first bytes: form of a chunk's name and size, where the first is, and which has the samples.
_CHUNKED: Final = {
    b"RIFF": ("<4sI", 12, b"data"),
    b"RIFX": (">4sI", 12, b"data"),
    b"RF64": ("<4sI", 12, b"data"),
    b"FORM": (">4sI", 12, b"SSND"),
    b"riff": ("<4s12xQ", 40, b"data"),
    b"caff": (">4sQ", 8, b"data"),
}
# By form: bytes of a chunk's header that its size counts, and the multiple to which a chunk is filled up.
_COUNTED: Final = {"<4s12xQ": (24, 8), ">4sQ": (0, 1)}
_CAF_EDIT_COUNT: Final = 4  # bytes before the samples
_UNKNOWN_CAF: Final = 2**64 - 1


class Payload(NamedTuple):
    """Bytes of sample data: what the header announces, 0 where it leaves that open, and what is there."""

    announced: int
    present: int


def sample_data(source: BinaryIO) -> Payload | None:
    """Return the size of the sample data of an uncompressed file, announced and present; the read position is lost.

    Returns:
        None for a container without such a header (FLAC, Ogg, MP3, whatever ffmpeg reads), with a size left open, or
        without samples. A recorder that lost power announces 0 bytes.

    >>> import io, numpy, soundfile
    >>> file = io.BytesIO()
    >>> soundfile.write(file, numpy.zeros(100), 16_000, format="WAV", subtype="PCM_16")
    >>> sample_data(io.BytesIO(file.getvalue()[:-50]))
    Payload(announced=200, present=150)
    """
    length = source.seek(0, 2)
    source.seek(0)
    head = source.read(12)
    magic, found = head[:4], None
    if magic in _CHUNKED:
        form, start, wanted = _CHUNKED[magic]
        real = None
        for name, at, size in _chunks(source, form, start, length):
            if name == b"ds64":  # of RF64
                source.seek(at + 8)
                real = int.from_bytes(source.read(8), "little")
            if name == b"desc":  # of CAF: its codec
                source.seek(at + 8)
                if source.read(4) != b"lpcm":
                    return None
            if name == wanted:
                found = at, real if real is not None and size == 0xFFFFFFFF else size
                if magic == b"caff":
                    found = at + _CAF_EDIT_COUNT, 0 if size == _UNKNOWN_CAF else size - _CAF_EDIT_COUNT
                break
    elif magic == b".snd" and len(head) == 12:
        found = struct.unpack(">4xII", head)
    if found is None or found[1] in _UNKNOWN_SIZES:
        return None
    offset, announced = found
    if announced:
        return Payload(announced, max(0, min(length - offset, announced)))
    open_end = magic in (b"RIFF", b"RIFX") and length > offset and not _are_chunks(source, offset, length)
    return Payload(0, length - offset) if open_end else None


def _chunks(source: BinaryIO, form: str, start: int, length: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk of an IFF-like file, the offset of its content and its announced bytes."""
    header = struct.calcsize(form)
    counted, multiple = _COUNTED.get(form, (0, 2))
    while start + header <= length:
        source.seek(start)
        name, size = struct.unpack(form, source.read(header))
        if size < counted:
            return
        yield name, start + header, size - counted
        start += header + -(-(size - counted) // multiple) * multiple


def _are_chunks(source: BinaryIO, start: int, length: int) -> bool:
    """Return whether chunks fill a RIFF file from an offset to its end."""
    for name, at, size in _chunks(source, "<4sI", start, length):
        if not name.isascii() or not name.decode("ascii").isprintable():
            return False
        start = at + size + size % 2
    return start == length


class OggPages(NamedTuple):
    """What the pages of an Ogg file tell; of other files neither.

    Attributes:
        cut: whether the last page is not whole. A missing end flag says nothing: recorders that lose power set none.
        chained: whether another stream begins after the first, which libsndfile does not read.
        last_page: sample at which the last page begins: seeking there, libsndfile is off where Vorbis ends inside a
            block.
    """

    cut: bool = False
    chained: bool = False
    last_page: int = 0


def read_ogg_pages(source: BinaryIO) -> OggPages:
    """Walk the pages of an Ogg file; the read position is lost.

    >>> import io
    >>> read_ogg_pages(io.BytesIO(b"OggS"))
    OggPages(cut=True, chained=False, last_page=0)
    """
    source.seek(0)
    at, data, base, cut, begun, chained = 0, source.read(4), 0, False, False, False
    if data != b"OggS":
        return OggPages()
    ends = [0, 0]  # samples up to the end of the last page but one, and of the last
    end = source.seek(0, 2)
    while at < end:
        if at + _OGG_LARGEST_PAGE > base + len(data) < end:
            source.seek(at)
            base, data = at, source.read(_OGG_CHUNK_BYTES) or b""
        here = at - base
        page = data[here : here + _OGG_HEADER_BYTES]
        if not b"OggS".startswith(page[:4]):  # padding, or damage
            found = data.find(b"OggS", here)
            at = base + (max(here + 1, len(data) - 3) if found < 0 else found)
        elif len(page) < _OGG_HEADER_BYTES:
            return OggPages(True, chained, ends[0])
        else:
            sizes = data[here + _OGG_HEADER_BYTES : here + _OGG_HEADER_BYTES + page[26]]
            at += _OGG_HEADER_BYTES + page[26] + sum(sizes)
            begins = bool(page[5] & _OGG_BEGIN_OF_STREAM)
            ends = [ends[1], max(ends[1], int.from_bytes(page[6:14], "little", signed=True))]
            cut, chained, begun = at > end, chained or (begun and begins), begun or not begins
    return OggPages(cut, chained, ends[0])
