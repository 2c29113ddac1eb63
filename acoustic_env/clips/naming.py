"""Clip ids of the readers: unique by construction, and the same for everybody who has the same set."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path

SHARD_FOLDERS: Final = 2
SHOWN: Final = 3


def root_name(folder: str, name: str | None = None) -> str:
    """Return what the ids of a folder's clips start with: its last path component, or the name given.

    >>> root_name("/data/rec/"), root_name("s3://bucket/sets/rec"), root_name("/data/rec", "site 3")
    ('rec', 'rec', 'site 3')

    Raises:
        UsageError: the root of a filesystem, which has no name, or an empty name.
    """
    if name is not None:
        return _checked(name)
    parts = _parts(folder)
    if not parts:
        raise UsageError(f"{folder}: has no name for the ids of its clips; give one with clips from-... --name")
    return parts[-1]


def shard_name(url: str, suffix: str, name: str | None = None) -> str:
    """Return what the ids of a shard's clips start with: its last two folders, or the name given, and its own name.

    >>> shard_name("/data/setA/data/train-00000-of-00001.parquet", ".parquet")
    'setA/data/train-00000-of-00001'
    >>> shard_name("/data/setA/data/train-0.parquet", ".parquet", "birds")
    'birds/train-0'

    Raises:
        UsageError: an empty name.
    """
    *folders, own = _parts(url)
    before = [_checked(name)] if name is not None else folders[-SHARD_FOLDERS:]
    return "/".join([*before, own.removesuffix(suffix)])


def segment_id(base: str, start_s: float, end_s: float) -> str:
    """Return the id of a segment of a recording: start and end in ms.

    >>> segment_id("rec/a.wav", 5.0, 15.0)
    'rec/a.wav_5000-15000'
    """
    return f"{base}_{round(start_s * 1000)}-{round(end_s * 1000)}"


def require_unique(clips: pa.Table, what: str) -> pa.Table:
    """Return the clips that a reader made of `what` if every id is unique.

    Raises:
        UsageError: an id twice; names the first ones and their sources.
    """
    counts = pc.value_counts(clips["clip_id"].drop_null())  # an id that is missing is a fault of its own
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if not len(twice):
        return clips
    lines = []
    for clip_id in twice.slice(0, SHOWN).to_pylist():
        uris = clips.filter(pc.equal(clips["clip_id"], clip_id))["uri"].slice(0, 2).to_pylist()
        lines.append(f"  {clip_id}: {' and '.join(uris)}")
    msg = "\n".join([
        f"{what}: {len(twice):,} duplicate ids:", *lines,
        "give each clip once; read files with the same name apart, each time with another --name if the reader has it",
    ])  # fmt: skip
    raise UsageError(msg)


def _parts(url: str) -> list[str]:
    path = local_path(url)
    whole = url.rpartition("://")[2].partition("?")[0] if path is None else os.path.abspath(path)  # noqa: PTH100
    return [part for part in PurePosixPath(whole).parts if part != "/"]


def _checked(name: str) -> str:
    if not name.strip("/ "):
        raise UsageError(f"--name {name!r}: ids start with it, so it must not be empty")
    return name.strip("/")
