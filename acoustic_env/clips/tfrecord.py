"""The TFRecord files of AudioSet's released embeddings, read without TensorFlow.

A TFRecord file is a sequence of: length (uint64), masked CRC32C of the length, the record, masked CRC32C of the record,
all little-endian (tensorflow/core/lib/io/record_writer.h). A record here is a protobuf SequenceExample
(tensorflow/core/example/example.proto and feature.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from acoustic_env.clips.ontology import Ontology
from acoustic_env.clips.readers.audioset import Segment
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, read_bytes
from acoustic_env.io.location import join

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
