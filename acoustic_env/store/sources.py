"""Which audio each clip id means: the table `STORE/clips`, one current source for each id.

A writer compares its clip list with the table before anything runs, and records the sources of new ids before it
commits a row of them. So an id without an entry has no rows, except where a part of the table is damaged or gone: there
the list's source is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import IdIndex, Listed, hash_sources
from acoustic_env.clips.sources import (
    LISTED_SCHEMA,
    SOURCE_COLUMNS,
    Relocation,
    describe_source,
    differing,
    listed_sources,
    parse_relocation,
    suggest_relocation,
    unplaced,
    unreconciled,
)
from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import Entry
from acoustic_env.io.retry import StoreError
from acoustic_env.io.spool import Spool
from acoustic_env.store import layout
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.parts import NotAPart, UnreadablePart, in_threads, open_part, part_bytes, read_part
from acoustic_env.store.schema import SOURCE_SCHEMA, digest

ADMITTED_SCHEMA: Final = SOURCE_SCHEMA.remove(SOURCE_SCHEMA.get_field_index("run_id"))
SHOWN: Final = 5
CONFLICT_SCHEMA: Final = pa.schema([("row", pa.int64()), *LISTED_SCHEMA])

Bools = npt.NDArray[np.bool_]


@dataclass
class Compared:
    """A clip list against the table of sources.

    Attributes:
        revision: int32 [clips], of the current entry; 0 without one.
        gains_place: bool [clips], the current source is a name without a place, and the list has a place.
        conflicts: the current sources that differ from the list's, with `row`, the clip's position in the list.
    """

    revision: npt.NDArray[np.int32]
    gains_place: Bools
    conflicts: pa.Table


class SourceTable:
    """The table of sources as it is now: ids and revisions in memory, the sources read part by part.

    Attributes:
        damaged: parts that cannot be read.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.damaged: list[UnreadablePart] = []
        self._parts: list[Entry] = []
        ids: list[pa.Array] = [pa.array([], pa.string())]
        revisions = [np.zeros(0, np.int32)]
        entries = [entry for entry in store.filesystem.entries(layout.CLIPS) if layout.is_part(entry.path)]
        for entry, part in self._read(entries):  # whole parts, so that damage anywhere in one is seen now
            self._parts.append(entry)
            ids.append(part["clip_id"].combine_chunks())
            revisions.append(part["revision"].to_numpy())
        self.ids = pa.chunked_array(ids, pa.string())
        self.revisions = np.concatenate(revisions)
        self._starts = np.cumsum([0, *map(len, revisions[1:])])

    def _read(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, pa.Table]]:
        def load(entry: Entry) -> pa.Table | UnreadablePart:
            try:
                with open_part(self.store.filesystem, entry) as file:
                    return read_part(self.store.filesystem, entry, file, SOURCE_SCHEMA.names).cast(SOURCE_SCHEMA)
            except (NotAPart, pa.ArrowInvalid) as error:
                return UnreadablePart(entry, str(error))

        for entry, part in zip(entries, in_threads(self.store.filesystem, entries, load), strict=True):
            if isinstance(part, UnreadablePart):
                self.damaged.append(part)
            else:
                yield entry, part

    def compare(self, listed: Listed) -> Compared:
        """Compare the list with the current source of each of its ids."""
        revision = np.zeros(listed.num_rows, np.int32)
        position = np.concatenate([np.zeros(0, np.int64), *map(listed.index.positions, self.ids.chunks)])
        known = position >= 0
        np.maximum.at(revision, position[known], self.revisions[known])
        result = Compared(revision, np.zeros(listed.num_rows, bool), pa.table({}))
        current = np.zeros(len(position), bool)
        current[known] = self.revisions[known] == revision[position[known]]
        conflicts = [CONFLICT_SCHEMA.empty_table()]
        for part, rows in self._select(current, position):
            alike = hash_sources(part) == listed.sources[rows]
            if not alike.all():
                conflicts.append(_compare_part(result, part.filter(pa.array(~alike)), listed, rows[~alike]))
        result.conflicts = pa.concat_tables(conflicts)
        return result

    def _select(self, mask: Bools, values: npt.NDArray[np.int32]) -> Iterator[tuple[pa.Table, npt.NDArray[np.int32]]]:
        """The chosen entries with their sources, part by part, and the values that belong to them."""
        pieces = zip(self._starts[:-1], self._starts[1:], strict=True)
        wanted = {self._parts[i].path: piece for i, piece in enumerate(pieces) if mask[slice(*piece)].any()}
        damaged = len(self.damaged)
        for entry, part in self._read([entry for entry in self._parts if entry.path in wanted]):
            piece = slice(*wanted[entry.path])
            yield part.select(LISTED_SCHEMA.names).filter(pa.array(mask[piece])), values[piece][mask[piece]]
        if len(self.damaged) > damaged:
            raise StoreError(
                f"{self.store.url}: {self.damaged[-1].entry.path} changed while it was read; run the same command again"
            )

    def entries(self, ids: pa.Array) -> pa.Table:
        """Return every entry of the ids: `LISTED_SCHEMA` and revision, in the order of both."""
        tables = [LISTED_SCHEMA.append(SOURCE_SCHEMA.field("revision")).empty_table()]
        mask = np.asarray(pc.is_in(self.ids, value_set=ids).to_numpy(), bool)
        for part, revisions in self._select(mask, self.revisions):
            table = part.append_column("revision", pa.array(revisions))
            tables.append(table.cast(tables[0].schema))
        return pa.concat_tables(tables).sort_by([("clip_id", "ascending"), ("revision", "ascending")])


