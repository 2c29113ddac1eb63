"""Readers of clip lists: each turns data as others keep them into a clip list; `acoustic-env clips from-NAME` runs one.

A reader is one file with one class, registered under its name in commands/clips.py or by another package:

    [project.entry-points."acoustic_env.readers"]
    xeno-canto = "my_package.xeno_canto:XenoCantoReader"

It is imported when its command is used, and not before. Clip ids are unique by construction, and the same for everybody
who has the same set.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path

Log = Callable[[str], None]

SHARD_FOLDERS: Final = 2
SHOWN: Final = 3


class Reader(Protocol):
    """What a class needs to be a reader; its docstring is the command's description and examples.

    class XenoCantoReader:
        '''Make a clip list of a Xeno-canto download.

        Examples:
            acoustic-env clips from-xeno-canto download/ --out clips.parquet
        '''

        def add_arguments(self, parser):
            parser.add_argument("folder", help="Folder of the download.")

        def read(self, arguments, log):
            return clip_table({"clip_id": ..., "uri": ..., "labels": [...]} for ... in ...)
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the reader's own options; `--out`, `--recipe` and `--json` are every reader's."""

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        """Return the clips, a table of `clips.table.CLIP_SCHEMA`; the recipe is applied afterwards.

        Args:
            arguments: the options of `add_arguments`, and `recipe` (a name, a URL or None).
            log: takes notes on what was left out or could not be read.

        Raises:
            UsageError: the data cannot be read; names file, row, column or option.
        """


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
        raise UsageError(f"{folder}: has no name for the ids of its clips; give one with --name")
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
