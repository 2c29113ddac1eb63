"""store export: what is known of each clip stands beside its features."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.store import export as export_module
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import admit, record
from tests.store.tables import FakeBlock, fake_table

Captured = pytest.CaptureFixture[str]

LISTED = [
    {"clip_id": "c", "uri": "/c.wav", "labels": ["dog", "rain, heavy"], "site": "dune", "tags": ["x"], "n": 1,
     "raw": b"\xff"},
    {"clip_id": "a", "uri": "s3://b/a.wav?v=2&X-Amz-Signature=secret", "start_s": 5.0, "end_s": 10.0, "group": "video",
     "site": "heath", "tags": [], "n": 2},
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Rows of three clips, of which two are listed, with recorded sources (one of them twice)."""
    made = FeatureStore(str(tmp_path / "store"))
    for rows in ([{"clip_id": "a", "uri": "/old.wav"}], LISTED):
        record(made, admit(made, Listed([clip_table(rows)])), "run")
    made.write_part(fake_table(["a", "b", "c"]))
    write_clips(clip_table(LISTED), str(tmp_path / "list.parquet"))
    return made


def exported(store: FeatureStore, out: Path, *options: str) -> Any:
    """What the command wrote, read as a user would; Parquet as a table, CSV as rows."""
    assert main(["store", "export", store.url, "--block", "fake", "--out", str(out), *options]) == 0
    if out.suffix == ".csv":
        return list(csv.DictReader(out.open()))
    return pq.read_table(out)


@pytest.mark.parametrize("wide", [[], ["--wide"]])
def test_without_a_list_the_recorded_source_stands_beside_the_features(
    store: FeatureStore, tmp_path: Path, wide: list[str]
) -> None:
    table = exported(store, tmp_path / "out.parquet", *wide)
    keys = ["clip_id"] if wide else ["clip_id", "signal"]
    assert table.column_names[: len(keys) + 3] == [*keys, "uri", "start_s", "end_s"]
    assert [*dict.fromkeys(table["clip_id"].to_pylist())] == ["a", "b", "c"]
    rows = {row["clip_id"]: (row["uri"], row["start_s"], row["end_s"]) for row in table.to_pylist()}
    assert rows == {"a": ("s3://b/a.wav?v=2", 5.0, 10.0), "b": (None, None, None), "c": ("/c.wav", None, None)}
    assert table["raw.x" if wide else "x"].to_pylist() == (
        FeatureStore(store.url).read("fake", signals=["raw"] if wide else None)["x"].to_pylist()
    )


