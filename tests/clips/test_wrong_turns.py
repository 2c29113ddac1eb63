"""What a new user does wrong with odd files and lists: the message leads on, and nothing of theirs is lost."""

from __future__ import annotations

import tarfile
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
