"""The modulation power spectrum: the library's own numbers, folded, one shape for clips of any length."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from soundsig.sound import BioSound

from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.audio.prepare import decode_and_resample, parameters, prepare
from acoustic_env.audio.signals import SIGNALS, Engine
from acoustic_env.features.block import METADATA_PREFIX, table_schema, to_table
from acoustic_env.features.modulation import MIN_SAMPLES, SHAPE, ModulationBlock, as_maps, axes
from acoustic_env.features.registry import make_block
from tests import sounds


def spectra(clips: np.ndarray, engine: Engine = "reference") -> np.ndarray:
    return ModulationBlock(engine).compute(rms_normalize(clips))["mps"]


@pytest.mark.slow
def test_every_number_of_a_real_clip_is_the_direct_library_call(test_data: Path) -> None:
    path = sorted((test_data / "clips/maad_soundscape").glob("*.wav"))[5]
    waveform = decode_and_resample(io.BytesIO(path.read_bytes()), 2.0, 6.5, path.name, [16_000])[16_000]
    for signal in prepare(waveform[None], 16_000, "reference", SIGNALS).values():
        sound = BioSound(soundWave=signal[0], fs=16_000)
        sound.mpsCalc(window=1, Norm=True)
        upper = sound.mps[sound.wf >= 0]
        positive, negative = upper[:, sound.wt >= 0], upper[:, sound.wt <= 0][:, ::-1]
        expected = ((positive + negative) / 2)[:, sound.wt[sound.wt >= 0] <= 100]
        stored = as_maps(ModulationBlock("reference").compute(signal)["mps"])[0]
        np.testing.assert_array_equal(stored, expected.astype(np.float32))
        spectral, temporal = axes()
        np.testing.assert_allclose(spectral, sound.wf[sound.wf >= 0] * 1e3)
        np.testing.assert_allclose(temporal, sound.wt[sound.wt >= 0][: temporal.size])


def test_the_current_release_has_80_rows_and_101_columns() -> None:
    spectral, temporal = axes()
    assert SHAPE == (80, 101) == (spectral.size, temporal.size)
    assert spectral[-1] == pytest.approx(9.875)
    assert temporal[-1] == pytest.approx(99.9001, abs=1e-4)


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("seconds", [0.1, 0.999, 1.0, 1.001, 2.5])
def test_the_shape_is_the_same_for_every_length(seconds: float, engine: Engine) -> None:
    clips = np.stack([sounds.noise(seconds), sounds.sweep(seconds)])
    vectors = spectra(clips, engine)
    assert vectors.shape == (2, SHAPE[0] * SHAPE[1])
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()


def test_a_short_clip_is_the_same_clip_followed_by_silence() -> None:
    short = rms_normalize(sounds.noise(0.2)[None])
    followed = np.pad(short, ((0, 0), (0, MIN_SAMPLES - short.shape[1])))
    block = ModulationBlock("reference")
    np.testing.assert_array_equal(block.compute(short)["mps"], block.compute(followed)["mps"])


def test_a_clip_does_not_depend_on_its_batch() -> None:
    clips = np.stack([sounds.noise(1.2), sounds.silence(1.2), sounds.sweep(1.2)])
    together = spectra(clips)
    for i, clip in enumerate(clips):
        np.testing.assert_array_equal(spectra(clip[None])[0], together[i])


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("seconds", [0.2, 1.2])
def test_only_silent_sounds_have_no_spectrum(seconds: float, engine: Engine) -> None:
    named = sounds.sounds(seconds)
    vectors = spectra(np.stack(list(named.values())), engine)
    assert not np.isinf(vectors).any()
    finite = np.isfinite(vectors)
    assert {name for name, row in zip(named, finite, strict=True) if not row.any()} == {"silence", "offset"}
    assert {name for name, row in zip(named, finite, strict=True) if row.all()} == set(named) - {"silence", "offset"}


def test_a_beating_noise_peaks_at_its_rate_on_the_axis() -> None:
    beat = sounds.noise(4.0) * (1 + 0.9 * np.sin(2 * np.pi * 20.0 * np.arange(64_000) / 16_000)).astype(np.float32)
    row = as_maps(spectra(beat[None]))[0, 0]
    _, temporal = axes()
    assert temporal[10:][row[10:].argmax()] == pytest.approx(20.0, abs=0.6)


def test_a_harmonic_sound_peaks_at_its_spacing_on_the_axis() -> None:
    harmonics = sum(sounds.tone(2.0, frequency=500.0 * k, amplitude=0.05) for k in range(1, 16))
    column = as_maps(spectra(harmonics[None]))[0][:, 0]
    spectral, _ = axes()
    assert spectral[5:][column[5:].argmax()] == pytest.approx(2.0, abs=0.13)


def test_the_table_holds_shape_and_axes_and_a_null_for_silence() -> None:
    block = make_block("mps", "reference")
    schema = table_schema(block, parameters(block.sample_rate, "reference", "raw"))
    columns = block.compute(rms_normalize(np.stack([sounds.silence(1.0), sounds.noise(1.0)])))
    table = to_table(schema, ["a", "b"], ["raw", "raw"], columns)
    assert table["mps"].is_null().to_pylist() == [True, False]
    described = {key.decode().removeprefix(METADATA_PREFIX): value for key, value in schema.metadata.items()}
    assert json.loads(described["mps_shape"]) == list(SHAPE)
    np.testing.assert_array_equal(json.loads(described["mps_spectral_cycles_per_kHz"]), axes()[0])
    np.testing.assert_array_equal(json.loads(described["mps_temporal_Hz"]), axes()[1])
    assert as_maps(np.zeros((3, 2, SHAPE[0] * SHAPE[1]))).shape == (3, 2, *SHAPE)
