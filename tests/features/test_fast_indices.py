"""The fast indices against scikit-maad itself, column by column, on real clips and on the worst of generated ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.audio.prepare import prepare
from acoustic_env.audio.signals import SIGNALS
from acoustic_env.features.indices import NAMES, SPECTRAL, TEMPORAL, IndicesBlock, reference_indices
from acoustic_env.features.indices_fast import compute_indices, measures, spectral_indices
from acoustic_env.features.indices_fast.spectrogram import spectrogram
from acoustic_env.features.indices_fast.temporal import temporal_indices
from acoustic_env.features.tolerances import TOLERANCES, within
from tests import sounds
from tests.real_clips import real_clips

THREE_FRAMES = 2_048
OF_ROUNDING = frozenset({"ECU", "ECV", "EPS", "EPS_KURT", "EPS_SKEW"})  # in a clip of two spectrogram frames


def differing(waveform: np.ndarray, rate: int = 16_000) -> dict[str, tuple[float, float]]:
    """Columns outside their tolerance, with the reference's number and ours, for one clip given to both engines."""
    waveform = waveform.astype(np.float64)
    expected = reference_indices(waveform, rate)
    expected[~np.isfinite(expected)] = np.nan
    found = {name: values[0] for name, values in compute_indices(waveform[None], rate).items()}
    assert list(found) == list(NAMES)
    compared = set(NAMES) - (OF_ROUNDING if len(waveform) < THREE_FRAMES else set())
    return {
        name: (number, found[name])
        for name, number in zip(NAMES, expected, strict=True)
        if name in compared and not within(name, np.array(number), np.array(found[name]))
    }


def test_the_sixty_names_are_the_librarys_in_its_order() -> None:
    clip = sounds.noise(1.0)[None].astype(np.float64)
    assert set(temporal_indices(clip, 16_000)) == set(TEMPORAL)
    assert set(spectral_indices(spectrogram(clip, 16_000))) == set(SPECTRAL)
    assert tuple(compute_indices(clip, 16_000)) == NAMES == TEMPORAL + SPECTRAL


@pytest.mark.slow
def test_every_index_of_real_clips_and_their_parts_is_scikit_maads(test_data: Path) -> None:
    for name, clip in real_clips(test_data, 5):
        for signal, waveforms in prepare(clip[None], 16_000, "fast", SIGNALS).items():
            assert differing(waveforms[0]) == {}, f"{signal} of {name}"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 0.2, 1.0, 2.0])
def test_every_index_of_every_kind_of_sound_is_scikit_maads_nulls_included(seconds: float) -> None:
    for name, sound in sounds.sounds(seconds).items():
        for signal, waveforms in prepare(sound[None], 16_000, "fast", SIGNALS).items():
            assert differing(waveforms[0]) == {}, f"{signal} of {name}"


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_other_sample_rates_have_other_bands_and_the_same_numbers(rate: int) -> None:
    for sound in (sounds.noise(1.3, rate), sounds.sweep(1.3, rate), sounds.clipped_square(1.3, rate)):
        assert differing(rms_normalize(sound[None])[0], rate) == {}


@given(st.integers(THREE_FRAMES, 8_000), st.floats(1e-9, 1e3), st.integers(0, 1_000), st.floats(-0.5, 0.5))
@settings(max_examples=20, deadline=None)
def test_any_length_gain_and_offset_agree(samples: int, gain: float, seed: int, offset: float) -> None:
    sound = sounds.noise(0.5, seed=seed)[:samples].astype(np.float64)
    sound[samples // 2 :] += sounds.sweep(0.5)[: samples - samples // 2]
    assert differing(gain * (sound + offset)) == {}


def test_samples_that_were_not_levelled_agree_silence_offset_and_all() -> None:
    for sound in (sounds.silence(1.0), sounds.offset(1.0), sounds.noise(1.0) + 0.3, 1e-7 * sounds.noise(1.0)):
        assert differing(sound) == {}


def test_an_index_does_not_depend_on_the_batch() -> None:
    clips = rms_normalize(
        np.stack([sounds.sweep(0.5), sounds.silence(0.5), *(sounds.noise(0.5, seed=s) for s in range(40))])
    )
    together = compute_indices(clips, 16_000)
    for i in (0, 1, 2, 41):
        alone = compute_indices(clips[i : i + 1], 16_000)
        for name in NAMES:
            np.testing.assert_array_equal(alone[name][0], together[name][i], err_msg=name)


def test_float32_samples_are_taken_as_the_doubles_they_are() -> None:
    clip = rms_normalize(sounds.sweep(0.5)[None])
    single, double = (compute_indices(clip.astype(dtype), 16_000) for dtype in (np.float32, np.float64))
    assert all(np.array_equal(single[name], double[name], equal_nan=True) for name in NAMES)


def test_undefined_numbers_are_nan_never_infinite_and_the_same_in_both_engines() -> None:
    clips = rms_normalize(np.stack(list(sounds.sounds(0.5).values())))
    reference, fast = (IndicesBlock(engine).compute(clips) for engine in ("reference", "fast"))
    for name in NAMES:
        np.testing.assert_array_equal(np.isnan(fast[name]), np.isnan(reference[name]), err_msg=name)
        assert not np.isinf(fast[name]).any()


def test_the_measures_take_one_row_as_they_take_many() -> None:
    rows = np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    for measure in (measures.gini, measures.entropy, measures.median):
        assert [float(measure(row)) for row in rows] == measure(rows).tolist()


def test_a_clip_of_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="1536"):
        compute_indices(sounds.noise(0.2)[None, :1_535], 16_000)


def test_every_exception_to_the_rule_has_a_column_and_a_reason() -> None:
    assert set(TOLERANCES) <= {*NAMES, "mps"}
    assert all(exception.reason for exception in TOLERANCES.values())


def test_cost_grows_with_clips_and_length_no_faster_than_in_proportion() -> None:
    def seconds(clips: int, length: float) -> float:
        batch = np.stack([sounds.noise(length, seed=i) for i in range(clips)])
        times = []
        for _ in range(3):
            begin = time.process_time()
            compute_indices(batch, 16_000)
            times.append(time.process_time() - begin)
        return min(times)

    seconds(1, 10.0)
    unit = seconds(2, 10.0)
    assert seconds(6, 10.0) < 2 * 3 * unit
    assert seconds(1, 60.0) < 2 * 3 * unit
