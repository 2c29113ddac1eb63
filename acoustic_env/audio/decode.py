"""Bytes to a mono waveform: soundfile first, PyAV (ffmpeg) for what it cannot read, one error with both reasons.

Rules:

* Only the wanted segment is decoded. Sample `i` is sample `i` of the whole decode: `start_s` and `end_s` are rounded to
  the nearest sample. WAV, AIFF, FLAC, Ogg and MP3 (libsndfile) hit it exactly; through PyAV, MP4/M4A does too, while
  WebM/Matroska and FLV store times in milliseconds, so a segment may lie up to 1 ms off.
* Encoder delay (MP3 with a LAME header, M4A with an edit list, Opus) is removed as the decoders do; a stream without
  that information keeps its priming samples, some 20 to 50 ms of near silence.
* A segment that ends beyond the recording's end is what exists of it (many AudioSet clips are 9.98 s).
* Mono is the mean of the channels; a stereo pair in antiphase is therefore silence.
* A file that ends before its header says it should fails with `decode_failed`, but only for a segment that reaches into
  the missing part. A length comes from what decodes, never from an estimate: frames of MP3 are counted, and formats
  without a length (raw ADTS, AMR, an MP3 without a Xing header, Ogg between two pages) cannot be checked. A WAV file
  whose header says 0 bytes, as of a recorder that lost power, is audio to its end.
"""

from __future__ import annotations

import io
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final, TypeVar, cast

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from acoustic_env.audio.mp3 import Mp3
from acoustic_env.audio.truncation import read_ogg_pages, sample_data
from acoustic_env.errors import ClipError

VERSION: Final = 1  # raised whenever the samples of the same bytes change
_QUALITY: Final = "HQ"
RESAMPLER: Final = f"soxr {_QUALITY}"

T = TypeVar("T")
Mono = npt.NDArray[np.float32]  # [samples]

_NOTHING: Final[Mono] = np.zeros(0, np.float32)
_NO_FRAMES: Final = 1 << 62  # what libsndfile counts where a FLAC header leaves the number open, and more
_BLOCK_FRAMES: Final = 1 << 20
# Codecs with memory (AAC 2 frames, Opus 80 ms, MP3's bit reservoir) settle well within this.
_PREROLL_S: Final = 0.5
_VORBIS_BLOCK: Final = 8_192  # samples, the largest
# How much shorter than announced a stream may be: the padding of its last codec frame, or, where only the container
# has a length, that of the picture beside it.
_STREAM_SLACK_S: Final = 0.25
_CONTAINER_SLACK_S: Final = 1.0
# Only demuxers that hold audio: no playlist or concat format, with which a text file makes ffmpeg open other addresses.
_FORMATS: Final = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,"
    "tta,w64,wav,wv"
)
# Formats without a length: ffmpeg guesses it from the bit rate, or takes the time of the last packet.
_NO_LENGTH: Final = ("aac", "ac3", "amr", "dts", "eac3", "mp3", "mpeg", "mpegts", "ogg")
_ROUNDED_TIMES: Final = ("ac3", "dts", "eac3")  # raw streams whose frames' times add up rounding errors
_FULL_SCALE: Final = {"i2": 2.0**15, "i4": 2.0**31}
_LOWEST_RATE: Final = 1_000  # Hz; below it a damaged header would blow a small file up to gigabytes
_MAGIC: Final = (
    b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"OggS", b"fLaC", b"caff", b"ID3", b"\x1aE\xdf\xa3",
)  # fmt: skip


class _NoAudioError(Exception):
    """A decoder recognizes the file, and it holds no audio stream."""


class _GaveUpError(Exception):
    """A decoder cannot go on."""


class _UnseekableError(Exception):
    """The stream's times do not say where a seek has led; decode from the start instead."""


class _Watched(io.RawIOBase, BinaryIO):
    """A source that remembers the error of a failed read: both C libraries swallow what their callbacks raise."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source = source
        self.failure: OSError | ClipError | None = None
        self.ogg = read_ogg_pages(source)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._source.read(len(buffer))
        except (OSError, ClipError) as error:
            self.failure = error
            return 0
        buffer[: len(data)] = data
        return len(data)


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]  # without types
    """A file read on and on: else soundfile seeks after each read, where libsndfile is not exact in MP3."""

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True)
class _Segment:
    """What is wanted, in seconds; None is the recording's start or end."""

    start_s: float | None
    end_s: float | None
    name: str

    def samples(self, rate: int) -> tuple[int, int | None]:
        start = 0 if self.start_s is None else max(0, round(self.start_s * rate))
        return start, None if self.end_s is None else round(self.end_s * rate)

    def beyond(self, length_s: float) -> ClipError:
        message = f"{self.name}: the segment starts at {self.start_s} s, the recording ends at {length_s:.3f} s"
        return ClipError("no_such_segment", message)

    def truncated(self, present_s: float, announced_s: float | None) -> ClipError:
        announced = "the rest is missing" if announced_s is None else f"its header announces {announced_s:.3f} s"
        return ClipError("decode_failed", f"{self.name}: truncated file: {present_s:.3f} s are there, {announced}")


