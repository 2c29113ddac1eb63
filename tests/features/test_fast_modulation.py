"""The fast modulation spectrum against soundsig itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.audio.prepare import prepare
from acoustic_env.audio.signals import SIGNALS
from acoustic_env.features.modulation import MIN_SAMPLES, SHAPE, ModulationBlock, axes, reference_spectrum
from acoustic_env.features.modulation_fast import modulation_axes, modulation_spectrum
from acoustic_env.features.tolerances import within
from tests import sounds
from tests.real_clips import real_clips


def agree(clips: np.ndarray) -> bool:
    """Whether both engines' blocks agree in every cell of every clip."""
    reference, fast = (ModulationBlock(engine).compute(clips)["mps"] for engine in ("reference", "fast"))
    return bool(within("mps", reference, fast).all())


@pytest.mark.slow
def test_every_cell_of_real_clips_and_their_parts_is_soundsigs(test_data: Path) -> None:
    for name, clip in real_clips(test_data, 5, seconds=2.0):
        for signal, waveforms in prepare(clip[None], 16_000, "fast", SIGNALS).items():
            assert agree(waveforms), f"{signal} of {name}"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.2, 1.0, 1.37])
def test_every_kind_of_sound_agrees_and_only_the_silent_ones_are_nan(seconds: float) -> None:
    for name, sound in sounds.sounds(seconds).items():
        for signal, waveforms in prepare(sound[None], 16_000, "fast", SIGNALS).items():
            assert agree(waveforms), f"{signal} of {name}"


def test_in_double_precision_the_difference_is_what_the_basis_leaves_out() -> None:
    sound = rms_normalize((sounds.sweep(2.5) + sounds.noise(2.5, amplitude=0.02))[None].astype(np.float64))
    expected = reference_spectrum(sound[0], 16_000)
    np.testing.assert_allclose(modulation_spectrum(sound, 16_000)[0], expected, rtol=1e-9)


def test_the_axes_are_the_blocks() -> None:
    spectral, temporal = axes()
    np.testing.assert_allclose(modulation_axes(16_000).spectral, spectral)
    np.testing.assert_allclose(modulation_axes(16_000).temporal, temporal)


@pytest.mark.parametrize("samples", [MIN_SAMPLES, MIN_SAMPLES + 1, 18_657, 18_673, 40_001])
def test_every_length_has_as_many_windows_as_soundsig_takes(samples: int) -> None:
    sound = sounds.noise(3.0)[:samples]
    assert agree(rms_normalize(sound[None]))


def test_less_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="16000"):
        modulation_spectrum(sounds.noise(1.0)[None], 16_000)


def test_a_spectrum_does_not_depend_on_the_batch() -> None:
    clips = rms_normalize(np.stack([sounds.sweep(1.2), sounds.silence(1.2), sounds.noise(1.2), sounds.click(1.2)]))
    together = modulation_spectrum(clips, 16_000)
    assert together.shape == (4, *SHAPE)
    for clip, spectrum in zip(clips, together, strict=True):
        np.testing.assert_array_equal(modulation_spectrum(clip[None], 16_000)[0], spectrum)


def test_clips_and_frames_taken_all_at_once_as_on_a_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = rms_normalize(np.stack([sounds.sweep(2.2), sounds.noise(2.2), sounds.clipped_square(2.2)]))
    small = modulation_spectrum(clips, 16_000)
    for name in ("_CLIPS_AT_ONCE", "_FRAMES_AT_ONCE", "_WINDOWS_AT_ONCE"):
        monkeypatch.setitem(modulation_spectrum.__globals__[name], "cpu", 1 << 20)
    assert within("mps", small.reshape(3, -1), modulation_spectrum(clips, 16_000).reshape(3, -1)).all()
