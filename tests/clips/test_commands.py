"""The clips commands as they are typed: results on stdout, the rest on stderr, exit codes."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.select import select
from acoustic_env.clips.table import read_clips, write_clips
from acoustic_env.commands import clips as command
from acoustic_env.io.documents import load_recipe
from acoustic_env.registry import Registry

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for label in ("natural", "urban"):
        for number in range(3):
            path = tmp_path / "tree" / label / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.sin(np.arange(4000) / 3), 8000)
    return tmp_path / "tree"


def test_a_folder_becomes_a_list_that_checks_and_reads(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "clips.parquet"
    assert main(["clips", "from-folder", str(tree), "--recipe", "scenes", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}: 6 clips\n"
    assert "6 clips: natural 3, urban 3" in said.err
    assert read_clips(str(out)).num_rows == 6
    assert main(["clips", "check", str(out), "--recipe", "scenes", "--read"]) == 0
    assert f"{out}: no issues" in capsys.readouterr().out


def test_check_names_a_clip_that_is_too_short_for_every_block(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    soundfile.write(tree / "urban" / "1.wav", np.ones(100), 8000)
    out = tmp_path / "clips.csv"
    assert main(["clips", "from-folder", str(tree), "--out", str(out)]) == 0
    assert main(["clips", "check", str(out), "--read"]) == 2
    assert "row 5, column uri: too_short: tree/urban/1.wav: 0.0125 s of audio" in capsys.readouterr().err


def test_check_decodes_and_names_a_clip_that_is_no_audio(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    (tree / "urban" / "1.wav").write_text("this is no sound")
    out = tmp_path / "clips.csv"
    assert main(["clips", "from-folder", str(tree), "--out", str(out)]) == 0
    assert main(["clips", "check", str(out)]) == 0
    capsys.readouterr()
    assert main(["clips", "check", str(out), "--read"]) == 2
    assert re.search(rf"{out}: row 5, column uri: not_audio: ", capsys.readouterr().err)


def test_further_columns_outlive_every_command_that_writes_a_list(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    first, out, applied = (str(tmp_path / name) for name in ("clips.csv", "groups.parquet", "applied.parquet"))
    assert main(["clips", "from-folder", str(tree), "--out", first]) == 0
    clips = read_clips(first)
    write_clips(clips.append_column("site", pa.array([f"site {row}" for row in range(6)])), first)
    assert main(["clips", "check", first, "--recipe", "scenes"]) == 0
    assert "further columns, carried through: site" in capsys.readouterr().out
    assert main(["clips", "duplicates", "--clips", first, "--out", out, "--apply", applied]) == 0
    assert read_clips(applied)["site"].to_pylist() == [f"site {row}" for row in range(6)]
    assert select(read_clips(applied), load_recipe("scenes")).clips["site"].to_pylist()[0] == "site 0"


def test_a_faulty_list_ends_with_exit_code_2_and_its_faults(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "c.csv").write_text("clip_id,uri,end_s\na,s3://b/a.wav,zero\n")
    assert main(["clips", "check", str(tmp_path / "c.csv")]) == 2
    assert f"{tmp_path}/c.csv: row 1, column end_s: 'zero' is not a number" in capsys.readouterr().err
    (tmp_path / "c.csv").write_text("clip_id,uri\n")
    assert main(["clips", "check", str(tmp_path / "c.csv")]) == 2
    said = capsys.readouterr()
    assert (said.out, "the list holds no clips" in said.err) == ("", True)


def test_a_recipe_at_work_says_what_it_left_out(tmp_path: Path, capsys: Captured) -> None:
    lines = ['a, 0, 10, "/t/dd00128"', 'b, 0, 10, "/t/dd00129"', 'c, 0, 10, "/t/dd00129,/m/0342h"']
    (tmp_path / "s.csv").write_text("# c\n" + "\n".join(lines))
    arguments = ["--audio", "/x/{ytid}.wav", "--recipe", "urban-nature", "--out", str(tmp_path / "o.csv")]
    assert main(["clips", "from-audioset", str(tmp_path / "s.csv"), *arguments]) == 0
    assert "left out: 1 carry an excluded label (c_0)" in capsys.readouterr().err
    assert read_clips(str(tmp_path / "o.csv"))["start_s"].to_pylist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["from-folder", "/no/such", "--out", "x"],
        ["from-tar", "/no/such.tar", "--out", "x"],
        ["from-parquet", "/no/such.parquet", "--out", "x"],
        ["from-audioset", "/no/such.csv", "--audio", "{ytid}", "--out", "x"],
        ["from-audioset-embeddings", "/no", "--segments", "/no.csv", "--store", "/tmp/no-store", "--out", "x"],
        ["check", "/no/such.csv"],
        ["check", "/no/such.csv", "--recipe", "no-such-recipe"],
    ],
)
def test_bad_input_ends_with_a_message_and_exit_code_2(arguments: list[str], capsys: Captured) -> None:
    assert main(["clips", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("acoustic-env: ")
    assert "Traceback" not in said.err


def test_every_example_in_the_help_is_a_command_the_parser_takes() -> None:
    from acoustic_env.cli import build_parser

    texts = [
        inspect.getdoc(command._check),
        *(inspect.getdoc(command.READERS.load(name)) for name in command.READERS.names()),
    ]
    joined = "\n".join(texts).replace("\\\n", " ")
    examples = re.findall(r"^ +acoustic-env (clips .*)$", joined, re.MULTILINE)
    assert len(examples) >= 10
    for example in examples:
        build_parser().parse_args(
            shlex.split(re.split(r"\s{4,}(?=\w)(?![^']*')", example.replace("      --", " --"))[0])
        )


def test_results_are_one_json_document(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    out = str(tmp_path / "clips.csv")
    assert main(["clips", "from-folder", str(tree), "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": out, "clips": 6, "groups": 6, "labels": {"natural": 3, "urban": 3}, "left_out": {}
    }  # fmt: skip
    (tree / "urban" / "1.wav").unlink()
    assert main(["clips", "check", out, "--json"]) == 2
    issues = json.loads(capsys.readouterr().out)["lists"][0]["issues"]
    assert [(issue["row"], issue["column"]) for issue in issues] == [(5, "uri")]


READER = """
import sys
print("imported", file=sys.stderr)
from acoustic_env.clips.table import clip_table
class Reader:
    '''Make a clip list of numbers.

    Examples:
        acoustic-env clips from-numbers 3 --out clips.csv
    '''
    def add_arguments(self, parser):
        parser.add_argument("count", type=int, help="Number of clips.")
    def read(self, arguments, log):
        log(f"counting to {arguments.count}")
        return clip_table({"clip_id": f"clip-{n}", "uri": f"/audio/{n}.wav"} for n in range(arguments.count))
"""


def test_a_reader_of_another_package_is_imported_when_its_command_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "numbers_reader.py").write_text(READER)
    info = tmp_path / "numbers_reader-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numbers-reader\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[acoustic_env.readers]\nnumbers = numbers_reader:Reader\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(command, "READERS", Registry("readers", "reader of clip lists", {}))
    with pytest.raises(SystemExit):
        main(["clips", "--help"])
    said = capsys.readouterr()
    assert "from-numbers" in said.out
    assert "imported" not in said.err
    out = str(tmp_path / "clips.csv")
    assert main(["clips", "from-numbers", "3", "--out", out]) == 0
    assert "counting to 3" in capsys.readouterr().err
    assert read_clips(out)["clip_id"].to_pylist() == ["clip-0", "clip-1", "clip-2"]
    with pytest.raises(SystemExit):
        main(["clips", "from-numbers", "--help"])
    said = capsys.readouterr().out
    assert "Make a clip list of numbers." in said
    assert "examples:\n    acoustic-env clips from-numbers 3" in said
