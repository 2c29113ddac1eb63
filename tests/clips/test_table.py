"""Clip lists: what is read is what was written, and every issue is named with file, row and column."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv

from acoustic_env.clips.table import (
    CLIP_SCHEMA,
    MAX_SHOWN_ISSUES,
    clip_table,
    join_labels,
    join_lists,
    load_clips,
    read_clips,
    split_labels,
    write_clips,
)
from acoustic_env.errors import UsageError

CLIPS = clip_table(
    [
        {
            "clip_id": "a_0",
            "uri": "/data/ü #1?.wav",
            "labels": ["Outside, urban or manmade", "/m/09x0r"],
            "source": "x",
        },
        {"clip_id": "a_10000", "uri": "s3://b/a.flac", "start_s": 10.0, "end_s": 20.5, "group": "a", "fold": 3},
    ]
)


def fault_of(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_clips(str(path))
    return str(raised.value)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("where", ["{tmp}", "memory://lists"])
def test_a_list_survives_writing_and_reading(tmp_path: Path, suffix: str, where: str) -> None:
    url = f"{where.format(tmp=tmp_path)}/deep/er/clips list.{suffix}"
    write_clips(CLIPS, url)
    back = read_clips(url)
    assert back.equals(CLIPS)
    assert back.schema.equals(CLIP_SCHEMA)


FURTHER = CLIPS.append_column("site", pa.array(["dune", None])).append_column("visits", pa.array([3, 4], pa.int64()))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_further_columns_are_carried_through(tmp_path: Path, suffix: str) -> None:
    url = str(tmp_path / f"clips.{suffix}")
    write_clips(FURTHER.select(["site", *CLIPS.column_names, "visits"]), url)
    back = read_clips(url)
    text = suffix == "csv"
    assert back.equals(FURTHER.set_column(9, "visits", pa.array(["3", "4"])) if text else FURTHER)
    write_clips(back, url)
    assert read_clips(url).equals(back)


def test_the_column_that_a_selection_adds_is_refused_by_name(tmp_path: Path) -> None:
    assert "column class: is the name of the column that" in fault_of(tmp_path / "c.csv", "clip_id,uri,class\na,/a,b\n")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("label", "labels"), ("Groups", "group"), ("gruop", "group"), ("start", "start_s"), ("end", "end_s")],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_misspelled_column_is_refused_with_its_likely_name(
    tmp_path: Path, suffix: str, written: str, meant: str
) -> None:
    path = str(tmp_path / f"l.{suffix}")
    table = pa.table({"clip_id": ["a"], "uri": ["/a.wav"], written: ["x"]})
    csv.write_csv(table, path) if suffix == "csv" else pq.write_table(table, path)
    with pytest.raises(UsageError, match=f"column {written}: .* rename it to '{meant}'"):
        read_clips(path)


def test_a_further_column_like_one_that_is_there_or_like_none_is_kept(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("clip_id,uri,labels,label,folder,site\na,/a.wav,x,y,z,s\n")
    assert read_clips(str(tmp_path / "l.csv")).to_pylist()[0]["label"] == "y"


def test_lists_with_different_further_columns_are_joined_and_a_clash_of_types_names_the_column() -> None:
    both = join_lists([CLIPS, FURTHER])
    assert both["site"].to_pylist() == [None, None, "dune", None]
    with pytest.raises(UsageError, match="site"):
        join_lists([FURTHER, CLIPS.append_column("site", pa.array([1, 2]))])


def test_only_clip_id_and_uri_are_needed(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("uri,clip_id\n/a.wav,a\n/b.wav,b\n")
    table = read_clips(str(tmp_path / "c.csv"))
    assert table["labels"].to_pylist() == [[], []]
    assert table["group"].to_pylist() == ["a", "b"]
    assert table["fold"].null_count == table["start_s"].null_count == 2


def test_relative_paths_count_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = ["a b/x.wav", "tar://1.wav::s.tar", "parquet://audio/3::s3://b/p.parquet", "s3://b/x.wav", "/abs/x.wav"]
    rows = "\n".join(f"{number},{place}" for number, place in enumerate(places))
    Path("c.csv").write_text(f"clip_id,uri\n{rows}\n")
    assert read_clips("c.csv")["uri"].to_pylist() == [
        f"{tmp_path}/a b/x.wav",
        f"tar://1.wav::{tmp_path}/s.tar",
        *places[2:],
    ]


def test_a_spreadsheets_byte_order_mark_and_line_ends_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes('\ufeffclip_id,uri,labels\r\na,/a.wav,"x, y"\r\n'.encode())
    assert read_clips(str(tmp_path / "c.csv"))["labels"].to_pylist() == [["x", "y"]]


@given(st.lists(st.text("ab,\"' ü;/", min_size=1).map(str.strip).filter(bool)))
def test_labels_survive_the_cell_they_are_joined_in(labels: list[str]) -> None:
    assert split_labels(join_labels(labels)) == labels


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("a,/a.wav,x,2,l,0", "row 2, column start_s: 'x' is not a number"),
        ("a,/a.wav,5,3,l,0", "row 2, column end_s: end 3 s is not after start 5"),
        ("a,/a.wav,5,5,l,0", "row 2, column end_s"),
        ("a,/a.wav,-1,3,l,0", "row 2, column start_s: -1.0 is not a time"),
        ("a,/a.wav,0,nan,l,0", "row 2, column end_s: nan"),
        ("a,/a.wav,0,inf,l,0", "row 2, column end_s: inf"),
        ("first,/a.wav,0,3,l,0", "row 2, column clip_id: 'first' is already in row 1"),
        (",/a.wav,0,3,l,0", "row 2, column clip_id: is empty"),
        ("a,,0,3,l,0", "row 2, column uri: is empty"),
        ("a,/a.wav,0,3,l,1.5", "row 2, column fold: '1.5' is not a whole number"),
        ("a,/a.wav,0,3,l,-1", "row 2, column fold: -1"),
        ('a,/a.wav,0,3,"l,,m",0', "row 2, column labels: holds an empty label"),
        ("a,/a.wav,0,3", "row 2: has 4 cells, the header 6"),
    ],
)
def test_a_bad_cell_is_named_with_file_row_and_column(tmp_path: Path, row: str, place: str) -> None:
    path = tmp_path / "c.csv"
    message = fault_of(path, f"clip_id,uri,start_s,end_s,labels,fold\nfirst,/f.wav,,,l,\n{row}\n")
    assert f"{path}: {place}" in message


def test_rows_after_a_short_row_keep_their_numbers(tmp_path: Path) -> None:
    message = fault_of(tmp_path / "c.csv", "clip_id,uri,start_s\nshort\na,/a.wav,0\nb,/b.wav,x\n")
    assert "row 1: has 1 cells" in message
    assert "row 3, column start_s" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("clip_id,uri\n", "the list holds no clips"),
        ("clip_id\na\n", "column uri: the column is missing"),
        ("clip_id,uri,uri\na,/a.wav,x\n", "column uri: appears twice"),
        ("PAR1 but no Parquet", "a damaged Parquet file"),
    ],
)
def test_a_file_that_is_no_clip_list_says_why(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in fault_of(tmp_path / "c.csv", text)


def test_bytes_that_are_no_text_are_no_clip_list(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b"\x89PNG\xff\xfe" * 10)
    with pytest.raises(UsageError, match="neither a Parquet file nor UTF-8"):
        read_clips(str(tmp_path / "c.csv"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.csv: no such file"):
        read_clips(str(tmp_path / "no.csv"))


def test_many_faults_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},/a.wav,x" for i in range(500))
    lines = fault_of(tmp_path / "c.csv", f"clip_id,uri,start_s\n{rows}\n").splitlines()
    assert len(lines) == MAX_SHOWN_ISSUES + 1
    assert "row 1, column start_s" in lines[0]
    assert f"and {500 - MAX_SHOWN_ISSUES} more issues" in lines[-1]


def test_a_parquet_list_of_other_types_is_read_or_its_fault_named(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    columns = {"clip_id": pa.array([1, 2]), "uri": pa.array(["/a", "/b"], pa.large_string()), "end_s": ["3", "four"]}
    pq.write_table(pa.table(columns), path)
    table, issues = load_clips(str(path))
    assert table["clip_id"].to_pylist() == ["1", "2"]
    assert [str(issue) for issue in issues] == ["row 2, column end_s: 'four' is not a number"]


def test_labels_of_a_wrong_type_are_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"clip_id": ["a"], "uri": ["/a"], "labels": [3]}), path)
    with pytest.raises(UsageError, match="column labels: is int64, not a list of strings"):
        read_clips(str(path))


def test_a_faulty_list_is_not_written(tmp_path: Path) -> None:
    twice = pa.concat_tables([CLIPS, CLIPS])
    with pytest.raises(UsageError, match="is already in row"):
        write_clips(twice, str(tmp_path / "c.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file/c\.csv: cannot be written"):
        write_clips(CLIPS, str(tmp_path / "file" / "c.csv"))
