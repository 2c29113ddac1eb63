"""A folder tree of audio files: the label is the folder, long recordings are cut into windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa

from acoustic_env.clips.naming import require_unique, root_name, segment_id
from acoustic_env.clips.table import clip_table
from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path

AUDIO_SUFFIXES: Final = frozenset({
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
})  # fmt: skip


@dataclass(frozen=True)
class Naming:
    """What a file's path below the folder tells; each a regular expression whose first group is the value.

    Attributes:
        label: None takes the first folder of the path.
        group: None takes the recording's id: every recording is a group.
        fold: None gives no folds.
    """

    label: str | None = None
    group: str | None = None
    fold: str | None = None


@dataclass
class FolderClips:
    """Clips of a folder tree.

    Attributes:
        clips: of `CLIP_SCHEMA`.
        unreadable: files whose length could not be read; they stand in the list whole, for the job to judge.
        leftover_s: seconds at the ends of recordings that fill no window.
    """

    clips: pa.Table
    unreadable: list[str] = field(default_factory=list)
    leftover_s: float = 0.0


def read_folder(
    folder: str,
    naming: Naming | None = None,
    window_s: float | None = None,
    hop_s: float | None = None,
    name: str | None = None,
) -> FolderClips:
    """The clips of a folder tree.

    Args:
        folder: a path or any fsspec URL that can be listed.
        naming: how label, group and fold follow from the path below the folder.
        window_s: cut recordings into windows of so many seconds; None takes files whole. Only whole windows count,
            but a recording shorter than one is a clip of its own.
        hop_s: seconds from one window's start to the next; None is `window_s`, windows side by side.
        name: what ids and groups start with; None takes the folder's own name.

    Returns:
        Clips named `<folder>/<path below it>`, windows with `_<start>-<end>` in ms after it; sorted by path.

    Raises:
        UsageError: no such folder, no audio in it, an impossible window, a pattern that does not match a path, or an
            id twice.
    """
    if hop_s is not None and window_s is None:
        msg = "--hop needs --window"
        raise UsageError(msg)
    if (window_s is not None and window_s <= 0) or (hop_s is not None and hop_s <= 0):
        msg = f"windows of {window_s} s every {hop_s} s: both must be above 0"
        raise UsageError(msg)
    naming, root = naming or Naming(), root_name(folder, name)
    result = FolderClips(clip_table([]))
    rows: list[dict[str, Any]] = []
    for relative, uri in _audio_files(folder):
        recording = f"{root}/{relative}"
        row = {"uri": uri, "source": "folder", "group": recording, **_named(relative, naming)}
        spans = _windows(uri, window_s, hop_s or window_s, result) if window_s else None
        if spans is None:
            rows.append({"clip_id": recording, **row})
            continue
        for start, end in spans:
            rows.append({"clip_id": segment_id(recording, start, end), "start_s": start, "end_s": end, **row})
    if not rows:
        msg = f"{folder}: no audio files below it; known are {' '.join(sorted(AUDIO_SUFFIXES))}"
        raise UsageError(msg)
    result.clips = require_unique(clip_table(rows), folder)
    return result


def _audio_files(folder: str) -> Iterator[tuple[str, str]]:
    """Path below the folder and location of every audio file, sorted."""
    path = local_path(folder)
    if path is not None:
        root = path.absolute()
        if not root.is_dir():
            msg = f"{folder}: no such folder"
            raise UsageError(msg)
        found = (entry for entry in sorted(root.rglob("*")) if entry.suffix.lower() in AUDIO_SUFFIXES)
        yield from ((entry.relative_to(root).as_posix(), str(entry)) for entry in found if entry.is_file())
        return
    import fsspec

    try:
        filesystem, base = fsspec.core.url_to_fs(folder)
        names = sorted(filesystem.find(base))
    except Exception as error:  # every filesystem has its own exceptions
        msg = f"{folder}: cannot be listed: {type(error).__name__}: {error}"
        raise UsageError(msg) from error
    for name in names:
        if PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES:
            yield name.removeprefix(base).lstrip("/"), filesystem.unstrip_protocol(name)


def _named(relative: str, naming: Naming) -> dict[str, Any]:
    parts = PurePosixPath(relative).parts
    default_labels = [parts[0]] if len(parts) > 1 else []
    fold = _matched(naming.fold, relative, "fold") if naming.fold else None
    if fold is not None and not fold.isdecimal():
        msg = f"{relative}: the fold pattern {naming.fold!r} finds {fold!r}, not a whole number"
        raise UsageError(msg)
    named: dict[str, Any] = {
        "labels": [_matched(naming.label, relative, "label")] if naming.label else default_labels,
        "fold": int(fold) if fold is not None else None,
    }
    if naming.group:
        named["group"] = _matched(naming.group, relative, "group")
    return named


def _matched(pattern: str, relative: str, what: str) -> str:
    try:
        match = re.search(pattern, relative)
    except re.error as error:
        msg = f"the {what} pattern {pattern!r} is no regular expression: {error}"
        raise UsageError(msg) from error
    if match is None or not match.groups() or match.group(1) is None:
        msg = (
            f"{relative}: the {what} pattern {pattern!r} finds nothing in it (the value is what the first (...) holds)"
        )
        raise UsageError(msg)
    return match.group(1)


def _windows(uri: str, window_s: float, hop_s: float | None, result: FolderClips) -> list[tuple[float, float]] | None:
    """Start and end of each window; None for a recording to be taken whole."""
    duration = duration_s(uri)
    if duration is None:
        result.unreadable.append(uri)
        return None
    if duration < window_s:
        return None
    hop = hop_s or window_s
    count = int((duration - window_s) / hop + 1e-6) + 1
    result.leftover_s += max(0.0, duration - ((count - 1) * hop + window_s))
    return [(round(i * hop, 6), round(i * hop + window_s, 6)) for i in range(count)]


def duration_s(uri: str) -> float | None:
    """Seconds of audio by the file's header, None when no library can tell."""
    import av
    import fsspec
    import soundfile

    path = local_path(uri)
    with suppress(soundfile.LibsndfileError, OSError), path.open("rb") if path else fsspec.open(uri) as file:
        return float(soundfile.info(file).duration)
    with suppress(av.FFmpegError, OSError), path.open("rb") if path else fsspec.open(uri) as file:
        return _container_duration_s(cast(BinaryIO, file))
    return None


def _container_duration_s(file: BinaryIO) -> float | None:
    import av

    with av.open(file, mode="r") as container:
        audio = next(iter(container.streams.audio), None)
        if audio is None:
            return None
        if audio.duration is not None and audio.time_base is not None:
            return float(audio.duration * audio.time_base)
        return container.duration / 1e6 if container.duration is not None else None


def is_audio_name(name: str) -> bool:
    """Whether a name ends like an audio file's."""
    return Path(name).suffix.lower() in AUDIO_SUFFIXES
