"""Duplicates of a clip list: decode, compute signatures, pair, confirm, group.

Clips are decoded by a few processes of this machine, a batch at a time. In memory stay some 1.7 kB a clip of 10 s;
the band energies, 10 kB a clip, go to a temporary file that is mapped when pairs are confirmed.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio.signature import BITS, HOP_S, LEVELS, PROBES, RATE, Signature, compute_signature
from acoustic_env.clips import duplicates, matching
from acoustic_env.clips.duplicates import Link
from acoustic_env.clips.matching import GAP, Pairs, Signatures
from acoustic_env.errors import AcousticEnvError, ClipError, UsageError

if TYPE_CHECKING:
    from acoustic_env.store.feature_store import FeatureStore

assert BITS == matching.BITS

BATCH: Final = 16  # clips a process decodes at a time
FEWEST_PER_PROCESS: Final = 64  # below this a process costs more than it decodes
# Block -> its column with one vector a clip; the first that the store holds is used.
EMBEDDINGS: Final[dict[str, str]] = {
    "mn04": "embedding",
    "panns": "embedding",
    "yamnet": "embedding",
    "vggish": "embedding",
    "vggish_released": "mean",
}

GROUPS_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # the list's groups, those with duplicates between them joined
        pa.field("duplicate_of", pa.string()),  # the earlier clip it was confirmed against; null: first of its set
        pa.field("kind", pa.string()),  # exact, scaled, near
        pa.field("lag_s", pa.float64()),  # where in duplicate_of this clip starts; negative: before it
        pa.field("correlation", pa.float64()),
    ]
)

Place = tuple[str, float | None, float | None]


@dataclass(frozen=True)
class Found:
    """What was found in a list.

    Attributes:
        table: of `GROUPS_SCHEMA`, one row a clip, in the list's order.
        links: every confirmed pair.
        sets: clip numbers of each set of duplicates, first one first.
        silent: ids of silent clips, excluded from matching.
        failed: clip id -> why it could not be read; such clips keep their group.
        candidates: how many pairs were confirmed or refused.
    """

    table: pa.Table
    links: list[Link]
    sets: list[list[int]]
    silent: list[str]
    failed: dict[str, str]
    candidates: int


@dataclass
class Collected:
    """Signatures of a list as they come in; their band energies go to the file `levels`."""

    levels: IO[bytes]
    starts: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    exact: list[bytes] = field(default_factory=list)
    scaled: list[bytes] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    _frames: int = 0
    _bits: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    _audible: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _landmarks: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _weakest: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def add(self, one: Signature | str) -> None:
        """The next clip's signature, or why it has none."""
        if isinstance(one, str):
            self.failed[len(self.starts)] = one
            one = compute_signature(np.zeros(1, np.float32))
        self.starts.append(self._frames)
        self.lengths.append(len(one.bits))
        self.exact.append(one.exact)
        self.scaled.append(one.scaled)
        self._bits += [one.bits, np.zeros(GAP, np.uint32)]
        self._audible += [one.audible, np.zeros(GAP, np.bool_)]
        self._landmarks.append(one.landmarks + self._frames)
        self._weakest.append(one.weakest)
        self.levels.write(one.levels.tobytes())
        self.levels.write(bytes(GAP * LEVELS))
        self._frames += len(one.bits) + GAP

    def signatures(self) -> Signatures:
        """All of them as arrays; the lists are given up."""
        self.levels.flush()
        shape = (self._frames, LEVELS)
        made = Signatures(
            starts=np.array(self.starts, np.int64),
            lengths=np.array(self.lengths, np.int64),
            bits=np.concatenate([np.zeros(0, np.uint32), *self._bits]),
            audible=np.concatenate([np.zeros(0, np.bool_), *self._audible]),
            levels=np.memmap(self.levels, np.uint8, "r", shape=shape) if self._frames else np.zeros(shape, np.uint8),
            landmarks=np.concatenate([np.zeros(0, np.int64), *self._landmarks]),
            weakest=np.concatenate([np.zeros((0, PROBES), np.uint8), *self._weakest]),
        )
        for parts in (self._bits, self._audible, self._landmarks, self._weakest):
            parts.clear()
        return made


