"""Relabellings against human votes; new clips against training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.audit.drift import drift_test
from acoustic_env.audit.intervals import Interval
from acoustic_env.audit.scorecard import Pairs, audioset_r, pair_up, scorecard
from acoustic_env.errors import UsageError

KEEP = {True: 0.9, False: 0.4}
ADD = {True: 0.7, False: 0.2}


def generated_pairs(rng: np.random.Generator, clips: int = 250) -> Pairs:
    """Four pairs a clip; the relabeling keeps and adds with the probabilities above, clips differing a little."""
    clip = np.repeat(np.arange(clips), 4)
    confirmed, given = rng.random(len(clip)) < 0.5, rng.random(len(clip)) < 0.6
    chance = np.where(given, np.where(confirmed, 0.9, 0.4), np.where(confirmed, 0.7, 0.2))
    chance = chance + np.repeat(rng.uniform(-0.08, 0.08, clips), 4)
    return Pairs(clip, confirmed, given, rng.random(len(clip)) < chance, 0, 0)


def test_the_scorecard_finds_keep_and_add_discrimination() -> None:
    found = scorecard(generated_pairs(np.random.default_rng(0), 3000))
    assert found["keep discrimination"].estimate == pytest.approx(KEEP[True] - KEEP[False], abs=0.03)
    assert found["add discrimination"].estimate == pytest.approx(ADD[True] - ADD[False], abs=0.03)
    assert found["agreement of the relabeling"].low > found["agreement of the original"].high


def card_coverage(repeats: int, seed: int) -> dict[str, float]:
    truth = {"keep discrimination": 0.5, "add discrimination": 0.5, "keep of confirmed": 0.9}
    rng = np.random.default_rng(seed)
    held = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        found = scorecard(generated_pairs(rng), int(rng.integers(2**31)), draws=200)
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high
    return {name: count / repeats for name, count in held.items()}


def test_scorecard_intervals_cover() -> None:
    held = card_coverage(200, seed=4)
    assert all(0.92 <= share <= 0.98 for share in held.values()), held


@pytest.mark.simulation
def test_scorecard_intervals_cover_thoroughly() -> None:
    held = card_coverage(1500, seed=2)
    assert all(0.93 <= share <= 0.97 for share in held.values()), held


VOTES = pa.table(
    {
        "clip_id": ["a_0", "a_0", "b_0", "b_0", "z_0"],
        "label": ["Wind", "/m/siren", "Wind", "/m/siren", "Wind"],
        "yes": [5, 1, 2, 3, 5],
        "no": [0, 4, 2, 2, 0],
        "given": [True, True, True, False, True],
    }
)


def test_votes_are_joined_by_id_or_name_and_what_is_left_out_is_counted() -> None:
    now = {"a": {"/m/wind"}, "b": {"/m/siren"}}
    pairs = pair_up(VOTES, "v.csv", now, None, {"Wind": "/m/wind"})
    assert (len(pairs.clip), pairs.tied, pairs.uncovered) == (3, 1, 1)
    np.testing.assert_array_equal(pairs.now, [True, False, True])
    np.testing.assert_array_equal(pairs.confirmed, [True, False, True])
    with pytest.raises(UsageError, match="none of its 5 pairs"):
        pair_up(VOTES, "v.csv", {"q": set()}, None, {})
    with pytest.raises(UsageError, match="add the column 'given'"):
        pair_up(VOTES.drop_columns(["given"]), "v.csv", now, None, {})


@pytest.mark.filterwarnings("error")
def test_nothing_to_add_says_nothing_about_adding() -> None:
    pairs = Pairs(np.array([0, 1]), np.array([True, False]), np.array([True, True]), np.array([True, False]), 0, 0)
    assert scorecard(pairs, draws=50)["add discrimination"].n == 0


def test_the_audioset_r_file_is_read(test_data: Path) -> None:
    import json

    file = test_data / "audioset/AudioSet-R_eval.json"
    labels = audioset_r(json.loads(file.read_text()), str(file))
    assert len(labels) == 18_885
    assert np.mean([len(found) for found in labels.values()]) == pytest.approx(7.26, abs=0.01)
    with pytest.raises(UsageError, match="not an AudioSet-R file"):
        audioset_r([1, 2], "x.json")


def draw_sides(rng: np.random.Generator, shift: float) -> tuple[np.ndarray, np.ndarray]:
    new, old = rng.normal(size=(80, 8)).astype(np.float32), rng.normal(size=(150, 8)).astype(np.float32)
    return new + np.float32(shift), old


def test_drift_keeps_its_level_and_finds_a_shift() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([drift_test(*draw_sides(rng, 0.0), seed=i, permutations=99).p_value for i in range(200)])
    assert (p_values <= 0.05).mean() <= 0.08
    assert 0.4 < p_values.mean() < 0.6
    shifted = drift_test(*draw_sides(rng, 0.8), seed=0)
    assert shifted.p_value <= 0.001
    assert shifted.drifted()
    assert shifted.far.estimate > 0.1


def test_drift_is_seeded_and_bounded_in_size() -> None:
    rng = np.random.default_rng(0)
    new, old = rng.normal(size=(2500, 4)).astype(np.float32), rng.normal(size=(3000, 4)).astype(np.float32)
    old[0, 0] = np.nan
    one, two = (drift_test(new, old, seed=3, permutations=19) for _ in range(2))
    assert one == two
    assert one.clips == (1000, 1000)
    assert isinstance(one.far, Interval)
    assert one.far.estimate == pytest.approx(0.05, abs=0.03)
