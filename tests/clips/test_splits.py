"""Splits: groups whole, classes even, validation never test, the same for any order of rows."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.clips.readers.audioset import read_audioset
from acoustic_env.clips.readers.folder import read_folder
from acoustic_env.clips.select import CONTRADICTING, class_targets, select
from acoustic_env.clips.splits import assign_folds, leak_check, split
from acoustic_env.clips.table import clip_table
from acoustic_env.config import SplitSettings
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import load_recipe


def listed(
    classes: list[list[str]], groups: list[str] | None = None, folds: list[int | None] | None = None
) -> pa.Table:
    rows = [
        {
            "clip_id": f"c{i}",
            "uri": f"/{i}.wav",
            "group": groups[i] if groups else f"g{i}",
            "fold": folds[i] if folds else None,
        }
        for i in range(len(classes))
    ]
    return clip_table(rows).append_column("class", pa.array(classes, pa.list_(pa.string())))


def two_classes(clips: int, groups: int) -> pa.Table:
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 2, groups)
    of = rng.integers(0, groups, clips)
    return listed([["urban" if kind[g] else "natural"] for g in of], [f"video {g}" for g in of])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.sets(st.sampled_from("abcd"), min_size=1)), min_size=9), st.integers(0, 9)
)
def test_groups_stay_whole_and_order_does_not_matter(clips: list[tuple[int, set[str]]], seed: int) -> None:
    table = listed([sorted(classes) for _, classes in clips], [f"g{group}" for group, _ in clips])
    count = len({group for group, _ in clips})
    folds = assign_folds(table, min(3, count), seed)
    leak_check(table, folds)
    order = np.random.default_rng(seed).permutation(len(clips))
    assert (assign_folds(table.take(pa.array(order)), min(3, count), seed) == folds[order]).all()


def test_single_clips_are_spread_evenly_by_class() -> None:
    table = listed([["natural"]] * 103 + [["urban"]] * 58)
    folds = assign_folds(table, 10, 23)
    for rows in (slice(0, 103), slice(103, None)):
        sizes = np.bincount(folds[rows], minlength=10)
        assert sizes.max() - sizes.min() <= 1
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1


def test_groups_of_many_sizes_are_spread_evenly_by_class() -> None:
    table = two_classes(2000, 300)
    folds = assign_folds(table, 5, 23)
    leak_check(table, folds)
    urban = np.array([of == ["urban"] for of in table["class"].to_pylist()])
    for rows in (urban, ~urban):
        sizes = np.bincount(folds[rows], minlength=5)
        assert sizes.max() - sizes.min() <= 8


def test_the_seed_changes_the_folds_and_nothing_else_does() -> None:
    table = two_classes(300, 100)
    assert (assign_folds(table, 5, 1) == assign_folds(table, 5, 1)).all()
    assert (assign_folds(table, 5, 1) != assign_folds(table, 5, 2)).any()


def test_many_labels_a_clip_are_spread_evenly(test_data: Path) -> None:
    recipe = load_recipe("audioset-527")
    clips = select(read_audioset(str(test_data / "audioset" / "eval_segments.csv")), recipe).clips
    folds = split(clips, recipe.split).folds
    y = class_targets(clips, recipe).y
    counts = np.stack([y[folds == fold].sum(axis=0) for fold in range(10)])
    assert counts.min() >= 4  # every class has at least 56 clips: 5.6 a fold
    assert np.abs(counts - counts.mean(axis=0)).max() <= 3


def test_given_folds_are_kept_and_groups_follow_them() -> None:
    classes = [["a"], ["a"], ["b"], ["b"], ["a"], ["b"]]
    groups = ["g0", "g0", "g1", "g2", "g3", "g4"]
    folds = assign_folds(listed(classes, groups, [2, None, 1, None, None, None]), 3, 23)
    assert folds[:3].tolist() == [2, 2, 1]
    assert set(folds.tolist()) == {0, 1, 2}


def test_a_group_given_two_folds_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match="group 'v1' is given folds 0 and 1"):
        assign_folds(listed([["a"]] * 3, ["v1", "v1", "v2"], [0, 1, None]), 2, 23)
    with pytest.raises(UsageError, match=r"1 groups appear in more than one fold: 'v1' in folds \[0, 1\]"):
        split(
            listed([["a"]] * 3, ["v1", "v1", "v2"], [0, 1, 2]),
            SplitSettings(folds=3, validation_folds=(1,), test_folds=(2,)),
        )


def test_roles_are_disjoint_and_cover_every_clip() -> None:
    made = split(two_classes(400, 200), SplitSettings(folds=10, validation_folds=(8,), test_folds=(9,)))
    assert sorted([*made.train, *made.validation, *made.test]) == list(range(400))
    assert set(made.folds[made.validation]) == {8}
    assert set(made.folds[made.test]) == {9}


def test_validation_is_never_test() -> None:
    with pytest.raises(UsageError, match="validation is never test"):
        split(two_classes(400, 200), SplitSettings(validation_folds=(8, 9)))


def test_a_role_without_clips_is_an_error_that_says_which_folds_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"no clip for test \(the recipe's folds \(9,\)\); the clips are in folds 1, 2. Name"
    ):
        split(listed([["a"]] * 2, folds=[1, 2]), SplitSettings(folds=10, validation_folds=(1,), test_folds=(9,)))


def test_fewer_groups_than_folds_is_an_error_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="6 clips in 2 groups cannot fill 10 folds; lower"):
        split(listed([["a"]] * 6, ["v1", "v2"] * 3), SplitSettings())


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("group", ["v", "v", "w"], "'v' in folds"),
        ("clip_id", ["c", "c", "d"], "'c'"),
        ("uri", ["/x", "/x", "/y"], "'/x'"),
    ],
)
def test_a_leak_is_named(column: str, values: list[str], named: str) -> None:
    table = listed([["a"]] * 3)
    table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    leak_check(table, np.array([0, 0, 1], np.int32))
    with pytest.raises(UsageError, match=named):
        leak_check(table, np.array([0, 1, 1], np.int32))


def test_windows_of_one_file_are_different_audio() -> None:
    rows = [{"clip_id": f"c{i}", "uri": "/x.wav", "start_s": float(i), "end_s": i + 1.0} for i in range(2)]
    leak_check(clip_table(rows), np.array([0, 1], np.int32))


@pytest.mark.parametrize(
    ("times", "leaks"),
    [
        ([(0.0, 10.0), (5.0, 15.0)], True),
        ([(None, None), (3.0, 4.0)], True),
        ([(None, 2.0), (0.0, 1.0)], True),
        ([(0.0, 10.0), (1.0, 2.0), (5.0, 6.0)], True),
        ([(0.0, 2.0), (2.0, 4.0)], False),
    ],
)
def test_overlapping_segments_of_one_file_in_two_folds_are_a_leak(
    times: list[tuple[float | None, float | None]], leaks: bool
) -> None:
    rows = [{"clip_id": f"c{i}", "uri": "/x.wav", "start_s": s, "end_s": e} for i, (s, e) in enumerate(times)]
    folds = np.array([0] * (len(times) - 1) + [1], np.int32)
    for order in (slice(None), slice(None, None, -1)):
        with pytest.raises(UsageError, match=r"1 audios appear .* give clips") if leaks else nullcontext():
            leak_check(clip_table(rows[order]), folds[order])


def test_the_source_systems_table_has_78_contradictions_and_they_are_excluded(test_data: Path) -> None:
    with (test_data / "audioset" / "seed_train_val_test_GoogleAudioSet.csv").open() as file:
        rows = list(csv.DictReader(file))
    ids = [Path(row["file"]).stem for row in rows]
    assert (len(rows), len(set(ids))) == (13667, 13589)
    categories: dict[str, set[str]] = {}
    for clip_id, row in zip(ids, rows, strict=True):
        categories.setdefault(clip_id, set()).add(row["category"])
    contradicting = {clip_id for clip_id, given in categories.items() if len(given) > 1}
    assert len(contradicting) == 78
    label = {"0": "/t/dd00129", "1": "/t/dd00128"}
    clips = clip_table(
        {"clip_id": clip_id, "uri": row["file"], "labels": [label[row["category"]]], "group": clip_id.rsplit("_", 1)[0]}
        for clip_id, row in zip(ids, rows, strict=True)
    )
    selection = select(clips, load_recipe("urban-nature"))
    assert set(selection.left_out[CONTRADICTING]) == contradicting
    assert selection.clips.num_rows == 13667 - 2 * 78
    leak_check(selection.clips, split(selection.clips, SplitSettings()).folds)


def test_esc10s_own_folds_keep_its_recordings_whole(test_data: Path) -> None:
    patterns = {"group": r"/\d-(\d+)-", "fold": r"/(\d)-"}
    clips = read_folder(str(test_data / "clips" / "esc10"), patterns=patterns)
    made = split(select(clips, load_recipe("esc10")).clips, load_recipe("esc10").split)
    assert np.bincount(made.folds).tolist() == [0, 80, 80, 80, 80, 80]
    assert (len(made.train), len(made.validation), len(made.test)) == (240, 80, 80)
