"""Duplicates of a clip list: decode, compute signatures, pair, confirm, group.

Whatever is linked, over any number of links, is one group.
Clips are decoded by processes of this machine; one that a clip ends or blocks costs that clip alone. In memory stay
some 1.7 kB a clip of 10 s; the band energies, 10 kB a clip, go to a temporary file that is mapped when pairs are
confirmed.
"""

from __future__ import annotations

import io
import os
import queue
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import IO, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse
from scipy.sparse import csgraph

from acoustic_env.audio.limited import IsolatedProcess, ProcessDiedError, failure_of
from acoustic_env.clips.duplicates.matching import GAP, Ints, Pairs, Signatures, candidates, confirm
from acoustic_env.clips.duplicates.signature import HOP_S, LEVELS, RATE, Signature, compute_signature

AHEAD: Final = 1_024  # clips decoded before the first of them is taken in
FEWEST_PER_PROCESS: Final = 64  # below this a process costs more than it decodes
CLIP_S: Final = 300.0  # that fetching and decoding a clip may take
DIGESTS: Final = ("exact", "scaled")  # of a signature's fields; the others are arrays

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


class Link(NamedTuple):
    """One pair of duplicates."""

    first: int  # clip numbers, first < second
    second: int
    kind: str  # exact (the same samples), scaled (the same up to gain and silence around) or near
    lag_s: float | None  # second of the first at which the second starts; None where it is not known
    correlation: float  # of the log band energies; 1 for exact


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