def _compare_part(result: Compared, recorded: pa.Table, listed: Listed, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Note what a part's current entries say of the listed clips in `rows`; returns those that contradict the list."""
    mine = listed.take(rows)
    differs = differing(recorded, mine)
    result.gains_place[rows] |= ~differs & unplaced(recorded) & ~unplaced(mine)
    found = np.flatnonzero(differs)
    table = recorded.take(pa.array(found))
    return table.add_column(0, "row", pa.array(rows[found], pa.int64())).cast(CONFLICT_SCHEMA)


@dataclass
class Admission:
    """A clip list that may be written under, and what it adds to the table of sources.

    Attributes:
        sources: new current sources, `ADMITTED_SCHEMA`.
        relocations: for the run record: prefixes and the number of clips whose source changed by them.
        lines: human-readable.
        damaged: parts of the table that cannot be read; their ids are entered again.
    """

    sources: Spool
    relocations: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    damaged: list[UnreadablePart] = field(default_factory=list)


def admit(
    store: FeatureStore,
    listed: Listed,
    relocated: Sequence[str] = (),
    listed_in: str = "the clip list",
    beside: Callable[[], Sequence[str]] = list,
) -> Admission:
    """Compare a clip list with the sources that the store has recorded; nothing is written.

    Args:
        store: need not exist.
        listed: the clip list.
        relocated: `OLD=NEW`, prefixes of locations: the same audio is now below NEW.
        listed_in: where the list is, for messages.
        beside: returns who writes rows of other blocks now, and may be about to write rows of any recorded source;
            asked where that matters.

    Raises:
        UsageError: an id of the list has rows of other audio, or another writer may write such; names how many, the
            first ones and both sources.
        StoreError: the store cannot be read.
    """
    relocations = [parse_relocation(text) for text in relocated]
    table = SourceTable(store)
    found = Admission(Spool(ADMITTED_SCHEMA), damaged=table.damaged)
    compared = table.compare(listed)
    changed = _reconcile(store, listed, compared.conflicts, relocations, listed_in, beside, found)
    new = compared.revision == 0
    with_rows = np.flatnonzero(new & _with_rows(store, listed.index)) if new.any() else np.zeros(0, np.int64)
    if len(with_rows):
        found.lines.append(f"{len(with_rows):,} clips have rows but no recorded source: it is taken from this list")
    changed |= new | compared.gains_place
    for rows, clips in listed.tables():
        revision = pa.array(compared.revision[rows] + 1, pa.int32())
        sources = listed_sources(clips).append_column("revision", revision).filter(pa.array(changed[rows]))
        if len(sources):
            found.sources.append(sources.cast(ADMITTED_SCHEMA))
    return found


def _with_rows(store: FeatureStore, index: IdIndex) -> Bools:
    """Return bool [clips]: which of the list's clips have a row of any block."""
    found = np.zeros(len(index.ids), bool)
    for ids in _ids_of_parts(store):
        position = index.positions(ids)
        found[position[position >= 0]] = True
    return found


def _ids_of_parts(store: FeatureStore, *, strict: bool = False) -> Iterator[pa.Array]:
    """The ids with rows in each part; with `strict`, a version whose parts are not known raises."""
    for block, fingerprints in store.blocks().items():
        for fingerprint in fingerprints:
            try:
                store.parts(block, fingerprint)
            except (UsageError, StoreInconsistentError):
                if strict:
                    raise
                continue
            for part in store.scan(block, fingerprint, ["clip_id"]):
                if isinstance(part, ScannedPart):
                    yield pc.unique(part.table["clip_id"])


def _among(ids: pa.ChunkedArray, of: pa.Array) -> Bools:
    return np.asarray(pc.is_in(ids, value_set=of).to_numpy(), bool)


def _reconcile(
    store: FeatureStore,
    listed: Listed,
    conflicts: pa.Table,
    relocations: Sequence[Relocation],
    listed_in: str,
    beside: Callable[[], Sequence[str]],
    found: Admission,
) -> Bools:
    """Return bool [clips]: whose recorded source is replaced by the list's; raise if any may not be."""
    changed = np.zeros(listed.num_rows, bool)
    if not conflicts.num_rows:
        return changed
    mine = listed.take(conflicts["row"].to_numpy())
    differs, explained = unreconciled(conflicts, mine, relocations)
    rest, wanted = conflicts.filter(pa.array(differs)), mine.filter(pa.array(differs))
    has_rows = pa.array(_among(rest["clip_id"], ids_with_rows(store, rest["clip_id"])))
    if pc.any(has_rows).as_py():
        rest, wanted = rest.filter(has_rows), wanted.filter(has_rows)
        what = f"{listed_in}: {rest.num_rows:,} clips have ids under which {store.url} has rows of other audio:"
        raise UsageError(_refusal(what, "rows of", rest, wanted))
    if rest.num_rows and (writers := beside()):
        what = (
            f"{listed_in}: {rest.num_rows:,} clips have ids of other audio in {store.url}, whose rows another writer "
            f"may compute now: {writers[0]}; wait for it to end, if the list is right:"
        )
        raise UsageError(_refusal(what, "recorded is", rest, wanted))
    for relocation, clips in zip(relocations, explained, strict=True):
        if clips:
            found.relocations.append({"old": relocation.old, "new": relocation.new, "clips": clips})
            found.lines.append(f"relocated {clips:,} clips from {relocation.old} to {relocation.new}")
    if rest.num_rows:
        found.lines.append(
            f"{rest.num_rows:,} clips without rows have another source than in an earlier run: this list's is recorded "
            "(errors of the other source do not count)"
        )
    changed[conflicts["row"].to_numpy()] = True
    return changed


def _refusal(what: str, of: str, recorded: pa.Table, listed: pa.Table) -> str:
    lines = [what]
    pairs = list(zip(recorded.slice(0, SHOWN).to_pylist(), listed.slice(0, SHOWN).to_pylist(), strict=True))
    for old, new in pairs:
        lines.append(f"  {old['clip_id']}: {of} {describe_source(old)}, the list has {describe_source(new)}")
    if recorded.num_rows > SHOWN:
        lines.append(f"  and {recorded.num_rows - SHOWN:,} more (all of them: acoustic-env store verify --clips)")
    return "\n".join([*lines, *_remedy(*pairs[0])])


def _remedy(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines = [
        "an id means one piece of audio: make the list again with ids that name the audio (clips from-..., "
        "--name NAME), or write to another --store"
    ]
    same_segment = all(old[name] == new[name] for name in SOURCE_COLUMNS[1:])
    moved = suggest_relocation(old["uri"], new["uri"]) if same_segment else None
    if moved is not None:
        lines.append(
            f"if this is the same audio and only moved: acoustic-env extract with --relocated {moved.old}={moved.new}"
        )
    return lines


def record(
    store: FeatureStore, admission: Admission, run_id: str | None, check: Callable[[], None] = lambda: None
) -> None:
    """Write what an admission adds to the table of sources; before any row of its clips is committed.

    Args:
        store: the caller holds the lease of the sources (`lease.acquire_sources`).
        admission: of `admit`, under the same lease.
        run_id: of the run; None for an import.
        check: called before each write; raises when the lease is lost.

    Raises:
        StoreError: it cannot be written.
    """
    for table in admission.sources.tables():
        check()
        table = table.append_column("run_id", pa.repeat(pa.scalar(run_id, pa.string()), table.num_rows))
        table = table.select(SOURCE_SCHEMA.names).cast(SOURCE_SCHEMA).combine_chunks()
        name = digest(table, ["clip_id", "revision"], f"{layout.CLIPS}/{run_id}")
        store.filesystem.write(layout.part_path(layout.CLIPS, name), part_bytes(table))
    for part in admission.damaged:
        store.filesystem.remove(part.entry.path)


def ids_with_rows(store: FeatureStore, among: pa.ChunkedArray | None = None) -> pa.Array:
    """Return each id that has a row of any block, once.

    Args:
        store: the store.
        among: only these ids; None for all.

    Raises:
        StoreInconsistentError: with `among`, a version's parts are not known.
    """
    found = [pa.array([], pa.string())]
    wanted = None if among is None else among.combine_chunks()
    for column in _ids_of_parts(store, strict=wanted is not None) if wanted is None or len(wanted) else ():
        found.append(column if wanted is None else column.filter(pc.is_in(column, value_set=wanted)))
    return pc.unique(pa.chunked_array(found, pa.string()))
