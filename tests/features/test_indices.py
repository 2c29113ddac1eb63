"""The 60 indices: the library's own numbers, whatever the batch, and nulls where nothing is defined."""

from __future__ import annotations

import io
from pathlib import Path

import maad.features
import maad.sound
import numpy as np
import pytest

from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.audio.prepare import decode_and_resample, parameters, prepare
from acoustic_env.audio.signals import SIGNALS, Engine
from acoustic_env.errors import UsageError
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.indices import NAMES, SPECTRAL, TEMPORAL, IndicesBlock
from acoustic_env.features.registry import make_block
from tests import sounds

UNDEFINED_IN_SILENCE = {
    *("SKEWt", "KURTt", "SKEWf", "KURTf", "EAS", "ECU", "ECV", "ACI", "NDSI", "rBA", "BI", "RAOQ", "AGI"),
    *("H_Havrda", "H_Renyi", "H_pairedShannon", "H_gamma", "H_GiniSimpson"),
}


def undefined(sound: sounds.Sound, engine: Engine = "reference") -> set[str]:
    """Names of the raw signal's nulls."""
    columns = IndicesBlock(engine).compute(rms_normalize(sound[None]))
    return {name for name, values in columns.items() if not np.isfinite(values[0])}


def test_the_columns_are_those_of_the_installed_library_in_its_order() -> None:
    sound = sounds.noise(1.0).astype(np.float64)
    temporal = maad.features.all_temporal_alpha_indices(sound, 16_000)
    power, times, frequencies, _ = maad.sound.spectrogram(sound, 16_000)
    spectral, _ = maad.features.all_spectral_alpha_indices(power, times, frequencies)
    assert tuple(temporal.columns) == TEMPORAL
    assert tuple(spectral.columns) == SPECTRAL
    block = make_block("indices", "reference")
    assert [column.name for column in block.columns] == [*TEMPORAL, *SPECTRAL]
    assert len(NAMES) == 60
    assert all(column.unit and column.description for column in block.columns)


def test_every_number_of_a_real_clip_is_the_direct_library_call(test_data: Path) -> None:
    files = [
        sorted((test_data / "clips/maad_soundscape").glob("*.wav"))[3],
        sorted((test_data / "clips/esc10").rglob("*.ogg"))[211],
    ]
    for path in files:
        waveform = decode_and_resample(io.BytesIO(path.read_bytes()), 1.0, 4.7, path.name, [16_000])[16_000]
        signals = prepare(waveform[None], 16_000, "reference", SIGNALS)
        for signal in signals.values():
            columns = IndicesBlock("reference").compute(signal)
            sound = signal[0].astype(np.float64)
            power, times, frequencies, extent = maad.sound.spectrogram(sound, 16_000, mode="psd")
            direct = {
                **maad.features.all_temporal_alpha_indices(sound, 16_000).iloc[0],
                **maad.features.all_spectral_alpha_indices(power, times, frequencies, extent=extent)[0].iloc[0],
            }
            assert set(columns) == set(direct)
            for name, values in columns.items():
                defined = np.isfinite(direct[name]) and (name != "AGI" or direct[name] < 1e9)
                expected = direct[name] if defined else np.nan
                np.testing.assert_array_equal(values, [expected], err_msg=name)


def test_a_clip_does_not_depend_on_its_batch() -> None:
    clips = rms_normalize(np.stack([sounds.noise(0.5), sounds.silence(0.5), sounds.sweep(0.5)]))
    block = IndicesBlock("reference")
    together = block.compute(clips)
    for i, clip in enumerate(clips):
        alone = block.compute(clip[None])
        for name in NAMES:
            np.testing.assert_array_equal(alone[name][0], together[name][i], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("seconds", [0.1, 0.2, 1.0])
def test_no_sound_raises_or_yields_an_infinite_number(seconds: float, engine: Engine) -> None:
    clips = np.stack(list(sounds.sounds(seconds).values()))
    for signal in prepare(clips, 16_000, engine, SIGNALS).values():
        columns = IndicesBlock(engine).compute(signal)
        assert list(columns) == list(NAMES)
        for values in columns.values():
            assert values.shape == (len(clips),)
            assert values.dtype == np.float64
            assert not np.isinf(values).any()


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("sound", [sounds.silence(1.0), sounds.offset(1.0), sounds.antiphase(1.0).mean(axis=1)])
def test_silence_an_offset_and_cancelling_channels_leave_the_documented_nulls(
    sound: sounds.Sound, engine: Engine
) -> None:
    assert undefined(sound, engine) == UNDEFINED_IN_SILENCE


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_click_and_short_clips_leave_the_documented_nulls(engine: Engine) -> None:
    assert undefined(sounds.click(1.0), engine) == {"AGI"}
    assert undefined(sounds.noise(1.0), engine) == set()
    assert undefined(sounds.noise(0.9), engine) == {"LEQt"}
    assert undefined(sounds.noise(0.128), engine) == {"LEQt"}
    assert undefined(sounds.noise(0.127), engine) == {"LEQt", "ECU", "ECV", "EPS", "EPS_KURT", "EPS_SKEW"}


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_a_gradient_that_is_rounding_noise_is_null_and_others_stay(engine: Engine) -> None:
    gap = np.concatenate([sounds.noise(0.4), sounds.silence(0.6)])
    dithered = gap + sounds.noise(1.0, amplitude=1e-6)
    clips = rms_normalize(np.stack([gap, sounds.click(1.0), dithered.astype(np.float32), sounds.noise(1.0)]))
    signals = prepare(clips, 16_000, engine, ["fg", "bg"])
    raw = IndicesBlock(engine).compute(clips)["AGI"]
    assert np.isnan(raw).tolist() == [True, True, False, False]
    for gated in signals.values():
        found = IndicesBlock(engine).compute(gated)["AGI"]
        assert np.isnan(found[:2]).all()
        assert not (found > 1e7).any()  # was up to 1e305


def test_digital_silence_within_a_clip_is_a_background_of_nothing_not_of_rounding_noise() -> None:
    padded = rms_normalize(np.concatenate([sounds.noise(0.5), sounds.silence(1.5)])[None])
    columns = IndicesBlock("reference").compute(padded)
    assert columns["BGNf"][0] < -3_000
    assert columns["ACTspFract"][0] == 0.0


def test_undefined_numbers_are_null_in_the_table() -> None:
    block = IndicesBlock("reference")
    schema = table_schema(block, parameters(block.sample_rate, "reference", "raw"))
    columns = block.compute(rms_normalize(np.stack([sounds.silence(1.0), sounds.noise(1.0)])))
    table = to_table(schema, ["a", "b"], ["raw", "raw"], columns)
    assert {name for name in NAMES if table[name].null_count} == UNDEFINED_IN_SILENCE
    assert all(table[name].null_count <= 1 for name in NAMES)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UsageError, match="indices"):
        make_block("indices", "reference", {"window": 3})
