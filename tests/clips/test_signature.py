"""What of a signature survives which change, and what two recordings do not share."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.clips.duplicates.signature import BITS, HOP, LEVELS, PROBES, RATE, Signature, compute_signature
from tests.sounds import Sound, click, noise, offset, silence, sweep, tone


def bits_apart(one: Signature, other: Signature, lag: int = 0) -> float:
    """Share of differing bits when the other starts at frame `lag` of the one."""
    frames = min(len(one.bits) - lag, len(other.bits))
    both = one.audible[lag : lag + frames] & other.audible[:frames]
    assert both.sum() > 20
    return float(np.bitwise_count(one.bits[lag : lag + frames] ^ other.bits[:frames])[both].mean()) / BITS


def colored(seconds: float, seed: int = 5) -> Sound:
    """Noise whose level wanders, as a recording's does."""
    sound = noise(seconds, RATE, seed)
    return sound * np.interp(
        np.arange(sound.size),
        np.arange(0, sound.size, 4_000),
        0.2 + np.random.default_rng(seed).random(len(range(0, sound.size, 4_000))),
    ).astype(np.float32)


SOUND = colored(6.0)
SIGNATURE = compute_signature(SOUND)


def test_shapes_and_ranges() -> None:
    frames = len(SIGNATURE.bits)
    assert frames == 1 + (len(SOUND) - 4096) // HOP - 8
    assert SIGNATURE.bits.max() < 1 << BITS
    assert SIGNATURE.levels.shape == (frames, LEVELS)
    assert SIGNATURE.weakest.shape == (len(SIGNATURE.landmarks), PROBES)
    assert SIGNATURE.weakest.max() < BITS
    assert 4 < len(SIGNATURE.landmarks) / 6.0 < 8
    assert SIGNATURE.audible.all()


@pytest.mark.parametrize("gain", [1e-3, 0.5, 3.0])
def test_gain_changes_neither_bits_nor_levels(gain: float) -> None:
    louder = compute_signature(SOUND * np.float32(gain))
    assert bits_apart(SIGNATURE, louder) < 1e-3
    assert np.abs(SIGNATURE.levels.astype(int) - louder.levels).max() <= 1
    assert louder.exact != SIGNATURE.exact
    assert louder.scaled == SIGNATURE.scaled


def test_silence_around_changes_the_exact_digest_only() -> None:
    padded = compute_signature(np.concatenate([silence(0.3), SOUND, silence(1.0)]))
    assert padded.exact != SIGNATURE.exact
    assert padded.scaled == SIGNATURE.scaled


def test_other_sounds_have_other_digests() -> None:
    changed = SOUND.copy()
    changed[50_000] += 0.01
    other = compute_signature(changed)
    assert other.exact != SIGNATURE.exact
    assert other.scaled != SIGNATURE.scaled


def test_a_shift_of_whole_frames_shifts_the_bits_and_half_a_frame_flips_few() -> None:
    assert bits_apart(SIGNATURE, compute_signature(SOUND[20 * HOP :]), 20) < 0.01
    assert bits_apart(SIGNATURE, compute_signature(SOUND[20 * HOP + HOP // 2 :]), 20) < 0.15


def test_unrelated_sounds_differ_in_half_of_their_bits() -> None:
    for seed in range(3):
        assert 0.4 < bits_apart(SIGNATURE, compute_signature(colored(6.0, seed + 10))) < 0.6


@pytest.mark.parametrize("sound", [silence(3.0), offset(3.0), silence(0.0), np.full(100, 1e-9, np.float32)])
def test_silence_has_no_fingerprint_to_share(sound: Sound) -> None:
    made = compute_signature(sound)
    assert made.exact == b""
    assert made.exact == made.scaled == b""
    assert not made.audible.any()
    assert not len(made.landmarks)


def test_silent_stretches_have_no_audible_frames() -> None:
    made = compute_signature(np.concatenate([SOUND, silence(4.0)]))
    assert made.audible[: len(SIGNATURE.bits)].mean() > 0.95
    assert not made.audible[len(SIGNATURE.bits) + 20 :].any()
    dither = noise(4.0, amplitude=1e-5)
    assert not compute_signature(np.concatenate([SOUND, dither])).audible[len(SIGNATURE.bits) + 20 :].any()


@pytest.mark.parametrize("samples", [1, 511, 4_096, 8_192, 8_703])
def test_a_clip_too_short_for_frames_still_has_digests(samples: int) -> None:
    made = compute_signature(SOUND[:samples])
    assert len(made.bits) == max(0, 1 + (samples - 4096) // HOP - 8) if samples >= 4096 else not len(made.bits)
    assert len(made.levels) == len(made.bits)
    assert bool(made.exact) == (samples > 1)


@pytest.mark.parametrize("sound", [tone(3.0), click(3.0), sweep(3.0)])
def test_tones_clicks_and_sweeps_have_finite_fingerprints(sound: Sound) -> None:
    made = compute_signature(sound)
    assert len(made.levels) == len(made.bits) == len(made.audible)