def find_duplicates(
    clips: pa.Table,
    store: FeatureStore | None = None,
    block: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Exact and near duplicates among the clips of a list.

    Args:
        clips: of `CLIP_SCHEMA`.
        store: with an embedding block, whose neighbors are more candidates; none of them counts unconfirmed.
        block: which block; None for the first of `EMBEDDINGS` that is there.
        progress: called with clips read and clips in all.

    Raises:
        UsageError: the store holds no embedding block.
        AcousticEnvError: a decoding process died.
    """
    ids = clips["clip_id"].to_pylist()
    neighbors = None if store is None else _neighbors(store, block, ids)
    with tempfile.TemporaryFile() as levels:
        collected = Collected(levels)
        for done, one in enumerate(_signatures(clips), start=1):
            collected.add(one)
            if progress is not None:
                progress(done, len(ids))
        signatures = collected.signatures()
        alike = matching.candidates(signatures)
        if neighbors is not None:
            known = set(zip(alike.first.tolist(), alike.second.tolist(), strict=True))
            new = np.array(
                [pair not in known for pair in zip(*(side.tolist() for side in neighbors), strict=True)], bool
            )
            alike = matching.joined([alike, matching.align(signatures, neighbors[0][new], neighbors[1][new])])
        links = link(signatures, collected, alike)
    return _found(clips, links, collected, len(alike))


def link(signatures: Signatures, collected: Collected, alike: Pairs) -> list[Link]:
    """Exact and scaled links by digest, near ones by confirmed candidates; each pair once, the strictest kind first."""
    links: dict[tuple[int, int], Link] = {}
    for pair in duplicates.same_digest(collected.exact):
        links[pair] = Link(*pair, "exact", 0.0, 1.0)
    confirmed = matching.confirm(signatures, alike)
    columns = (confirmed.first.tolist(), confirmed.second.tolist(), confirmed.lag.tolist(), confirmed.value.tolist())
    near = {(a, b): Link(a, b, "near", lag * HOP_S, value) for a, b, lag, value in zip(*columns, strict=True)}
    for pair in duplicates.same_digest(collected.scaled):
        known = near.get(pair)
        links.setdefault(pair, Link(*pair, "scaled", known.lag_s if known else None, 1.0))
    for pair, one in near.items():
        links.setdefault(pair, one)
    return [links[pair] for pair in sorted(links)]


def _found(clips: pa.Table, links: list[Link], collected: Collected, candidates: int) -> Found:
    ids, groups = clips["clip_id"].to_pylist(), clips["group"].to_pylist()
    pairs = [(one.first, one.second) for one in links]
    merged = duplicates.merged_groups(groups, pairs)
    hangs = duplicates.spanning_links(len(ids), links)
    rows = []
    for number, (clip_id, group) in enumerate(zip(ids, merged, strict=True)):
        row: dict[str, Any] = {"clip_id": clip_id, "group": group}
        one = hangs.get(number)
        if one is not None:
            reverse = one.first == number
            lag_s = -one.lag_s if reverse and one.lag_s else one.lag_s
            row |= {
                "duplicate_of": ids[one.second if reverse else one.first],
                "kind": one.kind,
                "lag_s": lag_s,
                "correlation": one.correlation,
            }
        rows.append(row)
    members: dict[int, list[int]] = {}
    for number, root in enumerate(duplicates.components(len(ids), pairs).tolist()):
        members.setdefault(root, []).append(number)
    return Found(
        table=pa.Table.from_pylist(rows, schema=GROUPS_SCHEMA),
        links=links,
        sets=[some for some in members.values() if len(some) > 1],
        silent=[ids[n] for n, digest in enumerate(collected.exact) if not digest and n not in collected.failed],
        failed={ids[number]: why for number, why in collected.failed.items()},
        candidates=candidates,
    )


def apply_groups(clips: pa.Table, found: Found) -> tuple[pa.Table, list[str]]:
    """The clip list with the merged groups, and with each group in one fold, as every splitter wants it.

    Returns:
        The list, and the ids of clips whose given fold was changed to that of most of their group.
    """
    folds = clips["fold"].to_pylist()
    joined = duplicates.joined_folds(found.table["group"].to_pylist(), folds)
    moved = [clip_id for clip_id, a, b in zip(clips["clip_id"].to_pylist(), folds, joined, strict=True) if a != b]
    schema = clips.schema
    applied = clips.set_column(schema.get_field_index("group"), schema.field("group"), found.table["group"])
    fold = pa.array(joined, pa.int32())
    return applied.set_column(schema.get_field_index("fold"), schema.field("fold"), fold), moved


def signatures_of(places: Sequence[Place]) -> list[Signature | str]:
    """Signature of each clip, or why it has none; runs in a process of its own."""
    from acoustic_env.audio.decode import decode, resample
    from acoustic_env.audio.fetch import open_source

    made: list[Signature | str] = []
    for uri, start_s, end_s in places:
        try:
            with open_source(uri) as source:
                waveform, rate = decode(source, start_s, end_s, uri)
            made.append(compute_signature(resample(waveform, rate, RATE)))
        except ClipError as error:
            made.append(str(error))
        except Exception as error:  # noqa: BLE001  one clip must not stop the list
            made.append(f"compute_failed: {type(error).__name__}: {error}")
    return made


def _signatures(clips: pa.Table) -> Iterator[Signature | str]:
    """In the order of the list."""
    columns = (clips[name].to_pylist() for name in ("uri", "start_s", "end_s"))
    places: list[Place] = list(zip(*columns, strict=True))
    batches = [places[at : at + BATCH] for at in range(0, len(places), BATCH)]
    processes = min(len(os.sched_getaffinity(0)), len(places) // FEWEST_PER_PROCESS)
    if processes < 2:
        for batch in batches:
            yield from signatures_of(batch)
        return
    waiting: list[Future[list[Signature | str]]] = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(signatures_of, batch))
                if len(waiting) > 2 * processes:
                    yield from waiting.pop(0).result()
            while waiting:
                yield from waiting.pop(0).result()
        except BrokenProcessPool as error:
            msg = "a decoding process died, most likely for want of memory; free some and run the command again"
            raise AcousticEnvError(msg) from error
        finally:
            for future in waiting:
                future.cancel()


def _neighbors(
    store: FeatureStore, block: str | None, ids: list[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    there = store.blocks()
    wanted = block or next((name for name in EMBEDDINGS if name in there), None)
    if wanted is None or wanted not in EMBEDDINGS:
        msg = f"{store.url}: no embedding block to look for neighbors in; those known are {', '.join(EMBEDDINGS)}"
        raise UsageError(msg)
    column = EMBEDDINGS[wanted]
    table = store.read(wanted, signals=["raw"], columns=[column], clip_ids=ids)
    vectors = table[column].combine_chunks()
    size = vectors.type.list_size
    values = np.full((len(ids), size), np.nan, np.float32)
    row_of = {clip_id: row for row, clip_id in enumerate(ids)}
    rows = [row_of[clip_id] for clip_id in table["clip_id"].to_pylist()]
    valid = np.asarray(vectors.is_valid())
    filled = np.asarray(vectors.drop_null().flatten(), np.float32).reshape(-1, size)
    values[np.array(rows, np.int64)[valid]] = filled
    return matching.embedding_pairs(values)
