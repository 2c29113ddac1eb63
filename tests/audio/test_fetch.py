"""Opening a clip's audio file: every kind of place, and every way a place can fail."""

from __future__ import annotations

import http.server
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.audio import fetch
from acoustic_env.audio.fetch import open_source
from acoustic_env.errors import ClipError
from acoustic_env.io import filesystem, retry

BYTES = bytes(range(256)) * 40


def read(uri: str) -> bytes:
    with open_source(uri) as source:
        source.seek(10)
        source.seek(0)
        return source.read()


def failure(uri: str) -> ClipError:
    with pytest.raises(ClipError) as raised, open_source(uri) as source:
        source.read()
    return raised.value


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def make_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            add_member(archive, name, data)
    return path


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(retry, "GIVE_UP_S", 0)
    monkeypatch.setattr(filesystem, "READ_TIMEOUT_S", 0.4)


# ---- local files


@pytest.mark.parametrize(
    "name",
    ["plain.wav", "a b.wav", 'it\'s "q".wav', "größe 鳥.wav", "a#1.wav", "a?b.wav", "100%25.wav", "a::b.wav", "*.wav"],
)
def test_any_local_name_is_taken_literally(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BYTES)
    assert read(str(tmp_path / name)) == BYTES


def test_a_file_url_may_be_percent_encoded_or_literal(tmp_path: Path) -> None:
    (tmp_path / "a b.wav").write_bytes(BYTES)
    (tmp_path / "100%25.wav").write_bytes(b"literal")
    assert read(f"file://{tmp_path}/a%20b.wav") == BYTES
    assert read(f"file://{tmp_path}/100%25.wav") == b"literal"


def test_a_missing_file_is_not_found_and_named(tmp_path: Path) -> None:
    error = failure(str(tmp_path / "no.wav"))
    assert error.code == "not_found"
    assert "no.wav" in error.message


def test_a_folder_is_not_found(tmp_path: Path) -> None:
    assert failure(str(tmp_path)).code == "not_found"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_access_denied(tmp_path: Path) -> None:
    path = tmp_path / "secret.wav"
    path.write_bytes(BYTES)
    path.chmod(0)
    assert failure(str(path)).code == "access_denied"


def test_an_unknown_protocol_may_be_known_after_an_installation() -> None:
    assert failure("audioset://abc/0").code == "unreachable"


def test_any_filesystem_of_fsspec_is_read() -> None:
    with fsspec.open("memory://clips/a.wav", "wb") as file:
        file.write(BYTES)
    assert read("memory://clips/a.wav") == BYTES


def test_a_long_remote_file_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BLOCK_BYTES", 1000)
    with fsspec.open("memory://clips/long.wav", "wb") as file:
        file.write(BYTES)
    with open_source("memory://clips/long.wav") as source:
        assert not isinstance(source, io.BytesIO)
        source.seek(-5, os.SEEK_END)
        assert source.read() == BYTES[-5:]
        source.seek(995)
        assert source.read(10) == BYTES[995:1005]
        source.seek(0)
        assert source.read() == BYTES


# ---- tar shards


def test_members_of_a_shard_are_read(tmp_path: Path) -> None:
    members = {"a/0001.flac": BYTES, "0002 ü.wav": b"x" * 700, "0003.wav": b""}
    shard = make_shard(tmp_path / "train #1.tar", members)
    for name, data in members.items():
        assert read(f"tar://{name}::{shard}") == data


def test_a_shards_index_is_read_once_and_again_when_the_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: opened.append(1) or real(*args, **kwargs))
    shard = make_shard(tmp_path / "s.tar", {"1.wav": b"one", "2.wav": b"two"})
    opened.clear()
    assert [read(f"tar://{i}.wav::{shard}") for i in (1, 2, 1)] == [b"one", b"two", b"one"]
    assert len(opened) == 1
    make_shard(shard, {"2.wav": b"changed", "filler.wav": BYTES})
    assert read(f"tar://2.wav::{shard}") == b"changed"


def test_threads_that_need_one_index_read_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = tarfile.open
    shard = make_shard(tmp_path / "s.tar", {f"{i}.wav": bytes([i]) for i in range(40)})
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: opened.append(1) or real(*args, **kwargs))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, [f"tar://{i}.wav::{shard}" for i in range(40)])) == [bytes([i]) for i in range(40)]
    assert len(opened) == 1


