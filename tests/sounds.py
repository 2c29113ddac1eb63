"""Generated sounds and encoded files: everything a decoder or a feature block may meet, with what must come of it."""

from __future__ import annotations

import io
from functools import cache

import av
import numpy as np
import numpy.typing as npt
import soundfile

from acoustic_env.errors import ErrorCode

Sound = npt.NDArray[np.float32]  # [samples] or [samples, channels]
RATE = 16_000


def silence(seconds: float, rate: int = RATE) -> Sound:
    return np.zeros(round(seconds * rate), np.float32)


def offset(seconds: float, rate: int = RATE, value: float = 0.3) -> Sound:
    """Direct current and nothing else."""
    return np.full(round(seconds * rate), value, np.float32)


def click(seconds: float, rate: int = RATE) -> Sound:
    sound = silence(seconds, rate)
    sound[sound.size // 2] = 1.0
    return sound


def tone(seconds: float, rate: int = RATE, frequency: float = 997.0, amplitude: float = 0.5) -> Sound:
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def noise(seconds: float, rate: int = RATE, seed: int = 23, amplitude: float = 0.1) -> Sound:
    generator = np.random.default_rng(seed)
    return (amplitude * generator.standard_normal(round(seconds * rate))).astype(np.float32)


def clipped_square(seconds: float, rate: int = RATE) -> Sound:
    """A distorted recording: a tone driven far into both rails."""
    return np.clip(20 * tone(seconds, rate, 220.0), -1.0, 1.0).astype(np.float32)


def sweep(seconds: float, rate: int = RATE, highest: float = 2_000.0) -> Sound:
    """A rising tone whose loudness beats: no two moments alike, so a shifted decode shows."""
    times = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (100.0 + (highest - 100.0) * times / (2 * seconds)) * times
    return (0.2 * np.sin(phase) * (1 + 0.5 * np.sin(7 * times))).astype(np.float32)


def antiphase(seconds: float, rate: int = RATE) -> Sound:
    """Two channels that cancel, to the bit in 16-bit samples too."""
    left = np.round(noise(seconds, rate) * 2.0**15) / np.float32(2.0**15)
    return np.stack([left, -left], axis=1)


def sounds(seconds: float = 2.0) -> dict[str, Sound]:
    """Mono waveforms at 16 kHz, the degenerate ones among them."""
    return {
        "silence": silence(seconds),
        "offset": offset(seconds),
        "click": click(seconds),
        "click at the start": np.roll(click(seconds), -round(seconds * RATE) // 2),
        "tone": tone(seconds),
        "tone at half the rate": np.where(np.arange(round(seconds * RATE)) % 2, -0.5, 0.5).astype(np.float32),
        "noise": noise(seconds),
        "clipped square": clipped_square(seconds),
        "one bit": (2.0**-15 * np.sign(noise(seconds))).astype(np.float32),
        "half silent": np.concatenate([silence(seconds / 2), noise(seconds / 2)]),
        "sweep": sweep(seconds),
    }


def encode(sound: Sound, rate: int = RATE, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """A file as libsndfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=container, subtype=subtype)
    return file.getvalue()


def encode_by_ffmpeg(
    sound: Sound, rate: int, container: str, codec: str, options: dict[str, str] | None = None
) -> bytes:
    """A mono file as ffmpeg writes it: m4a ("ipod", "aac"), webm ("webm", "libopus"), "adts", "mp3", ..."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        kind = "s16" if codec == "flac" else stream.codec_context.format  # FLAC's encoder has none of its own
        stream.format = kind
        whole = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        whole.sample_rate, whole.pts = rate, 0
        frame_size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(kind, "mono", rate, frame_size)
        for frame in [*resampler.resample(whole), *resampler.resample(None), None]:
            output.mux(stream.encode(frame))
    return file.getvalue()


def cut(data: bytes, share: float = 0.6) -> bytes:
    """The first part of a file whose transfer broke off."""
    return data[: round(len(data) * share)]


def picture() -> bytes:
    """A video without a sound track."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


@cache
def good_files() -> dict[str, bytes]:
    """File name -> bytes of files that must decode, 2 s long where the name does not say otherwise."""
    loud = noise(2.0, 44_100)
    not_dull = {
        "short 0.2 s.wav": encode(noise(0.2)),
        "odd length.wav": encode(noise(2.0, 44_100)[:-37], 44_100),
        "8 kHz.wav": encode(noise(2.0, 8_000), 8_000),
        "22 kHz.wav": encode(noise(2.0, 22_000), 22_000),
        "96 kHz.wav": encode(noise(2.0, 96_000), 96_000),
        "24 bit quiet.wav": encode(noise(2.0, amplitude=1e-6), subtype="PCM_24"),
        "stereo.flac": encode(np.stack([loud, noise(2.0, 44_100, seed=7)], axis=1), 44_100, "FLAC"),
        "5.1.wav": encode(np.stack([noise(2.0, 48_000, seed=i) for i in range(6)], axis=1), 48_000),
        "double.wav": encode(loud, 44_100, subtype="DOUBLE"),
        "voice.ogg": encode(sweep(2.0, 44_100), 44_100, "OGG", "VORBIS"),
        "voice.opus": encode(sweep(2.0, 48_000), 48_000, "OGG", "OPUS"),
        "voice.mp3": encode(sweep(2.0, 44_100), 44_100, "MP3", "MPEG_LAYER_III"),
        "voice.m4a": encode_by_ffmpeg(sweep(2.0, 44_100), 44_100, "ipod", "aac"),
        "voice.webm": encode_by_ffmpeg(sweep(2.0, 48_000), 48_000, "webm", "libopus"),
        "voice.aac": encode_by_ffmpeg(sweep(2.0, 44_100), 44_100, "adts", "aac"),
    }
    dull = {
        "silence.wav": encode(silence(2.0)),
        "offset.wav": encode(offset(2.0)),
        "click.wav": encode(click(2.0)),
        "clipped square.wav": encode(clipped_square(2.0)),
        "antiphase.wav": encode(antiphase(2.0)),
    }
    return not_dull | dull


@cache
def bad_files() -> dict[str, tuple[bytes, ErrorCode]]:
    """File name -> bytes that must not decode, and the error's code."""
    sound, tainted = sweep(2.0, 44_100), noise(2.0)
    tainted[1_000] = np.nan
    infinite = noise(2.0)
    infinite[1_000] = np.inf
    return {
        "empty.wav": (b"", "empty"),
        "no samples.wav": (encode(silence(0.0)), "empty"),
        "text.wav": (b"It was a bright cold day in April, and the clocks were striking thirteen.\n" * 40, "not_audio"),
        "error page.mp3": (b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>", "not_audio"),
        "playlist.wav": (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "not_audio"),
        "random.ogg": (np.random.default_rng(1).bytes(20_000), "not_audio"),
        "picture.m4a": (picture(), "not_audio"),
        "header only.wav": (encode(sound, 44_100)[:20], "decode_failed"),
        "header without data.wav": (encode(sound, 44_100)[:44], "decode_failed"),
        "truncated.wav": (cut(encode(sound, 44_100)), "decode_failed"),
        "truncated.aiff": (cut(encode(sound, 44_100, "AIFF")), "decode_failed"),
        "truncated.au": (cut(encode(sound, 44_100, "AU")), "decode_failed"),
        "truncated.w64": (cut(encode(sound, 44_100, "W64")), "decode_failed"),
        "truncated.rf64": (cut(encode(sound, 44_100, "RF64")), "decode_failed"),
        "truncated.flac": (cut(encode(sound, 44_100, "FLAC")), "decode_failed"),
        "truncated.ogg": (cut(encode(sound, 44_100, "OGG", "VORBIS")), "decode_failed"),
        "truncated.opus": (cut(encode(sweep(2.0, 48_000), 48_000, "OGG", "OPUS")), "decode_failed"),
        "truncated.mp3": (cut(encode(sound, 44_100, "MP3", "MPEG_LAYER_III")), "decode_failed"),
        "truncated.m4a": (cut(encode_by_ffmpeg(sound, 44_100, "ipod", "aac")), "decode_failed"),
        "truncated.webm": (cut(encode_by_ffmpeg(sweep(2.0, 48_000), 48_000, "webm", "libopus")), "decode_failed"),
        "absurd rate.wav": (encode(noise(2.0), 7), "decode_failed"),
        "not a number.wav": (encode(tainted, subtype="FLOAT"), "not_finite"),
        "infinite.wav": (encode(infinite, subtype="FLOAT"), "not_finite"),
        "one sample.wav": (encode(noise(2.0)[:1]), "too_short"),
        "0.05 s.wav": (encode(noise(0.05)), "too_short"),
    }