def decode(source: BinaryIO, start_s: float | None, end_s: float | None, name: str) -> tuple[Mono, int]:
    """Decode the wanted segment of a recording to a mono waveform.

    Args:
        source: seekable, opened for reading; not closed.
        start_s: seconds from the recording's start, None for 0.
        end_s: seconds, None for the recording's end.
        name: what to call the recording in messages.

    Returns:
        float32 [samples], full scale at 1.0 (float files may exceed it), and the recording's own rate in Hz.

    Raises:
        ClipError: empty, not_audio, decode_failed, no_such_segment, not_finite; download_failed when reading the source
            broke off.

    >>> file = io.BytesIO()
    >>> stereo = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, -0.5]])
    >>> soundfile.write(file, stereo, 16_000, format="WAV")
    >>> waveform, rate = decode(file, None, None, "stereo.wav")
    >>> waveform.round(2).tolist(), rate
    ([0.5, 0.5, -0.25], 16000)
    >>> decode(file, 1 / 16_000, None, "stereo.wav")[0].tolist()
    [0.5, -0.25]
    """
    segment = _Segment(start_s, end_s, name)
    with _reading(source, name) as watched:
        ways = (partial(_by_soundfile, watched, segment), partial(_by_pyav, watched, segment))
        waveform, rate = _by_either(watched, name, *ways)
    if rate < _LOWEST_RATE:
        raise ClipError("decode_failed", f"{name}: a sample rate of {rate} Hz")
    if not waveform.size:
        end = "its end" if end_s is None else f"{end_s:g} s"
        wanted = "" if start_s is None and end_s is None else f" from {start_s or 0:g} s to {end}"
        raise ClipError("empty", f"{name}: no samples{wanted}")
    if not np.isfinite(waveform).all():
        raise ClipError("not_finite", f"{name}: NaN or infinite samples")
    return waveform, rate


def duration_s(source: BinaryIO, name: str) -> float:
    """Return the length of a recording in seconds: of the samples that its header counts, or that decode.

    Args:
        source, name: as of `decode`.

    Raises:
        ClipError: empty, not_audio, decode_failed, download_failed.

    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros(44_100), 22_050, format="MP3")
    >>> duration_s(file, "a.mp3")
    2.0
    """
    with _reading(source, name) as watched:
        ways = (partial(_length_by_soundfile, watched), partial(_length_by_pyav, watched))
        return _by_either(watched, name, *ways)


def resample(waveform: Mono, rate_in: int, rate_out: int) -> Mono:
    """Resample a waveform by soxr at its HQ setting.

    Args:
        waveform: [samples]; float64 stays float64.
        rate_in: Hz.
        rate_out: Hz; equal rates return the waveform itself.

    Returns:
        [samples * rate_out / rate_in], rounded, halves up; dtype of the input.

    >>> tone = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100).astype(np.float32)
    >>> found = resample(tone, 44_100, 16_000)
    >>> found.shape, found.dtype.name
    ((16000,), 'float32')
    """
    if rate_in == rate_out:
        return waveform
    return cast(Mono, soxr.resample(waveform, rate_in, rate_out, quality=_QUALITY))


def libsoxr_release() -> str:
    """Return the release of the C library that resamples, major and minor number: others have the same filters.

    Python packages of soxr follow each other with one libsoxr inside, so their own version says nothing.
    """
    return ".".join(soxr.__libsoxr_version__.split(".")[:2])


@contextmanager
def _reading(source: BinaryIO, name: str) -> Iterator[_Watched]:
    try:
        watched = _Watched(source)
        try:
            yield watched
        finally:  # a decode that takes the break for the end may even succeed
            if watched.failure is not None:
                raise watched.failure
    except OSError as error:
        raise ClipError("download_failed", f"{name}: {error}") from error


