"""A web server that answers a range with the whole file, as `python -m http.server` does.

Each member of a tar shard became the whole shard, a permanent `not_audio`; and an empty file was tried again for ever.
"""

from __future__ import annotations

import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from acoustic_env.audio import fetch
from acoustic_env.audio.fetch import open_source
from acoustic_env.audio.shards import Place, fetch_together
from acoustic_env.io import filesystem
from acoustic_env.io.filesystem import open_filesystem

BYTES = bytes(range(256)) * 40


class Site(http.server.SimpleHTTPRequestHandler):
    sent = 0

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        type(self).sent += len(data)
        outputfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """URL of a site of the test's folder."""
    filesystem.remote_filesystem.cache_clear()
    Site.sent = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("block_bytes", [2**23, 2**12], ids=["short", "long"])
def test_members_of_a_shard_are_themselves(
    site: str, tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (filesystem, fetch):
        monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    members = {f"{number}.wav": bytes([number]) * 700 + BYTES for number in range(8)}
    shard(tmp_path / "s.tar", members)
    size = (tmp_path / "s.tar").stat().st_size
    for name, data in members.items():
        with open_source(f"tar://{name}::{site}/s.tar") as file:
            assert file.read() == data
    if block_bytes < size:
        assert Site.sent == size, "a long file is fetched once"
    place = Place(f"tar://0.wav::{site}/s.tar", 0, 512 + len(members["0.wav"]))
    assert fetch_together([place]) == [members["0.wav"]]


def test_a_long_file_is_read_piece_by_piece(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (filesystem, fetch):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    (tmp_path / "long.wav").write_bytes(BYTES)
    with open_source(f"{site}/long.wav") as file:
        file.seek(-5, os.SEEK_END)
        assert file.read() == BYTES[-5:]
        file.seek(995)
        assert file.read(10) == BYTES[995:1005]
        file.seek(0)
        assert file.read() == BYTES
    assert Site.sent == len(BYTES)
    assert open_filesystem(f"{site}/long.wav").read_range("", len(BYTES) - 5, len(BYTES) + 100) == BYTES[-5:]


def test_an_empty_file_is_an_empty_file(site: str, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    with open_source(f"{site}/empty.wav") as file:
        assert file.read() == b""


def test_an_empty_file_of_which_no_range_can_be_had_is_an_empty_file(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Site.send_head

    def refused(self: Site) -> Any:
        if "Range" in self.headers:
            self.send_error(416)
            return None
        return real(self)

    monkeypatch.setattr(Site, "send_head", refused)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "whole.wav").write_bytes(BYTES)
    for name, data in (("empty.wav", b""), ("whole.wav", BYTES)):
        with open_source(f"{site}/{name}") as file:
            assert file.read() == data
