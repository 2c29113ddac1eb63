"""Variants for augmentation: the name says everything, the same samples in every run and batch."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
import pytest

from acoustic_env.audio.prepare import prepare
from acoustic_env.audio.signals import in_order
from acoustic_env.audio.variants import VariantSignal
from acoustic_env.errors import UsageError
from acoustic_env.pipeline.work import BlockSpec, block_work

RATE = 16_000
RNG = np.random.default_rng(23)
CLIPS = np.concatenate([RNG.normal(0, 0.1, (2, 8_000)), np.zeros((1, 8_000))]).astype(np.float32)
EVERY = ["noise", "pitch", "stretch", "gain", "roll", "trim", "mask:threshold=0.079"]


def variant(name: str, clips: np.ndarray = CLIPS) -> np.ndarray:
    found: np.ndarray = VariantSignal(name).compute({"raw": clips}, RATE, "fast")
    return found


@pytest.mark.parametrize("transform", EVERY)
def test_a_variant_does_not_depend_on_the_batch_and_keeps_shape_and_silence(transform: str) -> None:
    together = variant(f"raw+{transform}")
    assert (together.shape, together.dtype) == (CLIPS.shape, np.float32)
    assert not together[2].any()
    np.testing.assert_array_equal(variant(f"raw+{transform}", CLIPS[1:2])[0], together[1])
    assert transform == "trim" or not np.array_equal(together[0], CLIPS[0])


@pytest.mark.parametrize("transform", ["noise", "pitch", "stretch", "gain", "roll"])
def test_copies_differ(transform: str) -> None:
    assert not np.array_equal(variant(f"raw+{transform}#1")[0], variant(f"raw+{transform}#2")[0])
    np.testing.assert_array_equal(variant(f"raw+{transform}")[0], variant(f"raw+{transform}#1")[0])


@pytest.mark.parametrize(("settings", "ratio"), [(":snr_db=20", 0.1), (":rms_ratio=0.04", 0.04), ("", 0.1)])
def test_noise_has_the_level_asked_for(settings: str, ratio: float) -> None:
    added = variant(f"raw+noise{settings}")[0] - CLIPS[0]
    assert np.std(added) / np.sqrt(np.mean(CLIPS[0] ** 2)) == pytest.approx(ratio, rel=0.05)


def test_a_gain_scales_and_a_roll_keeps_every_sample() -> None:
    ratio = variant("raw+gain:db=6")[0] / CLIPS[0]
    assert np.ptp(ratio) < 1e-5
    assert 0.5 < ratio[0] < 2
    np.testing.assert_array_equal(np.sort(variant("raw+roll")[0]), np.sort(CLIPS[0]))


def test_shifts_of_pitch_are_multiples_of_the_step() -> None:
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)[None]
    for copy in range(1, 6):
        shifted = variant(f"raw+pitch:semitones=2:step=0.5#{copy}", tone)[0]
        peak = np.argmax(np.abs(np.fft.rfft(shifted[4_000:12_000] * np.hanning(8_000)))) * 2
        steps = 24 * np.log2(peak / 1000)
        assert abs(steps) < 4.2
        assert abs(steps - round(steps)) < 0.1


def test_silence_at_the_ends_and_between_is_left_out() -> None:
    clip = np.zeros((1, 8_000), np.float32)
    clip[0, 3_000:5_000] = CLIPS[0, :2_000]
    trimmed = variant("raw+trim", clip)[0]
    assert np.flatnonzero(trimmed).max() < 4_000
    assert variant("raw+mask:threshold=0.01:window_s=0.01", clip)[0, :1_900].any()


def test_steps_follow_each_other() -> None:
    both = variant("raw+gain:db=3+noise:snr_db=60")
    assert np.corrcoef(both[0], CLIPS[0])[0, 1] > 0.999
    parameters: Any = VariantSignal("raw+gain:db=3+noise:snr_db=60#4").parameters(RATE, "fast")
    assert parameters["copy"] == 4
    assert [step["transform"] for step in parameters["steps"]] == ["gain", "noise"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raw", "expected SIGNAL"),
        ("raw+", "expected SIGNAL"),
        ("raw+noise#0", "expected SIGNAL"),
        ("raw+noise:snr=3", "unknown setting 'snr'"),
        ("raw+echo", "no transform named 'echo'"),
        ("raw+gain:db=-3", "db: -3"),
        ("raw+noise:snr_db=3:rms_ratio=0.1", "not both"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VariantSignal(name)


def test_a_variant_is_a_signal_wherever_signals_are_named() -> None:
    assert in_order(["raw+gain:db=3", "bg+roll#2", "fg", "raw"]) == ("raw", "fg", "bg+roll#2", "raw+gain:db=3")
    computed = prepare(CLIPS, RATE, "fast", ["raw+gain:db=3", "original"])
    raw = prepare(CLIPS, RATE, "fast", ["raw"])["raw"]
    np.testing.assert_allclose(computed["raw+gain:db=3"][0] / raw[0], computed["raw+gain:db=3"][0, 0] / raw[0, 0], 1e-4)
    np.testing.assert_array_equal(computed["original"], CLIPS)
    with pytest.raises(UsageError, match="no signal named 'loud'"):
        in_order(["loud+gain"])


def test_fingerprints_of_variants_cover_their_settings_and_those_of_other_signals_do_not_change() -> None:
    works = [
        block_work(BlockSpec("mfcc", "fast", 0, signals))
        for signals in (("raw",), ("raw", "raw+gain:db=3"), ("raw", "raw+gain:db=4"))
    ]
    one, two, three = (work.fingerprints for work in works)
    assert one["raw"] == two["raw"] == three["raw"]
    assert len({one["raw"], two["raw+gain:db=3"], three["raw+gain:db=4"]}) == 3


def test_a_release_of_librosa_counts_where_it_changes_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, Any]:
        return {name: VariantSignal(f"raw+{name}").parameters(RATE, "fast") for name in EVERY}

    known, before = metadata.version, found()
    monkeypatch.setattr(metadata, "version", lambda name: "999.0" if name == "librosa" else known(name))
    assert {name for name, parameters in found().items() if parameters != before[name]} == {"pitch", "stretch", "trim"}
