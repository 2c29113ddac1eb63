"""The fast gate against noisereduce itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.audio.separate import separate_reference
from acoustic_env.audio.separate_fast import CHUNK, separate_fast
from tests import sounds
from tests.real_clips import real_clips


def distance(waveform: np.ndarray, rate: int = 16_000) -> float:
    """Largest difference of the two foregrounds, in units of the waveform's RMS."""
    fast = separate_fast(waveform[None], rate)[0]
    assert fast.shape == waveform.shape
    assert fast.dtype == waveform.dtype
    difference = np.abs(fast.astype(np.float64) - separate_reference(waveform, rate)).max()
    return float(difference / max(np.sqrt(np.square(waveform, dtype=np.float64).mean()), 1e-30))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_foreground_of_real_clips_is_noisereduces(test_data: Path, dtype: type) -> None:
    for name, clip in real_clips(test_data, 5):
        assert distance(rms_normalize(clip[None].astype(dtype))[0]) < 1e-9, name


def test_a_float32_foreground_is_the_same_to_the_last_digit_where_there_is_sound(test_data: Path) -> None:
    clips = [
        rms_normalize(clip[None])[0] for name, clip in real_clips(test_data, 2) if "maad" in name or "blanket" in name
    ]
    for clip in clips:
        differing = np.mean(separate_fast(clip[None], 16_000)[0] != separate_reference(clip, 16_000))
        assert differing < 1e-3


@pytest.mark.parametrize("seconds", [0.1, 0.2, 1.37])
def test_every_kind_of_sound_is_gated_as_by_noisereduce(seconds: float) -> None:
    for name, sound in sounds.sounds(seconds).items():
        assert distance(rms_normalize(sound[None].astype(np.float64))[0]) < 1e-9, name


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100])
def test_other_sample_rates_smooth_as_noisereduce_does(rate: int) -> None:
    assert distance(sounds.sweep(1.0, rate) + sounds.noise(1.0, rate, amplitude=0.01), rate) < 1e-6


@given(st.integers(1_600, 9_000), st.floats(1e-6, 10.0), st.integers(0, 1_000))
@settings(max_examples=15, deadline=None)
def test_any_length_and_gain_agree(samples: int, gain: float, seed: int) -> None:
    sound = sounds.noise(samples / 16_000, seed=seed).astype(np.float64)[:samples]
    sound[: samples // 3] *= 0.01
    assert distance(gain * sound) < 1e-9


def test_a_recording_of_more_than_one_chunk_is_gated_in_the_librarys_chunks() -> None:
    seconds = (CHUNK + 50_000) / 16_000
    recording = np.tile(sounds.sweep(5.0), 10)[: round(seconds * 16_000)] + sounds.noise(seconds, amplitude=0.02)
    assert distance(recording.astype(np.float64)) < 1e-9


def test_a_clips_foreground_is_the_same_in_any_batch() -> None:
    clips = rms_normalize(
        np.stack([sounds.sweep(1.0), sounds.silence(1.0), *(sounds.noise(1.0, seed=s) for s in range(5))])
    )
    together = separate_fast(clips, 16_000)
    for clip, foreground in zip(clips, together, strict=True):
        np.testing.assert_array_equal(separate_fast(clip[None], 16_000)[0], foreground)


def test_clips_side_by_side_in_one_step_agree_with_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = rms_normalize(np.stack([sounds.sweep(1.0), sounds.noise(1.0), sounds.click(1.0)]).astype(np.float64))
    alone = np.concatenate([separate_fast(clip[None], 16_000) for clip in clips])
    monkeypatch.setitem(separate_fast.__globals__["_SAMPLES_AT_ONCE"], "cpu", 1 << 23)  # as on a GPU
    np.testing.assert_allclose(separate_fast(clips, 16_000), alone, rtol=0, atol=1e-12)


def test_silence_has_a_silent_foreground() -> None:
    assert not separate_fast(np.zeros((2, 5_000), np.float32), 16_000).any()


def test_a_sample_rate_too_low_to_smooth_at_is_refused_as_by_the_library() -> None:
    sound = sounds.noise(1.0, 4_000)
    with pytest.raises(ValueError, match="time_mask_smooth_ms"):
        separate_reference(sound, 4_000)
    with pytest.raises(ValueError, match="sample rate from 5120"):
        separate_fast(sound[None], 4_000)
