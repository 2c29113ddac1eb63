"""Clip lists of tar shards with WebDataset naming."""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from acoustic_env.audio.shards import TAR_ERRORS
from acoustic_env.clips.naming import require_unique, shard_name
from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.folder import AUDIO_SUFFIXES, listable
from acoustic_env.clips.table import clip_table, further_name
from acoustic_env.errors import UsageError
from acoustic_env.io.files import expand, open_file
from acoustic_env.io.location import url

LABEL_MEMBERS: Final = (".json", ".cls", ".txt")
JSON_KEYS: Final = ("labels", "label", "tags", "tag", "class")
MAX_LABEL_BYTES: Final = 2**20


class TarReader:
    """Make a clip list of tar shards with WebDataset naming.

    Files that share a name up to the first dot are one sample: 0001.flac + 0001.json. Labels come from the .json (key
    labels, label, tags, tag or class), the .cls or the .txt; further numbers and texts of the .json become columns.
    Shards must not be compressed. Ids are <the shard's last two folders>/<shard>/<sample>; --name NAME takes NAME in
    place of the folders.

    Examples:
        acoustic-env clips from-tar '/data/shards/train-*.tar' --out clips.parquet
        acoustic-env clips from-tar s3://bucket/0000.tar s3://bucket/0001.tar --json-key tags --out clips.parquet
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shards", type=url, nargs="+", metavar="SHARD.tar", help="Shards; * and ? are expanded.")
        parser.add_argument("--json-key", metavar="KEY", help="Key of the labels in a sample's .json.")
        parser.add_argument("--name", help="Start of the clip ids (default: each shard's last two folders).")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        return read_tar(arguments.shards, arguments.json_key, arguments.name, log)


def read_tar(
    urls: Sequence[str], json_key: str | None = None, name: str | None = None, log: Log = lambda _note: None
) -> pa.Table:
    """Return the clips of tar shards.

    Args:
        urls: shards at any fsspec URL, patterns allowed.
        json_key: key of the labels in a sample's .json, None for the first of `JSON_KEYS`. Labels come from the .json,
            the .cls or the .txt member, in this order.
        name: in place of the shards' folders in ids and groups.
        log: is told of members whose names a clip list cannot hold.

    Returns:
        Clips named `<the shard's last two folders>/<shard>/<sample>`; every sample is a group. `byte_offset` and
        `byte_size` say where each is in its shard.

    Raises:
        UsageError: a shard is missing, compressed or damaged, a sample's labels cannot be read, no shard has audio, or
            two clips would have the same id.
    """
    rows: list[dict[str, Any]] = []
    for place in (place for pattern in urls for place in expand(pattern)):
        samples: dict[str, list[tarfile.TarInfo]] = {}
        label_files: dict[str, dict[str, bytes]] = {}
        hidden = 0
        for member, data in _members(place):
            folder, _, base = member.name.rpartition("/")
            key, _, extension = base.partition(".")
            if not key:  # such as ._a.wav, which macOS puts beside a file
                hidden += 1
                continue
            key = f"{folder}/{key}" if folder else key
            if data is not None:
                label_files.setdefault(key, {})[f".{extension}"] = data
            elif PurePosixPath(member.name).suffix.lower() in AUDIO_SUFFIXES:
                samples.setdefault(key, []).append(member)
        if hidden:
            log(f"{place}: {hidden:,} hidden files are passed over")
        shard = shard_name(place, ".tar", name)
        for key in listable(samples, place, log):
            audio = samples[key]
            labels, further = _sample_labels(label_files.get(key, {}), json_key, f"{place}: sample {key}")
            row = {"labels": labels, "group": f"{shard}/{key}", "source": "tar", **further}
            for member in audio:
                clip_id = f"{shard}/{key if len(audio) == 1 else member.name}"
                size = member.offset_data - member.offset + member.size  # with its headers, which name it
                span = {"byte_offset": member.offset, "byte_size": size}
                rows.append({"clip_id": clip_id, "uri": f"tar://{member.name}::{place}", **row, **span})
    if not rows:
        raise UsageError(f"{', '.join(urls)}: no audio in the shards")
    return require_unique(clip_table(rows), ", ".join(urls))


def _members(place: str) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield every file in a shard, with the bytes of those that may hold labels."""
    with open_file(place) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if not member.isfile():
                        continue
                    if "::" in member.name:
                        msg = f"{place}: the member name {member.name!r} holds '::', which a tar:// URI cannot carry"
                        raise UsageError(msg)
                    wanted = PurePosixPath(member.name).suffix in LABEL_MEMBERS and member.size < MAX_LABEL_BYTES
                    content = archive.extractfile(member) if wanted else None
                    yield member, content.read() if content else None
        except TAR_ERRORS as error:
            raise UsageError(f"{place}: not a whole, uncompressed tar file: {error}") from error


def _sample_labels(files: dict[str, bytes], json_key: str | None, where: str) -> tuple[list[str], dict[str, Any]]:
    """Return the labels of a sample, and the numbers and texts of its .json."""
    extension = next((extension for extension in LABEL_MEMBERS if extension in files), None)
    if extension is None:
        return [], {}
    try:
        text = files[extension].decode("utf-8")
        if extension == ".json":
            return _json_labels(json.loads(text), json_key)
        return ([text.strip()] if text.strip() else []), {}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: no labels in its {extension} file: {error}") from error


def _json_labels(document: Any, json_key: str | None) -> tuple[list[str], dict[str, Any]]:
    if not isinstance(document, dict):
        raise TypeError("it is not an object")
    key = json_key or next((name for name in JSON_KEYS if name in document), None)
    further = {further_name(name): value for name, value in document.items() if name != key and _plain(value)}
    if key is None:
        return [], further
    if key not in document:
        raise KeyError(f"no key {key!r}; expected one of: {', '.join(document)}")
    value = document[key]
    values = value if isinstance(value, list) else [value]
    return [str(label) for label in values if label not in (None, "")], further


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float)
