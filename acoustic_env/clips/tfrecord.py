"""The TFRecord files of AudioSet's released embeddings, read without TensorFlow.

A TFRecord file is a sequence of: length (uint64), masked CRC32C of the length, the record, masked CRC32C of the record,
all little-endian (tensorflow/core/lib/io/record_writer.h). A record here is a protobuf SequenceExample
(tensorflow/core/example/example.proto) of which only the four context features and the list `audio_embedding` are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.clips.audioset import Segment
from acoustic_env.clips.ontology import Ontology
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, read_bytes
from acoustic_env.io.location import join

EMBEDDING_SIZE: Final = 128
FRAMES_KEY: Final = "audio_embedding"
CRC32C_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli, reflected
MASK_DELTA: Final = 0xA282EAD8
LENGTH_AND_CRC: Final = struct.Struct("<QI")
CRC_ONLY: Final = struct.Struct("<I")
RECORDS_AT_ONCE: Final = 4096

Value = bytes | float | int


@dataclass(frozen=True)
class EmbeddedSegment:
    """One record: a segment with its frames.

    Attributes:
        segment: video, times and labels (as AudioSet ids).
        frames: uint8 [frames, 128], about one a second.
    """

    segment: Segment
    frames: npt.NDArray[np.uint8]


def read_embeddings(folder: str, ontology: Ontology) -> Iterator[EmbeddedSegment]:
    """Every record of the .tfrecord files in a folder, files in order of name.

    Args:
        folder: a path or any fsspec URL that can be listed.
        ontology: names the class numbers the records hold.

    Raises:
        UsageError: no such folder or files, or a damaged record; names file and byte.
    """
    waiting: list[tuple[str, int, bytes, int]] = []
    for url in _files(folder):
        waiting += ((url, *record) for record in split_records(read_bytes(url), url))
        if len(waiting) >= RECORDS_AT_ONCE:
            yield from _parse_checked(waiting, ontology)
            waiting = []
    yield from _parse_checked(waiting, ontology)


def split_records(data: bytes, url: str) -> Iterator[tuple[int, bytes, int]]:
    """Offset, bytes and stored CRC of each record of a file; the CRC of the lengths is checked here.

    Raises:
        UsageError: the file ends inside a record or a length is damaged.
    """
    offset = 0
    while offset < len(data):
        start = offset + LENGTH_AND_CRC.size
        if start > len(data):
            msg = f"{url}: the file ends inside a record's header at byte {offset:,}"
            raise UsageError(msg)
        length, length_crc = LENGTH_AND_CRC.unpack_from(data, offset)
        if _masked_crc32c_short(data[offset : offset + 8]) != length_crc:
            msg = f"{url}: damaged at byte {offset:,}: the checksum of a record's length is wrong; fetch the file again"
            raise UsageError(msg)
        end = start + length
        if end + CRC_ONLY.size > len(data):
            msg = f"{url}: the file ends inside the record at byte {offset:,}; fetch it again"
            raise UsageError(msg)
        yield offset, data[start:end], CRC_ONLY.unpack_from(data, end)[0]
        offset = end + CRC_ONLY.size


def masked_crc32c(messages: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """TFRecord's masked CRC32C of each message, all messages byte by byte side by side.

    Returns:
        uint32 [messages].
    """
    lengths = np.array([len(message) for message in messages], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    columns = np.zeros((int(lengths.max(initial=0)), len(messages)), dtype=np.uint8)
    for column, index in enumerate(order):
        columns[: lengths[index], column] = np.frombuffer(messages[index], dtype=np.uint8)
    table = _crc_table()
    crc = np.full(len(messages), 0xFFFFFFFF, dtype=np.uint32)
    going = np.searchsorted(-lengths[order], -np.arange(len(columns)), side="left")  # messages longer than t
    for row, active in zip(columns, going.tolist(), strict=True):
        part = crc[:active]
        crc[:active] = table[(part ^ row[:active]) & 0xFF] ^ (part >> np.uint32(8))
    crc ^= np.uint32(0xFFFFFFFF)
    masked = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(MASK_DELTA)
    result = np.empty_like(masked)
    result[order] = masked
    return result


def _masked_crc32c_short(message: bytes) -> int:
    """As `masked_crc32c` for one message of a few bytes, where arrays cost more than they save."""
    table = _crc_list()
    crc = 0xFFFFFFFF
    for byte in message:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


@cache
def _crc_list() -> list[int]:
    return [int(entry) for entry in _crc_table()]


@cache
def _crc_table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(CRC32C_POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


def _parse_checked(records: list[tuple[str, int, bytes, int]], ontology: Ontology) -> Iterator[EmbeddedSegment]:
    crcs = masked_crc32c([data for _, _, data, _ in records])
    for (url, offset, data, stored), crc in zip(records, crcs.tolist(), strict=True):
        if crc != stored:
            msg = f"{url}: damaged at byte {offset:,}: the record's checksum is wrong; fetch the file again"
            raise UsageError(msg)
        try:
            yield parse_record(data, ontology)
        except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
            msg = f"{url}: the record at byte {offset:,} is no AudioSet embedding: {type(error).__name__}: {error}"
            raise UsageError(msg) from error


def parse_record(data: bytes, ontology: Ontology) -> EmbeddedSegment:
    """A SequenceExample's segment and frames.

    Raises:
        ValueError, KeyError, IndexError, TypeError: it is none, or lacks a feature.
    """
    context: dict[str, list[Value]] = {}
    frames: list[Value] = []
    for number, content in _fields(data):
        if number == 1:  # context: Features
            for _, entry in _fields(_bytes(content)):
                name, feature = _map_entry(_bytes(entry))
                context[name] = _feature(feature)
        elif number == 2:  # feature_lists: FeatureLists
            for _, entry in _fields(_bytes(content)):
                name, features = _map_entry(_bytes(entry))
                if name == FRAMES_KEY:
                    frames = [value for _, feature in _fields(features) for value in _feature(_bytes(feature))]
    joined = b"".join(_bytes(frame) for frame in frames)
    if not frames or len(joined) != len(frames) * EMBEDDING_SIZE:
        msg = f"{len(frames)} frames with {len(joined)} bytes, not {EMBEDDING_SIZE} each"
        raise ValueError(msg)
    segment = Segment(
        ytid=_bytes(context["video_id"][0]).decode(),
        start_s=float(context["start_time_seconds"][0]),
        end_s=float(context["end_time_seconds"][0]),
        labels=tuple(ontology.class_order[int(label)] for label in context["labels"]),
    )
    return EmbeddedSegment(segment, np.frombuffer(joined, dtype=np.uint8).reshape(len(frames), EMBEDDING_SIZE))


def _feature(data: bytes) -> list[Value]:
    """The values of a Feature: bytes_list = 1, float_list = 2, int64_list = 3; each holds its values as field 1."""
    values: list[Value] = []
    for kind, content in _fields(data):
        for _, value in _fields(_bytes(content)):
            if kind == 1:
                values.append(_bytes(value))
            elif isinstance(value, int):
                values.append(struct.unpack("<f", struct.pack("<I", value))[0] if kind == 2 else value)
            elif kind == 2:
                values.extend(struct.unpack(f"<{len(value) // 4}f", value))
            else:
                values.extend(_varints(value))
    return values


def _map_entry(data: bytes) -> tuple[str, bytes]:
    entry = dict(_fields(data))
    return _bytes(entry[1]).decode(), _bytes(entry.get(2, b""))


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and content of each field of a protobuf message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        size, position = _varint(data, position) if wire == 2 else ({1: 8, 5: 4}[wire], position)
        end = position + size
        if end > len(data):
            msg = "a field ends beyond its message"
            raise ValueError(msg)
        content = data[position:end]
        yield number, content if wire == 2 else int.from_bytes(content, "little")
        position = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varints(data: bytes) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        msg = f"a number where bytes belong: {value!r}"
        raise TypeError(msg)
    return value


def _files(folder: str) -> list[str]:
    names = files_below(folder) or []
    found = [join(folder, name) for name in names if "/" not in name and name.endswith(".tfrecord")]
    if not found:
        msg = (
            f"{folder}: no .tfrecord files there; AudioSet's release has them below bal_train/, eval/ and unbal_train/"
        )
        raise UsageError(msg)
    return found
