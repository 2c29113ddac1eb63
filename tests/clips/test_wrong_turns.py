"""What a new user does wrong with odd files and lists: the message leads on, and nothing of theirs is lost."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.table import read_clips

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with audio/a.wav and audio/b.wav."""
    monkeypatch.chdir(tmp_path)
    Path("audio").mkdir()
    for name in "ab":
        soundfile.write(f"audio/{name}.wav", 0.1 * np.sin(np.arange(8000) / 3), 8000)
    return tmp_path


def refused(said: Captured, *arguments: str) -> str:
    """Run a command that must end with 2 and return what it says."""
    assert main(["clips", *arguments]) == 2
    return said.readouterr().err


# ---- outputs over inputs


def shard() -> None:
    with tarfile.open("in.tar", "w") as archive:
        archive.add("audio/a.wav")
    audio = [{"bytes": Path("audio/a.wav").read_bytes(), "path": "a.wav"}]
    pq.write_table(pa.table({"audio": audio, "site": ["dune"]}), "in.parquet")
    Path("in.csv").write_text("audio\tlabels\na\tdog\n")
    Path("list.csv").write_text("clip_id,uri\na,audio/a.wav\nb,audio/b.wav\n")


@pytest.mark.parametrize(
    ("command", "taken"),
    [
        ("from-tar in.tar --out in.tar", "in.tar"),
        ("from-tar *.tar --out in.tar", "in.tar"),
        ("from-parquet in.parquet --out in.parquet", "in.parquet"),
        ("from-parquet *n.parquet --out ./audio/../in.parquet", "in.parquet"),
        ("from-tsv in.csv --audio audio --out in.csv", "in.csv"),
        ("from-folder audio --out audio/a.wav", "audio/a.wav"),
        ("check list.csv --drop-missing list.csv", "list.csv"),
        ("check list.csv --drop-missing audio/a.wav", "audio/a.wav"),
        ("duplicates --clips list.csv --out list.csv", "list.csv"),
        ("duplicates --clips list.csv --out groups.csv --apply list.csv", "list.csv"),
        ("duplicates --clips list.csv --out groups.csv --apply groups.csv", "list.csv"),
        ("duplicates --clips list.csv --out audio/a.wav", "audio/a.wav"),
    ],
)
def test_no_output_replaces_what_it_is_made_of(command: str, taken: str, capsys: Captured) -> None:
    shard()
    before = Path(taken).read_bytes()
    assert "give a" in refused(capsys, *command.split())
    assert Path(taken).read_bytes() == before
    assert not Path("groups.csv").exists()


def test_an_output_that_cannot_be_written_is_known_before_the_audio_is_read(capsys: Captured) -> None:
    Path("audio/a.wav").write_text("of no length, which the command would say")
    for out in ("audio", "x.tsv", "x.xlsx", "x.csv.gz", "audio/b.wav/clips.csv"):
        said = refused(capsys, "from-folder", "audio", "--window", "1", "--out", out)
        assert "unknown length" not in said
        assert ".partial" not in said
    Path("there").mkdir()
    assert "there: cannot be written: it is a folder" in refused(capsys, "from-folder", "audio", "--out", "there")


# ---- lists as spreadsheets and pandas write them

ONE = [("a", "audio/a.wav", ["dog", "big cat"], 1), ("b", "audio/b.wav", [], None)]


@pytest.mark.parametrize(
    "text",
    [
        'clip_id,uri,labels,fold\na,audio/a.wav,"dog, big cat",1\nb,audio/b.wav,,\n',
        '\n\nclip_id,uri,labels,fold\r\na,audio/a.wav,"dog,big cat",1.0\r\n\r\n  \r\nb,audio/b.wav,,\r\n,,,\r\n',
        'clip_id,uri,labels,fold,,\na,audio/a.wav,"dog,big cat",1,,\nb,audio/b.wav,,,,\n,,,,,\n',
        ',clip_id,uri,labels,fold\n0,a,audio/a.wav,"dog,big cat",1.0\n1,b,audio/b.wav,,\n',
        "clip_id\turi\tlabels\tfold\na\taudio/a.wav\tdog,big cat\t1\nb\taudio/b.wav\t\t\n",
        '"clip_id";"uri";"labels";"fold"\n"a";"audio/a.wav";"dog,big cat";"1"\n"b";"audio/b.wav";"";""\n',
        'clip_id,uri,labels,fold\ra, "audio/a.wav" , "dog,big cat" ,1\rb,audio/b.wav,,\r',
    ],
)
def test_a_list_is_read_as_spreadsheets_pandas_and_r_write_it(text: str, here: Path) -> None:
    Path("list.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    clips = read_clips("list.csv").select(["clip_id", "uri", "labels", "fold"]).to_pylist()
    expected = [(clip_id, str(here / uri), labels, fold) for clip_id, uri, labels, fold in ONE]
    assert [tuple(clip.values()) for clip in clips] == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "clip_id,uri,labels\na,audio/a.wav,\"['dog', 'cat']\"\n",
            "column labels: \"['dog', 'cat']\" is a list",
        ),
        ("file,label\na.wav,dog\n", "column clip_id: the column is missing; found 'file', 'label'"),
        ("clip_id|uri\na|x\n", "found 'clip_id|uri'"),
        ("clip_id,uri,fold\na,audio/a.wav,1.5\n", "row 1, column fold: '1.5' is not a whole number"),
    ],
)
def test_a_list_in_another_form_is_refused_with_what_was_found(text: str, said: str, capsys: Captured) -> None:
    Path("list.csv").write_text(text)
    assert said in refused(capsys, "check", "list.csv")


