"""Duplicates: what is found, what is not, and what is said about it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.cli import main
from acoustic_env.clips.duplicates import matching, search
from acoustic_env.clips.duplicates.matching import Signatures
from acoustic_env.clips.duplicates.search import Link, collect, find_duplicates
from acoustic_env.clips.duplicates.signature import HOP_S, RATE, compute_signature
from acoustic_env.clips.splits import assign_folds
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from tests.clips.bench_duplicates import EDITS, generated, real_clips
from tests.sounds import Sound, noise, silence, tone


def varied(seconds: float, seed: int) -> Sound:
    """Filtered noise whose level wanders: no two seeds alike, every second unlike the others."""
    rng = np.random.default_rng(seed)
    sound = noise(seconds, RATE, seed)
    knots = np.arange(0, sound.size + 3_000, 3_000)
    return (sound * np.interp(np.arange(sound.size), knots, 0.1 + rng.random(knots.size))).astype(np.float32)


def signatures_of(*sounds: Sound) -> Signatures:
    with tempfile.TemporaryFile() as levels:
        return collect(map(compute_signature, sounds), levels)


def pairs_of(signatures: Signatures) -> dict[tuple[int, int], float]:
    """Confirmed pairs and their lag in s."""
    found = matching.confirm(signatures, matching.candidates(signatures))
    return {(a, b): lag * HOP_S for a, b, lag in zip(found.first, found.second, found.lag, strict=True)}


# ---- pairs


@pytest.mark.parametrize("shift_s", [0.0, 0.31, 2.0, 3.716])
def test_a_shifted_copy_is_found_with_its_lag(shift_s: float) -> None:
    sound = varied(8.0, 1)
    signatures = signatures_of(sound, varied(8.0, 2), sound[round(shift_s * RATE) :], varied(8.0, 3))
    assert pairs_of(signatures) == {(0, 2): pytest.approx(shift_s, abs=0.01)}


def test_two_stretches_of_one_recording_are_found_by_what_they_share() -> None:
    sound = varied(10.0, 1)
    assert pairs_of(signatures_of(sound[: 6 * RATE], sound[4 * RATE :])) == {(0, 1): pytest.approx(4.0, abs=0.01)}
    assert pairs_of(signatures_of(sound[: 5 * RATE], sound[5 * RATE :])) == {}


def test_clips_of_one_kind_are_no_duplicates() -> None:
    envelope = np.tile(np.exp(-np.arange(RATE) / 3_000), 6).astype(np.float32)
    barks = [noise(6.0, RATE, seed) * envelope for seed in range(6)]
    assert pairs_of(signatures_of(*barks, *(noise(6.0, RATE, seed + 50) for seed in range(6)))) == {}


def test_one_loudness_curve_does_not_correlate() -> None:
    envelope = np.tile(np.exp(-np.arange(RATE) / 3_000), 6).astype(np.float32)
    barks = [noise(6.0, RATE, seed) * envelope for seed in range(4)]
    signatures = signatures_of(*barks)
    for one, other in itertools.combinations(range(4), 2):
        assert matching.correlation(signatures, one, other, 0) < 0.2
    assert matching.correlation(signatures, 2, 2, 0) == pytest.approx(1.0)
    assert matching.correlation(signatures, 0, 1, 6 * 31) == 0.0  # too little of them coincides


def test_either_clip_finds_the_other_at_the_same_lag() -> None:
    sound = varied(8.0, 1)
    signatures = signatures_of(sound, sound[2 * RATE :])
    later = signatures.landmarks >= signatures.starts[1]
    for marked in (later, ~later):
        half = dataclasses.replace(
            signatures, landmarks=signatures.landmarks[marked], weakest=signatures.weakest[marked]
        )
        assert pairs_of(half) == {(0, 1): pytest.approx(2.0, abs=0.01)}


def test_silence_and_silent_ends_link_nothing() -> None:
    ends = [np.concatenate([varied(2.0, seed), silence(6.0)]) for seed in range(3)]
    signatures = signatures_of(silence(8.0), silence(8.0), *ends)
    assert len(matching.candidates(signatures)) == 0


def test_a_hum_in_many_clips_costs_no_more_than_the_crowd() -> None:
    count = 300
    frames = 100
    bits = np.full(count * (frames + matching.GAP), 0xABCDEF, np.uint32)
    audible = np.tile(np.arange(frames + matching.GAP) < frames, count)
    starts = np.arange(count, dtype=np.int64) * (frames + matching.GAP)
    landmarks = (starts[:, None] + np.arange(0, frames, 5)).ravel()
    weakest = np.zeros((len(landmarks), 1), np.uint8)
    levels = np.zeros((len(bits), 2), np.uint8)
    signatures = Signatures(starts, np.full(count, frames, np.int64), bits, audible, levels, landmarks, weakest)
    query, _ = matching._Table(signatures).hits(0, len(landmarks))
    assert len(query) == len(landmarks) * matching.CROWD


def test_many_copies_become_one_set_although_an_entry_is_crowded() -> None:
    sound = varied(4.0, 1)
    rng = np.random.default_rng(0)
    copies = [sound[int(rng.integers(0, 4_000)) :] for _ in range(40)]
    pairs = list(pairs_of(signatures_of(*copies)))
    assert len(set(search.components(40, pairs).tolist())) == 1


@pytest.fixture(scope="module")
def real_sounds(test_data: Path) -> list[Sound]:
    return list(real_clips(test_data / "clips", 12, 6.0).values())[:10]


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit", ["gain -20 dB, 16 bits", "shift 1 to 3 s", "trim to half", "MP3 64 kbit/s", "noise, SNR 30 dB"]
)
def test_real_clips_are_found_again_after_an_edit(real_sounds: list[Sound], edit: str) -> None:
    """At least 9 of 10; `python -m tests.clips.bench_duplicates` measures how many of 100."""
    sounds = real_sounds
    rng = np.random.default_rng(3)
    found = set(pairs_of(signatures_of(*sounds, *(EDITS[edit](sound, rng) for sound in sounds))))
    assert len({(n, n + len(sounds)) for n in range(len(sounds))} & found) >= 9
    assert all(b - a == len(sounds) for a, b in found)


# ---- groups


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_groups_are_the_connected_components(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 25))
    node = st.integers(0, count - 1)
    links = data.draw(st.lists(st.tuples(node, node), max_size=30))
    reach = np.eye(count, dtype=bool)
    for a, b in links:
        reach[a, b] = reach[b, a] = True
    for k in range(count):
        reach |= reach[:, k : k + 1] & reach[k : k + 1]
    assert search.components(count, links).tolist() == reach.argmax(axis=1).tolist()
    tied = [Link(min(a, b), max(a, b), "near", 0.0, 0.5) for a, b in links if a != b]
    hangs = search.spanning_links(tied)
    assert len(hangs) == count - len(set(reach.argmax(axis=1).tolist()))
    assert all(item in (link.first, link.second) for item, link in hangs.items())


def test_links_join_groups_of_the_list() -> None:
    assert search.merged_groups(["a", "b", "a", "c", "d"], [(1, 2), (3, 4)]) == ["a", "a", "a", "c", "c"]


def test_a_joined_group_goes_to_the_fold_of_most_of_its_clips() -> None:
    assert search.joined_folds(["a", "a", "a", "b", "b", "c"], [1, 2, 2, 3, 1, None]) == [2, 2, 2, 1, 1, None]


def test_sets_that_disagree_are_listed_and_unknown_values_do_not() -> None:
    sets = [[0, 1], [2, 3], [4, 5]]
    assert search.disagreeing(sets, [1, 2, 3, 3, 4, None]) == [[0, 1]]


# ---- the command

SIGN = search._sign


def sign_or_crash(place: search.Place) -> tuple[bytes, bytes]:
    """Crash on crash.wav, in the decoding process."""
    if place[0].endswith("crash.wav"):
        signal.raise_signal(signal.SIGSEGV)
    return SIGN(place)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    sound = varied(6.0, 1)
    files = {
        "original": sound,
        "same": sound,
        "quieter": np.concatenate([silence(0.5), 0.25 * sound]),
        "shifted": 0.7 * sound[2 * RATE :],
        "other": varied(6.0, 2),
        "silent": silence(5.0),
        "silent too": silence(5.0),
        "bleep": tone(0.2),
        "bleep again": tone(0.2),
    }
    for name, samples in files.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    rows = [
        {"clip_id": name, "uri": str(tmp_path / f"{name}.wav"), "labels": ["Rain"], "fold": 0, "source": "a"}
        for name in files
    ]
    rows[3] |= {"labels": ["Dog"], "fold": 1}
    rows[4] |= {"group": "shifted"}
    rows.append({"clip_id": "missing", "uri": str(tmp_path / "nowhere.wav")})
    write_clips(clip_table(rows), str(tmp_path / "clips.parquet"))
    return tmp_path


def test_the_command_writes_groups_and_lists_what_contradicts(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, applied = listed / "groups.parquet", listed / "grouped.parquet"
    command = ["clips", "duplicates", "--clips", str(listed / "clips.parquet"), "--out", str(out)]
    assert main([*command, "--apply", str(applied)]) == 0
    said = capsys.readouterr()
    rows = {row["clip_id"]: row for row in pq.read_table(out).to_pylist()}
    assert rows["original"]["duplicate_of"] is None
    assert [rows[name]["kind"] for name in ("same", "quieter", "shifted", "bleep again")] == [
        "exact",
        "scaled",
        "near",
        "exact",
    ]
    assert rows["shifted"]["lag_s"] == pytest.approx(2.0, abs=0.01)
    assert rows["quieter"]["lag_s"] == pytest.approx(-0.5, abs=0.01)
    assert {rows[name]["group"] for name in ("original", "same", "quieter", "shifted", "other")} == {"original"}
    assert len({rows[name]["group"] for name in ("silent", "silent too", "missing", "bleep", "original")}) == 5
    assert "6 of 10 clips in 2 sets of duplicates" in said.out
    assert "2 silent clips" in said.out
    assert "duplicates in several folds: 1 sets\n  original (0); same (0); quieter (0); shifted (1)" in said.out
    assert (
        "with contradicting labels: 1 sets\n  original (Rain); same (Rain); quieter (Rain); shifted (Dog)" in said.out
    )
    assert "sources" not in said.out
    assert "1 clips are now in the fold of most of their group: shifted" in said.out
    assert "not read: missing: not_found" in said.err
    grouped = read_clips(str(applied))
    assert grouped["group"].to_pylist() == [row["group"] for row in rows.values()]
    chosen = grouped.append_column("class", grouped["labels"]).set_column(
        6, "fold", pa.nulls(grouped.num_rows, pa.int32())
    )
    folds = dict(zip(grouped["group"].to_pylist(), assign_folds(chosen, 3, 0), strict=True))
    assert all(
        folds[group] == fold
        for group, fold in zip(grouped["group"].to_pylist(), assign_folds(chosen, 3, 0), strict=True)
    )


def test_json_and_csv(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "clips",
        "duplicates",
        "--clips",
        str(listed / "clips.parquet"),
        "--out",
        str(listed / "g.csv"),
        "--json",
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["clips"], found["sets"], found["duplicates"], found["silent"]) == (10, 2, 4, 2)
    assert found["across_folds"] == [["original", "same", "quieter", "shifted"]] == found["contradicting_labels"]
    assert list(found["failed"]) == ["missing"]
    assert (listed / "g.csv").read_text().startswith('"clip_id","group","duplicate_of"')


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_order_or_the_processes(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = read_clips(str(listed / "clips.parquet"))
    alone = find_duplicates(clips)
    monkeypatch.setattr(search, "FEWEST_PER_PROCESS", 4)
    monkeypatch.setattr(search, "AHEAD", 3)
    assert find_duplicates(clips).table.equals(alone.table)
    backwards = find_duplicates(clips.take(list(range(9, -1, -1))))
    names = [{alone.table["clip_id"][n].as_py() for n in some} for some in alone.sets]
    again = [{backwards.table["clip_id"][n].as_py() for n in some} for some in backwards.sets]
    assert sorted(map(sorted, names)) == sorted(map(sorted, again))


def test_a_decoder_that_crashes_or_hangs_costs_its_clip_alone(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux opens a pipe for reading only once it has a writer; crash.wav is decoded by one that crashes."""
    (listed / "other.wav").unlink()
    os.mkfifo(listed / "other.wav")
    clips = read_clips(str(listed / "clips.parquet")).to_pylist()
    clips[7]["uri"] = str(listed / "crash.wav")
    monkeypatch.setattr(search, "CLIP_S", 6.0)
    monkeypatch.setattr(search, "_sign", sign_or_crash)
    found = find_duplicates(clip_table(clips))
    why = {clip_id: reason.partition(":")[0] for clip_id, reason in found.failed.items()}
    assert why == {"other": "timed_out", "bleep": "worker_died", "missing": "not_found"}
    assert [len(members) for members in found.sets] == [4]


def test_planted_duplicates_are_found_among_many_with_a_common_hum(tmp_path: Path) -> None:
    signatures, planted = generated(500, str(tmp_path))
    pairs = set(pairs_of(signatures))
    assert pairs == set(planted)
    assert len(planted) == 4


def test_lags_and_sets_on_the_slices_of_urbansound8k(test_data: Path) -> None:
    """Its slices of one occurrence overlap by 2 s: slice n + 1 starts at 2 s of slice n."""
    paths = sorted((test_data / "clips/urbansound8k_sample/fold1").glob("103258-5-0-*.wav"))
    clips = clip_table({"clip_id": path.stem, "uri": str(path), "labels": ["gun"]} for path in paths)
    slices = {n: int(path.stem.rpartition("-")[2]) for n, path in enumerate(paths)}
    found = {(link.first, link.second): link.lag_s for link in find_duplicates(clips).links}
    neighbors = {(a, b) for a, b in itertools.combinations(slices, 2) if abs(slices[a] - slices[b]) == 1}
    assert neighbors
    assert set(found) == neighbors
    for (a, b), lag_s in found.items():
        assert lag_s == pytest.approx(2.0 * (slices[b] - slices[a]), abs=0.01)
