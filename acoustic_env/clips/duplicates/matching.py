"""Which clips share a stretch of sound, from their signatures: candidates and their confirmation.

Everything here works on arrays that hold all clips end to end, and its cost grows with their number:

1. candidates: a clip looks its landmark frames up, with their least certain bits flipped both ways, in a table of all
   frames addressed by their 24 bits. Of a crowded entry (noise, hum) only `CROWD` frames are read, and of a clip that
   meets many others only the nearest are looked at;
2. bits: a candidate pair keeps the lag at which the fewest bits differ, if that is less than `MOST_BITS_APART`;
3. confirmation: the log band energies at that lag, band means and frame means removed, correlate by `CORRELATION` or
   more. Two clips of one class and one loudness curve do not; the same noise does, because its every ripple repeats.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.clips.duplicates.signature import BITS

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

GAP: Final = 16  # silent frames after each clip, so that a look `GAP` frames away never meets another clip
LEAST_OVERLAP: Final = 31  # audible frames both clips must share: 1 s
MOST_BITS_APART: Final = 0.40  # share of differing bits; 0.5 is chance
CORRELATION: Final = 0.40
CROWD: Final = 32
MOST_MET: Final = 64  # lags kept for each clip: bounds what a hum that thousands of clips share may cost
MOST_CONFIRMED: Final = 24  # pairs of each clip, the nearest first; a larger set hangs together through others

_MOST_APART_NEAR: Final = 15 / 48  # share of differing bits half a second before and after a hit
_QUERY_CLIPS: Final = 128  # clips looked up at once
_CHUNK_FRAMES: Final = 1 << 20  # frames compared at once


@dataclass(frozen=True)
class Signatures:
    """Signatures of all clips, end to end with `GAP` silent frames after each."""

    starts: Ints  # int64 [clips], first frame of each clip
    lengths: Ints  # int64 [clips], frames
    bits: npt.NDArray[np.uint32]  # uint32 [all frames]
    audible: Bools  # bool [all frames]
    levels: npt.NDArray[np.uint8]  # uint8 [all frames, bands], log band energies; may lie on the disk (numpy.memmap)
    landmarks: Ints  # int64 [landmarks], frames worth looking up, ascending
    weakest: npt.NDArray[np.uint8]  # uint8 [landmarks, probes], positions of their least certain bits
    exact: Sequence[bytes] = ()  # [clips], digests
    scaled: Sequence[bytes] = ()

    def clip_of(self, frames: Ints) -> Ints:
        """Return the clip of each frame number."""
        return np.searchsorted(self.starts, frames, side="right") - 1


@dataclass(frozen=True)
class Pairs:
    """Pairs of clips, [n] each."""

    first: Ints  # clip numbers, first < second
    second: Ints
    lag: Ints | npt.NDArray[np.float64]  # frame of the first at which the second begins; between frames once confirmed
    value: Floats  # share of differing bits of candidates, correlation of confirmed pairs

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Ints | Bools) -> Pairs:
        """Return the pairs of some rows."""
        return Pairs(self.first[rows], self.second[rows], self.lag[rows], self.value[rows])


def candidates(signatures: Signatures) -> Pairs:
    """Find pairs whose frames meet in the table, each at its best lag, under `MOST_BITS_APART` of the bits apart."""
    table = _Table(signatures)
    bounds = np.searchsorted(signatures.landmarks, signatures.starts[::_QUERY_CLIPS])
    found = []
    for low, high in itertools.pairwise([*bounds.tolist(), len(signatures.landmarks)]):
        query, met = table.hits(low, high)
        near = _alike_around(signatures, query, met)
        found.append(_met_most(signatures, query[near], met[near]))
    keys = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 3), np.int64)
    pairs = Pairs(keys[:, 0], keys[:, 1], keys[:, 2], np.zeros(len(keys), np.float32))
    return _nearest(_best(_at_best_lag(signatures, pairs), MOST_BITS_APART))


def confirm(signatures: Signatures, pairs: Pairs, threshold: float = CORRELATION) -> Pairs:
    """Return the pairs whose log band energies correlate by `threshold` or more.

    Band means are removed (any two clips of rain have one spectrum) and frame means (any two barks rise and fall).

    Returns:
        Pairs whose `value` is the correlation at the better of the lag and its neighbors, and whose `lag` is the
        place of its maximum between frames, by a parabola through three lags (float64 in place of whole frames).
    """
    lag = pairs.lag.astype(np.float64)
    value = np.zeros(len(pairs), np.float32)
    for row, (one, other, at) in enumerate(
        zip(pairs.first.tolist(), pairs.second.tolist(), pairs.lag.tolist(), strict=True)
    ):
        if correlation(signatures, one, other, at) < threshold / 2.0:
            continue
        near = [correlation(signatures, one, other, at + step) for step in (-2, -1, 0, 1, 2)]
        best = max((1, 2, 3), key=lambda place: near[place])
        left, middle, right = near[best - 1 : best + 2]
        bend = left - 2.0 * middle + right
        value[row] = middle
        lag[row] += best - 2 + (0.5 * (left - right) / bend if bend < 0.0 else 0.0)
    return Pairs(pairs.first, pairs.second, lag, value).take(value >= threshold)


def correlation(signatures: Signatures, first: int, second: int, lag: int) -> float:
    """Correlate the doubly centered log band energies of two clips at a lag, over frames audible in both."""
    a, b = _overlap(signatures, first, second, lag)
    both = signatures.audible[a] & signatures.audible[b]
    if both.sum() < LEAST_OVERLAP:
        return 0.0
    one, other = (_centered(signatures.levels[part][both]) for part in (a, b))
    norm = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum()) / norm if norm > 0.0 else 0.0


class _Table:
    """Audible frames by their bits."""

    def __init__(self, signatures: Signatures) -> None:
        self.signatures = signatures
        frames = np.flatnonzero(signatures.audible)
        bits = signatures.bits[frames]
        number = np.int32 if len(signatures.bits) < 1 << 31 else np.int64
        self.frames = frames[np.argsort(bits, kind="stable")].astype(number)
        self.begins = np.zeros((1 << BITS) + 1, np.int64)
        np.cumsum(np.bincount(bits, minlength=1 << BITS), out=self.begins[1:])

    def hits(self, low: int, high: int) -> tuple[Ints, Ints]:
        """Return the frames (query, met) of the landmarks low to high with every frame their probes meet."""
        queries = self.signatures.landmarks[low:high]
        probes = _probes(self.signatures.bits[queries], self.signatures.weakest[low:high])
        begin, end = self.begins[probes], self.begins[probes + 1]
        size = end - begin
        taken = np.minimum(size, CROWD)
        # Of a crowded entry each query reads another stretch, so that chains still link a large set of duplicates.
        crowded = size > CROWD
        spread = (probes.astype(np.uint64) * np.uint64(2654435761) + queries[:, None].astype(np.uint64)) % (
            np.maximum(size - taken, 1).astype(np.uint64)
        )
        begin = begin + np.where(crowded, spread.astype(np.int64), 0)
        total = taken.ravel()
        within = np.arange(total.sum()) - np.repeat(np.cumsum(total) - total, total)
        met = self.frames[np.repeat(begin.ravel(), total) + within].astype(np.int64)
        query = np.repeat(np.repeat(queries, probes.shape[1]), total)
        return query, met


def _probes(bits: npt.NDArray[np.uint32], weakest: npt.NDArray[np.uint8]) -> Ints:
    """[n, 2^probes] the bits with every combination of their weakest ones flipped."""
    count = weakest.shape[1]
    flips = np.zeros((len(bits), 1 << count), np.uint32)
    for probe in range(count):
        mask = np.uint32(1) << weakest[:, probe].astype(np.uint32)
        flips[:, 1 << probe : 2 << probe] = flips[:, : 1 << probe] ^ mask[:, None]
    return (bits[:, None] ^ flips).astype(np.int64)


def _alike_around(signatures: Signatures, query: Ints, met: Ints) -> Bools:
    """Return whether the frames half a second before and after a hit match, too, unlike a chance hit's."""
    compared = np.zeros(len(query), np.int64)
    apart = np.zeros(len(query), np.int64)
    last = len(signatures.bits) - 1
    for step in (-GAP, GAP):
        one, other = np.clip(query + step, 0, last), np.clip(met + step, 0, last)
        both = signatures.audible[one] & signatures.audible[other]
        compared += both
        apart += np.where(both, np.bitwise_count(signatures.bits[one] ^ signatures.bits[other]), 0)
    return (compared > 0) & (apart <= _MOST_APART_NEAR * BITS * compared)


