"""Which audio each clip id means: the table `STORE/clips`, one current source for each id.

A writer compares its clip list with the table before anything runs, and records the sources of new ids before it
commits a row of them. So an id without an entry has no rows, except where a part of the table is damaged or gone: there
the list's source is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.sources import (
    LISTED_SCHEMA,
    SOURCE_COLUMNS,
    describe_source,
    parse_relocation,
    suggest_relocation,
)
from acoustic_env.clips.table import group_by, read_clips
from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.store import layout
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.parts import UnreadablePart, part_bytes
from acoustic_env.store.schema import SOURCE_SCHEMA, digest

SHOWN: Final = 5
RECORDED: Final = """
CREATE OR REPLACE TABLE recorded (clip_id VARCHAR, uri VARCHAR, start_s DOUBLE, end_s DOUBLE, revision INTEGER);
"""
CURRENT: Final = """
DELETE FROM recorded USING
    (SELECT clip_id, max(revision) AS revision FROM recorded WHERE revision > 1 GROUP BY clip_id) AS last
WHERE recorded.clip_id = last.clip_id AND recorded.revision < last.revision;
"""
UNLIKE: Final = """
CREATE OR REPLACE TABLE unlike AS
SELECT row, clip_id, coalesce(recorded.revision, 0) AS revision, recorded.uri, recorded.start_s, recorded.end_s,
    recorded.uri AS moved, recorded.revision IS NOT NULL AND NOT same_audio(
        recorded.uri, recorded.start_s, recorded.end_s, sources.uri, sources.start_s, sources.end_s
    ) AS differs
FROM sources LEFT JOIN recorded USING (clip_id)
WHERE recorded.revision IS NULL OR differs OR named_by(sources.uri, recorded.uri, sources.start_s);
"""
RELOCATED: Final = """
CREATE OR REPLACE TABLE unlike AS
SELECT unlike.* REPLACE (differs AND NOT same_audio(
    moved, unlike.start_s, unlike.end_s, sources.uri, sources.start_s, sources.end_s) AS differs)