def test_thousands_of_further_columns_are_counted_not_printed(capsys: Captured) -> None:
    columns = {"clip_id": ["a"], "uri": ["audio/a.wav"], **{f"c{number}": [1] for number in range(3000)}}
    pq.write_table(pa.table(columns), "wide.parquet")
    assert main(["clips", "check", "wide.parquet"]) == 0
    assert "c19 and 2,980 more" in capsys.readouterr().out


# ---- odd folders, shards and tables


def test_hidden_files_are_passed_over_with_a_word(capsys: Captured) -> None:
    for name in (".Trashes/old.wav", "._a.wav", ".cache.wav"):
        Path("audio", name).parent.mkdir(exist_ok=True)
        Path("audio", name).write_bytes(b"what macOS keeps")
    assert main(["clips", "from-folder", "audio", "--out", "c.csv"]) == 0
    assert "3 files are passed over by their names: hidden 3" in capsys.readouterr().err
    assert read_clips("c.csv")["clip_id"].to_pylist() == ["audio/a.wav", "audio/b.wav"]
    assert main(["clips", "from-folder", "audio", "--glob", ".cache*", "--out", "c.csv"]) == 0
    assert len(read_clips("c.csv")) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--window", "0"], "--window 0: expected seconds, more than 0"),
        (["--window", "1", "--hop", "nan"], "--hop nan: expected seconds"),
    ],
)
def test_an_impossible_window_is_named_by_its_option(options: list[str], said: str, capsys: Captured) -> None:
    assert said in refused(capsys, "from-folder", "audio", *options, "--out", "c.csv")


@pytest.mark.parametrize(
    "text", ["audio\tlabels\na\tdog\n", "audio\tlabels\na.wav\tdog\n", "audio,labels\na.wav,dog\n"]
)
def test_names_of_a_table_may_have_their_ending(text: str) -> None:
    Path("t.tsv").write_text(text)
    assert main(["clips", "from-tsv", "t.tsv", "--audio", "audio", "--out", "c.csv"]) == 0
    assert read_clips("c.csv")["uri"].to_pylist() == [str(Path("audio/a.wav").absolute())]


def test_a_table_whose_audio_folder_is_not_there_says_so(capsys: Captured) -> None:
    Path("t.tsv").write_text("audio\tlabels\na\tdog\n")
    assert "gone: no such folder" in refused(capsys, "from-tsv", "t.tsv", "--audio", "gone", "--out", "c.csv")


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        (
            {"file_name": "a.wav"},
            ["--label-column", "kind"],
            "no column 'kind' (--label-column); expected one of: file",
        ),
        ({"file_name": "a.wav"}, ["--group-column", "site"], "no column 'site' (--group-column)"),
        ({"file_name": "a.wav"}, ["--splits", "audio,tset"], "no split 'tset'; expected some of audio"),
        ({"file_name": 7}, [], "metadata.jsonl: row 1 has no file_name"),
    ],
)
def test_a_column_or_split_that_is_not_there_is_no_empty_one(
    row: dict[str, object], options: list[str], said: str, capsys: Captured
) -> None:
    Path("audio/metadata.jsonl").write_text(json.dumps(row))
    assert said in refused(capsys, "from-huggingface", ".", *options, "--out", "c.csv")


def test_a_number_too_large_for_a_table_becomes_text() -> None:
    row = {"file_name": "a.wav", "hash": 2**80}
    Path("audio/metadata.jsonl").write_text(json.dumps(row))
    assert main(["clips", "from-huggingface", "audio", "--out", "c.parquet"]) == 0
    assert read_clips("c.parquet")["hash"].to_pylist() == [str(2**80)]


@pytest.mark.parametrize("option", ["--id-column", "--group-column", "--label-column"])
def test_a_column_of_audio_is_neither_id_nor_group_nor_label(option: str, capsys: Captured) -> None:
    shard()
    said = refused(capsys, "from-parquet", "in.parquet", option, "audio", "--out", "c.parquet")
    assert f"in.parquet: column 'audio' ({option}) is struct<" in said


@pytest.mark.parametrize("number", [2, -2])
def test_a_class_number_without_a_name_is_named_with_its_file(number: int, capsys: Captured) -> None:
    features = {"audio": {"_type": "Audio"}, "label": {"_type": "ClassLabel", "names": ["dog", "cat"]}}
    table = pa.table({"audio": [{"bytes": b"x", "path": "a"}], "label": [number]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, "in.parquet")
    assert f"in.parquet: label {number} has no name among the 2" in refused(
        capsys, "from-parquet", "in.parquet", "--out", "c.parquet"
    )


def test_a_list_comes_through_a_pipe() -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=["clip_id,uri\na,audio/a.wav\n"])
    writer.start()
    assert main(["clips", "check", "pipe"]) == 0
    writer.join()


def test_a_folder_in_place_of_a_file_is_called_one(capsys: Captured) -> None:
    for arguments in ("from-tar audio --out c.csv", "from-folder audio --recipe audio --out c.csv"):
        said = refused(capsys, *arguments.split())
        assert "audio: cannot be read: it is a folder, not a file" in said


def test_an_output_may_be_called_as_an_option_that_is_no_place() -> None:
    for _again in range(2):
        assert main(["clips", "from-folder", "audio", "--name", "birds", "--out", "birds"]) == 0


def test_hidden_members_of_a_tar_are_passed_over_with_a_word(capsys: Captured) -> None:
    Path("audio/._a.wav").write_bytes(b"what macOS keeps")
    with tarfile.open("in.tar", "w") as archive:
        archive.add("audio")
    assert main(["clips", "from-tar", "in.tar", "--out", "c.csv"]) == 0
    assert "in.tar: 1 hidden files are passed over" in capsys.readouterr().err
    assert len(read_clips("c.csv")) == 2
