"""Recipes applied to clip lists: who takes part, of which class, and who is left out why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.clips.ontology import audioset
from acoustic_env.clips.readers.audioset import read_audioset
from acoustic_env.clips.select import (
    CONTRADICTING,
    EXCLUDED,
    NO_CLASS,
    REPEATED,
    SEVERAL_CLASSES,
    class_targets,
    select,
)
from acoustic_env.clips.table import clip_table
from acoustic_env.config import ClassSettings, ExcludeSettings, Recipe
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import load_recipe

URBAN, NATURAL, MUSIC, GUITAR = "/t/dd00128", "/t/dd00129", "/m/04rlf", "/m/0342h"
RECIPE = load_recipe("urban-nature")


def clips(*labels: list[str]) -> pa.Table:
    return clip_table({"clip_id": f"c{i}", "uri": f"/{i}.wav", "labels": of} for i, of in enumerate(labels))


def test_each_clip_is_kept_with_its_class_or_left_out_for_a_reason() -> None:
    listed = clips(
        [URBAN, "/m/09x0r"], [NATURAL], [URBAN, MUSIC], [NATURAL, GUITAR], [URBAN, NATURAL], ["/m/09x0r"], []
    )
    selection = select(listed, RECIPE)
    assert selection.clips["clip_id"].to_pylist() == ["c0", "c1"]
    assert selection.clips["class"].to_pylist() == [["urban"], ["natural"]]
    assert selection.classes == ("natural", "urban")
    assert selection.left_out == {EXCLUDED: ["c2", "c3"], SEVERAL_CLASSES: ["c4"], NO_CLASS: ["c5", "c6"]}
    assert selection.summary()[0] == "2 clips: natural 1, urban 1"


def test_descendants_of_an_excluded_label_are_a_switch() -> None:
    listed = clips([URBAN], [NATURAL, GUITAR], [NATURAL, MUSIC])
    kept = select(listed, load_recipe("urban-nature-original")).clips["clip_id"].to_pylist()
    assert kept == ["c0", "c1"]


def test_labels_may_stand_as_display_names() -> None:
    listed = clips(
        ["Outside, urban or manmade"], ["Outside, rural or natural"], ["Outside, rural or natural", "Guitar"]
    )
    assert select(listed, RECIPE).clips["clip_id"].to_pylist() == ["c0", "c1"]


def test_the_same_audio_with_contradicting_classes_is_left_out_and_a_repetition_counted_once() -> None:
    rows = [
        {"clip_id": "a", "uri": "/x.wav", "labels": [URBAN]},
        {"clip_id": "b", "uri": "/x.wav", "labels": [NATURAL]},
        {"clip_id": "c", "uri": "/y.wav", "start_s": 0.0, "labels": [URBAN]},
        {"clip_id": "d", "uri": "/y.wav", "start_s": 10.0, "labels": [NATURAL]},
        {"clip_id": "e", "uri": "/y.wav", "start_s": 10.0, "labels": [NATURAL, "/m/09x0r"]},
    ]
    selection = select(clip_table(rows), RECIPE)
    assert selection.clips["clip_id"].to_pylist() == ["c", "d"]
    assert selection.left_out == {CONTRADICTING: ["a", "b"], REPEATED: ["e"]}
    rows = [
        {"clip_id": "a", "uri": "/x/./y.wav", "end_s": 5.0, "labels": [URBAN]},
        {"clip_id": "b", "uri": "/x/y.wav", "start_s": 0.0, "end_s": 5.0, "labels": [NATURAL]},
        {"clip_id": "c", "uri": "/z.wav", "labels": [NATURAL]},
    ]
    assert select(clip_table(rows), RECIPE).left_out == {CONTRADICTING: ["a", "b"]}


def test_a_list_without_a_clip_of_the_recipe_is_an_error_that_counts_why() -> None:
    with pytest.raises(UsageError, match=r"no clip is left of 2: 1 carry an excluded label; 1 carry no label"):
        select(clips([MUSIC], ["rain"]), RECIPE)


def test_binary_targets_count_the_first_class_as_negative() -> None:
    targets = class_targets(clips([URBAN], [NATURAL], [MUSIC, URBAN]), RECIPE)
    assert targets.clip_ids == ["c0", "c1"]
    assert targets.classes == ("natural", "urban")
    assert targets.y.tolist() == [1, 0]
    assert targets.y.dtype == np.int64


def test_multiclass_targets_take_every_label_as_a_class() -> None:
    targets = class_targets(clips(["rain"], ["dog"], ["rain"], ["dog", "rain"]), Recipe(name="r", task="multiclass"))
    assert targets.classes == ("dog", "rain")
    assert targets.y.tolist() == [1, 0, 1]
    assert targets.clip_ids == ["c0", "c1", "c2"]


def test_multilabel_targets_are_a_matrix_in_audiosets_order() -> None:
    targets = class_targets(clips(["zoo", MUSIC], ["/m/09x0r"], ["zoo"]), Recipe(name="r", task="multilabel"))
    assert targets.classes == ("/m/09x0r", MUSIC, "zoo")  # AudioSet numbers 0 and 137, then others by name
    assert targets.y.tolist() == [[False, True, True], [True, False, False], [False, False, True]]


def test_targets_follow_the_classes_of_a_model() -> None:
    recipe = Recipe(name="r", task="multiclass")
    assert class_targets(clips(["b"]), recipe, classes=("a", "b")).y.tolist() == [1]
    with pytest.raises(UsageError, match="class 'c', unknown to the model"):
        class_targets(clips(["b"], ["c"]), recipe, classes=("a", "b"))


def test_one_class_only_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match="every clip is of one class, 'urban'"):
        class_targets(clips([URBAN], [URBAN]), RECIPE)


def test_a_class_by_descendants_of_an_unknown_label_is_an_error() -> None:
    recipe = Recipe(
        name="r", classes={"a": ClassSettings(descendants_of=("/m/none",)), "b": ClassSettings(labels=("b",))}
    )
    with pytest.raises(UsageError, match="/m/none"):
        select(clips(["b"]), recipe)


def test_excluding_a_label_outside_the_ontology_works() -> None:
    recipe = Recipe(
        name="r",
        classes={"a": ClassSettings(labels=("a",)), "b": ClassSettings(labels=("b",))},
        exclude=ExcludeSettings(labels=("x",)),
    )
    assert select(clips(["a"], ["b"], ["a", "x"]), recipe).left_out == {EXCLUDED: ["c2"]}


def test_descendants_are_those_of_the_ontology() -> None:
    ontology = audioset()
    assert len(ontology.names) == 632
    assert len(ontology.class_order) == 527
    assert ontology.descendants("Siren") == ontology.descendants("/m/03kmc9")
    assert {ontology.names[label] for label in ontology.descendants("Thunderstorm")} == {"Thunderstorm", "Thunder"}
    assert GUITAR in ontology.descendants(MUSIC)


@pytest.mark.parametrize(
    ("recipe", "train", "evaluation"),
    [("urban-nature-with-music", 507, 409), ("urban-nature-ontology", 3965, 3944), ("audioset-527", 22160, 20371)],
)
def test_the_recipes_find_the_published_numbers_of_clips(
    test_data: Path, recipe: str, train: int, evaluation: int
) -> None:
    for name, expected in (("balanced_train", train), ("eval", evaluation)):
        listed = read_audioset(str(test_data / "audioset" / f"{name}_segments.csv"))
        assert select(listed, load_recipe(recipe)).clips.num_rows == expected


def test_the_shipped_ontology_is_audiosets(test_data: Path) -> None:
    import csv
    import json

    nodes = json.loads((test_data / "audioset" / "ontology.json").read_text())
    assert audioset().names == {node["id"]: node["name"] for node in nodes}
    assert audioset().children == {node["id"]: tuple(node["child_ids"]) for node in nodes}
    with (test_data / "audioset" / "class_labels_indices.csv").open() as file:
        assert audioset().class_order == tuple(row["mid"] for row in csv.DictReader(file))
