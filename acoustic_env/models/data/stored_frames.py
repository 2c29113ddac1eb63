"""Where the frames of clips lie in the store, and how those of one part are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.features.registry import IMPORTED
from acoustic_env.io.filesystem import Entry
from acoustic_env.io.location import local_path
from acoustic_env.io.retry import StoreError
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.parts import in_threads
from acoustic_env.store.schema import ROW_KEYS, as_matrix

NOT_FEATURES: Final = (*ROW_KEYS, "start_s")

Integers = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class StoredFrames:
    """The frames of clips in a store, unread: signals side by side, as further bands.

    Attributes:
        url: of the store, absolute, since other processes are in other folders.
        columns: of a frame, side by side.
        shape: clips, frames and bands of all signals. Longer clips are cropped to their start, shorter ones repeated.
        dtype: uint8 for `vggish_released`, else float32.
        parts: files of the store.
        part: [clips, signals], number of the part that has each; -1: no row, whose frames are zeros.
        first: [clips, signals], first row of each in its part.
        lengths: [clips, signals], frames of each there.
    """

    url: str
    columns: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    parts: tuple[Entry, ...]
    part: Places
    first: Places
    lengths: Places

    @property
    def row_bytes(self) -> int:
        """Bytes of a clip."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    @property
    def bands(self) -> int:
        """Bands of one signal."""
        return int(self.shape[2] // self.part.shape[1])

    def take(self, rows: Any) -> StoredFrames:
        """Return some clips (index, mask or slice)."""
        part = self.part[rows]
        shape = (len(part), *self.shape[1:])
        return replace(self, shape=shape, part=part, first=self.first[rows], lengths=self.lengths[rows])

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Read some clips (index, mask or slice) from the store."""
        return self.take(rows).read()

    def read(self) -> npt.NDArray[Any]:
        """Return all frames [clips, frames, bands]."""
        found, bands = np.zeros(self.shape, self.dtype), self.bands
        for clips, signal, values in self.pieces():
            found[clips, :, signal * bands : (signal + 1) * bands] = values
        return found

    def pieces(self) -> Iterator[tuple[Integers, int, npt.NDArray[Any]]]:
        """Yield clips, the number of a signal, and their frames [n, frames, bands]; each part is read once.

        Raises:
            StoreError: the store cannot be read, or a part cannot any more.
        """
        store = FeatureStore(self.url)
        order = np.argsort(self.part, axis=None, kind="stable")
        numbers, starts = np.unique(self.part.ravel()[order], return_index=True)
        wanted = [one for one in zip(numbers, np.split(order, starts[1:]), strict=True) if one[0] >= 0]
        size = max(part.size for part in self.parts)

        def read(one: tuple[np.int32, Integers]) -> list[tuple[Integers, int, npt.NDArray[Any]]]:
            number, cells = one
            part = store.scan_one(self.parts[number], self.columns)
            if not isinstance(part, ScannedPart):
                place = store.filesystem.place(part.entry.path)
                raise StoreError(f"{place}: {part.reason}; see acoustic-env store verify {self.url} --read")
            clip, signal = np.divmod(cells, self.part.shape[1])
            return [(clip[signal == own], own, self._values(part, clip[signal == own], own)) for own in set(signal)]

        for pieces in in_threads(store.filesystem, wanted, read, size):
            yield from pieces

    def _values(self, part: ScannedPart, clips: Integers, signal: int) -> npt.NDArray[Any]:
        """Return the frames [n, frames, bands] of a signal of clips from their part."""
        first = self.first[clips, signal]
        if self.dtype == np.uint8:
            return _released(part.table[self.columns[0]], first, self.shape[1])
        rows = first[:, None] + np.arange(self.shape[1]) % self.lengths[clips, signal][:, None]
        return np.concatenate([np.nan_to_num(as_matrix(part.table[name]))[rows] for name in self.columns], axis=-1)

    def digest(self) -> str:
        """Return the SHA-256 of where clips are read, and of when each part was written."""
        parts = [f"{part.path} {part.size} {part.modified}" for part in self.parts]
        found = hashlib.sha256("\n".join([str(self.shape), self.url, *parts]).encode())
        for places in (self.part, self.first):
            found.update(np.ascontiguousarray(places, "<i4").tobytes())
        return found.hexdigest()


def _released(column: pa.ChunkedArray, rows: Places, frames: int) -> npt.NDArray[np.uint8]:
    """Return frames uint8 [n, frames, 128] of rows of 1 to 10 frames, cropped or repeated."""
    lists = column.combine_chunks()
    starts, lengths = lists.offsets.to_numpy()[rows], pc.list_value_length(lists).to_numpy()[rows]
    flat = lists.values.flatten().to_numpy().reshape(-1, lists.type.value_type.list_size)
    return np.asarray(flat[starts[:, None] + np.arange(frames) % lengths[:, None]])


def find_frames(
    store: FeatureStore, clip_ids: Sequence[str], block: str, versions: Mapping[str, str], frames: int | None = None
) -> tuple[StoredFrames, dict[str, npt.NDArray[np.bool_]]]:
    """Find the frames of clips in the store, from the keys of its parts alone.

    Args:
        store: to read.
        clip_ids: the rows wanted, in order, each once.
        block: a per-frame block, or `vggish_released`, whose clips of less than 10 frames repeat theirs.
        versions: signal -> fingerprint.
        frames: of a clip; None for as many as most have, the most of them where several numbers are as common.

    Returns:
        Where the frames are, and for each signal which clips have a row, bool [n].

    Raises:
        UsageError: the block has no frames, or no row for any clip.
    """
    schema = store.joint_schema(block, versions)
    columns = frame_columns(block, schema)
    released = IMPORTED.get(block)
    keys = [name for name in ROW_KEYS if name in schema.names]
    parts: list[Entry] = []
    owners: list[pa.ChunkedArray] = []
    places: list[Integers] = []  # part, first row, frames and signal
    for version in dict.fromkeys(versions.values()):
        own = pa.array([signal if versions[signal] == version else None for signal in versions], pa.string())
        for part in store.scan(block, version, keys):
            if not isinstance(part, ScannedPart):
                continue
            rows = part.table.num_rows
            first = np.arange(rows) if released else np.flatnonzero(part.table["frame"].to_numpy() == 0)
            lengths = np.full(rows, released.FRAMES) if released else np.diff(np.append(first, rows))
            table = part.table.take(pa.array(first))
            signal = pc.fill_null(pc.index_in(table["signal"], value_set=own), -1).to_numpy()
            owners.append(table["clip_id"])
            places.append(np.stack([np.full(len(first), len(parts)), first, lengths, signal]))
            parts.append(part.entry)
    number, first, lengths, signal = np.concatenate([np.empty((4, 0), np.int64), *places], axis=1)
    clip = pc.index_in(pa.chunked_array([c for o in owners for c in o.chunks], pa.string()), pa.array(clip_ids))
    clip = pc.fill_null(clip, -1).to_numpy()
    kept = (clip >= 0) & (signal >= 0)
    if not kept.any():
        raise UsageError(f"block {block} has no row for any of the {len(clip_ids):,} clips; extract it")
    counts = np.bincount(lengths[kept])
    most_common = len(counts) - 1 - int(counts[::-1].argmax())
    where = np.full((len(clip_ids), len(versions)), -1, np.int32)
    starts, own_lengths = np.zeros_like(where), np.ones_like(where)
    for array, values in ((where, number), (starts, first), (own_lengths, lengths)):
        array[clip[kept], signal[kept]] = values[kept]
    bands = released.SIZE if released else sum(_size(schema.field(name).type) for name in columns)
    found = StoredFrames(
        url=_absolute(store.url),
        columns=columns,
        shape=(len(clip_ids), frames or most_common, bands * len(versions)),
        dtype=np.dtype(np.uint8 if released else np.float32),
        parts=tuple(parts),
        part=where,
        first=starts,
        lengths=own_lengths,
    )
    return found, dict(zip(versions, (where >= 0).T, strict=True))


def _absolute(url: str) -> str:
    path = local_path(url)
    return url if path is None else str(path.resolve())


def frames_block(block: str) -> str:
    """Return the block with the frames of a block.

    >>> frames_block("logmel"), frames_block("yamnet_frames"), frames_block("vggish_released")
    ('logmel_frames', 'yamnet_frames', 'vggish_released')
    """
    return block if block in IMPORTED or block.endswith("_frames") else f"{block}_frames"


def frame_columns(block: str, schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns of a frame: all features of a block, of `vggish_released` its frames.

    Raises:
        UsageError: it has none.

    >>> schema = pa.schema({"clip_id": pa.string(), "frame": pa.int32(), "logmel": pa.list_(pa.float32(), 64)})
    >>> frame_columns("logmel_frames", schema)
    ('logmel',)
    """
    if block in IMPORTED:
        return ("frames",)
    if "frame" not in schema.names:
        msg = f"block {block} has no frames; a network on sequences takes a block NAME_frames or vggish_released"
        raise UsageError(msg)
    return tuple(name for name in schema.names if name not in NOT_FEATURES)


def _size(kind: pa.DataType) -> int:
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 1
