"""AudioSet as released: segment lists, joined with where the audio is, and embeddings, read without TensorFlow.

A TFRecord file is a sequence of: length (uint64), masked CRC32C of the length, the record, masked CRC32C of the record,
all little-endian (tensorflow/core/lib/io/record_writer.h). A record here is a protobuf SequenceExample
(tensorflow/core/example/example.proto and feature.proto).
"""

from __future__ import annotations

import argparse
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from acoustic_env.clips.ontology import Ontology
from acoustic_env.clips.readers import Log, require_unique
from acoustic_env.clips.records import read_records
from acoustic_env.clips.table import ValidationIssue, clip_table, raise_issues
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, open_file, read_bytes
from acoustic_env.io.location import join
from acoustic_env.io.location import url as location

PLACEHOLDERS: Final = ("ytid", "start_ms", "end_ms", "start_s", "end_s")
NO_AUDIO: Final = "audioset://{ytid}/{start_ms}"  # a name without a place: only the released embeddings are at hand
EMBEDDING_SIZE: Final = 128
FRAMES_KEY: Final = "audio_embedding"
HEADER: Final = struct.Struct("<QI")  # length, its checksum
CHECKSUM: Final = struct.Struct("<I")
# Message -> its fields in the order of their numbers; * is repeated. A map<string, X> is repeated entries on the wire.
MESSAGES: Final = {
    "BytesList": "*bytes value",
    "FloatList": "*float value",
    "Int64List": "*int64 value",
    "Feature": "BytesList bytes, FloatList float, Int64List int64",
    "FeatureList": "*Feature feature",
    "FeatureEntry": "string key, Feature value",
    "FeatureListEntry": "string key, FeatureList value",
    "Features": "*FeatureEntry feature",
    "FeatureLists": "*FeatureListEntry feature_list",
    "SequenceExample": "Features context, FeatureLists feature_lists",
}


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


@dataclass(frozen=True)
class EmbeddedSegment:
    """One record: a segment with its frames."""

    segment: Segment  # video, times and labels (as AudioSet ids)
    frames: npt.NDArray[np.uint8]  # uint8 [frames, 128], about one a second


def read_embeddings(folder: str, ontology: Ontology) -> Iterator[EmbeddedSegment]:
    """Read every record of the .tfrecord files in a folder, files in order of name; the ontology names its classes.

    Raises:
        UsageError: no such folder or files, or a damaged record; names file and byte.
    """
    names = [name for name in files_below(folder) or [] if "/" not in name and name.endswith(".tfrecord")]
    if not names:
        msg = f"{folder}: no .tfrecord files; AudioSet's release has them below bal_train/, eval/ and unbal_train/"
        raise UsageError(msg)
    for url in (join(folder, name) for name in names):
        for offset, record in split_records(read_bytes(url), url):
            try:
                yield _embedded(record, ontology)
            except (ValueError, KeyError, IndexError, DecodeError) as error:
                msg = f"{url}: the record at byte {offset:,} is no AudioSet embedding: {type(error).__name__}: {error}"
                raise UsageError(msg) from error


def split_records(data: bytes, url: str) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each record of a file, checksums checked.

    Raises:
        UsageError: the file ends inside a record, or a checksum is wrong; names the record's byte.
    """
    offset = 0
    while offset < len(data):
        start = offset + HEADER.size
        length, of_length = HEADER.unpack(data[offset:start].ljust(HEADER.size, b"\0"))
        end = start + length
        whole = masked_crc32c(data[offset : offset + 8]) == of_length
        if not whole or CHECKSUM.pack(masked_crc32c(data[start:end])) != data[end : end + CHECKSUM.size]:
            raise UsageError(f"{url}: damaged or cut short in the record at byte {offset:,}; fetch the file again")
        yield offset, data[start:end]
        offset = end + CHECKSUM.size


def masked_crc32c(data: bytes) -> int:
    """Compute TFRecord's masked CRC32C.

    >>> hex(masked_crc32c(b""))
    '0xa282ead8'
    """
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def sequence_example() -> Any:
    """Return the protobuf class of SequenceExample, in a pool of its own (TensorFlow registers the same names)."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="example", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields.split(", "), start=1):
            kind, field_name = text.removeprefix("*").split()
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if text.startswith("*") else field.LABEL_OPTIONAL
            if kind in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".example.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("example.SequenceExample"))


def _embedded(record: bytes, ontology: Ontology) -> EmbeddedSegment:
    example = sequence_example().FromString(record)
    context = {entry.key: entry.value for entry in example.context.feature}
    lists = {entry.key: entry.value.feature for entry in example.feature_lists.feature_list}
    frames = [value for feature in lists[FRAMES_KEY] for value in feature.bytes.value]
    sizes = {len(frame) for frame in frames}
    if sizes != {EMBEDDING_SIZE}:
        raise ValueError(f"{len(frames)} frames of {sorted(sizes)} bytes, expected {EMBEDDING_SIZE} each")
    labels = context["labels"].int64.value  # none is counted from the end
    segment = Segment(
        ytid=context["video_id"].bytes.value[0].decode(),
        start_s=context["start_time_seconds"].float.value[0],
        end_s=context["end_time_seconds"].float.value[0],
        labels=tuple(ontology.class_order[range(len(ontology.class_order)).index(label)] for label in labels),
    )
    return EmbeddedSegment(segment, np.frombuffer(b"".join(frames), np.uint8).reshape(-1, EMBEDDING_SIZE))
