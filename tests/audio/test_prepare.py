"""Normalization, short clips and the built-in signals."""

from __future__ import annotations

import io
import json
from pathlib import Path

import noisereduce
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acoustic_env.audio.normalize import RMS, rms_normalize
from acoustic_env.audio.prepare import MIN_DURATION_S, decode_and_resample, parameters, prepare
from acoustic_env.audio.separate import separate_reference
from acoustic_env.audio.signals import SIGNALS, Engine
from acoustic_env.errors import ClipError
from tests import sounds


def rms(waveforms: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(waveforms, dtype=np.float64).mean(axis=1))


def test_a_clip_is_decoded_once_and_resampled_to_every_wanted_rate() -> None:
    waveforms = decode_and_resample(
        io.BytesIO(sounds.good_files()["stereo.flac"]), 0.5, 1.5, "clip", [16_000, 32_000, 44_100]
    )
    assert {rate: waveform.size for rate, waveform in waveforms.items()} == {
        16_000: 16_000,
        32_000: 32_000,
        44_100: 44_100,
    }
    assert all(waveform.dtype == np.float32 for waveform in waveforms.values())


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_a_clip_below_the_shortest_is_refused_and_the_shortest_is_not(rate: int) -> None:
    shortest = sounds.encode(sounds.noise(MIN_DURATION_S, rate), rate)
    assert decode_and_resample(io.BytesIO(shortest), None, None, "clip", [16_000])[16_000].size == 1_600
    with pytest.raises(ClipError, match=r"0\.09") as caught:
        decode_and_resample(io.BytesIO(shortest), 0.01, None, "clip", [16_000])
    assert caught.value.code == "too_short"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalizing_removes_the_mean_and_sets_the_rms(dtype: type) -> None:
    clips = np.stack([sounds.noise(1.0) + 0.4, 1e-5 * sounds.sweep(1.0), sounds.clipped_square(1.0)]).astype(dtype)
    normalized = rms_normalize(clips)
    assert normalized.dtype == dtype
    np.testing.assert_allclose(rms(normalized), RMS, rtol=1e-6)
    np.testing.assert_allclose(normalized.mean(axis=1, dtype=np.float64), 0.0, atol=1e-8)
    scaled = clips[0] - clips[0].mean(dtype=np.float64)
    np.testing.assert_allclose(normalized[0], scaled * RMS / np.sqrt(np.square(scaled).mean()), atol=1e-6)


@pytest.mark.parametrize(
    "sound", [sounds.silence(1.0), sounds.offset(1.0), sounds.offset(1.0, value=0.1), 1e-9 * sounds.noise(1.0)]
)
def test_silence_and_a_mere_offset_become_zeros(sound: sounds.Sound) -> None:
    assert not rms_normalize(sound[None]).any()


def test_the_quietest_bit_of_a_24_bit_recording_is_not_silence() -> None:
    data = sounds.good_files()["24 bit quiet.wav"]
    waveform = decode_and_resample(io.BytesIO(data), None, None, "clip", [16_000])[16_000]
    np.testing.assert_allclose(rms(rms_normalize(waveform[None])), RMS, rtol=1e-6)


@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1_600, 1_700)), elements=st.floats(-1, 1, width=32)))
@settings(max_examples=30, deadline=None)
def test_normalizing_is_finite_and_forgets_gain_and_offset(clips: np.ndarray) -> None:
    normalized = rms_normalize(clips)
    assert np.isfinite(normalized).all()
    audible = rms(clips - clips.mean(axis=1, keepdims=True)) > 1e-3
    np.testing.assert_allclose(rms_normalize(0.25 * clips + 0.5)[audible], normalized[audible], atol=1e-4)


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_foreground_and_background_add_up_to_the_raw_signal(engine: Engine) -> None:
    clips = np.stack([sounds.sweep(1.0) + sounds.noise(1.0, amplitude=0.01), sounds.noise(1.0), sounds.silence(1.0)])
    signals = prepare(clips, 16_000, engine, SIGNALS)
    assert list(signals) == list(SIGNALS)
    assert all(signal.shape == clips.shape and signal.dtype == clips.dtype for signal in signals.values())
    np.testing.assert_array_equal(signals["bg"], signals["raw"] - signals["fg"])
    assert not any(signal[2].any() for signal in signals.values())
    assert (rms(signals["fg"][:2]) < RMS).all()


def test_only_the_wanted_signals_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisereduce, "reduce_noise", None)  # a call would raise
    assert list(prepare(sounds.noise(0.5)[None], 16_000, "reference", ["raw"])) == ["raw"]


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_clip_does_not_depend_on_its_batch(engine: Engine) -> None:
    clips = np.stack([sounds.noise(1.0), sounds.sweep(1.0), sounds.click(1.0), sounds.silence(1.0), sounds.tone(1.0)])
    together = prepare(clips, 16_000, engine, SIGNALS)
    for i, clip in enumerate(clips):
        alone = prepare(clip[None], 16_000, engine, SIGNALS)
        for signal in SIGNALS:
            np.testing.assert_array_equal(alone[signal][0], together[signal][i])


def test_the_fingerprint_parameters_are_json_and_change_with_rate_and_engine() -> None:
    rates: tuple[int, ...] = (16_000, 32_000)
    engines: tuple[Engine, ...] = ("fast", "reference")
    separated = [json.dumps(parameters(rate, engine, "fg")) for rate in rates for engine in engines]
    assert len(set(separated)) == 4
    raw = [json.dumps(parameters(rate, engine, "raw")) for rate in rates for engine in engines]
    assert len(set(raw)) == 2, "raw is not separated, so both engines make the same"


@pytest.mark.parametrize("name", sounds.sounds(0.2))
@pytest.mark.parametrize("seconds", [0.1, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separation_of_any_sound_keeps_shape_and_type_and_is_finite(name: str, seconds: float, dtype: type) -> None:
    waveform = rms_normalize(sounds.sounds(seconds)[name][None].astype(dtype))[0]
    foreground = separate_reference(waveform, 16_000)
    assert foreground.shape == waveform.shape
    assert foreground.dtype == dtype
    assert np.isfinite(foreground).all()


def test_the_written_out_gate_is_the_library_default(test_data: Path) -> None:
    for path in sorted((test_data / "clips" / "esc10").rglob("*.ogg"))[::150]:
        waveform = rms_normalize(
            decode_and_resample(io.BytesIO(path.read_bytes()), None, None, path.name, [16_000])[16_000][None]
        )[0]
        np.testing.assert_array_equal(separate_reference(waveform, 16_000), noisereduce.reduce_noise(waveform, 16_000))


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_silent_chunk_of_a_long_recording_has_no_foreground(engine: Engine) -> None:
    rate = 16_000
    ends = np.round(sounds.noise(2.0) * 2.0**15) / np.float32(2.0**15)
    recording = np.concatenate([ends, sounds.silence(80.0), -ends])  # of mean zero, so that silence stays zero
    signals = prepare(recording[None], rate, engine, SIGNALS)
    assert all(np.isfinite(signal).all() for signal in signals.values())
    assert not signals["fg"][0, 10 * rate : 70 * rate].any()
    assert rms(signals["fg"])[0] > 0.001
