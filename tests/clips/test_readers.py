"""Readers of other people's data: AudioSet lists, folders, tar shards, Parquet files."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.audio.fetch import open_source
from acoustic_env.cli import main
from acoustic_env.clips.readers.audioset import read_audioset
from acoustic_env.clips.readers.folder import read_folder
from acoustic_env.clips.readers.parquet import read_parquet
from acoustic_env.clips.readers.tar import read_tar
from acoustic_env.clips.table import read_clips, write_clips
from acoustic_env.errors import UsageError

SEGMENTS = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=3
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
-0xzrMun0Rs, 0.500, 7.250, "/m/03l9g"
"""


@pytest.fixture
def segments(tmp_path: Path) -> str:
    (tmp_path / "s.csv").write_text(SEGMENTS)
    return str(tmp_path / "s.csv")


def tone(path: Path, seconds: float, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(round(seconds * rate)) / 3), rate)
    return path


# ---- AudioSet


def test_segments_become_clips_named_by_video_and_start(segments: str) -> None:
    clips = read_audioset(segments, "s3://b/{ytid}_{start_ms}-{end_ms}_{start_s:.1f}.flac").to_pylist()
    assert [clip["clip_id"] for clip in clips] == ["--PJHxphWEs_30000", "-0xzrMun0Rs_500"]
    assert clips[1]["uri"] == "s3://b/-0xzrMun0Rs_500-7250_0.5.flac"
    assert clips[0]["labels"] == ["/m/09x0r", "/t/dd00088"]
    assert clips[0]["group"] == "--PJHxphWEs"
    assert clips[0]["start_s"] is None


def test_a_template_without_a_time_means_whole_videos_unless_said_otherwise(segments: str) -> None:
    spans = [(clip["start_s"], clip["end_s"]) for clip in read_audioset(segments, "/v/{ytid}.m4a").to_pylist()]
    assert spans == [(30.0, 40.0), (0.5, 7.25)]
    cut = read_audioset(segments, "/v/Y{ytid}.wav", whole_videos=False)
    assert cut["start_s"].null_count == cut["end_s"].null_count == 2


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("/v/{ytID}.wav", r"unknown placeholder \{ytID\}; expected some of \{ytid\}"),
        ("/v/{}.wav", r"unknown placeholder \{\}"),
        ("/v/{ytid.wav", "expected some of"),
        ("/v/clip.wav", r"without \{ytid\} every clip has"),
        ("/v/{ytid:d}.wav", "expected some of"),
    ],
)
def test_a_wrong_template_is_explained(segments: str, template: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        read_audioset(segments, template)


def test_faulty_segment_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(SEGMENTS + 'x, one, 2, "/m/a"\ny, 5, 4, "/m/a"\nz, 1\n')
    with pytest.raises(UsageError) as raised:
        read_audioset(str(tmp_path / "s.csv"))
    lines = str(raised.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["line 6", "line 7", "line 8"]


def test_a_list_of_comments_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("# nothing\n")
    with pytest.raises(UsageError, match="no segments"):
        read_audioset(str(tmp_path / "s.csv"))


def test_the_official_lists_are_read_whole(test_data: Path) -> None:
    for name, count in (("balanced_train", 22160), ("eval", 20371)):
        clips = read_audioset(str(test_data / "audioset" / f"{name}_segments.csv"))
        assert clips.num_rows == count
        assert len(set(clips["clip_id"].to_pylist())) == count


# ---- folders


def test_the_label_is_the_first_folder_and_the_recording_the_group(tmp_path: Path) -> None:
    for name in ("dog bark/a#1.wav", "dog bark/deep/b.WAV", "rain/ü.flac", "loose.ogg"):
        tone(tmp_path / "tree" / name, 0.2)
    (tmp_path / "tree" / "rain" / "notes.txt").write_text("no audio")
    clips = read_folder(str(tmp_path / "tree"))
    below = ["dog bark/a#1.wav", "dog bark/deep/b.WAV", "loose.ogg", "rain/ü.flac"]
    assert clips["clip_id"].to_pylist() == [f"tree/{path}" for path in below]
    assert clips["labels"].to_pylist() == [["dog bark"], ["dog bark"], [], ["rain"]]
    assert clips["group"].to_pylist() == clips["clip_id"].to_pylist()
    for uri in clips["uri"].to_pylist():
        open_source(uri).close()


def test_long_recordings_are_cut_into_whole_windows(tmp_path: Path) -> None:
    tone(tmp_path / "a" / "long.wav", 25.3)
    tone(tmp_path / "a" / "short.wav", 4.0)
    (tmp_path / "a" / "broken.wav").write_text("no audio at all")
    notes: list[str] = []
    clips = read_folder(str(tmp_path), window_s=10, hop_s=5, name="site 3/", log=notes.append)
    rows = [(clip["clip_id"], clip["start_s"], clip["end_s"], clip["group"]) for clip in clips.to_pylist()]
    assert rows == [
        ("site 3/a/broken.wav", None, None, "site 3/a/broken.wav"),
        *(
            (f"site 3/a/long.wav_{s * 1000}-{s * 1000 + 10000}", float(s), s + 10.0, "site 3/a/long.wav")
            for s in (0, 5, 10, 15)
        ),
        ("site 3/a/short.wav", None, None, "site 3/a/short.wav"),
    ]
    assert notes == [
        f"1 files of unknown length are listed as whole files:\n{tmp_path}/a/broken.wav",
        "0.3 s dropped: shorter than one window",
    ]


def test_an_exact_multiple_of_the_window_fills_the_recording(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 0.9, rate=44100)
    notes: list[str] = []
    assert read_folder(str(tmp_path), window_s=0.3, log=notes.append)["start_s"].to_pylist() == [0.0, 0.3, 0.6]
    assert not notes


def test_patterns_give_label_group_and_fold(tmp_path: Path) -> None:
    tone(tmp_path / "fold3" / "7061-6-0-0.wav", 0.1)
    patterns = {"label": r"-(\d+)-", "group": r"/(\d+)-", "fold": r"^fold(\d+)/"}
    clip = read_folder(str(tmp_path), patterns=patterns).to_pylist()[0]
    assert (clip["labels"], clip["group"], clip["fold"]) == (["6"], "7061", 3)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"fold": "/(x)-"}, "a/b.wav: the fold pattern '/[(]x[)]-' does not match"),
        ({"fold": "(a)"}, "finds 'a', not a whole number"),
        ({"label": "("}, "no regular expression"),
        ({"group": "a"}, "does not match"),
    ],
)
def test_a_pattern_that_does_not_match_names_the_file(tmp_path: Path, patterns: dict[str, str], expected: str) -> None:
    tone(tmp_path / "a" / "b.wav", 0.1)
    with pytest.raises(UsageError, match=expected):
        read_folder(str(tmp_path), patterns=patterns)


