"""Clip lists: what is read is what was written, and every issue is named with file, row and column."""

from __future__ import annotations

import csv as standard_csv
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from acoustic_env.clips.table import (
    CLIP_SCHEMA,
    MAX_SHOWN_ISSUES,
    absolute_uris,
    clip_table,
    join_labels,
    join_lists,
    load_clips,
    read_clip_batches,
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
    with pytest.raises(UsageError, match="line 1: not UTF-8 text"):
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
    table, _, issues = load_clips(str(path))
    assert table["clip_id"].to_pylist() == ["1", "2"]
    assert [str(issue) for issue in issues] == ["row 2, column end_s: 'four' is not a number"]


def test_a_faulty_list_is_not_written(tmp_path: Path) -> None:
    twice = pa.concat_tables([CLIPS, CLIPS])
    with pytest.raises(UsageError, match="is already in row"):
        write_clips(twice, str(tmp_path / "c.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file/c\.csv: cannot be written"):
        write_clips(CLIPS, str(tmp_path / "file" / "c.csv"))


NASTY = "clip_id,uri,labels\na,/a.wav,x\n{}\nc,/c.wav,y\nd,/d.wav,z\n"


@pytest.mark.parametrize(
    ("lines", "at"),
    [
        (
            'b,/b.wav,"5 inch',
            'line 3: a stray quote (unexpected end of data); write it twice in a quoted cell ("5"" reel")',
        ),
        ('b,/b.wav,"5 inch\nb2,/b2.wav,x"', "line 3: a stray quote"),
        ('b,/b.wav,"5 inch\nb2,/b2.wav,"x"', "line 3: a stray quote"),
        ('b,/b.wav,"5" inch', "line 3: a stray quote"),
        ('"b\n2",/b.wav,x', "line 3: a stray quote"),
        ('b,"/b\n.wav",x', "line 3: a stray quote"),
        ('b,/b.wav,5" inch, 6" reel', "row 2: has 4 cells, the header 3"),
        ("b,/b\0.wav,x", "row 2, column uri: '/b\\x00.wav' holds a line break or NUL byte"),
        ('b,/b.wav,"""5 inch, reel"', "row 2, column labels: '\"5 inch, reel' holds a stray quote"),
        ("b,/b.wav,x,y", "row 2: has 4 cells, the header 3"),
    ],
)
def test_a_stray_quote_swallows_no_clips_but_is_named_with_its_line(tmp_path: Path, lines: str, at: str) -> None:
    assert f"c.csv: {at}" in fault_of(tmp_path / "c.csv", NASTY.format(lines))


def test_a_stray_quote_is_named_whatever_batch_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acoustic_env.clips.records.BLOCK", 20)
    rows = [f"{n},/{n}.wav,x" for n in range(7)]
    rows[4] = '4,/4.wav,"x'
    assert "line 6: a stray quote" in fault_of(tmp_path / "c.csv", "\n".join(["clip_id,uri,labels", *rows]))
    rows[4], rows[6] = "4,/4.wav,x", "2,/6.wav,x"
    assert "row 7, column clip_id: '2' is already in row 3" in fault_of(
        tmp_path / "c.csv", "\n".join(["clip_id,uri,labels", *rows])
    )
    (tmp_path / "c.csv").write_text("\n\nclip_id,uri,labels\n" + "\n\n".join(rows[:6]) + "\n\n")
    assert read_clips(str(tmp_path / "c.csv")).num_rows == 6, "blank lines are no clips"
    assert [len(batch) for batch in read_clip_batches(str(tmp_path / "c.csv"))] != [6]


def test_cells_are_stripped_as_the_header_is_and_text_stays_text(tmp_path: Path) -> None:
    text = ' clip_id, uri , labels, site\n 000123 , /a b.wav, "dog, ""a, b""", NA\nNA,/b.wav,,1e3\n'
    (tmp_path / "c.csv").write_text(text)
    first, second = read_clips(str(tmp_path / "c.csv")).to_pylist()
    assert (first["clip_id"], first["uri"], first["labels"]) == ("000123", "/a b.wav", ["dog", "a, b"])
    assert (first["site"], second["clip_id"], second["site"], second["labels"]) == ("NA", "NA", "1e3", [])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            "clip_id,uri,labels\na,/a.wav,x\nb,/bücher.wav,x\n".encode("latin-1"),
            "line 3: not UTF-8 text; save the table as CSV in UTF-8",
        ),
        ("clip_id,uri\na,/a.wav\n".encode("utf-16"), "line 1: not UTF-8 text"),
        (b"clip_id,uri,site,site\na,/a.wav,x,y\n", "column site: appears twice"),
        (b"\n \n\n", "the file is empty"),
    ],
)
def test_text_that_is_no_clip_list_says_what_to_do(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "c.csv").write_bytes(data)
    with pytest.raises(UsageError) as raised:
        read_clips(str(tmp_path / "c.csv"))
    assert expected in str(raised.value)


