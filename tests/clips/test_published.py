"""Readers of published data sets, on files of exactly the published layout."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.cli import main
from acoustic_env.clips.readers import published
from acoustic_env.clips.readers.published import load_tag_rules
from acoustic_env.clips.table import read_clips


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def run(tmp_path: Path, *command: str) -> pa.Table:
    out = tmp_path / "clips.parquet"
    assert main(["clips", *command, "--out", str(out)]) == 0
    return read_clips(str(out))


def publish(monkeypatch: pytest.MonkeyPatch, reader: Any, *clips: dict[int, int]) -> None:
    """Let the publication have so many clips in each fold of each part."""
    parts = zip(reader.parts.items(), clips, strict=True)
    monkeypatch.setattr(reader, "parts", {name: replace(part, clips=of) for (name, part), of in parts})


@pytest.fixture
def urban(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An UrbanSound8K of three excerpts: the published layout with other counts."""
    publish(monkeypatch, published.UrbanSound8KReader, {1: 2, 2: 1})
    root = tmp_path / "UrbanSound8K"
    rows = [("1-3-0-0.wav", 1, 1, "dog_bark"), ("1-3-0-1.wav", 1, 1, "dog_bark"), ("7-9-1-0.wav", 7, 2, "siren")]
    write_table(
        root / "metadata/UrbanSound8K.csv",
        ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class_name"),
        [(name, recording, 0, 4, 1, fold, 0, label) for name, recording, fold, label in rows],
    )
    for name, _, fold, _ in rows:
        touch(root / f"audio/fold{fold}/{name}")
    return root


def test_urbansound8k_gives_the_published_folds_and_groups_by_recording(urban: Path, tmp_path: Path) -> None:
    clips = run(tmp_path, "from-urbansound8k", str(urban)).to_pylist()
    assert [(clip["clip_id"], clip["fold"], clip["group"], clip["labels"]) for clip in clips] == [
        ("urbansound8k/1-3-0-0.wav", 1, "freesound/1", ["dog_bark"]),
        ("urbansound8k/1-3-0-1.wav", 1, "freesound/1", ["dog_bark"]),
        ("urbansound8k/7-9-1-0.wav", 2, "freesound/7", ["siren"]),
    ]
    assert clips[0]["uri"] == str(urban / "audio/fold1/1-3-0-0.wav")


