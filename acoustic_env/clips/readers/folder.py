"""A folder tree of audio files: the label is the folder, long recordings are cut into windows."""

from __future__ import annotations

import argparse
import logging
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

from acoustic_env.audio.fetch import duration_of
from acoustic_env.clips.naming import require_unique, root_name, segment_id
from acoustic_env.clips.readers import Log
from acoustic_env.clips.recordings import matched
from acoustic_env.clips.table import clip_table, describe_clips
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, others_below, read_if_there
from acoustic_env.io.location import join, local_path, scrub, url

logger = logging.getLogger("acoustic_env.clips")

AUDIO_SUFFIXES: Final = frozenset({
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
})  # fmt: skip

SHOWN_ENDINGS: Final = 20
SHOWN_NAMES: Final = 3
HIDDEN: Final = "hidden"  # names that begin with a dot, folders too: caches, the trash, what macOS keeps beside a file


class FolderReader:
    r"""Make a clip list of a folder of audio files: the label is the folder, long recordings are cut into windows.

    Examples:
        acoustic-env clips from-folder recordings/ --out clips.parquet                  label = folder below recordings/

        # also files whose ending is not known, which the command names when it passes over them
        acoustic-env clips from-folder recordings/ --glob '*.sph' --out clips.parquet

        # windows of 10 s every 5 s; the recording is the group
        acoustic-env clips from-folder recordings/ --window 10 --hop 5 --out clips.parquet

        # ids start with the folder's name: recordings/dog/a.wav_0-10000; --name gives another start
        acoustic-env clips from-folder /data/2024/recordings/ --name site-3/2024 --out clips.parquet

        # ESC-10: the first digit of a name is the fold, the number after it the original recording
        acoustic-env clips from-folder esc10/ --fold-from '/(\d)-' --group-from '/\d-(\d+)-' --out clips.parquet

        # UrbanSound8K: fold1/7061-6-0-0.wav is recording-class-take-slice
        acoustic-env clips from-folder audio/ --fold-from '^fold(\d+)/' --group-from '/(\d+)-' --label-from='-(\d+)-' \
            --out clips.parquet
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=url, metavar="DIR", help="Path or fsspec URL that can be listed.")
        parser.add_argument("--window", type=float, metavar="S", help="Length of windows cut from recordings, in s.")
        parser.add_argument("--hop", type=float, metavar="S", help="Time between windows' starts (default: --window).")
        for column in ("label", "group", "fold"):
            pattern = f"Regular expression on the path below DIR; its first (...) is the {column}."
            parser.add_argument(f"--{column}-from", metavar="REGEX", help=pattern)
        glob = "Also take files whose path below DIR matches, such as '*.sph'. May be repeated."
        parser.add_argument("--glob", action="append", default=[], metavar="PATTERN", help=glob)
        parser.add_argument("--name", help="Start of the clip ids (default: the folder's own name).")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        patterns = {column: getattr(arguments, f"{column}_from") for column in ("label", "group", "fold")}
        options = (arguments.window, arguments.hop, arguments.name, patterns, arguments.glob)
        return read_folder(arguments.folder, *options, log)


def read_folder(
    folder: str,
    window_s: float | None = None,
    hop_s: float | None = None,
    name: str | None = None,
    patterns: Mapping[str, str | None] | None = None,
    globs: Sequence[str] = (),
    log: Log = lambda _note: None,
) -> pa.Table:
    """Return the clips of a folder tree, links to folders followed.

    Args:
        folder: a path or any fsspec URL that can be listed.
        window_s: cut recordings into windows of so many seconds; None takes files whole. Only whole windows count,
            but a recording shorter than one is a clip of its own.
        hop_s: seconds from one window's start to the next; None is `window_s`, windows side by side.
        name: what ids and groups start with; None takes the folder's own name.
        patterns: regular expressions on the path below the folder whose first group is the `label` (default: the first
            folder of the path), the `group` (default: the recording) or the `fold`.
        globs: patterns of paths below the folder that are taken whatever their endings.
        log: is told which files are passed over, which have no known length, and how many seconds fill no window.

    Returns:
        Clips named `<folder>/<path below it>`, windows with `_<start>-<end>` in ms after it; sorted by path. With
        windows, `duration_s` is how long each is.

    Raises:
        UsageError: no such folder, no audio in it, an impossible window, a pattern that does not match a path, or an
            id twice.
    """
    if hop_s is not None and window_s is None:
        raise UsageError("--hop needs --window")
    for option, seconds in (("--window", window_s), ("--hop", hop_s)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise UsageError(f"{option} {seconds:g}: expected seconds, more than 0")
    root, rows = root_name(folder, name), list[dict[str, Any]]()
    unreadable, dropped_s = list[str](), 0.0
    path = local_path(folder)
    base = folder if path is None else str(path.absolute())
    for relative in _audio_files(base, globs, log):
        recording, uri = f"{root}/{relative}", join(base, relative)
        row = {"uri": uri, "source": "folder", **_named(relative, recording, patterns or {})}
        duration = duration_of(uri) if window_s else None
        if window_s and duration is None:
            unreadable.append(uri)
        if not window_s or duration is None or duration < window_s:
            rows.append({"clip_id": recording, **row, **({"duration_s": duration} if window_s else {})})
            continue
        hop = hop_s or window_s
        count = int((duration - window_s) / hop + 1e-6) + 1
        dropped_s += max(0.0, duration - ((count - 1) * hop + window_s))
        for number in range(count):
            start, end = round(number * hop, 6), round(number * hop + window_s, 6)
            segment = {"start_s": start, "end_s": end, "duration_s": window_s}
            rows.append({"clip_id": segment_id(recording, start, end), **segment, **row})
    if not rows:
        known = " ".join(sorted(AUDIO_SUFFIXES))
        other = "take files of other names with clips from-folder --glob, or give a clip list (Parquet or CSV)"
        raise UsageError(f"{folder}: no audio files below it; known are {known}; {other}")
    if unreadable:
        log("\n".join([f"{len(unreadable):,} files of unknown length are listed as whole files:", *unreadable[:5]]))
    if dropped_s >= 0.1:
        log(f"{dropped_s:,.1f} s dropped: shorter than one window")
    return require_unique(clip_table(rows), folder)


def clips_of_folder(folder: str) -> pa.Table:
    """Return the clips of a folder that stands in place of a clip list, as `clips from-folder` makes them by default.

    What was found and passed over is logged.

    Raises:
        UsageError: as `read_folder`, or the folder is a study, which has a list.
    """
    if (read_if_there(of_study := join(folder, "clips.parquet"))) is not None:
        raise UsageError(f"{folder}: holds a clip list; give {of_study} itself")
    clips = read_folder(folder, log=lambda note: logger.warning("%s", scrub(note)))
    logger.warning("%s: as clips from-folder lists it, %s", scrub(folder), describe_clips(clips))
    return clips


def _audio_files(folder: str, globs: Sequence[str], log: Log) -> list[str]:
    """Return the path below the folder of every file with a known ending or that a pattern matches, sorted."""
    found = files_below(folder)
    if found is None:
        raise UsageError(f"{folder}: no such folder")
    if broken := others_below(folder):
        shown = ", ".join(map(repr, broken[:SHOWN_NAMES])) + (", ..." if len(broken) > SHOWN_NAMES else "")
        log(f"{folder}: {len(broken):,} names are passed over that lead to no file, as links to nothing do: {shown}")
    taken, others = list[str](), dict[str, list[str]]()
    for name in listable(found, folder, log):
        suffix, hidden = PurePosixPath(name).suffix, any(part.startswith(".") for part in PurePosixPath(name).parts)
        if (suffix.lower() in AUDIO_SUFFIXES and not hidden) or any(fnmatch(name, pattern) for pattern in globs):
            taken.append(name)
        else:
            others.setdefault(HIDDEN if hidden else suffix, []).append(name)
    if others:
        often = sorted(others, key=lambda suffix: (-len(others[suffix]), suffix))[:SHOWN_ENDINGS]
        counts = ", ".join(f"{suffix or 'no ending'} {len(others[suffix]):,}" for suffix in often)
        more = f" and {len(others) - len(often):,} more endings" if len(others) > len(often) else ""
        note = f"{folder}: {sum(map(len, others.values())):,} files are passed over by their names: {counts}{more}"
        named = [suffix for suffix in often if suffix not in ("", HIDDEN)]
        audio = [suffix for suffix in named if duration_of(join(folder, others[suffix][0])) is not None]
        options = " ".join(shlex.join(["--glob", f"*{suffix}"]) for suffix in audio)
        log(f"{note}; of them {', '.join(audio)} decode as audio, take these with {options}" if audio else note)
    return taken


def listable(names: Iterable[str], where: str, log: Log) -> list[str]:
    """Return the names that a clip list can hold, a line of UTF-8 text each; `log` is told of the others."""
    names = list(names)
    kept = [name for name in names if not re.search("[\ud800-\udfff\r\n]", name)]
    if len(kept) < len(names):
        first = next(name for name in names if name not in kept)
        log(f"{where}: {len(names) - len(kept):,} files are left out, rename them: not a line of UTF-8: {first!r}")
    return kept


def _named(relative: str, recording: str, patterns: Mapping[str, str | None]) -> dict[str, Any]:
    found = {column: matched(pattern, relative, column) for column, pattern in patterns.items() if pattern}
    fold = found.get("fold")
    if fold is not None and not fold.isdecimal():
        raise UsageError(f"{relative}: the fold pattern {patterns['fold']!r} finds {fold!r}, not a whole number")
    return {
        "labels": [found["label"]] if "label" in found else list(PurePosixPath(relative).parts[:-1][:1]),
        "group": found.get("group", recording),
        "fold": None if fold is None else int(fold),
    }
