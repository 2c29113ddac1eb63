"""Columns of a user's own (site, recorder, license) go along from the data set's table to the exported features."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, group_by, read_clips, write_clips
from acoustic_env.errors import UsageError
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import read_clips_of
from tests.store.tables import fake_table

Captured = pytest.CaptureFixture[str]


def listed(tmp_path: Path, *arguments: str) -> pa.Table:
    out = str(tmp_path / "clips.parquet")
    assert main(["clips", *arguments, "--out", out]) == 0
    return read_clips(out)


def test_a_parquet_table_keeps_its_plain_columns_with_their_types(tmp_path: Path) -> None:
    columns = {
        "audio": [b"x", b"y"],
        "label": ["dog", "cat"],
        "site": ["dune", None],
        "height_m": [2.5, 3.0],
        "fold": [3, 4],
        "when": pa.array([0, 1], pa.timestamp("s")),
        "vector": [[1.0], [2.0]],
        "picture": [b"1", b"2"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    clips = listed(tmp_path, "from-parquet", str(tmp_path / "a.parquet"), "--label-column", "label")
    assert clips["site"].to_pylist() == ["dune", None]
    assert clips.schema.field("height_m").type == pa.float64()
    assert pa.types.is_timestamp(clips.schema.field("when").type)
    assert clips["original_fold"].to_pylist() == [3, 4]
    assert clips["fold"].to_pylist() == [None, None]
    assert not {"vector", "picture", "label", "audio"} & set(clips.column_names)


def test_the_json_of_a_tar_sample_gives_columns(tmp_path: Path) -> None:
    documents = [
        {"label": "dog", "site": "dune", "gain": 3, "boxes": [1]},
        {"label": "cat", "gain": "high", "class": 1},
    ]
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for number, document in enumerate(documents):
            for suffix, data in (("wav", b"x"), ("json", json.dumps(document).encode())):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    clips = listed(tmp_path, "from-tar", str(tmp_path / "s.tar"))
    assert clips["labels"].to_pylist() == [["dog"], ["cat"]]
    assert clips["site"].to_pylist() == ["dune", None]
    assert clips["gain"].to_pylist() == ["3", "high"], "a column has one type"
    assert clips["original_class"].to_pylist() == [None, 1]
    assert "boxes" not in clips.column_names


def test_tables_of_names_keep_their_columns(tmp_path: Path) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), 8000)
    (tmp_path / "list.tsv").write_text("audio\tlabels\tsite\na\tdog\tdune\nb\tcat\t\n")
    clips = listed(tmp_path, "from-tsv", str(tmp_path / "list.tsv"), "--audio", str(tmp_path))
    assert clips["site"].to_pylist() == ["dune", None]
    (tmp_path / "clips.parquet").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "site": "dune"}\n{"file_name": "b.wav", "n": 2}\n')
    clips = listed(tmp_path, "from-huggingface", str(tmp_path))
    assert clips.select(["site", "n"]).to_pylist() == [{"site": "dune", "n": None}, {"site": None, "n": 2}]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Rows of three clips, two of them listed with their sites."""
    made = FeatureStore(str(tmp_path / "store"))
    made.write_part(fake_table(["a", "b", "c"]))
    rows = [
        {"clip_id": "c", "uri": "/c.wav", "labels": ["dog", "rain, heavy"], "site": "dune", "tags": ["x"], "n": 1},
        {"clip_id": "a", "uri": "/a.wav", "site": "heath", "tags": [], "n": 2},
    ]
    write_clips(clip_table(rows), str(tmp_path / "list.parquet"))
    return made


def test_any_plain_column_can_be_the_group(store: FeatureStore, tmp_path: Path) -> None:
    path = str(tmp_path / "list.parquet")
    clips = read_clips_of(store, path, print, "site")
    assert clips["group"].to_pylist() == ["dune", "heath"]
    assert clips["site"].to_pylist() == ["dune", "heath"]
    assert group_by(clips, "n", path)["group"].to_pylist() == ["1", "2"]
    assert group_by(clips, "start_s", path)["group"].to_pylist() == ["c", "a"], "a clip without a value is alone"
    for wrong in ("tags", "place"):
        with pytest.raises(UsageError, match=f"--group-by {wrong}: expected one of its columns clip_id, uri"):
            group_by(clips, wrong, path)
