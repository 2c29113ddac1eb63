"""What becomes of the bytes of a recording: samples, or one error that says why not."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from acoustic_env.audio.decode import decode, duration_s, resample
from acoustic_env.errors import ClipError
from tests import sounds

SEGMENTS = [(0.0, 0.5), (0.3333, 1.7), (1.2, None), (None, 0.77), (1.9, 3.0)]


def decoded(data: bytes, start_s: float | None = None, end_s: float | None = None) -> sounds.Sound:
    return decode(io.BytesIO(data), start_s, end_s, "a recording")[0]


def code_of(data: bytes, start_s: float | None = None, end_s: float | None = None) -> str:
    with pytest.raises(ClipError) as caught:
        decoded(data, start_s, end_s)
    return caught.value.code


@pytest.mark.parametrize("name", sounds.good_files())
def test_every_good_file_decodes_to_finite_mono_at_its_own_rate(name: str) -> None:
    waveform, rate = decode(io.BytesIO(sounds.good_files()[name]), None, None, name)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert np.isfinite(waveform).all()
    # AAC comes in frames of 1,024 samples, one of them priming where the container does not say so.
    assert waveform.size / rate == pytest.approx(0.2 if "0.2" in name else 2.0, abs=0.05 if "voice" in name else 0.001)


@pytest.mark.parametrize("name", [name for name, (_, code) in sounds.bad_files().items() if code != "too_short"])
def test_every_bad_file_becomes_its_error(name: str) -> None:
    data, code = sounds.bad_files()[name]
    with pytest.raises(ClipError) as caught:
        decode(io.BytesIO(data), None, None, name)
    assert caught.value.code == code
    assert name in caught.value.message


def test_the_error_lists_what_each_decoder_said() -> None:
    with pytest.raises(ClipError, match=r"soundfile: .*PyAV: .*") as caught:
        decoded(sounds.bad_files()["text.wav"][0])
    assert "None" not in caught.value.message


def test_a_list_of_files_cannot_make_the_decoder_open_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.wav").write_bytes(sounds.encode(sounds.tone(1.0)))
    monkeypatch.chdir(tmp_path)
    lists = ["ffconcat version 1.0\nfile secret.wav\n", "#EXTM3U\n#EXTINF:1,\nsecret.wav\n"]
    assert [code_of(text.encode()) for text in lists] == ["not_audio", "not_audio"]


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
)
@pytest.mark.parametrize(("start_s", "end_s"), SEGMENTS)
def test_a_segment_equals_the_slice_of_the_whole(
    container: str, subtype: str, start_s: float | None, end_s: float | None
) -> None:
    rate = 48_000
    data = sounds.encode(sounds.sweep(2.0, rate), rate, container, subtype)
    start, stop = round((start_s or 0) * rate), None if end_s is None else round(end_s * rate)
    np.testing.assert_array_equal(decoded(data, start_s, end_s), decoded(data)[start:stop])


@pytest.mark.parametrize(
    ("container", "codec", "shift_s", "tolerance"),
    [
        ("mp3", "libmp3lame", 0.0, 1e-6),
        ("ipod", "aac", 0.0, 0.02),  # AAC fills quiet bands with noise that depends on where decoding began
        ("webm", "libopus", 0.001, 0.02),  # times in milliseconds
    ],
)
@pytest.mark.parametrize(("start_s", "end_s"), [(0.3, 1.0), (7.123, 9.0), (9.4, None)])
def test_a_segment_of_a_seeked_stream_is_the_slice_within_its_tolerance(
    container: str, codec: str, shift_s: float, tolerance: float, start_s: float, end_s: float | None
) -> None:
    rate = 48_000
    data = sounds.encode_by_ffmpeg(sounds.sweep(10.0, rate), rate, container, codec)
    whole, segment = decoded(data), decoded(data, start_s, end_s)
    start, stop = round(start_s * rate), whole.size if end_s is None else round(end_s * rate)
    reach = round(shift_s * rate)
    assert abs(segment.size - (stop - start)) <= reach
    inner = segment[reach : stop - start - reach]
    shifts = range(start, start + 2 * reach + 1)
    assert min(np.abs(inner - whole[shift : shift + inner.size]).max() for shift in shifts) < tolerance


@pytest.mark.parametrize(("container", "subtype"), [("AU", "G721_32"), ("AIFF", "DWVW_16"), ("WAV", "GSM610")])
def test_codings_that_cannot_be_seeked_in_are_read_from_the_start(container: str, subtype: str) -> None:
    data = sounds.encode(sounds.sweep(3.5, 8_000), 8_000, container, subtype)
    np.testing.assert_array_equal(decoded(data, 2.0, 2.5), decoded(data)[16_000:20_000])
    assert duration_s(io.BytesIO(data), "a.wav") == decoded(data).size / 8_000


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [("ogg", "flac", 22_050), ("wav", "libmp3lame", 22_050), ("mpeg", "mp2", 48_000), ("webm", "libopus", 8_000)],
)
def test_containers_whose_times_mislead_after_a_seek_give_the_slice(container: str, codec: str, rate: int) -> None:
    data = sounds.encode_by_ffmpeg(sounds.sweep(6.0, rate), rate, container, codec)
    whole, decoded_rate = decode(io.BytesIO(data), None, None, "a recording")
    segment = decoded(data, 4.5, 4.75)
    start, reach = round(4.5 * decoded_rate), 24 * (codec == "libopus")  # of half a millisecond
    shifts = [whole[at : at + segment.size] for at in range(start - reach, start + reach + 1)]
    assert min(np.abs(segment - shift).max() for shift in shifts) < 0.02


@pytest.mark.parametrize("name", ["voice.mp3", "voice.ogg", "voice.webm"])
def test_encoder_delay_is_removed(name: str) -> None:
    waveform, rate = decode(io.BytesIO(sounds.good_files()[name]), None, None, name)
    original = sounds.sweep(2.0, rate)
    middle = slice(rate // 2, rate)
    assert np.abs(waveform[middle] - original[middle]).max() < 0.05


@pytest.mark.parametrize("name", ["voice.ogg", "voice.m4a", "voice.webm", "stereo.flac"])
def test_a_segment_that_ends_beyond_the_end_is_what_exists(name: str) -> None:
    data = sounds.good_files()[name]
    whole, rate = decode(io.BytesIO(data), None, None, name)
    assert decoded(data, 1.0, 100.0).size == pytest.approx(whole.size - rate, abs=rate // 500)


@pytest.mark.parametrize("name", ["voice.ogg", "voice.mp3", "voice.m4a", "voice.webm", "voice.aac", "8 kHz.wav"])
@pytest.mark.parametrize("start_s", [2.1, 1e4])
def test_a_segment_that_starts_beyond_the_end_does_not_exist(name: str, start_s: float) -> None:
    assert code_of(sounds.good_files()[name], start_s, start_s + 10) == "no_such_segment"


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64", "FLAC", "OGG"])
def test_a_truncated_file_fails_only_the_segments_that_reach_into_the_missing_part(container: str) -> None:
    subtype = "VORBIS" if container == "OGG" else "PCM_16"
    whole = sounds.encode(sounds.noise(10.0, 44_100), 44_100, container, subtype)
    rest = sounds.cut(whole)
    np.testing.assert_array_equal(decoded(rest, 1.0, 2.5), decoded(whole, 1.0, 2.5))
    assert code_of(rest, 1.0, 9.5) == "decode_failed"
    assert code_of(rest, 8.0, 9.0) == "decode_failed"


def test_a_wav_with_an_open_size_from_a_pipe_is_not_taken_for_truncated() -> None:
    data = bytearray(sounds.encode(sounds.tone(1.0)))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert decoded(bytes(data)).size == sounds.RATE


def test_an_mp3_without_a_length_in_its_header_decodes() -> None:
    data = sounds.encode_by_ffmpeg(sounds.sweep(3.0, 44_100), 44_100, "mp3", "libmp3lame", {"write_xing": "0"})
    assert decoded(data).size == pytest.approx(3 * 44_100, abs=3 * 1152)


@pytest.mark.parametrize(
    ("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32), ("FLOAT", 25), ("DOUBLE", 25)]
)
def test_pcm_of_every_width_keeps_its_level(subtype: str, bits: int) -> None:
    sound = sounds.sweep(0.5)
    assert np.abs(decoded(sounds.encode(sound, subtype=subtype)) - sound).max() <= max(2.0 ** (1 - bits), 2.0**-24)


@pytest.mark.parametrize(
    ("codec", "bits"),
    [("pcm_u8", 8), ("pcm_s16be", 16), ("pcm_s24le", 24), ("pcm_s32le", 32), ("pcm_f32le", 25), ("pcm_f64le", 25)],
)
def test_pcm_that_only_ffmpeg_reads_keeps_its_level(codec: str, bits: int) -> None:
    sound = sounds.sweep(0.5)
    data = sounds.encode_by_ffmpeg(sound, sounds.RATE, "mov", codec)
    assert np.abs(decoded(data) - sound).max() <= 2 * max(2.0 ** (1 - bits), 2.0**-24)


def test_mono_is_the_mean_of_the_channels() -> None:
    channels = np.stack([sounds.noise(0.5, seed=seed) for seed in range(6)], axis=1)
    data = sounds.encode(channels, subtype="FLOAT")
    np.testing.assert_allclose(decoded(data), channels.mean(axis=1), atol=1e-7)
    assert not decoded(sounds.encode(sounds.antiphase(0.5))).any()


class _BrokenTransfer(io.BytesIO):
    """A source whose connection drops after some bytes."""

    def __init__(self, data: bytes, error: Exception) -> None:
        super().__init__(data)
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 30_000:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize("error", [OSError("connection reset"), ClipError("download_failed", "connection reset")])
@pytest.mark.parametrize("name", ["voice.webm", "double.wav", "stereo.flac"])
def test_a_transfer_that_breaks_off_is_not_blamed_on_the_file(name: str, error: Exception) -> None:
    data = sounds.good_files()[name]
    assert len(data) > 30_000 or name == "voice.webm"
    padded = (
        data if len(data) > 60_000 else sounds.encode_by_ffmpeg(sounds.noise(9.0, 48_000), 48_000, "webm", "libopus")
    )
    with pytest.raises(ClipError, match="connection reset") as caught:
        decode(_BrokenTransfer(padded, error), None, None, name)
    assert caught.value.code == "download_failed"
    assert not caught.value.permanent


@pytest.mark.parametrize("name", sounds.good_files())
def test_damaged_bytes_decode_or_become_an_error_and_nothing_else(name: str) -> None:
    generator = np.random.default_rng(23)
    for _ in range(10):
        damaged = bytearray(sounds.good_files()[name])
        for reach in (200, len(damaged)):  # the header, then anywhere
            for position in generator.integers(0, reach, 5):
                damaged[position] = generator.integers(256)
        start = int(generator.integers(len(damaged)))
        del damaged[start : start + int(generator.integers(2_000))]
        for segment in ((None, None), (0.7, 1.5)):
            with contextlib.suppress(ClipError):
                decode(io.BytesIO(bytes(damaged)), *segment, name)


def test_a_fragmented_m4a_as_video_sites_serve_it_decodes() -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    data = sounds.encode_by_ffmpeg(sounds.sweep(5.0, 44_100), 44_100, "mp4", "aac", options)
    whole = decoded(data)
    assert whole.size == pytest.approx(5 * 44_100, abs=2_048)
    assert decoded(data, 3.0, 4.0).size == 44_100
    assert code_of(sounds.cut(data), 1.0, 4.5) == "decode_failed"


def test_real_clips_decode_as_librosa_reads_them(test_data: Path) -> None:
    folders = ["esc10", "urbansound8k_originals", "maad_soundscape"]
    files = [sorted((test_data / "clips" / folder).rglob("*.[ow][ga][gv]"))[::50][:3] for folder in folders]
    for path in [path for found in files for path in found]:
        waveform, rate = decode(io.BytesIO(path.read_bytes()), None, None, path.name)
        expected, expected_rate = librosa.load(path, sr=None, mono=True)
        assert rate == expected_rate == soundfile.info(path).samplerate
        np.testing.assert_array_equal(waveform, expected)


def test_resampling_is_that_of_librosa() -> None:
    sound = sounds.noise(1.0, 44_100)
    np.testing.assert_array_equal(
        resample(sound, 44_100, 16_000), librosa.resample(sound, orig_sr=44_100, target_sr=16_000)
    )


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    sound = sounds.noise(0.1)
    assert resample(sound, sounds.RATE, sounds.RATE) is sound


@pytest.mark.parametrize("rate", [8_000, 22_000, 22_050, 44_100, 48_000, 96_000])
def test_a_tone_keeps_its_level_and_length_through_resampling(rate: int) -> None:
    resampled = resample(sounds.tone(1.0, rate), rate, sounds.RATE)
    assert resampled.size == sounds.RATE
    assert resampled.dtype == np.float32
    inner = slice(1_600, -1_600)
    np.testing.assert_allclose(resampled[inner], sounds.tone(1.0)[inner], atol=2e-4)