@pytest.mark.parametrize("wide", [[], ["--wide"]])
def test_a_list_gives_its_columns_and_the_order_of_the_clips(
    store: FeatureStore, tmp_path: Path, wide: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--clips", str(tmp_path / "list.parquet"), *wide]
    table = exported(store, tmp_path / "out.parquet", *options)
    each = 1 if wide else 2
    for column in ("clip_id", "labels", "group", "site", "tags", "n", "start_s"):
        of_list = clip_table(LISTED)[column].to_pylist()
        assert table[column].to_pylist() == [value for value in of_list for _ in range(each)]
    assert set(table["uri"].to_pylist()) == {"/c.wav", "s3://b/a.wav?v=2"}, "without the signature"
    features = ["raw.x", "raw.v", "fg.x", "fg.v"] if wide else ["x", "v"]
    assert table.column_names[-len(features) :] == features
    first = exported(store, tmp_path / "out.csv", *options)[0]
    assert (first["site"], first["labels"], first["tags"]) == ("dune", 'dog,"rain, heavy"', '["x"]')
    assert main(["store", "export", store.url, "--block", "fake", "--out", str(tmp_path / "out.npz"), *options]) == 0
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["labels"][0] == 'dog,"rain, heavy"'
        assert np.isnan(arrays["start_s"][0])
    monkeypatch.setattr(export_module, "RANGE_BYTES", 50)
    assert exported(store, tmp_path / "ranges.parquet", *options).equals(table)


def test_clips_without_rows_are_counted_and_left_out(store: FeatureStore, tmp_path: Path, capsys: Captured) -> None:
    listed = str(tmp_path / "longer.csv")
    write_clips(clip_table([*LISTED, {"clip_id": "d", "uri": "/d.wav"}]), listed)
    assert len(exported(store, tmp_path / "out.csv", "--clips", listed, "--json")) == 4
    said = capsys.readouterr()
    assert f"1 clips have no rows and are left out; acoustic-env store verify {store.url} --clips {listed}" in said.err
    document = json.loads(said.out)
    assert (document["rows"], document["without_rows"]) == (4, 1)


def test_columns_are_chosen_among_those_of_the_list_and_the_features(
    store: FeatureStore, tmp_path: Path, capsys: Captured
) -> None:
    listed = ["--clips", str(tmp_path / "list.parquet")]
    table = exported(store, tmp_path / "o.parquet", *listed, "--columns", "x,site,x,signal")
    assert table.column_names == ["clip_id", "signal", "site", "x"]
    table = exported(store, tmp_path / "o.parquet", *listed, "--wide", "--columns", "site,x", "--signals", "raw")
    assert table.column_names == ["clip_id", "site", "raw.x"]
    assert exported(store, tmp_path / "o.csv", "--columns", "uri")[0] == {
        "clip_id": "a", "signal": "fg", "uri": "s3://b/a.wav?v=2",
    }  # fmt: skip
    arguments = ["store", "export", store.url, "--block", "fake", "--out", str(tmp_path / "o.csv"), "--columns", "site"]
    assert main(arguments) == 2
    assert "no column 'site'; expected one of: clip_id, signal, uri, start_s, end_s, x, v" in capsys.readouterr().err


def test_a_column_of_the_list_that_the_block_has_too_gets_another_name(
    store: FeatureStore, tmp_path: Path, capsys: Captured
) -> None:
    path = str(tmp_path / "list.parquet")
    clips = read_clips(path)
    for name in ("signal", "x", "v_1", "list_x", "raw.x"):
        clips = clips.append_column(name, pa.array([f"{name} of c", f"{name} of a"]))
    write_clips(clips, path)
    for ending in (".parquet", ".csv"):
        table = exported(store, tmp_path / f"out{ending}", "--clips", path)
        first = table.to_pylist()[0] if ending == ".parquet" else table[0]
        names = {"list_signal": "signal", "list_list_x": "x", "list_v_1": "v_1", "list_x": "list_x", "raw.x": "raw.x"}
        assert {name: first[name] for name in names} == {name: f"{of} of c" for name, of in names.items()}
        assert first["signal"] == "fg"
    assert f"{path}: its column x is list_list_x in" in capsys.readouterr().err
    wide = exported(store, tmp_path / "wide.parquet", "--clips", path, "--wide")
    assert wide["list_raw.x"].to_pylist() == ["raw.x of c", "raw.x of a"]


def test_a_csv_read_with_pandas_as_the_docs_say_holds_what_the_list_held(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    rows: list[dict[str, Any]] = [
        {"clip_id": "000123", "uri": "/a.wav", "group": "007", "labels": ["None", "rain, heavy", 'so "loud"']},
        {"clip_id": "NA", "uri": "/b,c.wav", "labels": []},
        {"clip_id": "silent", "uri": "/d.wav", "labels": ["nan"]},
    ]
    store.write_part(fake_table([row["clip_id"] for row in rows]))
    write_clips(clip_table(rows), str(tmp_path / "list.parquet"))
    exported(store, tmp_path / "out.csv", "--clips", str(tmp_path / "list.parquet"), "--wide")
    text = dict.fromkeys(("clip_id", "group", "labels"), str)
    table = pd.read_csv(tmp_path / "out.csv", dtype=text, keep_default_na=False, na_values=[""])
    labels = [next(csv.reader([cell])) for cell in table["labels"].fillna("")]
    assert table["clip_id"].tolist() == ["000123", "NA", "silent"]
    assert table["group"].tolist() == ["007", "NA", "silent"]
    assert labels == [row["labels"] for row in rows]
    assert table["raw.x"].isna().tolist() == [False, False, True]


def test_the_format_is_said_by_the_ending(store: FeatureStore, tmp_path: Path, capsys: Captured) -> None:
    exported(store, tmp_path / "no-ending")
    listed = str(tmp_path / "list.parquet")
    (tmp_path / "folder").mkdir()
    for out, said in (
        (str(tmp_path / "out.tsv"), "give a name that ends in .parquet or .csv or .npz"),
        (listed, "would replace what it is made of"),
        (str(tmp_path / "folder"), "it is a folder"),
    ):
        assert main(["store", "export", store.url, "--block", "fake", "--out", out, "--clips", listed]) == 2
        assert said in capsys.readouterr().err
    assert read_clips(listed).num_rows == 2


def test_sources_that_cannot_be_read_are_named_and_a_list_gives_them(
    store: FeatureStore, tmp_path: Path, capsys: Captured
) -> None:
    for entry in store.side_entries("clips"):
        (Path(store.url) / entry.path).write_bytes(b"PAR1 damaged")
    assert main(["store", "export", store.url, "--block", "fake", "--out", str(tmp_path / "o.csv")]) == 5
    said = capsys.readouterr().err
    assert entry.path.rpartition("/")[0] in said
    assert "--clips LIST takes it from a clip list" in said
    assert len(exported(store, tmp_path / "o.csv", "--clips", str(tmp_path / "list.parquet"))) == 4


def test_frames_are_exported_with_their_clips(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path / "store"))
    store.write_part(fake_table(["a", "c"], block=FakeBlock(frame_hop_s=0.1)))
    write_clips(clip_table(LISTED), str(tmp_path / "list.parquet"))
    table = exported(store, tmp_path / "o.parquet", "--clips", str(tmp_path / "list.parquet"), "--signals", "raw")
    keys = table.select(["clip_id", "signal", "frame", "site"]).to_pylist()
    assert [tuple(key.values()) for key in keys] == [
        *(("c", "raw", frame, "dune") for frame in range(3)),
        *(("a", "raw", frame, "heath") for frame in range(3)),
    ]
