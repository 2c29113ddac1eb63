"""No credentials in errors, logs and stored locations.

Presigned URLs and `user:password@` went into messages and the errors table; Azure's signatures and `token=` into
STORE/clips, where a renewed one was other audio.
"""

from __future__ import annotations

import pytest

from acoustic_env.audio.fetch import open_source
from acoustic_env.cli import main
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.io import retry
from acoustic_env.io.files import read_bytes
from acoustic_env.io.location import scrub, without_credentials

SIGNED = {
    "https://b.s3.amazonaws.com/a.wav?X-Amz-Algorithm=A&X-Amz-Credential=C%2F1&X-Amz-Signature=SECRET": "",
    "https://b.s3.amazonaws.com/a.wav?AWSAccessKeyId=SECRET&Signature=SECRET%3D&Expires=1": "",
    "https://storage.googleapis.com/b/a.wav?X-Goog-Algorithm=G&X-Goog-Signature=SECRET&generation=7": "?generation=7",
    "https://x.blob.core.windows.net/c/a.wav?sv=2024-11-04&se=2026-01-01T00%3A00%3A00Z&sr=b&sp=r&sig=SECRET%3D": "",
    "https://d.cloudfront.net/a.wav?Policy=SECRET&Signature=SECRET&Key-Pair-Id=K": "",
    "https://host/a.wav?version=2&token=SECRET": "?version=2",
    "https://host/a.wav?access_token=SECRET&version=2": "?version=2",
    "https://host/a.wav?API_KEY=SECRET#t=3": "#t=3",
    "https://host/a.wav?key=SECRET": "",
    "https://user:SECRET@host:8080/a.wav?v=1": "?v=1",
    "https://SECRET@host/a.wav": "",
    "sftp://user:SECRET@host/a.wav": "",
    "tar://a.wav::https://user:SECRET@host/0.tar?sig=SECRET&sv=1": "",
}
KEPT = (
    "https://host/a.wav?key=folder/b.wav&sr=16000&st=3",
    "https://host/a.wav?design=2&sr=16000&monkey=1",
    "abfs://container@account.dfs.core.windows.net/a.wav",
    "s3://bucket/a.wav?versionId=3",
    "https://host:80/a@b:c@d.wav",
    "/data/a?token=1.wav",
    "tar://a.wav::/data/x?sig=1.tar",
)


@pytest.mark.parametrize("url", SIGNED)
def test_what_is_secret_in_a_url_goes_and_the_rest_stays(url: str) -> None:
    clean = without_credentials(url)
    assert "SECRET" not in clean
    assert clean.endswith(SIGNED[url])
    assert without_credentials(url.replace("SECRET", "renewed")) == clean
    assert without_credentials(clean) == clean
    assert scrub(f"403, message='Forbidden', url='{url}' (again)") == f"403, message='Forbidden', url='{clean}' (again)"


@pytest.mark.parametrize("url", KEPT)
def test_what_is_no_secret_stays(url: str) -> None:
    assert without_credentials(url) == url


def test_messages_about_a_clip_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    for url in ("http://user:SECRET@127.0.0.1:9/a.wav?token=SECRET", "nosuch://user:SECRET@h/a.wav?sig=SECRET"):
        with pytest.raises(ClipError) as raised, open_source(url):
            pass
        assert "SECRET" not in str(raised.value)
        with pytest.raises(UsageError) as refused:
            read_bytes(url)
        assert "SECRET" not in str(refused.value)


def test_commands_print_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", "check", "nosuch://user:SECRET@host/clips.csv?token=SECRET"]) == 2
    printed = capsys.readouterr()
    assert "nosuch://host/clips.csv: cannot be opened" in printed.err
    assert "SECRET" not in printed.out + printed.err