def test_a_missing_member_or_shard_is_not_found(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s.tar", {"1.wav": b"one"})
    assert "'2.wav'" in failure(f"tar://2.wav::{shard}").message
    assert failure(f"tar://2.wav::{shard}").code == "not_found"
    assert failure(f"tar://1.wav::{tmp_path}/no.tar").code == "not_found"
    assert failure("tar://1.wav").code == "not_found"


def test_a_truncated_shard_keeps_its_first_members(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s.tar", {"1.wav": BYTES, "2.wav": BYTES, "3.wav": BYTES})
    shard.write_bytes(shard.read_bytes()[: 512 + len(BYTES) + 512 + 100])
    assert read(f"tar://1.wav::{shard}") == BYTES
    assert failure(f"tar://2.wav::{shard}").code == "decode_failed"
    assert failure(f"tar://3.wav::{shard}").code == "not_found"


def test_a_compressed_shard_or_other_file_is_decode_failed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as archive:
        add_member(archive, "1.wav", BYTES)
    assert failure(f"tar://1.wav::{tmp_path}/s.tar.gz").code == "decode_failed"
    (tmp_path / "text.tar").write_text("hello" * 400)
    assert failure(f"tar://1.wav::{tmp_path}/text.tar").code == "decode_failed"


# ---- Parquet rows


def test_rows_of_both_layouts_are_read(tmp_path: Path) -> None:
    clips = [bytes([i]) * (i + 1) for i in range(10)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audio = pa.array([{"bytes": clip, "path": f"{i}.wav"} for i, clip in enumerate(clips)], kind)
    pq.write_table(pa.table({"audio": audio, "plain/bytes": clips}), tmp_path / "a b.parquet", row_group_size=3)
    for row in (0, 4, 9, 1):
        assert read(f"parquet://audio/{row}::{tmp_path}/a b.parquet") == clips[row]
        assert read(f"parquet://plain/bytes/{row}::{tmp_path}/a b.parquet") == clips[row]


def test_what_a_parquet_file_does_not_hold_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"audio": [b"x", None], "label": ["a", "b"]}), path)
    for place in ("audio/2", "audio/1", "sound/0", "audio", "audio/x"):
        assert failure(f"parquet://{place}::{path}").code == "not_found"
    assert "audio, label" in failure(f"parquet://sound/0::{path}").message
    assert failure(f"parquet://label/0::{path}").code == "decode_failed"
    assert failure(f"parquet://audio/0::{tmp_path}/no.parquet").code == "not_found"


def test_a_damaged_parquet_file_is_decode_failed(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    assert failure(f"parquet://audio/0::{tmp_path}/a.parquet").code == "decode_failed"


# ---- a server that misbehaves


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """An HTTP server whose answers are scripted: the last one repeats."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                answer = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                answer(self)

            do_HEAD = do_GET  # noqa: N815  the server's own name

            def log_message(self, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, quick_retries: None) -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.http.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in (("ENDPOINT_URL", made.url), ("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    forget_connections()
    yield made
    forget_connections()
    made.http.shutdown()
    made.http.server_close()


def forget_connections() -> None:
    filesystem.remote_filesystem.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.get_filesystem_class("http").clear_instance_cache()


def status(code: int, body: bytes = b"", error: str = "") -> Answer:
    text = f"<?xml version='1.0'?><Error><Code>{error}</Code><Message>m</Message></Error>".encode() if error else body

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(text)

    return answer


def dropped(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Half of the bytes, then the line goes dead."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BYTES)))
    handler.end_headers()
    handler.wfile.write(BYTES[: len(BYTES) // 2])
    handler.wfile.flush()
    handler.connection.close()


def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
    threading.Event().wait(1.5)


FAULTS = {
    "throttled": status(503, error="SlowDown"),
    "server error": status(500, error="InternalError"),
    "dropped": dropped,
    "timed out": silent,
}


@pytest.mark.parametrize("place", ["s3://bucket/a.wav", "{server}/a.wav"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_of_the_server_is_got_over(server: Server, place: str, fault: str) -> None:
    server.script = [FAULTS[fault], FAULTS[fault], status(200, BYTES)]
    assert read(place.format(server=server.url)) == BYTES
    assert len(server.requests) == 3


@pytest.mark.parametrize("place", ["s3://bucket/a.wav", "{server}/a.wav"])
@pytest.mark.parametrize("fault", ["throttled", "dropped"])
def test_a_lasting_fault_of_the_server_is_download_failed_after_the_last_try(
    server: Server, place: str, fault: str
) -> None:
    server.script = [FAULTS[fault]]
    error = failure(place.format(server=server.url))
    assert error.code == "download_failed"
    assert not error.permanent
    assert len(server.requests) == retry.TRIES


@pytest.mark.parametrize("place", ["s3://bucket/a.wav", "{server}/a.wav"])
@pytest.mark.parametrize(
    ("code", "name", "expected"), [(403, "AccessDenied", "access_denied"), (404, "NoSuchKey", "not_found")]
)
def test_forbidden_and_missing_are_told_apart_and_not_tried_again(
    server: Server, place: str, code: int, name: str, expected: str
) -> None:
    server.script = [status(code, error=name)]
    assert failure(place.format(server=server.url)).code == expected
    assert len(server.requests) <= 2


def test_a_server_that_is_not_there_is_download_failed(monkeypatch: pytest.MonkeyPatch, quick_retries: None) -> None:
    assert failure("http://127.0.0.1:9/a.wav").code == "download_failed"


def test_an_empty_object_is_an_empty_file(server: Server) -> None:
    server.script = [status(416, error="InvalidRange"), status(200, b"")]
    assert read("s3://bucket/empty.wav") == b""


def test_shards_and_parquet_files_are_read_from_s3(server: Server, tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "s.tar", {"1.wav": b"one", "2.wav": BYTES}).read_bytes()

    def ranged(handler: http.server.BaseHTTPRequestHandler) -> None:
        first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
        part = shard[int(first) : int(last) + 1]
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        handler.wfile.write(part)

    server.script = [ranged]
    assert read("tar://2.wav::s3://bucket/s.tar") == BYTES
    server.script = [dropped, ranged]
    assert read("tar://1.wav::s3://bucket/s.tar") == b"one"
