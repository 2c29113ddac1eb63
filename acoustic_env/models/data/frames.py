"""Sequences of frames, one a clip: small sets in memory, larger ones streamed from the store in shuffled batches.

A streamed epoch visits the parts of the store in random order, dealt out to 12 lanes; each batch takes the same share
of every lane, and a lane shuffles its clips within a window (`Sequences.shuffle`). The order follows from the seed, the
epoch and the store alone. A worker reads the clips of its share of each batch, hence the parts of its own lanes. So
every number of workers takes the same steps, and memory is that of the windows.

Ray Data's `streaming_split` deals out blocks as workers ask for them: neither batches nor a resumed run could be
repeated. Hence this order of our own, read the same way in this process and in Ray Train's workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.features import vggish_released
from acoustic_env.models.data.stored_frames import Integers, StoredFrames, find_frames
from acoustic_env.store.feature_store import FeatureStore

if TYPE_CHECKING:
    from acoustic_env.models.data.cut import Cut

IN_MEMORY: Final = 1 << 30  # bytes; larger sets are streamed
WINDOW: Final = 128 << 20  # bytes that a streamed epoch is shuffled within
LANES: Final = 12  # of an epoch: a part is read by one worker alone where 1, 2, 3, 4, 6 or 12 divide the batches
PIECE: Final = 1 << 24  # bytes


class Sequences:
    """Frames of clips [clips, frames, bands] that are read when they are asked for.

    Args:
        source: an array, or where the frames are in a store. uint8 frames are those of `vggish_released` and are
            dequantized when read.
        in_memory: largest set, in bytes, that `hold` puts into memory.

    >>> clips = Sequences(np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    >>> clips[np.array([1])].load().tolist()
    [[[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]]
    """

    ndim: Final = 3
    cut: Cut | None = None  # how a network cuts the clips into windows
    refitted: int = 0  # clips of the list that were cropped or repeated

    def __init__(self, source: npt.NDArray[Any] | StoredFrames, in_memory: int = IN_MEMORY) -> None:
        self.source = source
        self.in_memory = in_memory
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
        if size > first.in_memory:
            raise UsageError(
                f"frames of clips and variants take {size / (1 << 30):.1f} GiB, which do not fit into memory; "
                "leave `variants` out of the recipe, or augment in training (`model: augment`)"
            )
        made = cls(np.concatenate([part.stored() for part in parts]), first.in_memory)
        made.cut = first.cut
        return made

    @property
    def shape(self) -> tuple[int, int, int]:
        """Clips, frames and bands."""
        return (len(self._rows), self.source.shape[1], self.source.shape[2])

    @property
    def streamed(self) -> bool:
        """Whether the rows are in a store rather than in memory."""
        return isinstance(self.source, StoredFrames)

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
        view, (clips, there, bands) = self[:], self.source.shape
        if isinstance(self.source, StoredFrames):
            view.source = replace(self.source, shape=(clips, frames, bands))
        elif frames != there:
            view.source = self.source[:, np.arange(frames) % there]
        return view

    def hold(self) -> Sequences:
        """Return the rows in memory where they fit there."""
        if isinstance(self.source, StoredFrames) and len(self) * self.source.row_bytes <= self.in_memory:
            held = Sequences(self.stored(), self.in_memory)
            held.cut = self.cut
            return held
        return self

    def shuffle(self, rows: Integers, rng: np.random.Generator) -> Integers:
        """Return rows of an epoch in an order to train on in which those near each other are near in the store.

        Args:
            rows: shuffled; one may come several times.
            rng: of the epoch.

        Returns:
            The same rows: in memory as given; streamed with every 12th from the same lane, where a clip is moved at
            most half a window.
        """
        if not isinstance(self.source, StoredFrames):
            return rows
        turn = rng.permutation(len(self.source.units))
        rows = rows[np.argsort(turn[self.source.unit[self._rows[rows]]], kind="stable")]
        found = np.empty_like(rows)
        for number, lane in enumerate(np.array_split(rows, LANES)):
            window = min(len(lane), WINDOW // self.source.row_bytes // LANES)
            center = np.clip(np.arange(len(lane)), window / 2, len(lane) - window / 2)
            found[number::LANES] = lane[np.argsort(center + window * (rng.random(len(lane)) - 0.5))]
        return found

    def reading_order(self) -> Integers:
        """Return all rows in the order in which they are read best."""
        if not isinstance(self.source, StoredFrames):
            return np.arange(len(self))
        return np.argsort(self.source.unit[self._rows], kind="stable")

    def batches(self, batches: Sequence[Integers]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the rows of each batch as float32 [n, frames, bands]; a part of the store stays while it is needed."""
        for found in self._stored(batches):
            if found.dtype == np.uint8:
                yield found * np.float32(vggish_released.STEP) + np.float32(vggish_released.LOWEST)
            else:
                yield found.astype(np.float32, copy=False)

    def _stored(self, batches: Sequence[Integers]) -> Iterator[npt.NDArray[Any]]:
        if isinstance(self.source, StoredFrames):
            yield from _streamed(self.source, [self._rows[rows] for rows in batches])
            return
        for rows in batches:
            yield self.source[self._rows[rows]]

    def load(self, rows: Any = slice(None)) -> npt.NDArray[np.float32]:
        """Read rows at once as float32 [n, frames, bands]."""
        return next(self.batches([np.arange(len(self))[rows]]))

    def stored(self) -> npt.NDArray[Any]:
        """Read all rows as they are stored [n, frames, bands]."""
        if not isinstance(self.source, StoredFrames):
            return self.source[self._rows]
        found = np.empty(self.shape, self.source.dtype)
        order, step = self.reading_order(), max(1, PIECE // self.source.row_bytes)
        pieces = [order[start : start + step] for start in range(0, len(order), step)]
        for rows, values in zip(pieces, self._stored(pieces), strict=True):
            found[rows] = values
        return found

    def digest(self) -> bytes:
        """Return the SHA-256 of all rows in their order, of streamed ones that of where they are read."""
        if isinstance(self.source, StoredFrames):
            return self.source.digest(self._rows)
        found = hashlib.sha256()
        for row in self._rows:
            found.update(self.source[row].tobytes())
        return found.digest()


def _streamed(source: StoredFrames, batches: Sequence[Integers]) -> Iterator[npt.NDArray[Any]]:
    """Yield the clips of each batch; those of a unit are read once, before the first is needed, until the last was."""
    sizes = [len(clips) for clips in batches]
    clips = np.concatenate([np.empty(0, np.int64), *batches])
    unit = source.unit[clips].astype(np.int64)
    distinct, number = np.unique(unit * source.shape[0] + clips, return_inverse=True)  # by unit, then by clip
    owner, wanted = np.divmod(distinct, source.shape[0])
    units, first_use, uses = np.unique(unit, return_index=True, return_counts=True)
    starts = np.searchsorted(owner, units)
    ends = np.append(starts[1:], len(owner))
    unit = np.searchsorted(units, unit)
    place = number - starts[unit]
    order = np.argsort(first_use)
    coming = source.stream([(int(units[one]), wanted[starts[one] : ends[one]]) for one in order])
    held: dict[int, npt.NDArray[Any]] = {}
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        found = np.empty((size, *source.shape[1:]), source.dtype)
        now = slice(start, start + size)
        for row, (one, at) in enumerate(zip(unit[now].tolist(), place[now].tolist(), strict=True)):
            if one not in held:
                held[one] = next(coming)
            found[row] = held[one][at]
            uses[one] -= 1
            if not uses[one]:
                del held[one]
        yield found


def load_sequences(
    store: FeatureStore,
    clip_ids: Sequence[str],
    block: str,
    versions: Mapping[str, str],
    in_memory: int = IN_MEMORY,
    frames: int | None = None,
) -> tuple[Sequences, dict[str, npt.NDArray[np.bool_]]]:
    """Return the frames of clips, in memory where they fit there, else to be streamed from the store.

    Args:
        store: to read.
        clip_ids: the rows wanted, in order, each once.
        block: a per-frame block, or `vggish_released`, whose clips of less than 10 frames repeat theirs.
        versions: signal -> fingerprint; signals side by side, as further bands. Signals that lie in parts of other
            clips are read in pieces, which is slower.
        in_memory: largest set, in bytes, that is put into memory.
        frames: of a clip, as for `find_frames`.

    Returns:
        The sequences, and for each signal which clips have a row, bool [n].

    Raises:
        UsageError: the block has no frames, or no row for any clip.
    """
    stored, found = find_frames(store, clip_ids, block, versions, frames)
    made = Sequences(stored, in_memory).hold()
    made.refitted = int(((stored.lengths != stored.shape[1]) & np.stack([*found.values()], axis=1)).any(axis=1).sum())
    return made, found
