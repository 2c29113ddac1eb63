"""Relabeling: annotators first, the ranking only within its bounds, every version recoverable, no half-written file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA, check_annotations
from acoustic_env.audit.labels import (
    diff,
    original,
    read_manifest,
    read_version,
    segments_csv,
    versions,
    write_version,
)
from acoustic_env.audit.relabel import Relabeler, applies, relabel
from acoustic_env.audit.sample import draw_sample
from acoustic_env.audit.table import whole_clips
from acoustic_env.errors import UsageError
from acoustic_env.options import RelabelSettings, SampleSettings
from tests.audit.generated import listen, ranked_with_truth

GIVEN, RIGHT = ranked_with_truth(1500)
SETTINGS = RelabelSettings()


def both_classes(given: pa.Table) -> pa.Table:
    """The ranked table with the row of the other class for every clip, as `audit rank` writes it."""
    other = ["urban" if label == "nature" else "nature" for label in given.column("label").to_pylist()]
    absent = given.set_column(1, "label", pa.array(other)).set_column(2, "given", pa.array([False] * len(other)))
    return pa.concat_tables([given, absent])


RANKED = both_classes(GIVEN)


def annotated(n: int = 400, seed: int = 3, skill: dict[str, float] | None = None) -> tuple[pa.Table, pa.Table]:
    sample = draw_sample(RANKED, SampleSettings(n=n, design="stratified", seed=seed, repeat=0.0))
    return sample, check_annotations(listen(sample, RIGHT, skill or {"ada": 1.0}, seed), "v")


def test_without_annotators_flagged_labels_abstain_and_nothing_is_dropped() -> None:
    labels = relabel(RANKED, None, None, SETTINGS)
    assert set(labels.column("action").to_pylist()) == {"keep", "abstain"}
    np.testing.assert_array_equal(applies(labels), np.asarray(labels.column("given")))
    assert labels.column("votes").null_count == labels.num_rows


def test_annotators_decide_and_their_votes_are_kept() -> None:
    sample, annotations = annotated(200)
    labels = relabel(RANKED, annotations, None, SETTINGS)
    annotated_rows = [row for row in labels.to_pylist() if row["votes"]]
    assert len(annotated_rows) == 200
    for row in annotated_rows:
        assert row["action"] == ("keep" if RIGHT[int(row["clip_id"][4:])] else "drop")
        assert row["votes"] == [f"ada: {'right' if row['action'] == 'keep' else 'wrong'}"]
    others = [row for row in labels.to_pylist() if not row["votes"]]
    assert {row["action"] for row in others} == {"keep", "abstain"}
    assert sample.num_rows == 200


def test_disagreeing_or_unsure_annotators_abstain() -> None:
    sample, annotations = annotated(60)
    unsure = annotations.set_column(3, "answer", pa.array(["unsure"] * annotations.num_rows))
    rows = [row for row in relabel(RANKED, unsure, sample, SETTINGS).to_pylist() if row["votes"]]
    assert {row["action"] for row in rows} == {"abstain"}
    flipped = ["wrong" if v == "right" else "right" for v in annotations.column("answer").to_pylist()]
    bob = annotations.set_column(3, "answer", pa.array(flipped))
    bob = bob.set_column(2, "annotator", pa.array(["bob"] * bob.num_rows)).cast(ANNOTATION_SCHEMA)
    rows = [
        row for row in relabel(RANKED, pa.concat_tables([annotations, bob]), None, SETTINGS).to_pylist() if row["votes"]
    ]
    assert sum("disagree" in row["reason"] for row in rows) > 30


def test_the_ranking_decides_alone_only_as_far_as_the_sample_proves_it_right() -> None:
    for seed in range(5):
        sample, annotations = annotated(400, seed)
        labels = relabel(RANKED, annotations, sample, SETTINGS).to_pylist()
        alone = [row for row in labels if not row["votes"] and row["given"]]
        kept = np.array([RIGHT[int(row["clip_id"][4:])] for row in alone if row["action"] == "keep"])
        dropped = np.array([not RIGHT[int(row["clip_id"][4:])] for row in alone if row["action"] == "drop"])
        assert len(kept) > 100
        assert kept.mean() >= SETTINGS.precision
        assert not len(dropped) or dropped.mean() >= SETTINGS.precision
        assert any(row["action"] == "abstain" for row in alone)


def test_decisions_and_versions_do_not_depend_on_how_a_ranking_is_cut(tmp_path: Path) -> None:
    sample, annotations = annotated(400)
    whole = relabel(RANKED, annotations, sample, SETTINGS)
    written = write_version(str(tmp_path / "whole"), [whole], {})
    relabeler = Relabeler(annotations, sample, SETTINGS, {})
    parts = list(whole_clips([RANKED.sort_by([("clip_id", "ascending"), ("label", "descending")])], 201))
    assert len(parts) == 15
    for part in parts:
        relabeler.see(part)
    for part in parts:
        relabeler.count(part)
    cut = write_version(str(tmp_path / "cut"), map(relabeler.decide, parts), {})
    assert read_version(str(tmp_path / "cut")).equals(read_version(str(tmp_path / "whole")))
    manifests = [read_manifest(str(tmp_path / name), cut.version) for name in ("cut", "whole")]
    assert manifests[0]["decisions"] == manifests[1]["decisions"]
    assert manifests[0]["clips"] == manifests[1]["clips"] == len(GIVEN)
    assert not write_version(str(tmp_path / "cut"), [whole], {}).new, written


def test_a_clip_of_exclusive_classes_never_ends_with_two() -> None:
    sample, annotations = annotated(400)
    labels = relabel(RANKED, annotations, sample, RelabelSettings(precision=0.5))
    now = applies(labels)
    ids = np.asarray(labels.column("clip_id").to_pylist())
    assert np.bincount(np.unique(ids, return_inverse=True)[1], weights=now).max() == 1


def test_versions_follow_each_other_and_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    url = str(tmp_path / "labels")
    first = relabel(RANKED, None, None, SETTINGS)
    written = write_version(url, [first], {"ranked": "r"})
    assert (written.version, written.previous, written.new) == ("v0001", None, True)
    again = write_version(url, [first], {"ranked": "r"})
    assert (again.version, again.new) == ("v0001", False)
    _, annotations = annotated(100)
    second = relabel(RANKED, annotations, None, SETTINGS)
    assert write_version(url, [second], {}).version == "v0002"
    assert versions(url) == ["v0001", "v0002"]
    table = read_version(url)
    assert set(table.column("version").to_pylist()) == {"v0002"}
    assert set(table.column("previous_version").to_pylist()) == {"v0001"}
    manifest = read_manifest(url, "v0002")
    assert manifest["previous_version"] == "v0001"
    assert sum(manifest["actions"].values()) == manifest["rows"] == 3000
    np.testing.assert_array_equal(np.asarray(table.column("given")), np.asarray(first.column("given")))
    changed = diff(read_version(url, "v0001"), table)
    assert 0 < changed.num_rows < 200
    assert {row["action"] for row in changed.to_pylist()} <= {"keep", "drop", "abstain"}
    assert diff(table, table).num_rows == 0
    given = dict(
        zip(
            zip(*(table.column(n).to_pylist() for n in ("clip_id", "label")), strict=True),
            table.column("given").to_pylist(),
            strict=True,
        )
    )
    back = diff(original(table), table).to_pylist()
    assert all(row["applied"] == given[row["clip_id"], row["label"]] for row in back)
    assert sum(row["applies"] != row["applied"] for row in back) == manifest["actions"]["drop"]


def test_a_version_without_its_manifest_does_not_exist_and_a_changed_file_is_noticed(tmp_path: Path) -> None:
    url = str(tmp_path)
    write_version(url, [relabel(RANKED, None, None, SETTINGS)], {})
    (tmp_path / "v0002").mkdir()
    (tmp_path / "v0002/labels.parquet").write_bytes(b"half")
    assert versions(url) == ["v0001"]
    with pytest.raises(UsageError, match="no version 'v0002' of the labels; expected one of: v0001"):
        read_version(url, "v0002")
    file = tmp_path / "v0001/labels.parquet"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UsageError, match="SHA-256 differs"):
        read_version(url)


def test_an_interrupted_write_leaves_the_last_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from acoustic_env.io import filesystem

    url = str(tmp_path)
    write_version(url, [relabel(RANKED, None, None, SETTINGS)], {})
    write = filesystem.LocalFilesystem.write

    def dies_at_the_manifest(self: filesystem.LocalFilesystem, path: str, data: bytes) -> None:
        if path.endswith("manifest.json"):
            raise KeyboardInterrupt
        write(self, path, data)

    second = relabel(RANKED, annotated(50)[1], None, SETTINGS)
    monkeypatch.setattr(filesystem.LocalFilesystem, "write", dies_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        write_version(url, [second], {})
    assert versions(url) == ["v0001"]
    monkeypatch.setattr(filesystem.LocalFilesystem, "write", write)
    assert write_version(url, [second], {}).version == "v0002"
    assert read_version(url).num_rows == 3000


def test_versions_live_on_any_filesystem() -> None:
    url = "memory://labels-of-a-test"
    write_version(url, [relabel(RANKED, None, None, SETTINGS)], {})
    assert read_version(url, "v0001").num_rows == 3000


def test_an_empty_folder_names_the_command_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="audit relabel --ranked"):
        read_version(str(tmp_path))


def test_the_export_is_an_audioset_list_that_reads_back(tmp_path: Path) -> None:
    from acoustic_env.clips.readers.audioset import read_segments

    labels = pa.table(
        {
            "clip_id": ["-a_b_30000", "-a_b_30000", "c0000000000_1500"],
            "label": ["Wind", "Siren", "Wind"],
            "given": [True, False, True],
            "action": ["keep", "add", "drop"],
        }
    )
    text, left_out = segments_csv(labels, None, {"Wind": "/m/03m9d0z"})
    assert left_out == 1
    file = tmp_path / "segments.csv"
    file.write_text(text)
    (segment,) = read_segments(str(file))
    assert segment.clip_id == "-a_b_30000"
    assert text.splitlines()[-1] == '-a_b, 30.000, 40.000, "/m/03m9d0z,Siren"'
    nameless = labels.set_column(0, "clip_id", pa.array(["x"] * 3))
    with pytest.raises(UsageError, match="--clips has no row of it"):
        segments_csv(nameless, None, {})
    whole = pa.table({"clip_id": ["x"], "start_s": pa.nulls(1, pa.float64()), "end_s": pa.nulls(1, pa.float64())})
    with pytest.raises(UsageError, match="its row of the clip list has no start_s"):
        segments_csv(nameless, whole, {})


def test_the_labels_table_has_the_columns_of_the_design(tmp_path: Path) -> None:
    write_version(str(tmp_path), [relabel(RANKED, None, None, SETTINGS)], {})
    table = read_version(str(tmp_path))
    assert table.column_names == [
        "clip_id", "label", "given", "posterior", "logistic", "votes", "action", "reason",
        "version", "previous_version",
    ]  # fmt: skip
    assert json.loads((tmp_path / "v0001/manifest.json").read_text())["version"] == "v0001"
