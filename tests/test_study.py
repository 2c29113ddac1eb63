"""Every command finds the study, and says what is wrong with one that is missing, damaged or another program's."""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.cli import build_parser, main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.commands.arguments import complete
from tests.sounds import noise
from tests.test_options import commands

# What a command needs besides paths.
MORE = {
    "store export": ["--block", "indices", "--out", "x.csv"],
    "audit sample": ["--n", "5"],
    "audit plan": ["--half-width", "0.1"],
    "audit diff": ["v0001", "v0002"],
    "audit export": ["--out", "x.csv"],
    "reannotate": ["--clips", "new.csv"],
}
OF_A_STUDY = sorted(name for name, parser in commands(build_parser()) if "--study" in parser._option_string_actions)
# Only what is there is taken, so they go on without a study.
OPTIONAL = ("audit plan",)
DAMAGED = {
    "missing": (None, "is no study; make one with acoustic-env init"),
    "no YAML": ("task: [", "study.yaml: not a YAML file"),
    "a list": ("- a\n- b", "a study is a mapping"),
    "another program's": ("direction: maximize\nsampler: tpe\n", "unknown setting 'direction'"),
    "a path that is none": ("paths: {store: 3}\n", "paths: store"),
    "paths that are none": ("paths: features\n", "paths: expected clips, store"),
    "an unknown path": ("paths: {stores: features}\n", "unknown setting 'stores'"),
}


