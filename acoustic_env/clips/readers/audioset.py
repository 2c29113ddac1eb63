"""Official AudioSet segment lists, joined with where the audio is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Final

import pyarrow as pa

from acoustic_env.clips.naming import require_unique
from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.records import read_records
from acoustic_env.clips.table import CLIP_SCHEMA, KNOWN_SCHEMA, ValidationIssue, raise_issues
from acoustic_env.errors import UsageError
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


class AudioSetReader:
    """Make a clip list of an official AudioSet segment list.

    Placeholders of --audio: {ytid} {start_ms} {end_ms} {start_s} {end_s}; Python formats apply: {start_s:.0f} gives 30.
    """

    examples = """\
  # clips cut and named by video id and start, the usual layout of a download
  acoustic-env clips from-audioset balanced_train_segments.csv \\
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
        form.add_argument("--cut-already", action="store_true", help="The files are the clips, whatever their names.")
        form.add_argument("--whole-videos", action="store_true", help="The files are whole videos, however named.")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        whole = True if arguments.whole_videos else False if arguments.cut_already else None
        return read_audioset(arguments.segments, arguments.audio, whole)


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
    segments = list(read_segments(url))
    lengths = [round(segment.end_s - segment.start_s, 6) for segment in segments]
    table = pa.table(
        {
            "clip_id": [segment.clip_id for segment in segments],
            "uri": [_fill(audio, segment) for segment in segments],
            "start_s": pa.array([segment.start_s if cut else None for segment in segments], pa.float64()),
            "end_s": pa.array([segment.end_s if cut else None for segment in segments], pa.float64()),
            "labels": [list(segment.labels) for segment in segments],
            "group": [segment.ytid for segment in segments],
            "fold": pa.nulls(len(segments), pa.int32()),
            "source": ["audioset"] * len(segments),
        },
        schema=CLIP_SCHEMA,
    )
    return require_unique(table.append_column(KNOWN_SCHEMA.field("duration_s"), pa.array(lengths)), url)


def read_segments(url: str) -> Iterator[Segment]:
    """Yield the lines of a segment list: comment lines, then `YTID, start_seconds, end_seconds, "label,label"`.

    Raises:
        UsageError: the file cannot be read, holds no segments, or has faulty lines; names them.
    """
    issues: list[ValidationIssue] = []
    count = 0
    for line, cells in read_records(url):
        segment = None if cells[0].startswith("#") else _segment(cells, line, issues)
        if segment is not None:
            count += 1
            yield segment
    raise_issues(url, issues)
    if count == 0:
        raise UsageError(f'{url}: no segments; a line is YTID, start_seconds, end_seconds, "label,label"')


def _segment(cells: list[str], line: int, issues: list[ValidationIssue]) -> Segment | None:
    if len(cells) != 4:
        issues.append(
            ValidationIssue(line, None, f"{len(cells)} cells, not YTID, start_seconds, end_seconds, positive_labels")
        )
        return None
    ytid, start, end, labels = (cell.strip() for cell in cells)
    try:
        segment = Segment(ytid, float(start), float(end), tuple(label.strip() for label in labels.split(",")))
    except ValueError:
        issues.append(ValidationIssue(line, "start_seconds, end_seconds", f"{start!r}, {end!r} are not numbers"))
        return None
    if not ytid or not 0 <= segment.start_s < segment.end_s < float("inf"):
        issues.append(
            ValidationIssue(line, "start_seconds, end_seconds", f"{ytid!r} from {start} to {end} s is no segment")
        )
        return None
    return segment


def _check_template(template: str) -> bool:
    """Return whether the template mentions a time."""
    allowed = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        unknown = sorted(names - set(PLACEHOLDERS))
        if not unknown:
            _fill(template, Segment("x", 0.0, 10.0, ()))
    except (ValueError, IndexError) as error:
        raise UsageError(f"audio template {template!r}: {error}; placeholders are {allowed}") from error
    if unknown:
        msg = f"audio template {template!r}: unknown placeholder {{{unknown[0]}}}; expected some of {allowed}"
        raise UsageError(msg)
    if "ytid" not in names:
        msg = f"audio template {template!r}: without {{ytid}} every clip has the same audio; expected some of {allowed}"
        raise UsageError(msg)
    return len(names) > 1


def _fill(template: str, segment: Segment) -> str:
    return template.format(
        ytid=segment.ytid,
        start_s=segment.start_s,
        end_s=segment.end_s,
        start_ms=round(segment.start_s * 1000),
        end_ms=round(segment.end_s * 1000),
    )
