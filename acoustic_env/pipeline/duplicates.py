"""Duplicates of a clip list: decode, compute signatures, pair, confirm, group.

Clips are decoded by a few processes of this machine, a batch at a time. In memory stay some 1.7 kB a clip of 10 s;
the band energies, 10 kB a clip, go to a temporary file that is mapped when pairs are confirmed.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio.signature import BITS, HOP_S, LEVELS, RATE, Signature, compute_signature
from acoustic_env.clips import duplicates, matching
from acoustic_env.clips.duplicates import Link
from acoustic_env.clips.matching import GAP, Pairs, Signatures
from acoustic_env.errors import AcousticEnvError, ClipError, UsageError
from acoustic_env.store.parts import in_order
from acoustic_env.store.schema import as_matrix

if TYPE_CHECKING:
    from acoustic_env.store.feature_store import FeatureStore

assert BITS == matching.BITS

BATCH: Final = 16  # clips a process decodes at a time
FEWEST_PER_PROCESS: Final = 64  # below this a process costs more than it decodes
# Block -> its column with one vector a clip; the first that the store holds is used.
EMBEDDINGS: Final[dict[str, str]] = {
    **dict.fromkeys(("mn04", "panns", "yamnet", "vggish"), "embedding"),
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
    exact: list[bytes] = field(default_factory=list)
    scaled: list[bytes] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    _clips: list[Signature] = field(default_factory=list)  # without their levels

    def add(self, one: Signature | str) -> None:
        """Add the next clip's signature, or why it has none."""
        if isinstance(one, str):
            self.failed[len(self.exact)] = one
            one = compute_signature(np.zeros(1, np.float32))
        self.exact.append(one.exact)
        self.scaled.append(one.scaled)
        self.levels.write(one.levels.tobytes() + bytes(GAP * LEVELS))
        self._clips.append(replace(one, levels=np.zeros((0, LEVELS), np.uint8)))

    def signatures(self) -> Signatures:
        """Return all of them as arrays and give up the single ones."""
        self.levels.flush()
        clips, self._clips = self._clips, []
        lengths = np.array([len(one.bits) for one in clips], np.int64)
        ends = np.cumsum(lengths + GAP)
        starts = ends - lengths - GAP
        return Signatures(
            starts=starts,
            lengths=lengths,
            bits=np.concatenate([np.pad(one.bits, (0, GAP)) for one in clips]),
            audible=np.concatenate([np.pad(one.audible, (0, GAP)) for one in clips]),
            levels=np.memmap(self.levels, np.uint8, "r", shape=(int(ends[-1]), LEVELS)),
            landmarks=np.concatenate([one.landmarks + start for one, start in zip(clips, starts, strict=True)]),
            weakest=np.concatenate([one.weakest for one in clips]),
        )


def find_duplicates(
    clips: pa.Table,
    store: FeatureStore | None = None,
    block: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Find exact and near duplicates among the clips of a list.

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
            first, second = neighbors
            new = ~np.isin(first * len(ids) + second, alike.first * len(ids) + alike.second)
            alike = matching.joined([alike, matching.align(signatures, first[new], second[new])])
        links = link(signatures, collected, alike)
    return _found(clips, links, collected, len(alike))


def link(signatures: Signatures, collected: Collected, alike: Pairs) -> list[Link]:
    """Link clips, exact and scaled by digest, near by confirmed candidates; each pair once, as the strictest kind."""
    links: dict[tuple[int, int], Link] = {}
    for pair in duplicates.same_digest(collected.exact):
        links[pair] = Link(*pair, "exact", 0.0, 1.0)
    confirmed = matching.confirm(signatures, alike)
    columns = (confirmed.first.tolist(), confirmed.second.tolist(), confirmed.lag.tolist(), confirmed.value.tolist())
    near = {(a, b): Link(a, b, "near", lag * HOP_S, value) for a, b, lag, value in zip(*columns, strict=True)}
    for pair in duplicates.same_digest(collected.scaled):
        known = near.get(pair)
        links.setdefault(pair, Link(*pair, "scaled", known.lag_s if known else None, 1.0))
    return [link for _, link in sorted((near | links).items())]


def _found(clips: pa.Table, links: list[Link], collected: Collected, candidates: int) -> Found:
    ids, groups = clips["clip_id"].to_pylist(), clips["group"].to_pylist()
    pairs = [(one.first, one.second) for one in links]
    merged = duplicates.merged_groups(groups, pairs)
    hangs = duplicates.spanning_links(len(ids), links)
    rows = [dict[str, Any](clip_id=clip_id, group=group) for clip_id, group in zip(ids, merged, strict=True)]
    for number, one in hangs.items():
        reverse = one.first == number
        rows[number] |= {
            "duplicate_of": ids[one.second if reverse else one.first],
            "kind": one.kind,
            "lag_s": -one.lag_s if reverse and one.lag_s else one.lag_s,
            "correlation": one.correlation,
        }
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
    """Return the clip list with the merged groups, and with each group in one fold, as every splitter wants it.

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
    """Compute the signature of each clip, or why it has none; runs in a process of its own."""
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
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            for made in in_order(pool, signatures_of, batches, 2 * processes):
                yield from made
        except BrokenProcessPool as error:
            msg = "a decoding process died, most likely for want of memory; free some and run the command again"
            raise AcousticEnvError(msg) from error


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
    vectors = as_matrix(table[column])
    values = np.full((len(ids), vectors.shape[1]), np.nan, np.float32)
    row_of = {clip_id: row for row, clip_id in enumerate(ids)}
    values[[row_of[clip_id] for clip_id in table["clip_id"].to_pylist()]] = vectors
    return matching.embedding_pairs(values)
