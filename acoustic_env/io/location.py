"""Where a file is: plain paths taken literally, everything else an fsspec URL; and URLs without their credentials."""

from __future__ import annotations

import argparse
import re
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

FILE_SCHEME: Final = "file://"
SHARD_SCHEMES: Final = ("tar://", "parquet://")
NOT_ABSOLUTE: Final = "a relative file:// URL; write file:///ABSOLUTE/PATH, or a plain path"
_VALUE: Final = r"=(?:[^&#\s'\"<>),;:]|[,;:](?!\s|$))*+"  # the text around a URL may go on with a sign
# Parameters of signatures (S3, CloudFront, Google) and tokens; a `key` with a dot or a slash is the name of a file.
_SECRET: Final = (
    r"(?:(?:X-(?:Amz|Goog|OSS)-[\w-]+|q-[\w-]+|(?:AWS|OSS)?AccessKeyId|GoogleAccessId|Expires|Key-Pair-Id|Policy|sig|sas|"
    r"[\w-]*(?:token|secret|signature|credential|passw(?:or)?d|passphrase|hmac|jwt)|session(?:id)?|bearer|auth(?:orization)?|"
    rf"pass|pwd|hdnea|hdnts|[\w-]*(?:api|access|auth|secret|subscription)[_-]?key|key(?![^&#\s]*[./%])){_VALUE})"
)
_SAS: Final = rf"(?:s[a-z]{{1,4}}{_VALUE})"  # of Azure, beside `sig`
_USER: Final = re.compile(
    r"(?<=://)[^/\s?#@:'\"]*:[^/\s?#'\"]*@|(?<=https://)[^/\s?#'\"]*@|(?<=http://)[^/\s?#'\"]*@", re.I
)


def _parameters(secret: str) -> re.Pattern[str]:
    """Match secret parameters with the "&" that is then too much, and with the "?" where no other ones follow."""
    return re.compile(rf"[?#](?:{secret}&)*+{secret}(?!&)|(?<=[?#])(?:{secret}&)+|&{secret}", re.IGNORECASE)


_PARAMETERS: Final = _parameters(_SECRET)
_SIGNED_BY_AZURE: Final = _parameters(f"(?:{_SECRET}|{_SAS})")


def scrub(text: str) -> str:
    """Return a text, such as the message of a library, without the credentials in its URLs.

    >>> scrub("403, url='https://user:pw@host/a.wav?sv=2024&sig=x&v=2'")
    "403, url='https://host/a.wav?v=2'"
    """
    text = _USER.sub("", text) if "@" in text else text
    pattern = _SIGNED_BY_AZURE if "?sig=" in text or "&sig=" in text else _PARAMETERS
    return pattern.sub("", text) if "=" in text else text


def without_credentials(url: str) -> str:
    """Return a location without password, token and signature, as it is stored, compared and printed.

    Local paths are literal, and stay.

    >>> without_credentials("https://host/a.wav?X-Amz-Date=1&v=2&token=x"), without_credentials("/data/a?token=x.wav")
    ('https://host/a.wav?v=2', '/data/a?token=x.wav')
    """
    return url if local_path(split_shard(url)[1]) is not None else scrub(url)


def url(text: str) -> str:
    """Check a location: a path, or an fsspec URL such as s3://bucket/clips.parquet.

    Every option that names a file or a folder has this type, and every command takes any such location there. The walk
    of tests/known_issues/test_every_path_is_a_url.py finds these options by it.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path or a URL, found an empty text")
    if text.startswith(FILE_SCHEME) and local_path(text) is None:
        raise argparse.ArgumentTypeError(f"{text}: {NOT_ABSOLUTE}")
    return text


def local_path(url: str) -> Path | None:
    """Return the path of a local location, None for one behind a protocol.

    A plain path is literal: `#`, `?`, `%`, spaces and `::` in it mean themselves. The path of a `file://` URL is taken
    literally when such a file exists, else percent-decoded. A relative one names no file: the processes of a run have
    different folders.
    """
    if "://" not in url:
        return Path(url)
    literal = url.removeprefix(FILE_SCHEME).removeprefix("localhost")
    if not url.startswith(FILE_SCHEME) or not literal.startswith("/"):
        return None
    with suppress(OSError, ValueError):
        if not Path(literal).exists() and Path(unquote(literal)).exists():
            return Path(unquote(literal))
    return Path(literal)


def split_shard(uri: str) -> tuple[str, str]:
    """Split the audio inside a tar shard or Parquet file from where that file is; other locations are whole.

    >>> split_shard("tar://a.wav::s3://b/0.tar"), split_shard("s3://b/a.wav")
    (('tar://a.wav::', 's3://b/0.tar'), ('', 's3://b/a.wav'))
    """
    inner, separator, outer = uri.partition("::")
    return (inner + separator, outer) if separator and uri.startswith(SHARD_SCHEMES) else ("", uri)


def same_place(one: str, other: str) -> bool:
    """Return whether two locations are the same file, links followed.

    >>> same_place("a/../clips.csv", "clips.csv"), same_place("s3://b/clips.csv", "clips.csv")
    (True, False)
    """
    paths = [local_path(url) for url in (one, other)]
    return one == other if None in paths else len({path.resolve() for path in paths if path is not None}) == 1


def join(url: str, *names: str) -> str:
    """Return the location of a file below a folder, one name a level.

    >>> join("s3://bucket/bundle/", "bundle.json")
    's3://bucket/bundle/bundle.json'
    >>> join("bundle", "bundle.json")
    'bundle/bundle.json'
    """
    return "/".join([url.rstrip("/") if url.strip("/") else url[:-1], *names])


def split(url: str) -> tuple[str, str]:
    """Return the folder of a file and its name.

    >>> split("s3://bucket/study/report.html")
    ('s3://bucket/study', 'report.html')
    >>> split("report.html")
    ('.', 'report.html')
    """
    path = local_path(url)
    if path is not None:
        return str(path.parent), path.name
    folder, _, name = url.rpartition("/")
    return folder, name