def _met_most(signatures: Signatures, query: Ints, met: Ints) -> Ints:
    """[n, 3] (first, second, lag), first < second, of the `MOST_MET` places each clip's landmarks met most often."""
    a, b = signatures.clip_of(query), signatures.clip_of(met)
    other = a != b
    a, b, query, met = a[other], b[other], query[other], met[other]
    lag = (query - signatures.starts[a]) - (met - signatures.starts[b])
    keys, times = np.unique(np.stack([a, b, lag], axis=1), axis=0, return_counts=True)
    keys = keys[np.lexsort((-times, keys[:, 0]))]
    a, b, lag = keys[_place_within(keys[:, 0]) < MOST_MET].T
    swap = a > b
    return np.stack([np.where(swap, b, a), np.where(swap, a, b), np.where(swap, -lag, lag)], axis=1)


def _nearest(pairs: Pairs) -> Pairs:
    """Return the pairs that are among the `MOST_CONFIRMED` nearest of either clip."""
    kept = np.zeros(len(pairs), np.bool_)
    for side in (pairs.first, pairs.second):
        order = np.lexsort((pairs.value, side))
        kept[order[_place_within(side[order]) < MOST_CONFIRMED]] = True
    return pairs.take(kept)


def _place_within(ordered: Ints) -> Ints:
    """0, 1, 2, ... within each run of equal values."""
    return np.arange(len(ordered)) - np.searchsorted(ordered, ordered)


