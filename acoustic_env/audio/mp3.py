"""MP3 files by their frames: how many there are, and those of a segment as a small file of their own.

libsndfile takes a file's length from a Xing header or guesses it from the first frame, reads no further, and walks to
a segment frame by frame. So frames are counted here, by their headers, and it gets the segment's alone.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, Final, Self

# By whether it is MPEG 1, as most are: kbit/s by index, and bytes of side information, of stereo and mono.
_KBITS: Final = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_SIDE_BYTES: Final = {True: (32, 17), False: (17, 9)}
_RATES: Final = {0b11: (44_100, 48_000, 32_000), 0b10: (22_050, 24_000, 16_000), 0b00: (11_025, 12_000, 8_000)}
_LARGEST_FRAME: Final = 1_441
_CHUNK_BYTES: Final = 1 << 18
_DECODER_DELAY: Final = 529  # samples, besides the encoder's
_RESERVOIR_BYTES: Final = 511  # how far a frame may reach back into those before it
_SETTLING: Final = 4  # frames until the filters have forgotten what was before


@dataclass(frozen=True)
class Mp3:
    """What an MP3 file says at its start.

    Attributes:
        header: of the first frame, 4 bytes.
        begin: offset of the first frame with sound.
        announced: frames by the Xing header; None without one.
        delay: samples of encoder and decoder delay at the start, left out; 0 without a Xing header.
        padding: samples that the encoder added at the end.
    """

    header: bytes
    begin: int
    announced: int | None = None
    delay: int = 0
    padding: int = 0

    @classmethod
    def recognize(cls, source: BinaryIO) -> Self | None:
        """Read the start of a file, None unless it is MP3; the read position is lost.

        >>> import io, numpy, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, numpy.zeros(44_100), 44_100, format="MP3")
        >>> found = Mp3.recognize(file)
        >>> found.rate, found.announced, found.length(len(found.frames(file)))
        (44100, 40, 44100)
        """
        at = 0
        while True:
            source.seek(at)
            data = source.read(3 * _LARGEST_FRAME) or b""
            if data[:3] != b"ID3" or len(data) < 10:
                break
            at += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
        header, size = data[:4], _size(data, 0)
        if not size or not (_size(data, size) or len(data) == size):
            return None
        side = _side_end(header)
        info = data[side + 2 * (not header[1] & 1) : size]
        if info[:4] not in (b"Xing", b"Info"):
            return cls(header, at + size * (data[36:40] == b"VBRI"))
        flags = int.from_bytes(info[4:8])
        lame = info[8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2 :]
        both = int.from_bytes(lame[21:24]) if len(lame) >= 24 and lame[0] else 0
        frames = int.from_bytes(info[8:12]) if flags & 1 else None
        return cls(header, at + size, frames, (both >> 12) + _DECODER_DELAY, both & 0xFFF)

    @property
    def rate(self) -> int:
        """Sample rate in Hz."""
        return _rate(self.header)

    @property
    def each(self) -> int:
        """Samples in a frame."""
        return 1_152 if _is_first_version(self.header) else 576

    def length(self, frames: int) -> int:
        """Return the samples in a file of so many frames, delay and padding left out."""
        end = frames * self.each
        if frames == self.announced:  # else the file is cut, or another one follows
            end = min(end, end - self.padding + _DECODER_DELAY)
        return max(0, end - self.delay)

    def frames(self, source: BinaryIO, most: int = sys.maxsize) -> array[int]:
        """Find at least the first `most` frames, or all that are whole; returns their offsets.

        Raises:
            ValueError: frames of another sample rate follow.
        """
        starts, size_of, at, final = array("q"), _sizes(self.header).get, self.begin, False
        while len(starts) < most and not final:
            source.seek(at)
            data = source.read(_CHUNK_BYTES) or b""
            final = len(data) < _CHUNK_BYTES
            here, last = 0, len(data) - (4 if final else 2 * _LARGEST_FRAME)
            while here <= last:
                if size := size_of(data[here : here + 3]):
                    starts.append(at + here)
                    here += size
                else:
                    here = self._next(data, here + 1, last)
            if starts and here > len(data):
                starts.pop()
            at += here
        return starts

    def excerpt(self, source: BinaryIO, starts: array[int], start: int, stop: int) -> tuple[bytes, int]:
        """Return an MP3 file that decodes to some samples and others before them, and how many those are.

        The frames before them fill the bit reservoir, undecoded, or let the filters settle.
        """
        last = min(len(starts), -(-(stop + self.delay) // self.each))
        settling = low = max(0, (start + self.delay) // self.each - _SETTLING)
        side, filled = _side_end(self.header), 0
        while low and filled < _RESERVOIR_BYTES:
            low -= 1
            filled += min(starts[low + 1] - starts[low], _LARGEST_FRAME) - side
        source.seek(starts[low])
        data = source.read(starts[last - 1] + _LARGEST_FRAME - starts[low])
        places = ((at - starts[low], _size(data, at - starts[low])) for at in starts[low:last])
        frames = [data[at : at + size] for at, size in places]
        for i in range(settling - low if low else 0):
            at = 4 + 2 * (not frames[i][1] & 1)  # after a checksum, which goes
            back = bytes([frames[i][at], frames[i][at + 1] & 0x80 * (self.each > 576)])
            frames[i] = _silent(frames[i], back, side) + frames[i][side:]
        silence = _silent(bytes([*self.header[:2], self.header[2] & 0x0C | 0x50, self.header[3]]), b"", side)
        size = _size(silence, 0)
        xing = silence + struct.pack(">4sII", b"Xing", 1, len(frames) + 1)
        # Of a file with such a header libmpg123 leaves out the decoder's delay: one more frame goes before the others.
        whole = b"".join([xing.ljust(size, b"\0"), silence.ljust(size, b"\0"), *frames])
        return whole, self.each - _DECODER_DELAY + start + self.delay - low * self.each

    def _next(self, data: bytes, at: int, last: int) -> int:
        """Return where two frames follow each other, or `last` + 1 where none do before."""
        while (at := data.find(0xFF, at, last + 1)) >= 0:
            size = _size(data, at)
            if size and data[at + size : at + size + 2] == data[at : at + 2]:
                if data[at : at + 3] not in _sizes(self.header):
                    raise ValueError("the sample rate changes")
                return at
            at += 1
        return last + 1


@cache
def _sizes_like(first: int, rate: int) -> dict[bytes, int]:
    """Return the sizes of frames by the first three bytes of their headers; see `_sizes`."""
    heads = (bytes([0xFF, first | crc, rate | rest]) for crc in (0, 1) for rest in range(256) if not rest & 0x0C)
    return {head: size for head in heads if (size := _size(head, 0))}


def _sizes(header: bytes) -> dict[bytes, int]:
    """Return the sizes of frames of a header's version and rate by the first three bytes of theirs."""
    return _sizes_like(header[1] & 0xFE, header[2] & 0x0C)


def _is_first_version(header: bytes) -> bool:
    return header[1] >> 3 & 3 == 3


def _rate(header: bytes) -> int:
    return _RATES[header[1] >> 3 & 3][header[2] >> 2 & 3]


def _side_end(header: bytes) -> int:
    """Return the bytes of a frame without a checksum that come before its sound."""
    return 4 + _SIDE_BYTES[_is_first_version(header)][header[3] >> 6 == 3]


def _silent(header: bytes, back: bytes, side: int) -> bytes:
    """Return the start of a frame that decodes to silence, whatever follows; `back` says how far it reaches back."""
    return bytes([header[0], header[1] | 1, header[2], header[3], *back]).ljust(side, b"\0")


def _size(data: bytes, at: int) -> int:
    """Return the size in bytes of the frame of MPEG layer III that starts there, 0 where none does."""
    head = data[at : at + 3]
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] >> 3 & 3 == 1 or head[2] & 0x0C == 0x0C:
        return 0
    first = _is_first_version(head)
    kbits = _KBITS[first][head[2] >> 4]
    return kbits and (144_000 if first else 72_000) * kbits // _rate(head) + (head[2] >> 1 & 1)
