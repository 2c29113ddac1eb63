"""Where a file is: plain paths taken literally, everything else an fsspec URL."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

FILE_SCHEME: Final = "file://"
SHARD_SCHEMES: Final = ("tar://", "parquet://")


def url(text: str) -> str:
    """Check a location: a path, or an fsspec URL such as s3://bucket/clips.parquet.

    Every option that names a file or a folder has this type, and every command takes any such location there. The walk
    of tests/known_issues/test_every_path_is_a_url.py finds these options by it.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path or a URL, found an empty text")
    return text


def local_path(url: str) -> Path | None:
    """Return the path of a local location, None for one behind a protocol.

    A plain path is literal: `#`, `?`, `%`, spaces and `::` in it mean themselves. The path of a `file://` URL is taken
    literally when such a file exists, else percent-decoded.
    """
    if "://" not in url:
        return Path(url)
    if not url.startswith(FILE_SCHEME) or "::" in url:
        return None
    literal = url.removeprefix(FILE_SCHEME)
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
