"""`clips check`: every issue with file, row and column; cheap unless asked to read."""

from __future__ import annotations

import http.server
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.check import check_clips
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.errors import ClipError
from acoustic_env.io.documents import load_recipe
from acoustic_env.io.files import write_bytes
from tests.s3 import S3Server

RECIPE = load_recipe("scenes")


@pytest.fixture
def sounds(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.wav" for name in ("one", "two", "three")]
    for path in paths:
        soundfile.write(path, np.sin(np.arange(8000) / 3), 8000)
    return [str(path) for path in paths]


def make_list(tmp_path: Path, rows: list[dict[str, object]]) -> str:
    write_clips(clip_table(rows), str(tmp_path / "clips.csv"))
    return str(tmp_path / "clips.csv")


def test_a_good_list_has_no_faults_and_says_what_is_in_it(tmp_path: Path, sounds: list[str]) -> None:
    labels = ["urban", "natural", "natural"]
    url = make_list(
        tmp_path,
        [
            {"clip_id": str(i), "uri": uri, "labels": [label]}
            for i, (uri, label) in enumerate(zip(sounds, labels, strict=True))
        ],
    )
    checked = check_clips(url, RECIPE)
    assert checked.issues == []
    assert checked.notes == ["3 clips in 3 groups, 2 labels", "recipe scenes: 3 clips: natural 2, urban 1"]


def test_missing_local_files_and_shards_are_named(tmp_path: Path, sounds: list[str]) -> None:
    places = [sounds[0], "/no/a b.wav", str(tmp_path), "tar://1.wav::/no/s.tar", "parquet://audio/3::/no/p.parquet"]
    places += ["s3://bucket/not-asked.wav"]
    url = make_list(tmp_path, [{"clip_id": f"c{i}", "uri": uri} for i, uri in enumerate(places)])
    assert [str(issue) for issue in check_clips(url).issues] == [
        "row 2, column uri: /no/a b.wav: no folder /no; is its disk mounted?",
        f"row 3, column uri: {tmp_path}: a folder, not a file",
        "row 4, column uri: /no/s.tar: no folder /no; is its disk mounted?",
        "row 5, column uri: /no/p.parquet: no folder /no; is its disk mounted?",
    ]


def test_rows_are_those_of_the_file_where_one_has_a_wrong_number_of_cells(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("clip_id,uri,labels\na,/no.wav\nb,/none.wav,/m/typo\n")
    issues = [str(issue) for issue in check_clips(str(tmp_path / "c.csv")).issues]
    assert [issue.partition(":")[0] for issue in issues] == ["row 1", "row 2, column labels", "row 2, column uri"]


def test_labels_unknown_to_recipe_and_ontology_are_faults(tmp_path: Path, sounds: list[str]) -> None:
    kinds = [["natural"], ["/m/09x0r", "urban"], ["forest", "natural"]]
    rows = [{"clip_id": str(i), "uri": sounds[i], "labels": labels} for i, labels in enumerate(kinds)]
    url = make_list(tmp_path, rows)
    assert check_clips(url).issues == []
    issues = [str(issue) for issue in check_clips(url, RECIPE).issues]
    assert issues == [
        "row 3, column labels: unknown label 'forest': neither of recipe scenes nor of the AudioSet ontology"
    ]


def test_an_audioset_id_that_is_none_is_a_fault_without_a_recipe(tmp_path: Path, sounds: list[str]) -> None:
    url = make_list(tmp_path, [{"clip_id": "a", "uri": sounds[0], "labels": ["/m/09x0r", "/m/typo", "/my/own"]}])
    assert [str(issue) for issue in check_clips(url).issues] == [
        "row 1, column labels: unknown label '/m/typo': not a known AudioSet id"
    ]


def test_faults_of_every_kind_come_together(tmp_path: Path, sounds: list[str]) -> None:
    lines = [
        "clip_id,uri,start_s,end_s,labels",
        f"a,{sounds[0]},0,1,urban",
        f"a,{sounds[1]},2,1,natural",
        "b,/no.wav,x,,urban",
    ]
    (tmp_path / "bad.csv").write_text("\n".join(lines))
    issues = sorted((issue.row, issue.column) for issue in check_clips(str(tmp_path / "bad.csv"), RECIPE).issues)
    assert issues == [(2, "clip_id"), (2, "end_s"), (3, "start_s"), (3, "uri")]


def test_a_recipe_that_takes_no_clip_is_a_fault(tmp_path: Path, sounds: list[str]) -> None:
    url = make_list(tmp_path, [{"clip_id": "a", "uri": sounds[0], "labels": ["/m/09x0r"]}])
    assert "no clip is left of 1" in str(check_clips(url, RECIPE).issues[0])


def test_reading_names_the_row_of_every_clip_that_fails_and_skips_known_faults(
    tmp_path: Path, sounds: list[str]
) -> None:
    rows = [{"clip_id": str(i), "uri": uri} for i, uri in enumerate([*sounds, "/no.wav"])]
    rows[1]["start_s"] = 5.0
    url = make_list(tmp_path, rows)
    asked = []

    def read(uri: str, start_s: float | None, end_s: float | None, name: str) -> None:
        asked.append(name)
        if start_s is not None:
            raise ClipError("no_such_segment", "beyond the end")
        if name == "2":
            raise ClipError("decode_failed", "no decoder")

    seen = []
    checked = check_clips(url, read=read, progress=lambda done, total: seen.append((done, total)))
    assert sorted(asked) == ["0", "1", "2"]
    assert seen[-1] == (3, 3)
    assert sorted(str(issue) for issue in checked.issues) == [
        "row 2, column start_s: no_such_segment: beyond the end",
        "row 3, column uri: decode_failed: no decoder",
        "row 4, column uri: /no.wav: no such file",
    ]


def dropped(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["clips", "check", *arguments])
    return code, capsys.readouterr().err


def test_a_list_of_which_a_fifth_is_gone_is_written_without_it(
    tmp_path: Path, sounds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"clip_id": f"c{n}", "uri": uri, "site": "dune"} for n, uri in enumerate([*sounds, f"{tmp_path}/gone.wav"])]
    rows.append({"clip_id": "again", "uri": sounds[0], "end_s": 0.5, "site": "heath"})
    url, out = make_list(tmp_path, rows), str(tmp_path / "there.csv")
    code, said = dropped(capsys, url, "--drop-missing", out)
    assert code == 0
    assert f"{out}: 4 clips; 1 (20.0%) are left out: no such file, {tmp_path}/gone.wav" in said
    assert read_clips(out).select(["clip_id", "site"]).to_pylist()[-1] == {"clip_id": "again", "site": "heath"}
    assert dropped(capsys, out)[0] == 0
    assert dropped(capsys, out, url, "--drop-missing", out) == (
        2,
        f"acoustic-env: --drop-missing {out}: expected one list, found 2\n",
    )


def test_audio_that_may_come_back_is_not_dropped(
    tmp_path: Path, sounds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "there.csv"
    for place, expected in (
        (f"{tmp_path}/not mounted/a.wav", "not mounted; is its disk mounted?; nothing is written"),
        ("s3://bucket/" + "x" * 20, "of 1 files it cannot be told whether they are gone: s3://bucket"),
        (f"{tmp_path}/{'x' * 300}", "File name too long"),
    ):
        url = make_list(tmp_path, [{"clip_id": "a", "uri": sounds[0]}, {"clip_id": "b", "uri": place}])
        code, said = dropped(capsys, url, "--drop-missing", str(out))
        assert code == 2
        assert expected in said
        assert not out.exists()
    url = make_list(tmp_path, [{"clip_id": "a", "uri": f"{tmp_path}/a.wav"}])
    assert "the audio of all 1 clips is gone" in dropped(capsys, url, "--drop-missing", str(out))[1]


def test_remote_audio_is_looked_for_by_one_listing_where_a_folder_has_many(
    tmp_path: Path, s3: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acoustic_env.clips.check.LISTED_FILES", 5)
    names = [f"many/{n}.wav" for n in range(6)] + ["few/0.wav", "few/1.wav"]
    for name in names:
        if "1" not in name:
            write_bytes(f"s3://{s3.bucket}/{name}", b"x")
    rows = [{"clip_id": name, "uri": f"s3://{s3.bucket}/{name}"} for name in names]
    rows.append({"clip_id": "member", "uri": f"tar://a.wav::s3://{s3.bucket}/few/2.tar"})
    url, out = make_list(tmp_path, rows), str(tmp_path / "there.csv")
    before = len(s3.requests)
    code, said = dropped(capsys, url, "--drop-missing", out)
    assert code == 0
    assert "6 clips; 3 (33.3%) are left out" in said
    assert read_clips(out)["clip_id"].to_pylist() == [name for name in names if "1" not in name]
    assert len([path for _, path in s3.requests[before:] if "many" in path]) <= 1


def test_a_page_that_is_gone_is_told_from_a_server_that_does_not_answer(
    tmp_path: Path, sounds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base, out = f"http://127.0.0.1:{server.server_port}", str(tmp_path / "there.csv")
    url = make_list(tmp_path, [{"clip_id": name, "uri": f"{base}/{name}.wav"} for name in ("one", "gone")])
    assert dropped(capsys, url, "--drop-missing", out)[0] == 0
    assert read_clips(out)["clip_id"].to_pylist() == ["one"]
    server.shutdown()
    server.server_close()
    code, said = dropped(capsys, url, "--drop-missing", out)
    assert code == 2
    assert "of 2 files it cannot be told whether they are gone" in said