def _by_either(source: _Watched, name: str, by_soundfile: Callable[[], T], by_pyav: Callable[[], T]) -> T:
    if source.seek(0, 2) == 0:
        raise ClipError("empty", f"{name}: no bytes")
    source.seek(0)
    head = source.read(12) or b""
    recognized = head.startswith(_MAGIC) or head[4:8] == b"ftyp"
    reasons = []
    try:
        return by_soundfile()
    except (soundfile.SoundFileError, _GaveUpError) as error:
        recognized = recognized or isinstance(error, _GaveUpError)
        reasons.append(f"soundfile: {str(error).rpartition('>: ')[2].rstrip('.')}")
    try:
        return by_pyav()
    except _NoAudioError as error:
        recognized = False
        reasons.append(f"PyAV: {error}")
    except (av.FFmpegError, _GaveUpError) as error:
        recognized = recognized or isinstance(error, _GaveUpError)
        reasons.append(f"PyAV: {getattr(error, 'strerror', None) or error}")
    raise ClipError("decode_failed" if recognized else "not_audio", f"{name}: {'; '.join(reasons)}")


def _length_by_soundfile(source: _Watched) -> float:
    if (mp3 := Mp3.recognize(source)) is not None:
        return mp3.length(len(_frames_of(mp3, source))) / mp3.rate
    with _open(source) as (file, announced):
        return announced / int(file.samplerate)


def _length_by_pyav(source: _Watched) -> float:
    with _open_stream(source) as (container, stream):
        samples: int = sum(frame.samples for frame in _frames(container, stream))
        return samples / int(stream.codec_context.sample_rate or 1)


def _frames_of(mp3: Mp3, source: _Watched, most: int = sys.maxsize) -> array[int]:
    try:
        return mp3.frames(source, most)
    except ValueError as error:
        raise _GaveUpError(str(error)) from error


@contextmanager
def _open(source: _Watched) -> Iterator[tuple[soundfile.SoundFile, int]]:
    """Open a file by libsndfile; yield it and its length in samples, of which some may be missing."""
    data = sample_data(source)  # before the library opens it: then the read position is its own
    if source.ogg.chained:
        raise _GaveUpError("several streams, one after the other")
    if data is not None and not (data.announced and data.present):
        raise _GaveUpError(f"{data.present} bytes of sound, where its header says {data.announced}")
    source.seek(0)
    with _SoundFile(source) as file:
        announced = int(file.frames)
        if announced >= _NO_FRAMES:
            raise _GaveUpError("its header does not say how long it is")
        if data is not None and data.cut:
            announced = announced * data.announced // data.present
        yield file, announced


def _by_soundfile(source: _Watched, segment: _Segment) -> tuple[Mono, int]:
    if (mp3 := Mp3.recognize(source)) is not None:
        return _by_frames(source, mp3, segment)
    with _open(source) as (file, announced):
        rate, frames = int(file.samplerate), int(file.frames)
        start, stop = segment.samples(rate)
        if source.ogg.cut and (stop is None or stop > frames):
            raise _GaveUpError(f"{frames} samples found in an Ogg file that is cut inside a page")
        if start >= announced > 0:
            raise segment.beyond(announced / rate)
        stop = announced if stop is None else min(stop, announced)
        if stop > frames:
            raise segment.truncated(frames / rate, announced / rate)
        begin = min(start, max(0, source.ogg.last_page - _VORBIS_BLOCK)) if source.ogg.last_page else start
        file.seek(begin)
        waveform = np.concatenate([_NOTHING, *_mono_blocks(file, max(0, stop - begin))])[start - begin :]
    if waveform.size < stop - start:  # cut short, or a variant that only ffmpeg reads to its end
        msg = f"{waveform.size} samples from sample {start} on, where its length of {frames} promises {stop - start}"
        raise _GaveUpError(msg)
    return waveform, rate


def _by_frames(source: _Watched, mp3: Mp3, segment: _Segment) -> tuple[Mono, int]:
    """Decode a segment of an MP3 file by libsndfile, which gets its frames alone and need not know the length."""
    start, end = segment.samples(mp3.rate)
    stop = sys.maxsize if end is None else end
    most = (max(start, stop) + mp3.delay) // mp3.each + 1
    frames = _frames_of(mp3, source, most)
    if len(frames) < most:
        length = mp3.length(len(frames))
        missing = (mp3.announced or 0) - len(frames)
        if missing * mp3.each > _STREAM_SLACK_S * mp3.rate and stop > length:
            raise segment.truncated(length / mp3.rate, (length + missing * mp3.each) / mp3.rate)
        if start >= length > 0:
            raise segment.beyond(length / mp3.rate)
        stop = min(stop, length)
    if stop <= start:
        return _NOTHING, mp3.rate
    data, before = mp3.excerpt(source, frames, start, stop)
    with _SoundFile(io.BytesIO(data)) as file:
        waveform = np.concatenate([_NOTHING, *_mono_blocks(file, before + stop - start)])[before:]
    if waveform.size < stop - start:
        raise _GaveUpError(f"{waveform.size} samples from sample {start} on, where {stop - start} were expected")
    return waveform, mp3.rate


