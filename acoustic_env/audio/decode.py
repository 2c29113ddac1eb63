"""Bytes to a mono waveform: soundfile first, PyAV (ffmpeg) for what it cannot read, one error with both reasons.

Rules:

* Only the wanted segment is decoded. Sample `i` is sample `i` of the whole decode: `start_s` and `end_s` are rounded to
  the nearest sample. WAV, AIFF, FLAC, Ogg and MP3 (libsndfile) hit it exactly; through PyAV, MP4/M4A does too, while
  WebM/Matroska and FLV store times in milliseconds, so a segment may lie up to 1 ms off. What cannot be seeked in
  exactly (GSM and MP3 inside WAV, FLAC inside Ogg, MPEG program streams) is decoded from its start.
* AC-3, and AAC with noise substitution (ffmpeg's encoder makes it), hold noise that the decoder makes up, other noise
  after a seek: such a segment has the samples' positions and level of the whole decode, not its values.
* Encoder delay (MP3 with a LAME header, M4A with an edit list, Opus) is removed as the decoders do; a stream without
  that information keeps its priming samples, some 20 to 50 ms of near silence.
* A segment that ends beyond the recording's end is what exists of it (many AudioSet clips are 9.98 s).
* Mono is the mean of the channels; a stereo pair in antiphase is therefore silence.
* A file that ends before its header says it should fails with `decode_failed`, but only for a segment that reaches into
  the missing part. A length comes from what decodes, never from an estimate: frames of MP3 are counted, and formats
  without a length (raw ADTS, AMR, AVI, an MP3 without a Xing header, Ogg between two pages), and rare ones of
  libsndfile (NIST SPHERE, VOC, MAT), cannot be checked. A WAV file whose header says 0 bytes, as of a recorder that
  lost power, is audio to its end.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar, cast

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from acoustic_env.audio.mp3 import Mp3
from acoustic_env.audio.truncation import read_ogg_pages, sample_data
from acoustic_env.errors import ClipError

VERSION: Final = 2  # raised whenever the samples of the same bytes change
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
# Formats of ffmpeg whose frames have their own times, right after a seek, too; others are decoded from the start.
_TIMED: Final = ("aac", "amr", "ape", "asf", "avi", "flv", "matroska", "mov", "mpegts", "tta", "wv")
# Codings in which libsndfile counts samples and seeks to them exactly, by the beginning of their names.
_EXACT: Final = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS", "OPUS", "ALAC", "IMA_ADPCM", "MS_ADPCM")
_ESTIMATED: Final = ("GSM610", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")  # does not count; ffmpeg reads them
_FULL_SCALE: Final = {"i2": 2.0**15, "i4": 2.0**31}
_RATES: Final = (1_000, 768_000)  # Hz; below, a damaged header would blow a small file up to gigabytes
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

    def fileno(self) -> int:
        return self._source.fileno()

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

    def samples(self, rate: int) -> tuple[int, int]:
        start = 0 if self.start_s is None else max(0, round(self.start_s * rate))
        return start, sys.maxsize if self.end_s is None else max(start, round(self.end_s * rate))

    def within(self, rate: int, present: int, announced: int) -> tuple[int, int]:
        """Return the samples of the segment, up to the recording's end, all of which must be there."""
        start, stop = self.samples(rate)
        if start >= announced > 0:
            message = f"the segment starts at {self.start_s} s, the recording ends at {announced / rate:.3f} s"
            raise ClipError("no_such_segment", f"{self.name}: {message}")
        if min(stop, announced) > present:
            rest = (
                "the rest is missing" if announced == sys.maxsize else f"its header announces {announced / rate:.3f} s"
            )
            raise ClipError("decode_failed", f"{self.name}: truncated file: {present / rate:.3f} s are there, {rest}")
        return start, max(start, min(stop, announced))


class _Opened(NamedTuple):
    """A file as libsndfile reads it: Hz, samples that are there, those announced by its header, a way to read some."""

    rate: int
    present: int
    announced: int
    read: Callable[[int, int], Mono]


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
    if not _RATES[0] <= rate <= _RATES[1]:
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
    with _open(source, None) as file:
        return file.present / file.rate


def _length_by_pyav(source: _Watched) -> float:
    with _open_stream(source) as (container, stream):
        samples: int = sum(frame.samples for frame in _frames(container, stream))
        return samples / int(stream.codec_context.sample_rate or 1)


def _by_soundfile(source: _Watched, segment: _Segment) -> tuple[Mono, int]:
    with _open(source, segment) as file:
        start, stop = segment.within(file.rate, file.present, file.announced)
        waveform = file.read(start, stop)
    if waveform.size < stop - start:  # cut short, or a variant that only ffmpeg reads to its end
        raise _GaveUpError(f"{waveform.size} samples from sample {start} on, of {stop - start}")
    return waveform, file.rate


