"""Official AudioSet segment lists, joined with where the audio is."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Final

import pyarrow as pa

from acoustic_env.clips.naming import require_unique
from acoustic_env.clips.readers import Log
from acoustic_env.clips.records import read_records
from acoustic_env.clips.table import ValidationIssue, clip_table, raise_issues
from acoustic_env.errors import UsageError
from acoustic_env.io.files import open_file
from acoustic_env.io.location import url as location

PLACEHOLDERS: Final = ("ytid", "start_ms", "end_ms", "start_s", "end_s")
NO_AUDIO: Final = "audioset://{ytid}/{start_ms}"  # a name without a place: only the released embeddings are at hand


@dataclass(frozen=True)
class Segment:
    """One line of a segment list: `labels` of the video `ytid` between two times in s."""

    ytid: str
    start_s: float
    end_s: float
    labels: tuple[str, ...]

    @property
    def clip_id(self) -> str:
        """`<ytid>_<start in ms>`."""
        return f"{self.ytid}_{round(self.start_s * 1000)}"

    def fill(self, template: str) -> str:
        """Return the URL of the audio by a template with `PLACEHOLDERS`."""
        start_ms, end_ms = round(self.start_s * 1000), round(self.end_s * 1000)
        values = (self.ytid, start_ms, end_ms, self.start_s, self.end_s)
        return template.format(**dict(zip(PLACEHOLDERS, values, strict=True)))


class AudioSetReader:
    r"""Make a clip list of an official AudioSet segment list.

    Placeholders of --audio: {ytid} {start_ms} {end_ms} {start_s} {end_s}; Python formats apply: {start_s:.0f} gives 30.

    Examples:
        # clips cut and named by video id and start, the usual layout of a download
        acoustic-env clips from-audioset balanced_train_segments.csv \
            --audio 's3://bucket/audioset/{ytid}_{start_ms}.flac' --recipe urban-nature --out clips.parquet

        # whole videos: without a time in the template the segment is cut from the file
        acoustic-env clips from-audioset eval_segments.csv --audio '/data/videos/{ytid}.m4a' --out clips.parquet

        # cut clips named by video id alone
        acoustic-env clips from-audioset eval_segments.csv --audio '/data/Y{ytid}.wav' --cut-already --out clips.parquet
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("segments", type=location, metavar="SEGMENTS.csv", help="The official list.")
        parser.add_argument(
            "--audio", type=location, required=True, metavar="TEMPLATE", help="URL of a clip's audio with placeholders."
        )
        form = parser.add_mutually_exclusive_group()
        cut, whole = "The files are the clips, whatever their names.", "The files are whole videos, however named."
        form.add_argument("--cut-already", action="store_false", dest="whole_videos", default=None, help=cut)
        form.add_argument("--whole-videos", action="store_true", default=None, help=whole)

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        return read_audioset(arguments.segments, arguments.audio, arguments.whole_videos)


def read_audioset(url: str, audio: str = NO_AUDIO, whole_videos: bool | None = None) -> pa.Table:
    """Return the clips of a segment list.

    Args:
        url: a list such as balanced_train_segments.csv.
        audio: URL of a clip's audio with the placeholders {ytid} {start_ms} {end_ms} {start_s} {end_s}; Python's format
            rules apply, `{start_s:.0f}` for example.
        whole_videos: whether that is the whole video, from which the segment is cut; None takes it as whole when the
            template mentions no time.

    Returns:
        A table of `CLIP_SCHEMA`; group is the video.

    Raises:
        UsageError: a faulty line (named), a segment listed twice, or a template with an unknown placeholder or none.
    """
    timed = _check_template(audio)
    cut = not timed if whole_videos is None else whole_videos
    rows = (
        {
            "clip_id": segment.clip_id,
            "uri": segment.fill(audio),
            "start_s": segment.start_s if cut else None,
            "end_s": segment.end_s if cut else None,
            "labels": segment.labels,
            "group": segment.ytid,
            "source": "audioset",
            "duration_s": round(segment.end_s - segment.start_s, 6),
        }
        for segment in read_segments(url)
    )
    return require_unique(clip_table(rows), url)


def read_segments(url: str) -> Iterator[Segment]:
    """Yield the lines of a segment list: comment lines, then `YTID, start_seconds, end_seconds, "label,label"`.

    Raises:
        UsageError: the file cannot be read, holds no segments, or has faulty lines; names them.
    """
    issues: list[ValidationIssue] = []
    count = 0
    with open_file(url) as file:
        for line, cells in read_records(file, url):
            if not cells[0].startswith("#") and (segment := _segment(cells, line, issues)) is not None:
                count += 1
                yield segment
    raise_issues(url, issues)
    if count == 0:
        raise UsageError(f'{url}: no segments; a line is YTID, start_seconds, end_seconds, "label,label"')


def _segment(cells: list[str], line: int, issues: list[ValidationIssue]) -> Segment | None:
    try:
        ytid, start, end, labels = (cell.strip() for cell in cells)
        segment = Segment(ytid, float(start), float(end), tuple(filter(None, map(str.strip, labels.split(",")))))
        if ytid and 0 <= segment.start_s < segment.end_s < math.inf:
            return segment
    except ValueError:  # another number of cells, or no number
        pass
    message = f"{', '.join(cells)} is no segment: YTID, start_seconds, end_seconds, positive_labels"
    issues.append(ValidationIssue(None, None, f"line {line:,}: {message}"))
    return None


def _check_template(template: str) -> bool:
    """Return whether the template mentions a time."""
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        if unknown := sorted(names - set(PLACEHOLDERS)):
            raise ValueError(f"unknown placeholder {{{unknown[0]}}}")
        if "ytid" not in names:
            raise ValueError("without {ytid} every clip has the same audio")
        Segment("x", 0.0, 10.0, ()).fill(template)
    except (ValueError, IndexError) as error:
        allowed = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise UsageError(f"audio template {template!r}: {error}; expected some of {allowed}") from error
    return len(names) > 1