def test_links_to_folders_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    tone(tmp_path / "tree" / "rain" / "a.wav", 0.2)
    tone(tmp_path / "far" / "deep" / "b.wav", 0.2)
    (tmp_path / "tree" / "again").symlink_to(tmp_path / "tree" / "rain")
    (tmp_path / "tree" / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "tree" / "rain" / "up").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "out").symlink_to(tmp_path)
    (tmp_path / "tree" / "rain" / "linked.wav").symlink_to(tmp_path / "tree" / "rain" / "a.wav")
    ids = ["tree/out/far/deep/b.wav", "tree/rain/a.wav", "tree/rain/linked.wav"]
    assert read_folder(str(tmp_path / "tree"))["clip_id"].to_pylist() == ids


def test_what_leads_to_no_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    tone(folder / "a.wav", 0.2)
    (folder / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    (folder / "itself.wav").symlink_to("itself.wav")
    os.mkfifo(folder / "pipe.wav")
    said: list[str] = []
    assert read_folder(str(folder), log=said.append)["clip_id"].to_pylist() == ["set/a.wav"]
    names = "'gone.wav', 'itself.wav', 'pipe.wav'"
    assert said == [f"{folder}: 3 names are passed over that lead to no file, as links to nothing do: {names}"]


def test_files_with_unknown_endings_are_named_and_taken_as_the_message_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, form in (("a.wav", "WAV"), ("dog/b.sph", "NIST"), ("dog/c.SPH", "NIST"), ("d e.mkv x", "FLAC")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "set" / name, np.zeros(800), 8000, format=form, subtype="PCM_16")
    for name in ("notes.txt", "README"):
        (tmp_path / "set" / name).write_text("no audio")
    command = ["clips", "from-folder", str(tmp_path / "set"), "--out", str(tmp_path / "clips.parquet")]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "5 files are passed over by their names: no ending 1, .SPH 1, .mkv x 1, .sph 1, .txt 1" in said
    advice = re.search(r"take these with (.*)", said)
    assert advice
    assert main([*command, *shlex.split(advice[1])]) == 0
    ids = read_clips(str(tmp_path / "clips.parquet"))["clip_id"].to_pylist()
    assert ids == ["set/a.wav", "set/d e.mkv x", "set/dog/b.sph", "set/dog/c.SPH"]
    assert "2 files are passed over" in capsys.readouterr().err


def test_a_folder_above_the_current_one_leaves_no_dots_in_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tone(tmp_path / "set" / "a.wav", 0.2)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert main(["clips", "from-folder", "../set/../set", "--out", "clips.csv"]) == 0
    assert read_clips("clips.csv")["uri"].to_pylist() == [str(tmp_path / "set" / "a.wav")]


def test_names_that_are_no_text_are_left_out_by_name(tmp_path: Path) -> None:
    tone(tmp_path / "set" / "a.wav", 0.2)
    (tmp_path / "set" / os.fsdecode(b"b\xfccher.wav")).write_bytes(b"x")
    notes: list[str] = []
    assert read_folder(str(tmp_path / "set"), log=notes.append)["clip_id"].to_pylist() == ["set/a.wav"]
    assert "1 files are left out, rename them: not a line of UTF-8: 'b\\udcfccher.wav'" in notes[0]
    with tarfile.open(tmp_path / "s.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        for name in ("bücher.wav", "a.wav"):
            archive.addfile(tarfile.TarInfo(name))
    assert read_tar([str(tmp_path / "s.tar")], log=notes.append).num_rows == 1
    assert "s.tar: 1 files are left out" in notes[1]
    with pytest.raises(UsageError, match="not UTF-8 text"):
        read_folder(str(tmp_path / "set"), name=os.fsdecode(b"\xfc"))


def test_lengths_that_readers_know_are_listed(segments: str, tmp_path: Path) -> None:
    assert read_audioset(segments)["duration_s"].to_pylist() == [10.0, 6.75]
    tone(tmp_path / "tree" / "a.wav", 2.5)
    tone(tmp_path / "tree" / "b.wav", 0.5)
    assert read_folder(str(tmp_path / "tree"), window_s=1.0)["duration_s"].to_pylist() == [1.0, 1.0, 0.5]
    assert "duration_s" not in read_folder(str(tmp_path / "tree")).column_names


def test_impossible_folders_and_windows_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_folder(str(tmp_path / "no"))
    with pytest.raises(UsageError, match="no audio files below"):
        read_folder(str(tmp_path))
    with pytest.raises(UsageError, match="--hop needs --window"):
        read_folder(str(tmp_path), hop_s=1)
    for window in (-1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="more than 0"):
            read_folder(str(tmp_path), window_s=window)


def test_a_folder_on_any_filesystem_is_read(tmp_path: Path) -> None:
    data = tone(tmp_path / "x.wav", 2.0).read_bytes()
    with fsspec.open("memory://tree/rain/x.wav", "wb") as file:
        file.write(data)
    clips = read_folder("memory://tree", window_s=1.0)
    assert clips["clip_id"].to_pylist() == ["tree/rain/x.wav_0-1000", "tree/rain/x.wav_1000-2000"]
    with open_source(clips["uri"][0].as_py()) as source:
        assert source.read() == data


# ---- tar shards


def shard(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def test_samples_of_a_shard_become_clips_that_open(tmp_path: Path) -> None:
    members = {
        "a/0001.flac": b"one", "a/0001.json": json.dumps({"labels": ["rain", "wind"]}).encode(),
        "a/0002.wav": b"two", "a/0002.cls": b"7\n",
        "0003.mp3": b"three", "0003.txt": b"ein Hund, nah",
        "0004.ogg": b"four", "readme.md": b"-",
    }  # fmt: skip
    (tmp_path / "birds" / "data").mkdir(parents=True)
    clips = read_tar([shard(tmp_path / "birds" / "data" / "train 0.tar", members)])
    samples = ["a/0001", "a/0002", "0003", "0004"]
    assert clips["clip_id"].to_pylist() == [f"birds/data/train 0/{sample}" for sample in samples]
    assert clips["group"].to_pylist() == clips["clip_id"].to_pylist()
    assert clips["labels"].to_pylist() == [["rain", "wind"], ["7"], ["ein Hund, nah"], []]
    contents = []
    for uri in clips["uri"].to_pylist():
        with open_source(uri) as source:
            contents.append(source.read())
    assert contents == [b"one", b"two", b"three", b"four"]
    write_clips(clips, str(tmp_path / "clips.parquet"))


def test_several_shards_are_expanded_and_keep_their_samples_apart(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"s{number}.tar", {"1.wav": b"x"})
    ids = [read_tar([str(tmp_path / "s*.tar")], name=name)["clip_id"].to_pylist() for name in ("birds", None)]
    assert ids[0] == ["birds/s0/1", "birds/s1/1", "birds/s2/1"]
    folders = f"{tmp_path.parent.name}/{tmp_path.name}"
    assert ids[1] == [f"{folders}/s0/1", f"{folders}/s1/1", f"{folders}/s2/1"]


def test_shards_that_would_give_the_same_ids_are_refused(tmp_path: Path) -> None:
    urls = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        urls.append(shard(tmp_path / folder / "0.tar", {"1.wav": b"x"}))
    assert len(set(read_tar(urls)["clip_id"].to_pylist())) == 2
    for given, name in ((urls, "birds"), ([urls[0], urls[0]], None)):
        with pytest.raises(UsageError, match=r"1 duplicate ids:\n.*0/1: tar://1\.wav::"):
            read_tar(given, name=name)


def test_a_wanted_key_that_is_missing_names_the_sample(tmp_path: Path) -> None:
    url = shard(tmp_path / "s.tar", {"1.wav": b"x", "1.json": b'{"tags": ["a"]}'})
    assert read_tar([url])["labels"].to_pylist() == [["a"]]
    with pytest.raises(UsageError, match=r"s\.tar: sample 1: no labels in its \.json file: .*no key 'sound'"):
        read_tar([url], json_key="sound")


def test_shards_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "z.tar.gz", "w:gz"):
        pass
    for url, expected in ((tmp_path / "z.tar.gz", "uncompressed tar"), (tmp_path / "no.tar", "no such file")):
        with pytest.raises(UsageError, match=expected):
            read_tar([str(url)])
    with pytest.raises(UsageError, match="no audio in the shards"):
        read_tar([shard(tmp_path / "s.tar", {"a.txt": b"x"})])
    with pytest.raises(UsageError, match="no such file"):
        read_tar([str(tmp_path / "x*.tar")])


def test_a_label_that_is_none_is_no_label(tmp_path: Path) -> None:
    members = {"1.wav": b"x", "1.json": b'{"label": null}', "2.wav": b"x", "2.json": b'{"labels": ["a", "", null]}'}
    assert read_tar([shard(tmp_path / "s.tar", members)])["labels"].to_pylist() == [[], ["a"]]


# ---- Parquet files


def hugging_face(path: Path) -> str:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({
        "audio": pa.array([{"bytes": b"a", "path": "1.wav"}, {"bytes": b"b", "path": "2.wav"}], kind),
        "label": pa.array([1, 0], pa.int64()),
        "tags": [["x", "y"], None],
        "speaker": ["s1", "s1"],
        "id": [11, 12],
    })  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return str(path)


def test_rows_of_a_hugging_face_file_become_clips_with_class_names(tmp_path: Path) -> None:
    url = hugging_face(tmp_path / "train-0.parquet")
    clips = read_parquet([url], name="birds")
    assert clips["clip_id"].to_pylist() == ["birds/train-0/0", "birds/train-0/1"]
    assert clips["labels"].to_pylist() == [["dog"], ["cat"]]
    with open_source(clips["uri"][1].as_py()) as source:
        assert source.read() == b"b"


def test_other_columns_give_ids_groups_and_lists_of_labels(tmp_path: Path) -> None:
    url = hugging_face(tmp_path / "f.parquet")
    clips = read_parquet([url], label_column="tags", id_column="id", group_column="speaker")
    assert clips["clip_id"].to_pylist() == ["11", "12"]
    assert read_parquet([url], id_column="id", name="birds")["clip_id"].to_pylist() == ["birds/11", "birds/12"]
    with pytest.raises(UsageError, match=r"1 duplicate ids:\n  s1: "):
        read_parquet([url], id_column="speaker")
    assert clips["labels"].to_pylist() == [["x", "y"], []]
    assert clips["group"].to_pylist() == ["s1", "s1"]


def test_labels_that_are_not_known_are_none_of_the_classes(tmp_path: Path) -> None:
    url = hugging_face(tmp_path / "f.parquet")
    table = pq.read_table(url)
    pq.write_table(table.set_column(1, "label", pa.array([-1, 1], pa.int64())), url)
    assert read_parquet([url])["labels"].to_pylist() == [[], ["dog"]]


def test_the_only_column_of_class_numbers_gives_the_labels_unless_another_is_named(tmp_path: Path) -> None:
    url = hugging_face(tmp_path / "f.parquet")
    assert read_parquet([url])["labels"].to_pylist() == [["dog"], ["cat"]]
    plain = pq.read_table(url).replace_schema_metadata(None)
    pq.write_table(plain, url)
    assert read_parquet([url])["labels"].to_pylist() == [[], []]
    assert read_parquet([url], label_column="label")["labels"].to_pylist() == [["1"], ["0"]]


def test_audio_that_is_only_named_is_refused_with_the_readers_of_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"audio": [{"path": "a.wav"}], "label": ["x"]}), tmp_path / "f.parquet")
    with pytest.raises(UsageError, match=r"is struct<path: string>, expected bytes or .*; .* read by from-folder"):
        read_parquet([str(tmp_path / "f.parquet")])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"audio_column": "sound"}, "no column 'sound' .--audio-column.; expected one of: audio, label"),
        ({"audio_column": "speaker"}, "column 'speaker' is string, expected bytes or struct"),
        ({"label_column": "class"}, "no column 'class' .--label-column."),
    ],
)
def test_a_wrong_column_is_explained(tmp_path: Path, options: dict[str, str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        read_parquet([hugging_face(tmp_path / "f.parquet")], **options)
