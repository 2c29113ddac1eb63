"""Lengths were estimates: a 40 s MP3 without a Xing header decoded to 9 s without an error, whole files were refused.

An MP3 without a Xing header has no length, one that others were appended to has a wrong one; Ogg files of recorders
that lose power have no end flag, WAV files say 0 bytes. Where libsndfile seeks in MP3, and in the last page of Ogg
Vorbis, it is not exact; soundfile seeks after every read, so a long MP3 had a wrong stretch every 2^20 samples.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acoustic_env.audio import decode as decoding
from acoustic_env.audio.decode import decode, duration_s
from acoustic_env.clips.readers.folder import read_folder
from acoustic_env.errors import ClipError
from tests.sounds import Sound, encode, encode_by_ffmpeg, noise, sweep

RATE = 44_100


def loud_then_quiet(seconds: float = 40.0) -> Sound:
    """A quarter of noise, then a sweep 60 dB below full scale: the bit rate falls."""
    quarter = seconds / 4
    return np.concatenate([noise(quarter, RATE, amplitude=0.3), 0.005 * sweep(3 * quarter, RATE)])


def vbr(sound: Sound, rate: int = RATE) -> bytes:
    """An MP3 file of variable bit rate, its Xing header first."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    return file.getvalue()


def without_xing(data: bytes) -> bytes:
    """The frames after the first."""
    return data[data.index(data[:2], 4) :]


def without_end_flag(data: bytes) -> bytes:
    """An Ogg file without its last page."""
    return data[: data.rindex(b"OggS")]


def with_size(data: bytes, size: int) -> bytes:
    """A WAV file whose header says so for the file and for its samples."""
    changed, at = bytearray(data), data.index(b"data") + 4
    changed[4:8] = changed[at : at + 4] = struct.pack("<I", size)
    return bytes(changed)


def pieces() -> dict[str, tuple[bytes, float]]:
    """Name -> file and its length in s."""
    falling = loud_then_quiet()
    rising = falling[::-1].copy()
    song, ogg = (
        sweep(12.0, RATE),
        {kind: encode(sweep(12.0, 48_000), 48_000, "OGG", kind) for kind in ("VORBIS", "OPUS")},
    )
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    unknown = bytearray(encode(song, RATE, "FLAC"))
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    return {
        "falling.mp3": (without_xing(vbr(falling)), 40.0),
        "rising.mp3": (without_xing(vbr(rising)), 40.0),
        "two bit rates.mp3": (without_xing(vbr(noise(9, RATE))) + without_xing(vbr(0.001 * song)), 21.0),
        "appended.mp3": (vbr(song) + vbr(song), 24.0),
        "speech.mp3": (without_xing(vbr(sweep(20, 16_000), 16_000)), 20.0),
        "falling.aac": (encode_by_ffmpeg(falling, RATE, "adts", "aac"), 40.0),
        "rising.ac3": (encode_by_ffmpeg(rising, RATE, "ac3", "ac3"), 40.0),
        "voice.amr": (encode_by_ffmpeg(sweep(20.0, 8_000), 8_000, "amr", "libopencore_amrnb"), 20.0),
        "open.webm": (encode_by_ffmpeg(sweep(20, 48_000), 48_000, "webm", "libopus", {"live": "1"}), 20.0),
        "fragmented.mp4": (encode_by_ffmpeg(song, RATE, "mp4", "aac", fragments), 12.0),
        "unknown.flac": (bytes(unknown), 12.0),
        "lost power.wav": (with_size(encode(song, RATE), 0), 12.0),
        "open end.wav": (with_size(encode(song, RATE), 0xFFFFFFFF), 12.0),
        **{f"{kind} padded.ogg": (data + bytes(200_000), 12.0) for kind, data in ogg.items()},
        **{f"{kind} twice.ogg": (data + data, 24.0) for kind, data in ogg.items()},
        **{f"{kind} without end.ogg": (without_end_flag(data), 11.6) for kind, data in ogg.items()},
    }


PIECES = pieces()


@pytest.mark.parametrize("name", PIECES)
def test_a_whole_file_decodes_to_its_end_and_its_segments_are_its_slices(name: str) -> None:
    data, seconds = PIECES[name]
    whole, rate = decode(io.BytesIO(data), None, None, name)
    assert whole.size / rate == pytest.approx(seconds, abs=0.3)
    assert duration_s(io.BytesIO(data), name) == whole.size / rate
    # AMR's filters remember more than the decoding before a segment gives them; AAC makes up noise of its own.
    tolerance = 0.01 if name.endswith(("amr", "mp4")) else 1e-6
    for start_s, end_s in ((1.0, 2.5), (10.5, 20.0), (seconds - 1.5, None), (seconds - 0.4, seconds + 9)):
        if name == "falling.aac" and start_s < 10.0:
            continue
        segment, _ = decode(io.BytesIO(data), start_s, end_s, name)
        expected = whole[round(start_s * rate) : None if end_s is None else round(end_s * rate)]
        assert segment.size == expected.size
        assert np.abs(segment - expected).max() <= tolerance
    with pytest.raises(ClipError, match="no_such_segment"):
        decode(io.BytesIO(data), seconds + 1.0, seconds + 2.0, name)


