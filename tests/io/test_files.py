"""Files and folders at any location: whole or not at all, and errors that name the URL."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from acoustic_env.errors import UsageError
from acoustic_env.io.documents import load_recipe, read_mapping
from acoustic_env.io.files import check_place, files_below, folder_of, new_file, read_bytes, read_if_there, write_bytes
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.location import join, split
from acoustic_env.io.retry import StoreError
from tests.s3 import Fault, S3Server


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on a disk and one in a bucket."""
    if request.param == "disk":
        return str(tmp_path / "a folder")
    server: S3Server = request.getfixturevalue("s3")
    return f"s3://{server.bucket}/a folder"


def test_what_is_written_is_read_back_and_listed(root: str) -> None:
    assert read_if_there(join(root, "a", "b.txt")) is None
    assert files_below(root) is None
    write_bytes(join(root, "a", "b.txt"), b"1")
    write_bytes(join(root, "c.txt"), b"")
    assert (read_bytes(join(root, "a", "b.txt")), read_bytes(join(root, "c.txt"))) == (b"1", b"")
    assert files_below(root) == ["a/b.txt", "c.txt"]
    assert files_below(join(root, "c.txt")) is None, "a file is no folder"


def test_a_file_whose_writing_fails_leaves_the_one_before(root: str) -> None:
    place = join(root, "table.parquet")
    write_bytes(place, b"before")
    with suppress(RuntimeError), new_file(place) as file:
        file.write_bytes(b"half")
        raise RuntimeError
    assert read_bytes(place) == b"before"
    with new_file(place) as file:
        file.write_bytes(b"whole")
    assert files_below(root) == ["table.parquet"]
    assert read_bytes(place) == b"whole"


def test_a_remote_folder_gets_the_file_that_says_it_is_whole_last(s3: S3Server) -> None:
    place = f"s3://{s3.bucket}/explained"
    with folder_of(place, last="index.json") as folder:
        for name in ("a.png", "index.json", "z.png"):
            (folder / name).write_text(name)
        assert files_below(place) is None
    put = [path for method, path in s3.requests if method == "PUT" and "explained" in path]
    assert [path.rpartition("/")[2] for path in put] == ["a.png", "z.png", "index.json"]


def test_a_remote_folder_whose_writing_fails_gets_nothing(s3: S3Server) -> None:
    place = f"s3://{s3.bucket}/explained"
    with suppress(RuntimeError), folder_of(place, last="index.json") as folder:
        (folder / "index.json").write_text("")
        raise RuntimeError
    assert files_below(place) is None


def test_what_passes_is_tried_again(s3: S3Server) -> None:
    def every_third(_method: str, _path: str, number: int) -> Fault | None:
        return "throttle" if number % 3 == 0 else None

    s3.choose = every_third
    for number in range(4):
        write_bytes(f"s3://{s3.bucket}/x", bytes(number))
        assert read_bytes(f"s3://{s3.bucket}/x") == bytes(number)
    assert s3.done


def test_a_chained_url_is_one_location(s3: S3Server) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("folder/recipe.yaml", "task: binary\n")
    write_bytes(f"s3://{s3.bucket}/recipes.zip", archive.getvalue())
    assert load_recipe(f"zip://folder/recipe.yaml::s3://{s3.bucket}/recipes.zip").task == "binary"


def test_a_place_that_cannot_be_written_is_named_before_the_work(s3: S3Server, tmp_path: Path) -> None:
    check_place(f"s3://{s3.bucket}/not/there/yet.parquet")
    check_place(str(tmp_path / "not" / "there" / "yet.parquet"))
    (tmp_path / "file").write_text("")
    for place in (f"s3://no-such-{s3.bucket}/x.parquet", str(tmp_path / "file" / "x.parquet"), "nosuch://x/y"):
        with pytest.raises(UsageError, match=rf"^{place}.*: cannot be (written|opened)"):
            check_place(place)


def test_without_credentials_the_url_and_the_remedy_are_said(s3: S3Server, tmp_path: Path) -> None:
    hidden = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    place = f"s3://{s3.bucket}/of-nobody.parquet"
    command = [sys.executable, "-m", "acoustic_env.cli", "clips", "check", place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"acoustic-env: {place}: cannot be read: no credentials")
    assert "AWS_ACCESS_KEY_ID" in done.stderr


def test_a_settings_file_is_json_by_its_name_else_yaml(root: str) -> None:
    write_bytes(join(root, "best.json"), b'{"learning_rate": 1e-05}')
    write_bytes(join(root, "job.yaml"), b"{limit: 3}")
    write_bytes(join(root, "list.yaml"), b"[3]")
    assert read_mapping(join(root, "best.json"), "it") == {"learning_rate": 1e-05}
    assert read_mapping(join(root, "job.yaml"), "it") == {"limit": 3}
    with pytest.raises(UsageError, match=r"list\.yaml: it is a mapping"):
        read_mapping(join(root, "list.yaml"), "it")


def test_locations_are_joined_and_split() -> None:
    assert [join("/", "a"), join("a/", "b", "c"), join("s3://b", "c")] == ["/a", "a/b/c", "s3://b/c"]
    assert [split("x.html"), split("a/x.html"), split("s3://b/x.html")] == [
        (".", "x.html"),
        ("a", "x.html"),
        ("s3://b", "x.html"),
    ]


def test_another_writers_file_that_vanishes_after_it_was_refused_is_an_error_with_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = open_filesystem("memory://vanishing/store")

    def refused(path: str, data: bytes, mode: str) -> None:
        raise FileExistsError(path)

    monkeypatch.setattr(files.filesystem, "pipe_file", refused)
    with pytest.raises(StoreError, match=r"memory://vanishing/store/a\.json: cannot be written"):
        files.create("a.json", b"1")