@pytest.mark.parametrize("command", OF_A_STUDY)
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_study_that_cannot_be_read_is_named(
    command: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = DAMAGED[kind]
    folder = tmp_path / "study"
    folder.mkdir()
    if text is not None:
        (folder / "study.yaml").write_text(text)
    assert main([*command.split(), *MORE.get(command, []), "--study", str(folder)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert str(folder) in said.err
    assert not said.out


def test_options_go_on_beside_a_file_of_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("direction: maximize\n")
    assert main(["report", "--out", "report.html"]) == 2
    said = capsys.readouterr().err
    assert "without a study: study.yaml: unknown setting 'direction'" in said
    assert "nothing to report on" in said


def completed(command: str) -> argparse.Namespace:
    namespace = build_parser().parse_args(command.split())
    complete(namespace)
    return namespace


def test_paths_come_from_the_option_then_the_study_of_the_option_the_variable_or_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("here", ""), ("named", "paths: {store: ../store, clips: s3://b/c.parquet}"), ("variable", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").write_text(f"name: {name}\n{text}")
    monkeypatch.chdir(tmp_path / "here")
    found = completed("train --store other")
    assert (found.clips, found.store, found.recipe, found.out) == ("clips.parquet", "other", "study.yaml", "bundle")
    monkeypatch.setenv("ACOUSTIC_ENV_STUDY", f"{tmp_path}/variable/")
    assert completed("evaluate").bundle == f"{tmp_path}/variable/bundle"
    found = completed("extract --study ../named")
    assert (found.clips, found.store, found.recipe) == ("s3://b/c.parquet", "../named/../store", "../named/study.yaml")
    assert completed("store verify").store == f"{tmp_path}/variable/features"
    assert completed("audit rank").out == f"{tmp_path}/variable/audit/ranked.parquet"
    monkeypatch.delenv("ACOUSTIC_ENV_STUDY")
    monkeypatch.chdir(tmp_path)
    for command in ("extract", "train", "store ls", "audit rank"):
        assert main(command.split()) == 2


def test_without_a_study_the_missing_options_and_what_makes_a_study_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--bundle", "b"]) == 2
    said = capsys.readouterr().err
    assert "--clips, --store: not given" in said
    assert "acoustic-env init AUDIO_FOLDER" in said


@pytest.fixture
def audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six recordings of four files each, in two folders; the current folder is an empty one."""
    for recording in range(6):
        for part in range(4):
            file = tmp_path / "audio" / ("dog" if recording % 2 else "rain, heavy") / f"r{recording}_{part}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, noise(0.1), 16_000)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "audio"


def test_init_proposes_recordings_and_the_advice_makes_them(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(audio), "one"]) == 0
    said = capsys.readouterr().err
    assert "names look like parts of 6 recordings" in said
    pattern = said.split("--group-from '")[1].split("'\n")[0]
    assert main(["init", str(audio), "two", "--group-from", pattern]) == 0
    assert "names look like" not in capsys.readouterr().err
    clips = pq.read_table("two/clips.parquet")
    assert set(clips["group"].to_pylist()) == {f"r{n}" for n in range(6)}
    assert set(map(tuple, clips["labels"].to_pylist())) == {("dog",), ("rain, heavy",)}
    assert main(["config", "--study", "two", "--json"]) == 0
    assert '{"setting": "task", "value": "\\"binary\\"", "from": "two/study.yaml"}' in capsys.readouterr().out
    assert main(["clips", "check", "--study", "two"]) == 0


@pytest.mark.parametrize("there", ["study.yaml", "clips.parquet"])
def test_init_overwrites_nothing(audio: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(there).write_text("mine")
    assert main(["init", str(audio)]) == 2
    assert there in capsys.readouterr().err
    assert Path(there).read_text() == "mine"
    assert sorted(path.name for path in Path.cwd().iterdir()) == [there]


def test_labels_of_a_table_are_put_on_the_clips(audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["file,label,note", 'r0_0.wav,"wet, loud",x', "r0_0.wav,far,", f"{audio}/dog/r1_0.wav,dog,", "gone.wav,dog,"]
    Path("labels.csv").write_text("\n".join(rows))
    assert main(["init", str(audio), "study", "--labels", "labels.csv"]) == 0
    said = capsys.readouterr().err
    assert "22 clips have no row there and no label" in said
    assert "1 rows are of no clip: gone.wav" in said
    found = {row["clip_id"]: row["labels"] for row in pq.read_table("study/clips.parquet").to_pylist() if row["labels"]}
    assert found == {"audio/rain, heavy/r0_0.wav": ["wet", "loud", "far"], "audio/dog/r1_0.wav": ["dog"]}
    assert "task: multilabel" in Path("study/study.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,kind,day\na,b,c\n", "which column is the file, which the label?"),
        ("file,label\nnone.wav,dog\n", "none of its 1 files is in the list, the first: 'none.wav'"),
        ("file,label,fold\nr0_0.wav,dog,first\n", "fold 'first': expected a whole number"),
        ("file,label\n", "the table has no rows"),
    ],
)
def test_a_wrong_table_of_labels_is_refused(
    audio: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels.csv").write_text(text)
    assert main(["init", str(audio), "--labels", "labels.csv"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("study.yaml").exists()


def test_a_list_whose_windows_could_be_torn_apart_is_warned_of(audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(audio / "dog" / "r1_0.wav")
    rows = [
        {"clip_id": f"w{n}", "uri": uri, "start_s": n * 0.05, "end_s": n * 0.05 + 0.05, "labels": ["dog"]}
        for n in (0, 1)
    ]
    write_clips(clip_table(rows), "list.csv")
    assert main(["init", "list.csv", "study"]) == 0
    assert "warning: 1 files have clips in several groups" in capsys.readouterr().err


def test_what_belongs_to_a_given_path_is_not_taken_from_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text("task: multiclass\n")
    Path("audit").mkdir()
    for name in ("clips.parquet", "audit/sample.parquet", "audit/annotations.parquet", "duplicates.parquet"):
        Path(name).touch()
    assert completed("store verify").clips == "clips.parquet"
    assert completed("store verify other").clips is None
    assert completed("audit rank").duplicates == "duplicates.parquet"
    assert completed("audit rank --clips other.csv").duplicates is None
    assert completed("audit relabel --versions elsewhere").sample == "audit/sample.parquet"
    assert completed("audit relabel --ranked other.parquet").sample is None
    assert completed("report --bundle baseline").sample == "audit/sample.parquet"