def test_all_windows_of_such_files_are_listed(tmp_path: Path) -> None:
    for name in ("falling.mp3", "rising.mp3", "lost power.wav", "appended.mp3"):
        (tmp_path / name).write_bytes(PIECES[name][0])
    starts: dict[str, list[float]] = {}
    for clip in read_folder(str(tmp_path), window_s=10).to_pylist():
        starts.setdefault(Path(clip["uri"]).name, []).append(clip["start_s"])
    four = [0.0, 10.0, 20.0, 30.0]
    assert starts == {"falling.mp3": four, "rising.mp3": four, "lost power.wav": four[:1], "appended.mp3": four[:2]}


@pytest.mark.parametrize("bitrate_mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize(("rate", "channels"), [(44_100, 1), (48_000, 2), (22_050, 1), (8_000, 2)])
def test_an_mp3_with_a_xing_header_decodes_as_libsndfile_does(rate: int, channels: int, bitrate_mode: str) -> None:
    file = io.BytesIO()
    sound = np.stack([sweep(3.0, rate, 1_000.0), noise(3.0, rate)], axis=1)[:, :channels]
    soundfile.write(file, sound, rate, format="MP3", bitrate_mode=bitrate_mode, compression_level=0.5)
    expected = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)[0].mean(axis=1)
    tagged = b"ID3\4\0\0\0\0\2\0" + bytes(256) + file.getvalue() + b"TAG".ljust(128, b"\0")
    for data in (file.getvalue(), tagged):
        np.testing.assert_allclose(decode(io.BytesIO(data), None, None, "a.mp3")[0], expected, atol=1e-6)


@pytest.mark.parametrize(("container", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")])
def test_a_long_file_read_in_blocks_decodes_as_in_one_read(container: str, subtype: str) -> None:
    data = encode(sweep(66.5, 16_000), 16_000, container, subtype)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert expected.size > 1 << 20
    np.testing.assert_allclose(decode(io.BytesIO(data), None, None, "long")[0], expected, atol=1e-6)


def test_a_file_that_was_written_to_or_could_not_be_read_once_is_counted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "a.mp3", without_xing(vbr(noise(30.0, RATE)))

    def length() -> float:
        with path.open("rb") as file:
            return duration_s(file, "a.mp3")

    path.write_bytes(data[: len(data) // 2])
    assert length() == pytest.approx(15.0, abs=0.5)
    path.write_bytes(data)
    read = decoding._Watched.readinto

    def fail(self: decoding._Watched, buffer: bytearray) -> int:
        if self.tell() < 100_000:
            return read(self, buffer)
        self.failure = OSError("stale file handle")
        return 0

    with monkeypatch.context() as broken:
        broken.setattr(decoding._Watched, "readinto", fail)
        with pytest.raises(ClipError, match="stale file handle"):
            length()
    assert length() == pytest.approx(30.0, abs=0.1)


def test_what_lies_between_or_after_the_frames_of_an_mp3_is_no_sound() -> None:
    bare = without_xing(vbr(sweep(5.0, RATE)))
    junk = np.random.default_rng(23).bytes(300_000)
    whole, _ = decode(io.BytesIO(bare), None, None, "a.mp3")
    for data, times in ((bare + junk, 1), (bare + junk + bare, 2), (bare + b"TAG" + junk[:125], 1), (bare[:-9], 1)):
        found, _ = decode(io.BytesIO(data), None, None, "a.mp3")
        assert found.size == pytest.approx(times * whole.size, abs=2 * 1_152)
        np.testing.assert_allclose(found[: whole.size - 4_000], whole[:-4_000], atol=1e-6)


def test_a_frame_of_another_rate_is_named() -> None:
    with pytest.raises(ClipError, match="sample rate changes"):
        decode(io.BytesIO(vbr(noise(2, RATE)) + vbr(noise(2, 48_000), 48_000)), None, None, "a.mp3")


@pytest.mark.parametrize("seconds", [3.21, 9.7])
def test_every_segment_at_the_end_of_a_vorbis_file_is_a_slice(seconds: float) -> None:
    data = encode(sweep(seconds, 48_000), 48_000, "OGG", "VORBIS")
    whole, rate = decode(io.BytesIO(data), None, None, "a.ogg")
    for start in range(whole.size - 60_000, whole.size, 4_999):
        np.testing.assert_array_equal(decode(io.BytesIO(data), start / rate, None, "a.ogg")[0], whole[start:])


def test_what_says_that_it_is_cut_is_still_refused() -> None:
    ogg = encode(sweep(4.0, 48_000), 48_000, "OGG", "VORBIS")
    for data in (ogg[:-100], ogg[: ogg.rindex(b"OggS") + 9], vbr(noise(9, RATE))[:-20_000]):
        with pytest.raises(ClipError, match="truncated"):
            decode(io.BytesIO(data), None, None, "cut")


def test_a_wav_file_without_sound_is_empty_whatever_follows() -> None:
    for more in (b"", b"LIST\4\0\0\0INFO"):
        with pytest.raises(ClipError, match=r"empty: a\.wav: no samples"):
            decode(io.BytesIO(encode(noise(0.0)) + more), None, None, "a.wav")


def test_a_segment_without_samples_is_named_by_its_ends() -> None:
    with pytest.raises(ClipError, match=r"a\.wav: no samples from 0 s to 1e-05 s"):
        decode(io.BytesIO(encode(noise(1.0))), None, 1e-5, "a.wav")
