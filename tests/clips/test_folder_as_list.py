"""A folder of audio stands in place of a clip list, and means what `clips from-folder` makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import clip_table, read_clip_batches, read_clips, write_clips
from acoustic_env.errors import UsageError
from acoustic_env.io.files import write_bytes
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import admit, record
from tests.s3 import S3Server
from tests.store.tables import fake_table

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three recordings of two labels, and what is no audio, in `wavs/`."""
    monkeypatch.chdir(tmp_path)
    for name in ("dog/000123.wav", "dog/b.flac", "rain/c.wav"):
        (tmp_path / "wavs" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "wavs" / name, np.zeros(800), 8000)
    (tmp_path / "wavs" / "rain" / "notes.txt").write_text("wet")
    return tmp_path / "wavs"


def test_a_folder_gives_the_clips_that_from_folder_writes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["clips", "from-folder", "wavs", "--out", "clips.parquet"]) == 0
    clips = read_clips("clips.parquet")
    assert clips["clip_id"].to_pylist() == ["wavs/dog/000123.wav", "wavs/dog/b.flac", "wavs/rain/c.wav"]
    for place in ("wavs", "wavs/", "./wavs", f"{folder}/", folder.as_uri()):
        assert read_clips(place).equals(clips), place
        assert next(read_clip_batches(place)).equals(clips), place
    assert "wavs: as clips from-folder lists it, 3 clips in 3 groups, 2 labels" in caplog.text
    assert "1 files are passed over by their names: .txt 1" in caplog.text


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_of_a_bucket_is_listed_with_the_same_ids(folder: Path, s3: S3Server, ending: str) -> None:
    for file in ("dog/000123.wav", "dog/b.flac", "rain/c.wav"):
        write_bytes(f"s3://{s3.bucket}/wavs/{file}", (folder / file).read_bytes())
    place = f"s3://{s3.bucket}/wavs{ending}"
    assert main(["clips", "check", place]) == 0
    assert read_clips(place)["clip_id"].to_pylist() == read_clips(str(folder))["clip_id"].to_pylist()
    write_clips(read_clips(place), f"s3://{s3.bucket}/clips.parquet")
    assert next(read_clip_batches(f"s3://{s3.bucket}/clips.parquet"))["uri"][0].as_py() == (
        f"s3://{s3.bucket}/wavs/dog/000123.wav"
    )
    with pytest.raises(UsageError, match="nothing: no such file"):
        read_clips(f"s3://{s3.bucket}/nothing")


@pytest.mark.parametrize("place", ["memory://folder-as-list/wavs", "memory://folder-as-list/wavs/"])
def test_a_folder_at_a_url_is_listed_with_the_same_ids(folder: Path, place: str) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(folder), "/folder-as-list/", recursive=True)
    try:
        clips = read_clips(place)
    finally:
        files.rm("/folder-as-list", recursive=True)
    assert clips["clip_id"].to_pylist() == read_clips(str(folder))["clip_id"].to_pylist()
    assert clips["uri"][0].as_py() == "memory://folder-as-list/wavs/dog/000123.wav"


def test_commands_take_the_folder_and_a_list_made_later_agrees(capsys: Captured) -> None:
    store = FeatureStore("store")
    record(store, admit(store, Listed([read_clips("wavs")])), "run")
    store.write_part(fake_table(read_clips("wavs")["clip_id"].to_pylist()))
    assert main(["clips", "check", "wavs", "--read"]) == 0
    assert "wavs: no issues" in capsys.readouterr().out
    assert main(["clips", "from-folder", "wavs", "--out", "clips.csv"]) == 0
    for clips in ("wavs", "clips.csv"):
        assert main(["store", "verify", "store", "--clips", clips]) == 0
        assert "every clip is accounted for" in capsys.readouterr().out
    assert main(["store", "export", "store", "--block", "fake", "--clips", "wavs", "--out", "o.csv", "--wide"]) == 0
    assert [line.split(",")[0] for line in Path("o.csv").read_text().splitlines()[1:]] == [
        f'"wavs/{name}"' for name in ("dog/000123.wav", "dog/b.flac", "rain/c.wav")
    ]
    extract = ["extract", "--clips", "wavs", "--store", "new", "--blocks", "placeholder", "--dry-run", "--json"]
    assert main(extract) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pending"] == 3


def test_a_folder_without_audio_or_with_a_list_of_its_own_says_what_to_give(capsys: Captured) -> None:
    Path("empty").mkdir()
    Path("study").mkdir()
    write_clips(clip_table([{"clip_id": "a", "uri": "/a.wav"}]), "study/clips.parquet")
    for place, said in (
        ("empty", "empty: no audio files below it; known are"),
        ("empty", "clips from-folder --glob"),
        ("study", "study: holds a clip list; give study/clips.parquet itself"),
        ("study/", "give study/clips.parquet itself"),
        ("nowhere", "nowhere: no such file"),
    ):
        assert main(["clips", "check", place]) == 2
        assert said in capsys.readouterr().err
    assert main(["extract", "--clips", "nowhere", "--store", "s"]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