@contextmanager
def _open(source: _Watched, segment: _Segment | None) -> Iterator[_Opened]:
    """Open a file by libsndfile, of an MP3 only as far as a segment wants."""
    if (mp3 := Mp3.recognize(source)) is not None:
        yield _open_mp3(mp3, source, segment)
        return
    data = sample_data(source)  # before the library opens it: then the read position is its own
    if source.ogg.chained or (data is not None and not (data.announced and data.present)):
        raise _GaveUpError("several streams, one after the other, or no bytes of sound where its header says")
    source.seek(0)
    with _SoundFile(source) as file:
        present = announced = int(file.frames)
        if announced >= _NO_FRAMES or file.subtype in _ESTIMATED:
            raise _GaveUpError("its header does not say how long it is")
        if data is not None:
            announced = announced * data.announced // data.present
        if source.ogg.cut:
            announced = sys.maxsize

        def read(start: int, stop: int) -> Mono:
            begin = min(start, max(0, source.ogg.last_page - _VORBIS_BLOCK)) if source.ogg.last_page else start
            begin = begin if file.subtype.startswith(_EXACT) else 0
            if begin:
                file.seek(begin)
            return _read(file, stop - begin)[start - begin :]

        yield _Opened(int(file.samplerate), present, announced, read)


def _open_mp3(mp3: Mp3, source: _Watched, segment: _Segment | None) -> _Opened:
    """Count the frames of an MP3 file, up to a segment's end: libsndfile gets those of the segment alone."""
    wanted = (sys.maxsize if segment is None else segment.samples(mp3.rate)[1]) + mp3.delay
    try:
        frames = mp3.frames(source, wanted // mp3.each + 1)
    except ValueError as error:
        raise _GaveUpError(str(error)) from error
    present = announced = mp3.length(len(frames))
    missing = ((mp3.announced or 0) - len(frames)) * mp3.each
    if missing > _STREAM_SLACK_S * mp3.rate:
        announced += missing

    def read(start: int, stop: int) -> Mono:
        if start == stop:
            return _NOTHING
        data, before = mp3.excerpt(source, frames, start, stop)
        with _SoundFile(io.BytesIO(data)) as file:
            return _read(file, before + stop - start)[before:]

    return _Opened(mp3.rate, present, announced, read)


def _read(file: soundfile.SoundFile, wanted: int) -> Mono:
    """Read the next samples, mono; fewer at the end."""
    blocks = [_NOTHING]
    while wanted and len(block := file.read(min(wanted, _BLOCK_FRAMES), dtype="float32", always_2d=True)):
        wanted -= len(block)
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))
    return np.concatenate(blocks)


def _by_pyav(source: _Watched, segment: _Segment) -> tuple[Mono, int]:
    if (segment.start_s or 0.0) > _PREROLL_S:
        with suppress(_UnseekableError, _GaveUpError):
            return _read_stream(source, segment, seek=True)
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
        frames, first_pts = _frames(container, stream), 0
        if seek:
            first = next(frames, None)
            timed = container.format.name.partition(",")[0] in _TIMED and container.duration is not None
            if not timed or first is None or first.pts is None:
                raise _UnseekableError
            first_pts, to = first.pts, ((segment.start_s or 0.0) - _PREROLL_S) / stream.time_base
            try:
                container.seek(int(to) + first_pts, stream=stream)
            except av.FFmpegError as error:
                raise _UnseekableError from error
            frames = _frames(container, stream)
        kept: list[Mono] = []
        rate, position = 0, 0  # position: of the next frame's first sample, from the first one's
        start, stop = 0, 0
        for frame in frames:
            if not rate:
                rate = frame.sample_rate
                start, stop = segment.samples(rate)
                if seek and frame.pts is not None:
                    position = round((frame.pts - first_pts) * frame.time_base * rate)
                if position > start or (seek and frame.pts is None):
                    raise _UnseekableError
            elif frame.sample_rate != rate:
                raise _GaveUpError(f"the sample rate changes from {rate} to {frame.sample_rate} Hz")
            kept.append(_mono(frame)[max(0, start - position) : max(0, stop - position)])
            position += frame.samples
            if position >= stop:
                break
        else:
            if not rate and seek:
                raise _UnseekableError  # beyond the end, or it only seems so
            if not rate:
                raise _GaveUpError(f"no frames of its {stream.codec_context.name} stream can be read")
            announced = sys.maxsize if source.ogg.cut else round(_announced_s(container, stream) * rate)
            if (data := sample_data(source)) is not None and data.present < data.announced:
                announced = sys.maxsize
            segment.within(rate, position, max(position, announced))
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


def _announced_s(container: Any, stream: Any) -> float:
    """Return the shortest length that the header allows for, in s; 0 where it says nothing."""
    if container.format.name in _NO_LENGTH:
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base) - _STREAM_SLACK_S
    slack = _CONTAINER_SLACK_S if len(container.streams) > 1 else _STREAM_SLACK_S
    return (container.duration or 0) / av.time_base - slack