def _mono_blocks(file: soundfile.SoundFile, wanted: int) -> Iterator[Mono]:
    while wanted:
        block = file.read(min(wanted, _BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(block):
            return
        wanted -= len(block)
        yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _by_pyav(source: _Watched, segment: _Segment) -> tuple[Mono, int]:
    try:
        return _read_stream(source, segment, seek=(segment.start_s or 0.0) > _PREROLL_S and not source.ogg.chained)
    except _UnseekableError:
        return _read_stream(source, segment, seek=False)


@contextmanager
def _open_stream(source: _Watched) -> Iterator[tuple[Any, Any]]:
    source.seek(0)
    with av.open(source, metadata_errors="ignore", options={"format_whitelist": _FORMATS}) as container:
        if not container.streams.audio:
            raise _NoAudioError(f"a {container.format.long_name} file without an audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise _GaveUpError(f"no decoder for the audio stream of a {container.format.long_name} file")
        yield container, stream


def _read_stream(source: _Watched, segment: _Segment, *, seek: bool) -> tuple[Mono, int]:
    with _open_stream(source) as (container, stream):
        seek = seek and container.format.name not in _ROUNDED_TIMES
        if seek:
            _seek(container, stream, cast(float, segment.start_s) - _PREROLL_S)
        kept: list[Mono] = []
        rate, position = 0, 0  # position: of the next frame's first sample, from the stream's start
        start, stop = 0, None
        for frame in _frames(container, stream):
            if not rate:
                rate = frame.sample_rate
                start, stop = segment.samples(rate)
                position = _position(frame, stream, rate) if seek else 0
                if position > start:
                    raise _UnseekableError
            elif frame.sample_rate != rate:
                raise _GaveUpError(f"the sample rate changes from {rate} to {frame.sample_rate} Hz")
            last = None if stop is None else max(0, stop - position)
            kept.append(_mono(frame)[max(0, start - position) : last])
            position += frame.samples
            if stop is not None and position >= stop:
                break
        else:
            if source.ogg.cut:
                raise segment.truncated(position / (rate or 1), None)
            _check_end(container, stream, segment, rate, position)
    return np.concatenate([_NOTHING, *kept]), rate


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield decoded frames; an error in a stream whose rate is known is the file's, not a sign that it is no audio."""
    count = 0
    try:
        for frame in container.decode(stream):
            yield frame
            count += 1
    except av.FFmpegError as error:
        if not stream.codec_context.sample_rate:
            raise
        raise _GaveUpError(f"{error.strerror} after {count} frames of {stream.codec_context.name}") from error


def _seek(container: Any, stream: Any, to_s: float) -> None:
    try:
        container.seek(int(to_s / stream.time_base) + (stream.start_time or 0), stream=stream)
    except av.FFmpegError as error:
        raise _UnseekableError from error


def _position(frame: Any, stream: Any, rate: int) -> int:
    if frame.pts is None:
        raise _UnseekableError
    position: int = round((frame.pts - (stream.start_time or 0)) * frame.time_base * rate)
    return position


def _mono(frame: Any) -> Mono:
    """Return the frame's mean over channels at a full scale of 1.0, float32 [samples]."""
    try:
        samples = frame.to_ndarray()
    except ValueError as error:
        raise _GaveUpError(str(error)) from error
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128.0) / 128.0
    elif samples.dtype.kind == "i":
        samples = (samples / _FULL_SCALE[samples.dtype.str[1:]]).astype(np.float32)
    return cast(Mono, samples.astype(np.float32, copy=False).mean(axis=0))


def _check_end(container: Any, stream: Any, segment: _Segment, rate: int, position: int) -> None:
    """Raise where the stream ended before the segment's end, but not where its header says."""
    if container.format.name in _NO_LENGTH:
        announced_s, slack = 0.0, 0.0
    elif stream.duration is not None:
        announced_s, slack = float(stream.duration * stream.time_base), _STREAM_SLACK_S
    elif container.duration is not None:
        announced_s = container.duration / av.time_base
        slack = _CONTAINER_SLACK_S if len(container.streams) > 1 else _STREAM_SLACK_S
    else:
        announced_s, slack = 0.0, 0.0
    start_s = segment.start_s or 0.0
    if not rate:
        if start_s >= announced_s > 0.0:
            raise segment.beyond(announced_s)
        raise _GaveUpError(f"no frames of its {stream.codec_context.name} stream can be read from {start_s} s on")
    present_s = position / rate
    if present_s < announced_s - slack and (segment.end_s is None or segment.end_s > present_s):
        raise segment.truncated(present_s, announced_s)
    if segment.samples(rate)[0] >= position:
        raise segment.beyond(present_s)