def _overlap(signatures: Signatures, first: int, second: int, lag: int) -> tuple[slice, slice]:
    """Return the frames of two clips that coincide when the second starts at frame `lag` of the first."""
    begin_a, begin_b = max(0, lag), max(0, -lag)
    length = max(0, min(int(signatures.lengths[first]) - begin_a, int(signatures.lengths[second]) - begin_b))
    a, b = int(signatures.starts[first]) + begin_a, int(signatures.starts[second]) + begin_b
    return slice(a, a + length), slice(b, b + length)


def _at_best_lag(signatures: Signatures, pairs: Pairs) -> Pairs:
    """Move each pair to its lag or the one beside it where fewer bits differ; `value` is their share."""
    steps = np.array([0, -1, 1])
    apart = np.stack([_bits_apart(signatures, pairs, step) for step in steps.tolist()])
    return Pairs(pairs.first, pairs.second, pairs.lag + steps[apart.argmin(axis=0)], apart.min(axis=0))


def _bits_apart(signatures: Signatures, pairs: Pairs, step: int) -> Floats:
    """Compute the share of differing bits over the audible overlap at lag + step, 1 where the overlap is too short."""
    found = [np.zeros(0, np.float32)]
    size = max(1, _CHUNK_FRAMES // int(signatures.lengths.max(initial=1)))
    for at in range(0, len(pairs), size):
        some = pairs.take(np.arange(at, min(at + size, len(pairs))))
        lag = some.lag + step
        begin_a, begin_b = np.maximum(0, lag), np.maximum(0, -lag)
        length = np.minimum(signatures.lengths[some.first] - begin_a, signatures.lengths[some.second] - begin_b)
        within = np.arange(max(int(length.max(initial=0)), 1))
        inside = within[None, :] < length[:, None]
        a = np.where(inside, (signatures.starts[some.first] + begin_a)[:, None] + within, 0)
        b = np.where(inside, (signatures.starts[some.second] + begin_b)[:, None] + within, 0)
        both = inside & signatures.audible[a] & signatures.audible[b]
        apart = np.where(both, np.bitwise_count(signatures.bits[a] ^ signatures.bits[b]), 0).sum(axis=1)
        frames = both.sum(axis=1)
        found.append(np.where(frames >= LEAST_OVERLAP, apart / np.maximum(frames * BITS, 1), 1.0).astype(np.float32))
    return np.concatenate(found)


def _best(pairs: Pairs, most: float) -> Pairs:
    """Keep the lag of each pair with the lowest value, if that is at most `most`."""
    kept = pairs.take(pairs.value <= most)
    kept = kept.take(np.lexsort((kept.lag, kept.value)))
    _, first_ones = np.unique(np.stack([kept.first, kept.second]), axis=1, return_index=True)
    return kept.take(first_ones)


def _centered(levels: npt.NDArray[np.uint8]) -> Floats:
    values = levels.astype(np.float32)
    values -= values.mean(axis=0)
    values -= values.mean(axis=1, keepdims=True)
    return values
