"""Sequences of frames, one a clip: in memory where they fit there, else on this machine's disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt
import psutil

from acoustic_env.errors import UsageError
from acoustic_env.features.vggish_released import dequantized
from acoustic_env.memory import available_memory
from acoustic_env.models.data.spooled_frames import SpooledFrames
from acoustic_env.models.data.stored_frames import Integers, StoredFrames, find_frames
from acoustic_env.store.feature_store import FeatureStore

if TYPE_CHECKING:
    from acoustic_env.models.data.cut import Cut

MEMORY_SHARE: Final = 0.25  # of what is available, for the frames of a study
PIECE: Final = 1 << 24  # bytes


def memory_for_frames() -> int:
    """Return how many bytes of frames are put into memory here."""
    return int(MEMORY_SHARE * available_memory(psutil.virtual_memory().available))


class Sequences:
    """Frames of clips [clips, frames, bands] that are read when they are asked for.

    Args:
        source: an array, or frames on disk or still in a store. uint8 frames are those of `vggish_released` and are
            dequantized when read.

    >>> clips = Sequences(np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    >>> clips[np.array([1])].load().tolist()
    [[[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]]
    """

    ndim: Final = 3
    cut: Cut | None = None  # how a network cuts the clips into windows
    _of: Integers | None = None  # frames of the source that a row has
    refitted: int = 0  # clips of the list that were cropped or repeated

    def __init__(self, source: npt.NDArray[Any] | SpooledFrames | StoredFrames) -> None:
        self.source = source
        self._rows: Integers = np.arange(source.shape[0])

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
            raise ValueError(f"expected sequences [clips, frames, bands], found an array of shape {array.shape}")
        return cls(array)

    @classmethod
    def joined(cls, parts: Sequence[Sequences]) -> Sequences:
        """Return sequences one after the other, in memory.

        Raises:
            UsageError: they do not fit into memory.
        """
        first = parts[0]
        size = sum(len(part) for part in parts) * int(np.prod(first.shape[1:])) * first.source.dtype.itemsize
        if size > memory_for_frames():
            raise UsageError(
                f"frames of clips and variants take {size / (1 << 30):.1f} GiB, which do not fit into memory; "
                "leave `variants` out of the recipe, or augment in training (`model: augment`)"
            )
        made = cls(np.concatenate([part._stored(slice(None)) for part in parts]))
        made.cut = first.cut
        return made

    @property
    def shape(self) -> tuple[int, int, int]:
        """Clips, frames and bands."""
        _, frames, bands = self.source.shape
        return (len(self._rows), frames if self._of is None else len(self._of), bands)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> Self:
        """Return some rows (index, mask or slice) without reading them."""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._rows = self._rows[rows]
        return view

    def of_frames(self, frames: int) -> Self:
        """Return the clips with so many frames: longer ones cropped to their start, shorter ones repeated.

        >>> clips = Sequences(np.arange(6, dtype=np.float32).reshape(2, 3, 1))
        >>> clips.of_frames(5).load()[0, :, 0].tolist(), clips.of_frames(2).load()[1, :, 0].tolist()
        ([0.0, 1.0, 2.0, 0.0, 1.0], [3.0, 4.0])
        """
        view = self[:]
        view._of = None if frames == self.source.shape[1] else np.arange(frames) % self.source.shape[1]
        return view

    def held(self) -> Self:
        """Return the rows with what is still in the store read into memory."""
        view = self[:]
        if isinstance(self.source, StoredFrames):
            view.source, view._rows = self.source.take(self._rows).read(), np.arange(len(self))
        return view

    def batches(self, batches: Sequence[Integers]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the rows of each batch as float32 [n, frames, bands]."""
        for rows in batches:
            found = self._stored(rows)
            yield dequantized(found) if found.dtype == np.uint8 else found.astype(np.float32, copy=False)

    def _stored(self, rows: Any) -> npt.NDArray[Any]:
        """Return some rows as they are stored."""
        found = self.source[self._rows[rows]]
        return found if self._of is None else found[:, self._of]

    def load(self, rows: Any = slice(None)) -> npt.NDArray[np.float32]:
        """Read rows at once as float32 [n, frames, bands]."""
        return next(self.batches([np.arange(len(self))[rows]]))

    def digest(self) -> bytes:
        """Return the SHA-256 of all rows in their order, as they are stored."""
        found, step = hashlib.sha256(), max(1, PIECE // (math.prod(self.source.shape[1:]) * self.source.dtype.itemsize))
        for start in range(0, len(self), step):
            found.update(self._stored(slice(start, start + step)).tobytes())
        return found.digest()


def load_sequences(
    store: FeatureStore,
    clip_ids: Sequence[str],
    block: str,
    versions: Mapping[str, str],
    frames: int | None = None,
    *,
    unread: bool = False,
) -> tuple[Sequences, dict[str, npt.NDArray[np.bool_]]]:
    """Return the frames of clips, in memory where they fit there, else to be put on this machine's disk.

    Args:
        store: to read.
        clip_ids: the rows wanted, in order, each once.
        block: a per-frame block, or `vggish_released`, whose clips of less than 10 frames repeat theirs.
        versions: signal -> fingerprint; signals side by side, as further bands.
        frames: of a clip, as for `find_frames`.
        unread: leave them in the store, for who takes some rows at a time and has them `held`.

    Returns:
        The sequences, and for each signal which clips have a row, bool [n].

    Raises:
        UsageError: the block has no frames, or no row for any clip.
    """
    stored, found = find_frames(store, clip_ids, block, versions, frames)
    if unread:
        made = Sequences(stored)
    elif len(clip_ids) * stored.row_bytes <= memory_for_frames():
        made = Sequences(stored.read())
    else:
        made = Sequences(SpooledFrames(stored))
    made.refitted = int(((stored.lengths != stored.shape[1]) & np.stack([*found.values()], axis=1)).any(axis=1).sum())
    return made, found
