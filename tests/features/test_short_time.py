"""Mel spectrogram, MFCCs and spectral shape: librosa's numbers, one shape for clips of one length."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest

from acoustic_env.audio.prepare import decode_and_resample
from acoustic_env.errors import UsageError
from acoustic_env.features.mel import LogMelBlock, LogMelFramesBlock, MfccBlock, MfccFramesBlock
from acoustic_env.features.registry import make_block
from acoustic_env.features.short_time import FrameSettings, fit_length
from acoustic_env.features.spectral import SpectralFramesBlock
from tests import sounds

RATE = 22_050
OTHER = {"sample_rate": 16_000, "n_fft": 512, "win_length": 400, "hop_length": 160, "window": "hamming"}


def clips(seconds: float = 1.3) -> np.ndarray:
    return np.stack([sounds.noise(seconds), sounds.sweep(seconds), np.zeros_like(sounds.noise(seconds))])


@pytest.mark.parametrize("options", [{}, OTHER])
@pytest.mark.parametrize("name", ["logmel", "logmel_frames", "mfcc", "mfcc_frames", "spectral", "spectral_frames"])
def test_both_engines_give_the_same_numbers(name: str, options: dict[str, Any]) -> None:
    both = clips().astype(np.float64)
    fast, reference = (make_block(name, engine, options).compute(both) for engine in ("fast", "reference"))
    assert list(fast) == list(reference) == [column.name for column in make_block(name, "fast", options).columns]
    for column, expected in reference.items():
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(fast[column], expected, rtol=1e-5, atol=2e-7 * scale, err_msg=column)


@pytest.mark.parametrize("name", ["logmel", "mfcc", "spectral"])
def test_both_engines_agree_in_single_precision_but_for_rounding(name: str) -> None:
    """Far from a tone there is rounding noise only, which the bandwidth weighs by the squared distance."""
    fast, reference = (make_block(name, engine).compute(clips()) for engine in ("fast", "reference"))
    for column, expected in reference.items():
        scale = max(1.0, float(np.abs(expected).max()))
        tolerance = 5e-3 if column.startswith(("bandwidth", "rolloff")) else 1e-4
        np.testing.assert_allclose(fast[column], expected, rtol=tolerance, atol=2e-6 * scale, err_msg=column)


def test_the_frames_are_librosas_own(test_data: Path) -> None:
    path = sorted((test_data / "clips/maad_soundscape").glob("*.wav"))[3]
    clip = decode_and_resample(io.BytesIO(path.read_bytes()), 2.0, 6.5, path.name, [RATE])[RATE]
    mel = librosa.feature.melspectrogram(y=clip, sr=RATE, n_mels=64)
    found = LogMelFramesBlock("fast").compute(clip[None])["logmel"][0]
    np.testing.assert_allclose(found, librosa.power_to_db(mel).T, atol=1e-3)
    coefficients = MfccFramesBlock("fast").compute(clip[None])
    expected = librosa.feature.mfcc(y=clip, sr=RATE, n_mfcc=20)
    np.testing.assert_allclose(coefficients["mfcc"][0], expected.T, atol=2e-3)
    np.testing.assert_allclose(coefficients["mfcc_delta"][0], librosa.feature.delta(expected).T, atol=1e-3)
    np.testing.assert_allclose(coefficients["mfcc_delta2"][0], librosa.feature.delta(expected, order=2).T, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"log": "ln"}, lambda mel: np.log(mel + 1e-9)),
        ({"log": "none"}, lambda mel: mel),
        ({"reference": "max"}, lambda mel: librosa.power_to_db(mel, ref=np.max)),
        ({"top_db": None}, lambda mel: librosa.power_to_db(mel, top_db=None)),
        ({"top_db": 30.0}, lambda mel: librosa.power_to_db(mel, top_db=30.0)),
    ],
)
def test_the_logarithm_is_as_the_recipe_says(options: dict[str, Any], expected: Any) -> None:
    mel = librosa.feature.melspectrogram(y=clips()[0], sr=RATE, n_mels=64).T
    found = LogMelFramesBlock("fast", **options).compute(clips()[:1])["logmel"][0]
    np.testing.assert_allclose(found, expected(mel), rtol=1e-4, atol=1e-4)


def test_statistics_are_those_of_the_frames() -> None:
    frames, statistics = MfccFramesBlock("fast").compute(clips()), MfccBlock("fast").compute(clips())
    for name, values in frames.items():
        exact = values.astype(np.float64)
        np.testing.assert_allclose(statistics[f"{name}_mean"], exact.mean(1), atol=1e-4)
        np.testing.assert_allclose(statistics[f"{name}_std"], exact.std(1), atol=1e-4)


def test_a_clip_of_fewer_frames_than_a_slope_needs_has_slopes() -> None:
    for engine in ("fast", "reference"):
        found = MfccBlock(engine).compute(clips(0.1))
        assert all(np.isfinite(values).all() for values in found.values())


def test_level_is_relative_to_full_scale() -> None:
    square = np.sign(np.sin(np.arange(RATE) / 7)).astype(np.float32)[None]
    levels = SpectralFramesBlock("fast").compute(np.concatenate([square, square / 10, square * 0]))["rms"][:, 10]
    np.testing.assert_allclose(levels, [0, -20, -200], atol=1e-3)


@pytest.mark.parametrize("rule", ["first", "center", "random"])
def test_a_long_clip_is_cropped_by_the_rule_alike_in_every_batch(rule: str) -> None:
    settings = FrameSettings(sample_rate=4_000, n_fft=256, seconds=1.0, crop=rule)  # type: ignore[arg-type]
    batch = np.random.default_rng(0).normal(size=(3, 9_000)).astype(np.float32)
    fitted = fit_length(batch, settings)
    starts = [int(np.flatnonzero(clip == kept[0])[0]) for clip, kept in zip(batch, fitted, strict=True)]
    for clip, kept, start in zip(batch, fitted, starts, strict=True):
        np.testing.assert_array_equal(kept, clip[start : start + 4_000])
    assert starts == {"first": [0] * 3, "center": [2_500] * 3}.get(rule, starts)
    assert rule != "random" or len(set(starts)) == 3
    np.testing.assert_array_equal(fit_length(batch[1:2], settings)[0], fitted[1])


@pytest.mark.parametrize("rule", ["end", "center", "random"])
def test_a_short_clip_gets_zeros_by_the_rule(rule: str) -> None:
    settings = FrameSettings(sample_rate=4_000, n_fft=256, seconds=1.0, pad=rule)  # type: ignore[arg-type]
    fitted = fit_length(np.ones((1, 1_000), np.float32), settings)[0]
    assert (fitted.size, fitted.sum()) == (4_000, 1_000)
    first = int(fitted.argmax())
    assert fitted[first : first + 1_000].all()
    assert first == {"end": 0, "center": 1_500}.get(rule, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mels": 64}, "block logmel: unknown setting 'mels'"),
        ({"win_length": 4_096}, "longer than n_fft"),
        ({"hop_length": 0}, "hop_length"),
        ({"seconds": -1}, "seconds"),
        ({"fmax": 11_026.0}, "bands from 0 to 11026 Hz; half the rate is 11025 Hz"),
        ({"fmin": 6_000.0, "fmax": 5_000.0}, "bands from 6000 to 5000 Hz"),
    ],
)
def test_wrong_settings_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_block("logmel", "fast", options)


def test_fingerprints_cover_settings_and_of_libraries_only_what_the_engine_calls() -> None:
    assert "librosa" in LogMelBlock("reference").parameters()
    assert "librosa" not in LogMelBlock("fast").parameters()
    assert LogMelBlock("fast", frames=True).parameters() == LogMelBlock("fast").parameters()
    assert LogMelBlock("fast", n_mels=60).parameters() != LogMelBlock("fast").parameters()


def test_the_filters_taken_from_librosa_are_those_this_version_was_made_with() -> None:
    """Raise the blocks' version when a release of librosa changes them: the fast engine does not cover its release."""
    mel = librosa.filters.mel(sr=22_050, n_fft=2_048, n_mels=64)
    chroma = librosa.filters.chroma(sr=22_050, n_fft=2_048, tuning=0.0)
    weights = np.arange(1, 1_026) % 97
    np.testing.assert_allclose([(mel @ weights).sum(), (chroma @ weights).sum()], [274.45998, 31814.877], rtol=1e-6)
