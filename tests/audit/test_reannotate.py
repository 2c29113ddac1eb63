"""Re-annotation: the same list twice does nothing, new clips only are computed, a killed run is completed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.audit import reannotate as room
from acoustic_env.audit.annotations import ANNOTATION_SCHEMA
from acoustic_env.audit.frames import evaluate_frames
from acoustic_env.audit.labels import merge, read_version, versions
from acoustic_env.audit.reannotate import read_answers, reannotate, weekly_accuracy
from acoustic_env.audit.relabel import relabel
from acoustic_env.audit.table import read_table, write_table
from acoustic_env.cli import main
from acoustic_env.clips.scenes import write_scenes
from acoustic_env.clips.table import write_clips
from acoustic_env.commands.reannotate import describe
from acoustic_env.errors import UsageError
from acoustic_env.options import ReannotateSettings, RelabelSettings

RECIPE = """\
task: binary
classes: {natural: {labels: [natural]}, urban: {labels: [urban]}}
signals: [raw]
blocks: {placeholder: {}}
split: {folds: 4, validation_folds: [2], test_folds: [3]}
model: {kind: logistic}
"""


def annotations_on(sample: pa.Table, truth: dict[str, str]) -> pa.Table:
    """One annotator who is always right."""
    rows = [
        {
            "clip_id": row["clip_id"],
            "label": row["label"],
            "annotator": "a",
            "answer": "right" if truth[row["clip_id"]] == row["label"] else "wrong",
            "time_utc": 0,
            "role": row["role"],
        }
        for row in sample.to_pylist()
    ]
    return pa.Table.from_pylist(rows, ANNOTATION_SCHEMA)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_list_twice_then_longer_then_killed_then_annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = write_scenes(tmp_path / "scenes", 88, seed=3, flip=0.1, seconds=1.5)
    truth = read_table(str(tmp_path / "scenes" / "truth.parquet"))
    true_label = dict(zip(truth["clip_id"].to_pylist(), truth["label"].to_pylist(), strict=True))
    recipe, store, bundle = tmp_path / "recipe.yaml", str(tmp_path / "store"), str(tmp_path / "bundle")
    recipe.write_text(RECIPE)
    first, longer = str(tmp_path / "first.parquet"), str(tmp_path / "longer.parquet")
    write_clips(clips.slice(0, 48), first)
    write_clips(clips, longer)
    study = ["--clips", first, "--store", store, "--recipe", str(recipe)]
    assert main(["extract", *study]) == 0
    assert main(["train", *study, "--out", bundle]) == 0
    settings = ReannotateSettings(clips=first, store=store, bundle=bundle, versions=str(tmp_path / "labels"), budget=20)
    said: list[str] = []

    once = reannotate(settings, said.append)
    assert (once["extracted"], once["version"], once["new_version"]) == (0, "v0001", True)
    assert once["published"]["version"] is None
    again = reannotate(settings, said.append)
    assert (again["extracted"], again["version"], again["new_version"], again["changed"]) == (0, "v0001", False, 0)
    assert versions(settings.versions) == ["v0001"]

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    grown = settings.replace(clips=longer)
    with monkeypatch.context() as patched:
        patched.setattr(room, "write_version", kill)
        with pytest.raises(KeyboardInterrupt):
            reannotate(grown, said.append)
    assert versions(settings.versions) == ["v0001"]
    completed = reannotate(grown, said.append)
    assert (completed["extracted"], completed["version"], completed["new_clips"]) == (0, "v0002", 40)
    assert completed["drift"] is not None
    assert completed["sample"] is not None
    labels = read_version(settings.versions)
    assert labels.num_rows == 2 * 88
    changes = read_table(f"{settings.versions}/diffs/v0002.parquet")
    assert set(changes["clip_id"].to_pylist()) == set(clips["clip_id"].to_pylist()[48:])

    annotations = str(tmp_path / "annotations.parquet")
    write_table(annotations_on(read_table(completed["sample"]), true_label), annotations)
    answered = reannotate(grown.replace(annotations=annotations), said.append)
    accuracy = answered["accuracy"]
    assert (accuracy["n"], accuracy["version"], accuracy["frame"]) == (20, "v0002", 2)
    assert accuracy["low"] < accuracy["estimate"] <= accuracy["high"]
    samples = [read_table(str(path)) for path in sorted((tmp_path / "labels" / "samples").glob("*.parquet"))]
    evaluated = evaluate_frames(samples, read_table(annotations))
    assert weekly_accuracy(evaluated) == {name: answered[name] for name in ("accuracy", "accuracy_of_all")}
    lines = describe(answered)
    assert f"accuracy of v0002 on the {accuracy['rows']} rows of frame 2: {accuracy['estimate']:.3f}" in "\n".join(
        lines
    )
    approved = grown.replace(annotations=annotations, approve="a person")
    assert reannotate(approved, said.append)["published"]["version"] == answered["version"]
    assert json.loads((tmp_path / "labels" / "published.json").read_text())["reason"] == "approved by a person"
    silent = reannotate(grown, said.append)
    assert silent["new_version"] is False, "what annotators said must not be forgotten by a run without --annotations"


def ranked_rows(rows: int, error: float, seed: int) -> tuple[pa.Table, dict[str, bool]]:
    """A ranked table with a good scorer, and whether each given label is right."""
    rng = np.random.default_rng(seed)
    right = rng.random(rows) > error
    quality = np.clip(np.where(right, rng.beta(6, 2, rows), rng.beta(2, 6, rows)), 0.001, 0.999)
    ids = [f"c{i}" for i in range(rows)]
    table = pa.table(
        {
            "clip_id": ids,
            "label": ["urban"] * rows,
            "given": [True] * rows,
            "quality": quality,
            "flagged": quality < 0.5,
            "bundle": quality,
        }
    )
    return table, dict(zip(ids, right.tolist(), strict=True))


def test_rows_of_other_lists_stay_and_a_heard_row_keeps_its_decision() -> None:
    ranked, _ = ranked_rows(4, 0.0, 1)
    before = relabel(ranked, None, None, RelabelSettings())
    votes = pa.array([["a: wrong"], None, None, None], pa.list_(pa.string()))
    before = before.set_column(before.column_names.index("votes"), "votes", votes)
    before = before.set_column(
        before.column_names.index("action"), "action", pa.array(["drop", "keep", "keep", "keep"])
    )
    before = before.append_column("version", pa.array(["v0001"] * 4)).append_column("previous_version", pa.nulls(4))
    other, _ = ranked_rows(6, 0.0, 2)
    merged = merge(before, relabel(other.slice(0, 2), None, None, RelabelSettings()))
    assert merged["clip_id"].to_pylist() == ["c0", "c1", "c2", "c3"]
    assert merged["action"].to_pylist()[0] == "drop"
    assert merged["posterior"][1].as_py() != before["posterior"][1].as_py()
    assert merged["posterior"][2].as_py() == before["posterior"][2].as_py()


def test_annotations_before_any_sample_are_refused(tmp_path: Path) -> None:
    write_table(pa.Table.from_pylist([], ANNOTATION_SCHEMA), str(tmp_path / "annotations.parquet"))
    settings = ReannotateSettings(
        clips="c",
        store="s",
        bundle="b",
        versions=str(tmp_path / "labels"),
        annotations=str(tmp_path / "annotations.parquet"),
    )
    with pytest.raises(UsageError, match="no sample has been drawn"):
        read_answers(settings)
