"""What a location names: keys with "::", chains, file URLs."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from acoustic_env.audio.fetch import open_source
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.io.files import expand, files_below, read_bytes, write_bytes
from acoustic_env.io.location import local_path, url
from tests.s3 import S3Server


def test_a_key_of_s3_may_hold_what_chains_other_urls(s3: S3Server) -> None:
    place = f"s3://{s3.bucket}/a::b/take::1.wav"
    write_bytes(place, b"1")
    assert read_bytes(place) == b"1"
    with open_source(place) as file:
        assert file.read() == b"1"
    assert files_below(f"s3://{s3.bucket}/a::b") == ["take::1.wav"]
    assert expand(f"s3://{s3.bucket}/a::b/*.wav") == [place]


def test_a_file_url_is_absolute(tmp_path: Path) -> None:
    (tmp_path / "a::b.wav").write_bytes(b"1")
    assert local_path(f"file://{tmp_path}/a::b.wav") == local_path(f"file://localhost{tmp_path}/a::b.wav")
    assert read_bytes(f"file://{tmp_path}/a::b.wav") == b"1"
    with pytest.raises(argparse.ArgumentTypeError, match=r"a relative file:// URL; write file:///ABSOLUTE/PATH"):
        url("file://clips.csv")
    with pytest.raises(UsageError, match="relative file://"):
        read_bytes("file://clips.csv")
    for uri in ("file://a.wav", "tar://a.wav::file://x.tar"):
        with pytest.raises(ClipError, match="relative file://") as raised, open_source(uri):
            pass
        assert raised.value.code == "unreachable"