FROM (SELECT * REPLACE (relocated(moved, ?, ?) AS moved) FROM unlike) AS unlike JOIN sources USING (row);
"""

Pair = tuple[dict[str, Any], dict[str, Any]]  # two sources of one id


def compare(store: FeatureStore, listed: Listed) -> list[UnreadablePart]:
    """Compare a clip list with the sources that the store has recorded.

    Makes two tables beside the list's: `recorded`, the current source of each id that the store knows, and `unlike`:
    the rows of the list whose source is to be recorded, with the recorded one, if there is any (`revision` above 0),
    and whether it is of other audio (`differs`).

    Returns:
        Parts of the table of sources that cannot be read.

    Raises:
        StoreError: the store cannot be read.
    """
    damaged: list[UnreadablePart] = []

    def parts() -> Iterator[pa.Table]:
        for part in store.side_parts(layout.CLIPS, SOURCE_SCHEMA):
            if isinstance(part, UnreadablePart):
                damaged.append(part)
            else:
                yield part

    listed.sql(RECORDED)
    listed.insert("INSERT INTO recorded SELECT clip_id, uri, start_s, end_s, revision FROM batch", parts())
    listed.sql(CURRENT)
    listed.sql(UNLIKE)
    return damaged


def recorded_sources(store: FeatureStore, ids: pa.Array) -> pa.Table:
    """Return clip_id, uri, start_s and end_s of some ids as the store has recorded them, null where it has not.

    Raises:
        StoreInconsistentError: a part of the table is gone or damaged.
        StoreError: the store cannot be read.
    """
    found = [SOURCE_SCHEMA.empty_table()]
    for part in store.side_parts(layout.CLIPS, SOURCE_SCHEMA):
        if isinstance(part, UnreadablePart):
            raise StoreInconsistentError(
                f"{store.filesystem.place(part.entry.path)}: {part.reason}, so what ids mean is lost; acoustic-env "
                "extract records it again, --clips LIST takes it from a clip list"
            )
        found.append(part.filter(pc.is_in(part["clip_id"], value_set=ids)))
    sources = pa.concat_tables(found)
    order = pc.sort_indices(sources, [("revision", "descending"), ("uri", "ascending")])
    first = pc.index_in(ids, value_set=sources["clip_id"].take(order).combine_chunks())  # of an id the newest
    return sources.select(LISTED_SCHEMA.names).take(order.take(first)).set_column(0, LISTED_SCHEMA.field(0), ids)


def differing(listed: Listed, condition: str, limit: int | None = None) -> list[Pair]:
    """Return the recorded and the list's source of rows of `unlike`, in the list's order."""
    pairs = f"FROM unlike JOIN sources USING (row, clip_id) WHERE differs AND ({condition}) ORDER BY row LIMIT ?"
    found = listed.sql(f"SELECT unlike, sources {pairs}", limit).to_pylist()
    return [(pair["unlike"], pair["sources"]) for pair in found]


@dataclass
class Admission:
    """A clip list that may be written under, and what it adds to the table of sources.

    Attributes:
        listed: with the table `unlike` (`compare`).
        added: entries.
        relocations: for the run record: prefixes and the number of clips whose source changed by them.
        lines: human-readable.
        damaged: parts of the table that cannot be read; their ids are entered again.
    """

    listed: Listed
    added: int = 0
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
    damaged = compare(store, listed)
    found = Admission(listed, listed.count("(SELECT DISTINCT row FROM unlike)"), damaged=damaged)
    conflicts, new = listed.count("unlike WHERE differs"), listed.count("unlike WHERE revision = 0")
    for relocation in relocations if conflicts else ():
        listed.sql(RELOCATED, relocation.old, relocation.new)
        before, conflicts = conflicts, listed.count("unlike WHERE differs")
        if clips := before - conflicts:
            found.relocations.append({"old": relocation.old, "new": relocation.new, "clips": clips})
            found.lines.append(f"relocated {clips:,} clips from {relocation.old} to {relocation.new}")
    if conflicts or new:
        load_with_rows(store, listed, "SEMI JOIN unlike", strict=conflicts > 0)
        with_rows = "clip_id IN (FROM with_rows)"
        if clips := listed.count(f"unlike WHERE differs AND {with_rows}"):
            what = f"{listed_in}: {clips:,} clips have ids under which {store.url} has rows of other audio:"
            raise UsageError(_refusal(what, "rows of", clips, differing(listed, with_rows, SHOWN)))
        if conflicts and (writers := beside()):
            what = (
                f"{listed_in}: {conflicts:,} clips have ids of other audio in {store.url}, whose rows another writer "
                f"may compute now: {writers[0]}; wait for it to end, if the list is right:"
            )
            raise UsageError(_refusal(what, "recorded is", conflicts, differing(listed, "true", SHOWN)))
        if conflicts:
            found.lines.append(
                f"{conflicts:,} clips without rows have another source than in an earlier run: this list's is recorded "
                "(errors of the other source do not count)"
            )
        if clips := listed.count(f"unlike WHERE revision = 0 AND {with_rows}"):
            found.lines.append(f"{clips:,} clips have rows but no recorded source: it is taken from this list")
    return found


def load_with_rows(store: FeatureStore, listed: Listed, among: str, *, strict: bool = False) -> None:
    """Bring ids that have rows of any block into the list's database: the table `with_rows`, an id once or more often.

    Args:
        store: the store.
        listed: the clip list.
        among: the join by `clip_id` that chooses the ids.
        strict: a version whose parts are not known raises `StoreInconsistentError`.
    """
    listed.sql("CREATE OR REPLACE TABLE with_rows (clip_id VARCHAR)")
    for block, fingerprints in store.blocks().items():
        for fingerprint in fingerprints:
            try:
                store.parts(block, fingerprint)
            except (UsageError, StoreInconsistentError):
                if strict:
                    raise
                continue
            parts = store.scan(block, fingerprint, ["clip_id"])
            listed.insert(
                f"INSERT INTO with_rows SELECT DISTINCT clip_id FROM batch {among} USING (clip_id)",
                (part.table.replace_schema_metadata(None) for part in parts if isinstance(part, ScannedPart)),
            )


def _refusal(what: str, of: str, clips: int, pairs: Sequence[Pair]) -> str:
    lines = [what]
    for old, new in pairs:
        lines.append(f"  {old['clip_id']}: {of} {describe_source(old)}, the list has {describe_source(new)}")
    if clips > len(pairs):
        lines.append(f"  and {clips - len(pairs):,} more (all of them: acoustic-env store verify --clips)")
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
    revised = "(SELECT row, max(revision)::INTEGER + 1 AS revision FROM unlike GROUP BY row) JOIN sources USING (row)"
    for _, table in admission.listed.pages(revised) if admission.added else ():
        if not len(table):
            continue
        check()
        table = table.append_column("run_id", pa.repeat(pa.scalar(run_id, pa.string()), table.num_rows))
        table = table.select(SOURCE_SCHEMA.names).cast(SOURCE_SCHEMA).combine_chunks()
        name = digest(table, ["clip_id", "revision"], f"{layout.CLIPS}/{run_id}")
        store.filesystem.write(layout.part_path(layout.CLIPS, name), part_bytes(table))
    for part in admission.damaged:
        store.filesystem.remove(part.entry.path)


def read_clips_of(store: FeatureStore, url: str, log: Callable[[str], None], grouped_by: str | None = None) -> pa.Table:
    """Return a clip list whose ids are to be looked up in a store, and compare both.

    Rows are not computed here, so a list that names other places of the same segments is only noted: it may be a copy.

    Args:
        store: whose rows will be read.
        url: of the list.
        log: receives a line about clips in another place than recorded.
        grouped_by: column whose values are the groups, in place of `group`.

    Raises:
        UsageError: the list is wrong (as `clips.table.read_clips`), or ids have rows of other segments.
    """
    clips = read_clips(url)
    if grouped_by is not None:
        clips = group_by(clips, grouped_by, url)
    listed = Listed([clips], url)
    compare(store, listed)
    same_segment = "same_times(unlike.start_s, unlike.end_s, sources.start_s, sources.end_s)"
    for condition, same in ((f"NOT {same_segment}", False), ("true", True)):
        pairs = differing(listed, condition)
        if not pairs:
            continue
        old, new = pairs[0]
        such = f"{old['clip_id']}: rows of {describe_source(old)}, the list has {describe_source(new)}"
        if not same:
            raise UsageError(
                f"{url}: {len(pairs):,} clips have ids under which {store.url} has rows of other segments, such as "
                f"{such}; use the list that the rows were computed from, or a store of this list"
            )
        log(f"{url}: {len(pairs):,} clips are in another place than their rows were computed from, such as {such}")
    return clips