def test_what_is_missing_is_named_and_taken_without_only_when_asked(
    urban: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (urban / "audio/fold1/1-3-0-1.wav").unlink()
    out = str(tmp_path / "clips.parquet")
    assert main(["clips", "from-urbansound8k", str(urban), "--out", out]) == 2
    assert "1 of 3 audio files are missing: audio/fold1/1-3-0-1.wav" in capsys.readouterr().err
    assert run(tmp_path, "from-urbansound8k", str(urban), "--partial").num_rows == 2


def test_the_published_counts_are_those_of_the_real_table(test_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "UrbanSound8K"
    (root / "metadata").mkdir(parents=True)
    (root / "metadata/UrbanSound8K.csv").write_bytes((test_data / "metadata/UrbanSound8K.csv").read_bytes())
    with (root / "metadata/UrbanSound8K.csv").open() as file:
        names = [(row["fold"], row["slice_file_name"]) for row in csv.DictReader(file)]
    for fold, name in names:
        touch(root / f"audio/fold{fold}/{name}")
    assert run(tmp_path, "from-urbansound8k", str(root)).num_rows == 8732


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("fsID", "id"), r"no column 'fsID'"),
        (lambda text: text + "1-3-0-2.wav,1\n", r"line 5 has 2 cells, the header 8"),
        (lambda text: "\n".join(text.splitlines()[:-1]) + "\n", r"fold 2: 0 rows, the publication has 1"),
    ],
)
def test_a_table_that_is_not_as_published_is_refused(
    urban: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    table = urban / "metadata/UrbanSound8K.csv"
    table.write_text(change(table.read_text()))
    assert main(["clips", "from-urbansound8k", str(urban), "--out", str(tmp_path / "c.csv")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_esc50_can_be_cut_to_esc10(tmp_path: Path) -> None:
    root = tmp_path / "ESC-50-master"
    columns = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    rows: list[tuple[Any, ...]] = []
    for fold in range(1, 6):
        for number in range(400):
            name, small = f"{fold}-{number}-A-0.wav", number < 80
            rows.append((name, fold, 0, "dog" if small else "cow", small, number, "A"))
            touch(root / "audio" / name)
    write_table(root / "meta/esc50.csv", columns, rows)
    assert run(tmp_path, "from-esc50", str(root)).num_rows == 2000
    small = run(tmp_path, "from-esc50", str(root), "--esc10")
    assert small.num_rows == 400
    assert small["labels"].to_pylist() == [["dog"]] * 400


@pytest.fixture
def fsd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    publish(monkeypatch, published.FSD50KReader, {0: 1, 1: 1}, {2: 1})
    root = tmp_path / "FSD50K"
    dev = [(1, "Bark,Dog,Animal", "/m/a,/m/b,/m/c", "train"), (2, "Rain", "/m/d", "val")]
    write_table(root / "FSD50K.ground_truth/dev.csv", ("fname", "labels", "mids", "split"), dev)
    write_table(root / "FSD50K.ground_truth/eval.csv", ("fname", "labels", "mids"), [(3, "Guitar,Music", "/m/e,/m/f")])
    tags = {"dev": {"1": ["Dog", "field-recording"], "2": ["hotdog"]}, "eval": {"3": ["guitar", "drums"]}}
    for part, clips in tags.items():
        for clip in clips:
            touch(root / f"FSD50K.{part}_audio/{clip}.wav")
        place = root / f"FSD50K.metadata/{part}_clips_info_FSD50K.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps({clip: {"title": "t", "tags": own} for clip, own in clips.items()}))
    return root


def test_fsd50k_keeps_its_parts_apart_as_folds(fsd: Path, tmp_path: Path) -> None:
    clips = run(tmp_path, "from-fsd50k", str(fsd)).to_pylist()
    assert [(clip["fold"], clip["labels"]) for clip in clips] == [
        (0, ["Bark", "Dog", "Animal"]),
        (1, ["Rain"]),
        (2, ["Guitar", "Music"]),
    ]


def test_tags_become_classes_by_the_first_rule_that_hits(fsd: Path, tmp_path: Path) -> None:
    clips = run(tmp_path, "from-fsd50k", str(fsd), "--tags", "household-8")
    assert clips["labels"].to_pylist() == [["animal"], ["other"], ["noise"]]  # drums are noise, before music


def test_the_built_in_rules_are_the_published_lists() -> None:
    rules = load_tag_rules("household-8")
    sizes = {name: len(words) for name, words in rules.classes.items()}
    assert sizes == {
        "human": 30,
        "noise": 92,
        "animal": 48,
        "music": 50,
        "ambient": 55,
        "alarm": 26,
        "movement": 11,
    }
    assert list(sizes) == ["human", "noise", "animal", "music", "ambient", "alarm", "movement"]
    assert rules.label(["xylophone"]) == "noise"


def test_fsdkaggle2019_has_a_curated_a_noisy_and_a_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = published.FSDKaggle2019Reader
    publish(monkeypatch, reader, {0: 1}, {1: 1}, {2: 1})
    root = tmp_path / "FSDKaggle2019"
    for name, part in reader.parts.items():
        recording = part.group.strip("{}")
        columns = ("fname", "labels", *(("usage",) if name == "test" else ()), recording, "license")
        row = (f"{name}.wav", "Bark,Meow", *(("Public",) if name == "test" else ()), f"r-{name}", "CC0")
        write_table(root / part.table, columns, [row])
        touch(root / part.audio.format(fname=f"{name}.wav"))
    clips = run(tmp_path, "from-fsdkaggle2019", str(root)).to_pylist()
    assert [(clip["clip_id"], clip["fold"], clip["group"]) for clip in clips] == [
        ("fsdkaggle2019/curated", 0, "r-curated"),
        ("fsdkaggle2019/noisy", 1, "r-noisy"),
        ("fsdkaggle2019/test", 2, "r-test"),
    ]
    assert run(tmp_path, "from-fsdkaggle2019", str(root), "--parts", "curated").num_rows == 1


def test_a_label_of_a_tsv_is_no_part_of_another(tmp_path: Path) -> None:
    for number in (3, 111):
        touch(tmp_path / f"audio/{number}.wav")
    table = tmp_path / "dataset.tsv"
    table.write_text("audio\tlabels\n3\tMusical instrument,Speech\n111\tMusic\n")
    clips = run(tmp_path, "from-tsv", str(table), "--audio", str(tmp_path / "audio"))
    assert clips["labels"].to_pylist() == [["Musical instrument", "Speech"], ["Music"]]
    assert clips["clip_id"].to_pylist() == ["audio/3", "audio/111"]


def test_shards_of_hugging_face_describe_their_own_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = {"sound": {"_type": "Audio"}, "kind": {"_type": "ClassLabel", "names": ["rain", "dog"]}}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"sound": [{"bytes": b"x", "path": "a.wav"}], "kind": [1]}).replace_schema_metadata(described)
    for split in ("train", "test"):
        place = tmp_path / f"set/data/{split}-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place)
    clips = run(tmp_path, "from-huggingface", str(tmp_path / "set")).to_pylist()
    assert [(clip["source"], clip["labels"]) for clip in clips] == [("test", ["dog"]), ("train", ["dog"])]
    assert len({clip["clip_id"] for clip in clips}) == 2
    assert run(tmp_path, "from-huggingface", str(tmp_path / "set"), "--splits", " train").num_rows == 1
    converted = tmp_path / "converted/default/train/0000.parquet"
    converted.parent.mkdir(parents=True)
    pq.write_table(table, converted)
    assert run(tmp_path, "from-huggingface", str(tmp_path / "converted"))["source"].to_pylist() == ["train"]
    wrong = ["clips", "from-huggingface", str(tmp_path / "set"), "--splits", "dev", "--out", str(tmp_path / "c.csv")]
    assert main(wrong) == 2
    assert "--splits: no split 'dev'; expected some of test, train" in capsys.readouterr().err


def test_an_audio_folder_of_hugging_face_has_its_labels_in_a_table(tmp_path: Path) -> None:
    write_table(tmp_path / "set/train/metadata.csv", ("file_name", "label"), [("a.wav", "rain"), ("b.wav", "")])
    for name in ("a.wav", "b.wav"):
        touch(tmp_path / "set/train" / name)
    clips = run(tmp_path, "from-huggingface", str(tmp_path / "set")).to_pylist()
    assert [(clip["clip_id"], clip["labels"], clip["source"]) for clip in clips] == [
        ("set/train/a.wav", ["rain"], "train"),
        ("set/train/b.wav", [], "train"),
    ]


def test_arrow_files_of_hugging_face_are_refused_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "set/data-00000-of-00001.arrow")
    assert main(["clips", "from-huggingface", str(tmp_path / "set"), "--out", str(tmp_path / "c.csv")]) == 2
    assert "to_parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("audio\tlabels\n", "dataset.tsv: the table has no rows"),
        ('audio\tlabels\n3\t"5 inch\n4\tMusic\n5\tx"\n', "dataset.tsv: line 2: a stray quote"),
        ("audio\tlabels\n3\tB\xfccher\n", "dataset.tsv: line 2: not UTF-8"),
        ("audio\tlabels\tlabels\n3\tx\ty\n", "a column is there twice"),
        ("name\tlabels\n3\tx\n", "no column 'audio'; expected audio, labels, found 'name', 'labels'"),
        ("audio\tlabels\n7\tx\n", "none of the 1 audio files is below it; expected 7.wav"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    touch(tmp_path / "audio/3.wav")
    (tmp_path / "dataset.tsv").write_bytes(text.encode("latin-1"))
    command = ["clips", "from-tsv", str(tmp_path / "dataset.tsv"), "--audio", str(tmp_path / "audio")]
    assert main([*command, "--out", str(tmp_path / "c.csv")]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("metadata.csv", b"file_name,label\n", "the table has no rows"),
        ("metadata.csv", b"file_name,label\na.wav,B\xfccher\n", "line 2: not UTF-8"),
        ("metadata.csv", b'file_name,label\na.wav,"x\nb.wav,y\n', "line 2: a stray quote"),
        ("metadata.jsonl", b'{"file_name": "a.wav", "label": "B\xfccher"}\n', "line 1: not JSON"),
        ("metadata.jsonl", b"[1]\n", "row 1 has no file_name"),
        ("metadata.jsonl", b"\n", "none of the 0 audio files"),
    ],
)
def test_metadata_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, expected: str
) -> None:
    touch(tmp_path / "set/a.wav")
    (tmp_path / "set" / name).write_bytes(data)
    assert main(["clips", "from-huggingface", str(tmp_path / "set"), "--out", str(tmp_path / "c.csv")]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert name in said or "audio files" in said


def test_labels_and_groups_of_json_lines_may_be_lists_numbers_or_null(tmp_path: Path) -> None:
    rows = [{"label": [1, None], "by": None}, {"label": None, "by": 7}, {"label": 0, "by": 7}]
    lines = [json.dumps({"file_name": f"{n}.wav", **row}) for n, row in enumerate(rows)]
    for number in range(3):
        touch(tmp_path / f"set/{number}.wav")
    (tmp_path / "set/metadata.jsonl").write_text("\n".join(lines))
    clips = run(tmp_path, "from-huggingface", str(tmp_path / "set"), "--group-column", "by").to_pylist()
    assert [(clip["labels"], clip["group"]) for clip in clips] == [(["1"], "set/0.wav"), ([], "7"), (["0"], "7")]


def test_a_fold_that_is_none_is_named(urban: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = urban / "metadata/UrbanSound8K.csv"
    table.write_text(table.read_text().replace(",2,0,siren", ",two,0,siren"))
    assert main(["clips", "from-urbansound8k", str(urban), "--out", str(tmp_path / "c.csv")]) == 2
    assert "foldtwo/7-9-1-0.wav: fold 'two', expected a number" in capsys.readouterr().err