def test_line_breaks_are_refused_in_ids_and_in_csv_and_kept_in_notes_of_parquet(tmp_path: Path) -> None:
    noted = CLIPS.append_column("note", pa.array(["two\nlines", None]))
    with pytest.raises(UsageError, match=r"row 1, column note: holds a line break .* ends in \.parquet"):
        write_clips(noted, str(tmp_path / "c.csv"))
    blank = clip_table([{"clip_id": "a ", "uri": "/a.wav"}])
    with pytest.raises(UsageError, match="column clip_id: holds a line break or blanks at its ends"):
        write_clips(blank, str(tmp_path / "c.csv"))
    write_clips(noted, str(tmp_path / "c.parquet"))
    assert read_clips(str(tmp_path / "c.parquet"))["note"].to_pylist() == ["two\nlines", None]
    with pytest.raises(UsageError, match=r"row 1, column clip_id: 'a\\nb' holds a line break"):
        write_clips(clip_table([{"clip_id": "a\nb", "uri": "/a.wav"}]), str(tmp_path / "c.parquet"))


def test_a_folder_above_the_current_one_is_resolved_links_on_the_way_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("work", "far/audio"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "work" / "link").symlink_to(tmp_path / "far" / "audio")
    (tmp_path / "far" / "a.wav").touch()
    monkeypatch.chdir(tmp_path / "work")
    uris = ["../x/./a.wav", "link/../a.wav", "tar://1.wav::../s.tar", "/a/../b.wav", "link/b.wav"]
    clips = absolute_uris(clip_table({"clip_id": str(n), "uri": uri} for n, uri in enumerate(uris)))
    assert clips["uri"].to_pylist() == [
        f"{tmp_path}/x/a.wav",
        f"{tmp_path}/far/a.wav",
        f"tar://1.wav::{tmp_path}/s.tar",
        "/b.wav",
        f"{tmp_path}/work/link/b.wav",
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_known_durations_are_numbers_in_every_format(tmp_path: Path, suffix: str) -> None:
    url = str(tmp_path / f"c.{suffix}")
    write_clips(clip_table([{"clip_id": "a", "uri": "/a.wav", "duration_s": 2.5}]), url)
    assert read_clips(url)["duration_s"].to_pylist() == [2.5]
    with pytest.raises(UsageError, match=r"row 1, column duration_s: -1\.0 is not a time"):
        write_clips(clip_table([{"clip_id": "a", "uri": "/a.wav", "duration_s": -1.0}]), url)


def test_labels_of_other_types_of_parquet_are_read_or_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "c.parquet")
    for labels, expected in (
        (pa.array(["x, y", None]).dictionary_encode(), [["x", "y"], []]),
        (pa.array([[1], []]), [["1"], []]),
        (pa.array(["x", " "], pa.large_string()), [["x"], []]),
        (pa.array([3, None]), [["3"], []]),
    ):
        pq.write_table(pa.table({"clip_id": ["a", "b"], "uri": ["/a", "/b"], "labels": labels}), path)
        assert read_clips(path)["labels"].to_pylist() == expected
    pq.write_table(pa.table({"clip_id": ["a"], "uri": ["/a"], "labels": [[{"name": "x"}]]}), path)
    with pytest.raises(UsageError, match=r"column labels: is list<.*, not a list of strings"):
        read_clips(path)


def test_a_reader_that_lacks_a_group_or_an_id_gets_the_clip_as_group_or_a_message(tmp_path: Path) -> None:
    url = str(tmp_path / "c.parquet")
    write_clips(clip_table([{"clip_id": "a", "uri": "/a.wav", "group": None}]), url)
    assert read_clips(url)["group"].to_pylist() == ["a"]
    with pytest.raises(UsageError, match="row 1, column clip_id: is empty"):
        write_clips(clip_table([{"clip_id": None, "uri": "/a.wav"}]), url)


PIECES = st.sampled_from(["a", "b", ",", ",", '"', '""', " ", '"x, y"', "\n", "\r\n"])


@settings(deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join), st.sampled_from([5, 17, 2**24]))
def test_a_list_is_refused_or_has_the_cells_that_each_line_alone_has(text: str, size: int) -> None:
    lines = [re.sub(r'(?<!")" +(?=,|$)', '"', line) for line in text.replace("\r\n", "\n").split("\n")]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("acoustic_env.clips.records.BLOCK", size)
        path = Path(folder, "c.csv")
        path.write_text(f"clip_id,uri,site\n{text}", newline="")
        try:
            table, rows, _ = load_clips(str(path))
        except UsageError:
            return
    cells = [next(standard_csv.reader([line], strict=True, skipinitialspace=True), []) for line in lines]
    cells = [of for of in cells if any(map(str.strip, of))]
    whole = [(row, [cell.strip() or None for cell in of]) for row, of in enumerate(cells, 1) if len(of) == 3]
    read = table.select(["clip_id", "uri", "site"]).to_pylist()
    assert list(zip(rows.tolist(), (list(row.values()) for row in read), strict=True)) == whole
