"""Sequences of frames, one a clip, read from the store once and then from a file of this machine in any order.

Rows of a per-frame table, or of the column `frames` of `vggish_released`, become an array [clips, frames, bands]. Small
ones stay in memory; large ones lie in a temporary file, from which a batch reads its own rows only, so memory does not
grow with the number of clips.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.features import vggish_released
from acoustic_env.store.feature_store import FeatureStore

GIB: Final = 1 << 30
IN_MEMORY: Final = GIB  # bytes; larger arrays go to a file
SPARE_DISK: Final = GIB
DIGEST_ROWS: Final = 256


class Sequences:
    """An array [clips, frames, bands] whose rows are read when they are asked for.

    Args:
        shape: clips, frames and bands of what is stored.
        dtype: of what is stored; uint8 frames are those of `vggish_released` and are dequantized when read.
        in_memory: largest array, in bytes, that is not put into a file.

    >>> clips = Sequences.of(np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    >>> clips[np.array([1])].load().tolist()
    [[[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]]
    """

    def __init__(self, shape: tuple[int, int, int], dtype: npt.DTypeLike, in_memory: int = IN_MEMORY) -> None:
        self.dtype = np.dtype(dtype)
        self._stored = shape
        self._row_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize
        self._rows = np.arange(shape[0])
        self._array: npt.NDArray[Any] | None = None
        self._file: IO[bytes] | None = None
        size = shape[0] * self._row_bytes
        if size <= in_memory:
            self._array = np.zeros(shape, self.dtype)
            return
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free - SPARE_DISK
        if size > free:
            msg = (
                f"{folder}: {size / GIB:.1f} GiB of frames need a temporary file, {free / GIB:.1f} GiB are free; "
                "name a larger disk with the variable TMPDIR"
            )
            raise UsageError(msg)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the object and its views
        os.truncate(self._file.fileno(), size)

    @classmethod
    def of(cls, array: Any) -> Sequences:
        """Return sequences as they are, or the rows of an array [clips, frames, bands] in memory.

        Raises:
            ValueError: an array of another shape.
        """
        if isinstance(array, Sequences):
            return array
        array = np.asarray(array)
        if array.ndim != 3:
            msg = f"expected sequences [clips, frames, bands], found an array of shape {array.shape}"
            raise ValueError(msg)
        made = cls((0, *array.shape[1:]), array.dtype)
        made._stored, made._array, made._rows = array.shape, array, np.arange(len(array))
        return made

    @property
    def shape(self) -> tuple[int, int, int]:
        """Clips, frames and bands."""
        return (len(self._rows), *self._stored[1:])

    @property
    def ndim(self) -> int:
        """Three axes."""
        return 3

    @property
    def in_file(self) -> bool:
        """Whether the rows are in a file of this machine rather than in memory."""
        return self._file is not None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> Sequences:
        """Return some rows (index, mask or slice) without reading them."""
        view = object.__new__(Sequences)
        view.__dict__.update(self.__dict__)
        view._rows = self._rows[rows]
        return view

    def store(self, rows: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Store whole clips.

        Args:
            rows: [n] where.
            values: [n, frames, bands].
        """
        if self._array is not None:
            self._array[rows] = values
            return
        assert self._file is not None
        for row, value in zip(rows.tolist(), np.ascontiguousarray(values, self.dtype), strict=True):
            os.pwrite(self._file.fileno(), value.tobytes(), row * self._row_bytes)

    def stored(self, rows: Any) -> npt.NDArray[Any]:
        """Read rows as they are stored [n, frames, bands]."""
        wanted = self._rows[rows]
        if self._array is not None:
            found: npt.NDArray[Any] = self._array[wanted]
            return found
        assert self._file is not None
        descriptor, size = self._file.fileno(), self._row_bytes
        data = b"".join(os.pread(descriptor, size, row * size) for row in wanted.tolist())
        return np.frombuffer(bytearray(data), self.dtype).reshape(len(wanted), *self._stored[1:])

    def load(self, rows: Any = slice(None)) -> npt.NDArray[np.float32]:
        """Read rows as float32 [n, frames, bands]."""
        found = self.stored(rows)
        if self.dtype == np.uint8:
            return found * np.float32(vggish_released.STEP) + np.float32(vggish_released.LOWEST)
        return found.astype(np.float32)

    def digest(self) -> bytes:
        """Return the SHA-256 of all rows in their order, read a few at a time."""
        found = hashlib.sha256()
        for start in range(0, len(self), DIGEST_ROWS):
            found.update(self.stored(slice(start, start + DIGEST_ROWS)).tobytes())
        return found.digest()


def load_sequences(
    store: FeatureStore, clip_ids: Sequence[str], block: str, versions: Mapping[str, str]
) -> tuple[Sequences, dict[str, npt.NDArray[np.bool_]]]:
    """Read the frames of clips from the store, part by part; signals side by side, as further bands.

    Args:
        store: to read.
        clip_ids: the rows wanted, in order, each once.
        block: a per-frame block, or `vggish_released`, whose clips of less than 10 frames repeat theirs.
        versions: signal -> fingerprint.

    Returns:
        The sequences, and for each signal which clips have a row, bool [n].

    Raises:
        UsageError: the block has no frames, or clips of differing numbers of frames.
    """
    ids = pa.array(clip_ids, pa.string())
    schema = store.joint_schema(block, versions)
    column = frames_column(block, schema)
    released = pa.types.is_list(schema.field(column).type)
    keys = ["clip_id", "signal", *(() if released else ("frame",))]
    wanted = pa.schema([schema.field(name) for name in (*keys, column)])
    signals = list(versions)
    found = {signal: np.zeros(len(ids), np.bool_) for signal in signals}
    made: Sequences | None = None
    for table in store.pieces(block, versions, wanted, ids):
        for signal in signals:
            rows = table.filter(pc.equal(table["signal"], signal)).combine_chunks()
            if not rows.num_rows:
                continue
            values, owners = _released_clips(rows, column) if released else _computed_clips(rows, column, block)
            if made is None:
                bands = values.shape[2]
                made = Sequences((len(ids), values.shape[1], bands * len(signals)), values.dtype)
            elif values.shape[1] != made.shape[1]:
                raise _differing(block, made.shape[1], values.shape[1])
            place = pc.index_in(owners, value_set=ids).to_numpy()
            _place(made, place, values, signals.index(signal), len(signals))
            found[signal][place] = True
    if made is None:
        msg = f"block {block} has no row for any of the {len(ids):,} clips; extract it"
        raise UsageError(msg)
    return made, found


def frames_block(block: str) -> str:
    """Return the block with the frames of a block.

    >>> frames_block("logmel"), frames_block("yamnet_frames"), frames_block("vggish_released")
    ('logmel_frames', 'yamnet_frames', 'vggish_released')
    """
    return block if block == vggish_released.NAME or block.endswith("_frames") else f"{block}_frames"


def frames_column(block: str, schema: pa.Schema) -> str:
    """Return the vector column of the frames of a block.

    Raises:
        UsageError: it has none.
    """
    if block == vggish_released.NAME:
        return "frames"
    if "frame" in schema.names:
        for field in schema:
            if pa.types.is_fixed_size_list(field.type):
                return str(field.name)
    msg = f"block {block} has no frames; a network on sequences takes a block NAME_frames or vggish_released"
    raise UsageError(msg)


def _released_clips(rows: pa.Table, column: str) -> tuple[npt.NDArray[Any], pa.Array]:
    """Frames uint8 [clips, 10, 128] of clips of 1 to 10 frames, repeated to 10, and their ids."""
    lists = rows[column].combine_chunks()
    starts, lengths = lists.offsets.to_numpy()[:-1], pc.list_value_length(lists).to_numpy()
    flat = lists.values.flatten().to_numpy().reshape(-1, vggish_released.SIZE)
    order = starts[:, None] + np.arange(10) % lengths[:, None]
    return flat[order], rows["clip_id"].combine_chunks()


def _computed_clips(rows: pa.Table, column: str, block: str) -> tuple[npt.NDArray[Any], pa.Array]:
    """Frames float32 [clips, frames, bands] and their ids."""
    starts = np.flatnonzero(rows["frame"].to_numpy() == 0)
    lengths = np.diff(np.append(starts, rows.num_rows))
    if (lengths != lengths[0]).any():
        raise _differing(block, int(lengths.min()), int(lengths.max()))
    vectors = rows[column].combine_chunks()
    bands = vectors.type.list_size
    flat = pc.fill_null(vectors, pa.scalar([0.0] * bands, vectors.type)) if vectors.null_count else vectors
    values = flat.flatten().to_numpy().reshape(len(starts), int(lengths[0]), bands)
    return values, rows["clip_id"].take(pa.array(starts)).combine_chunks()


def _place(
    made: Sequences,
    place: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    position: int,
    signals: int,
) -> None:
    """Store the bands of one signal beside those of the others."""
    if signals == 1:
        made.store(place, values)
        return
    bands = values.shape[2]
    whole = made.stored(place)
    whole[:, :, position * bands : (position + 1) * bands] = values
    made.store(place, whole)


def _differing(block: str, fewest: int, most: int) -> UsageError:
    return UsageError(
        f"block {block}: clips have from {fewest} to {most} frames; give the block `seconds` in the recipe, so that "
        "all have as many, and extract it"
    )