def find_duplicates(
    clips: pa.Table,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Found:
    """Find exact and near duplicates among the clips of a list.

    Args:
        clips: of `CLIP_SCHEMA`.
        progress: called with clips read and clips in all.
    """
    failed: dict[int, str] = {}

    def signed() -> Iterator[Signature]:
        for number, one in enumerate(_signatures(clips)):
            if isinstance(one, str):
                failed[number] = one
                one = compute_signature(np.zeros(1, np.float32))
            yield one
            progress(number + 1, clips.num_rows)

    with tempfile.TemporaryFile() as levels:
        signatures = collect(signed(), levels)
        alike = candidates(signatures)
        return _found(clips, link(signatures, alike), signatures, failed, len(alike))


def collect(clips: Iterable[Signature], levels: IO[bytes]) -> Signatures:
    """Return the signatures of clips as arrays; their band energies go to the file `levels` as they come."""
    kept: list[Signature] = []
    for one in clips:
        levels.write(one.levels.tobytes() + bytes(GAP * LEVELS))
        kept.append(replace(one, levels=one.levels[:0]))
    levels.flush()
    lengths = np.array([len(one.bits) for one in kept], np.int64)
    ends = np.cumsum(lengths + GAP)
    starts = ends - lengths - GAP
    return Signatures(
        starts=starts,
        lengths=lengths,
        bits=np.concatenate([np.pad(one.bits, (0, GAP)) for one in kept]),
        audible=np.concatenate([np.pad(one.audible, (0, GAP)) for one in kept]),
        levels=np.memmap(levels, np.uint8, "r", shape=(int(ends[-1]), LEVELS)),
        landmarks=np.concatenate([one.landmarks + start for one, start in zip(kept, starts, strict=True)]),
        weakest=np.concatenate([one.weakest for one in kept]),
        exact=[one.exact for one in kept],
        scaled=[one.scaled for one in kept],
    )


def link(signatures: Signatures, alike: Pairs) -> list[Link]:
    """Link clips, exact and scaled by digest, near by confirmed candidates; each pair once, as the strictest kind."""
    found = confirm(signatures, alike)
    columns = (found.first.tolist(), found.second.tolist(), found.lag.tolist(), found.value.tolist())
    links = {(a, b): Link(a, b, "near", lag * HOP_S, value) for a, b, lag, value in zip(*columns, strict=True)}
    for pair in same_value(signatures.scaled):
        links[pair] = Link(*pair, "scaled", links[pair].lag_s if pair in links else None, 1.0)
    links |= {pair: Link(*pair, "exact", 0.0, 1.0) for pair in same_value(signatures.exact)}
    return [links[pair] for pair in sorted(links)]


def _found(
    clips: pa.Table, links: list[Link], signatures: Signatures, failed: dict[int, str], candidates: int
) -> Found:
    ids = clips["clip_id"].to_pylist()
    pairs = [(one.first, one.second) for one in links]
    merged = merged_groups(clips["group"].to_pylist(), pairs)
    rows = [dict[str, Any](clip_id=clip_id, group=group) for clip_id, group in zip(ids, merged, strict=True)]
    for number, one in spanning_links(links).items():
        reverse = one.first == number
        rows[number] |= {
            "duplicate_of": ids[one.second if reverse else one.first],
            "kind": one.kind,
            "lag_s": -one.lag_s if reverse and one.lag_s else one.lag_s,
            "correlation": one.correlation,
        }
    members: dict[int, list[int]] = {}
    for number, root in enumerate(components(len(ids), pairs).tolist()):
        members.setdefault(root, []).append(number)
    return Found(
        table=pa.Table.from_pylist(rows, schema=GROUPS_SCHEMA),
        links=links,
        sets=[some for some in members.values() if len(some) > 1],
        silent=[ids[n] for n, digest in enumerate(signatures.exact) if not digest and n not in failed],
        failed={ids[number]: why for number, why in failed.items()},
        candidates=candidates,
    )


def same_value(values: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Link every clip to the first one with its value (digest, group); empty ones are excluded."""
    first: dict[Hashable, int] = {}
    every = [(first.setdefault(value, number), number) for number, value in enumerate(values) if value]
    return [(earlier, number) for earlier, number in every if earlier != number]


def components(count: int, links: Sequence[tuple[int, int]]) -> Ints:
    """Return [count] the smallest member of the component of each.

    >>> components(4, [(3, 1)])
    array([0, 1, 2, 1])
    """
    if not links:
        return np.arange(count)
    ends = np.array(links).T
    graph = sparse.coo_array((np.ones(len(links)), (ends[0], ends[1])), shape=(count, count))
    _, component = csgraph.connected_components(graph, directed=False)
    return np.unique(component, return_index=True)[1][component]


def merged_groups(groups: Sequence[str], links: Sequence[tuple[int, int]]) -> list[str]:
    """Merge the groups [clips] of linked clip numbers; a merged group has the name its first clip had."""
    return [groups[root] for root in components(len(groups), [*same_value(groups), *links]).tolist()]


def spanning_links(links: Sequence[Link]) -> dict[int, Link]:
    """Return clip -> the confirmed link towards its set's first clip, over as few links as possible."""
    of: dict[int, list[Link]] = {}
    for link in sorted(links, key=lambda one: (-one.correlation, one.first, one.second)):
        for clip in (link.first, link.second):
            of.setdefault(clip, []).append(link)
    towards: dict[int, Link | None] = {}
    for start in sorted(of):
        waiting = deque([start] if towards.setdefault(start, None) is None else [])
        while waiting:
            clip = waiting.popleft()
            for link in of[clip]:
                other = link.first + link.second - clip
                if other not in towards:
                    towards[other] = link
                    waiting.append(other)
    return {clip: link for clip, link in towards.items() if link is not None}


def disagreeing(sets: Sequence[Sequence[int]], values: Sequence[object]) -> list[Sequence[int]]:
    """Return the sets whose members differ in a value (fold, source, labels); None is ignored."""
    return [members for members in sets if len({values[clip] for clip in members if values[clip] is not None}) > 1]


def joined_folds(groups: Sequence[str], folds: Sequence[int | None]) -> list[int | None]:
    """Move every group into one fold: that of most of its clips, the lower one when even. None stays None.

    >>> joined_folds(["a", "a", "a", "b"], [1, 0, 1, None])
    [1, 1, 1, None]
    """
    count: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for group, fold in zip(groups, folds, strict=True):
        if fold is not None:
            count[group][fold] += 1
    chosen = {group: min(of, key=lambda fold: (-of[fold], fold)) for group, of in count.items()}
    return [None if fold is None else chosen[group] for group, fold in zip(groups, folds, strict=True)]


def apply_groups(clips: pa.Table, found: Found) -> tuple[pa.Table, list[str]]:
    """Return the clip list with the merged groups, and with each group in one fold, as every splitter wants it.

    Returns:
        The list, and the ids of clips whose given fold was changed to that of most of their group.
    """
    folds = clips["fold"].to_pylist()
    joined = joined_folds(found.table["group"].to_pylist(), folds)
    moved = [clip_id for clip_id, a, b in zip(clips["clip_id"].to_pylist(), folds, joined, strict=True) if a != b]
    schema = clips.schema
    applied = clips.set_column(schema.get_field_index("group"), schema.field("group"), found.table["group"])
    fold = pa.array(joined, pa.int32())
    return applied.set_column(schema.get_field_index("fold"), schema.field("fold"), fold), moved


def _signatures(clips: pa.Table) -> Iterator[Signature | str]:
    """Compute the signature of each clip, in their order, or why it has none."""
    places: list[Place] = list(zip(*(clips[name].to_pylist() for name in ("uri", "start_s", "end_s")), strict=True))
    count = max(1, min(len(os.sched_getaffinity(0)), len(places) // FEWEST_PER_PROCESS))
    with ExitStack() as stack:
        idle: queue.SimpleQueue[IsolatedProcess] = queue.SimpleQueue()
        for _ in range(count):
            idle.put(stack.enter_context(IsolatedProcess(_sign)))
        pool = stack.enter_context(ThreadPoolExecutor(count))
        for at in range(0, len(places), AHEAD):
            yield from pool.map(lambda place: _signature(idle, place), places[at : at + AHEAD])


def _signature(idle: queue.SimpleQueue[IsolatedProcess], place: Place) -> Signature | str:
    process = idle.get()
    try:
        failure, arrays = process.call(place, CLIP_S)
    except TimeoutError:
        return f"timed_out: {place[0]}: not decoded within {CLIP_S:g} s"
    except ProcessDiedError as error:
        return f"worker_died: {place[0]}: the decoder crashed on it (exit code {error.exitcode})"
    finally:
        idle.put(process)
    if failure:
        return failure.decode()
    found = np.load(io.BytesIO(arrays)).items()
    return Signature(**{name: one.tobytes() if name in DIGESTS else one for name, one in found})


def _sign(place: Place) -> tuple[bytes, bytes]:
    """Return the signature of a clip as arrays of an npz file, or why it has none; runs in a process of its own."""
    from acoustic_env.audio.decode import decode, resample
    from acoustic_env.audio.fetch import open_source

    uri, start_s, end_s = place
    try:
        with open_source(uri) as source:
            waveform, rate = decode(source, start_s, end_s, uri)
        made = vars(compute_signature(resample(waveform, rate, RATE))).items()
    except Exception as error:  # noqa: BLE001  one clip must not stop the list
        return str(failure_of(error, uri)).encode(), b""
    arrays: dict[str, Any] = {name: np.frombuffer(one, np.uint8) if name in DIGESTS else one for name, one in made}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return b"", file.getvalue()
