"""The type of every option that names a file or a folder."""

from __future__ import annotations

import argparse


def url(text: str) -> str:
    """Check a location: a path, or an fsspec URL such as s3://bucket/clips.parquet.

    Every option that names a file or a folder has this type, and every command takes any such location there. The walk
    of tests/known_issues/test_every_path_is_a_url.py finds these options by it.
    """
    if not text.strip():
        msg = "expected a path or a URL, found an empty text"
        raise argparse.ArgumentTypeError(msg)
    return text
