"""The sources of a store's ids for `store verify`: against a clip list; where none were recorded, among old lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import LISTED_SCHEMA, describe_source, differing, listed_sources
from acoustic_env.clips.table import read_clips
from acoustic_env.errors import UsageError
from acoustic_env.store.earlier_lists import (
    contradictions,
    disagreement,
    recorded_relocations,
    sources_by_earlier_lists,
)
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import SourceTable, ids_with_rows

NAMED: Final = 3


@dataclass
class SourcesChecked:
    """What is wrong with the sources of a store's ids.

    Attributes:
        issues: a line each.
        without_source: ids with rows and no recorded source.
        differing: of each id with two sources `clip_id` and both `sources`.
    """

    issues: list[str] = field(default_factory=list)
    without_source: int = 0
    differing: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, found: Sequence[dict[str, Any]]) -> None:
        """Note ids with two sources, if there are any."""
        if found:
            self.differing += found
            shown = "; ".join(f"{entry['clip_id']}: {describe_both(entry)}" for entry in found[:NAMED])
            self.issues.append(f"{len(found):,} clips {what}: {shown}{'; ...' if len(found) > NAMED else ''}")


def describe_both(entry: dict[str, Any]) -> str:
    """Return both sources of an id as text, each with its list."""
    described = (f"{describe_source(source)} {_where(source['list'])}" for source in entry["sources"])
    return ", ".join(described)


def _where(url: str | None) -> str:
    return "recorded" if url is None else f"in {url}"


def read_clips_of(store: FeatureStore, url: str, log: Callable[[str], None]) -> pa.Table:
    """Return a clip list whose ids are to be looked up in a store, and compare both.

    Rows are not computed here, so a list that names other places of the same segments is only noted: it may be a copy.

    Args:
        store: whose rows will be read.
        url: of the list.
        log: receives a line about clips in another place than recorded.

    Raises:
        UsageError: the list is wrong (as `clips.table.read_clips`), or ids have rows of other segments.
    """
    clips = read_clips(url)
    listed = listed_sources(clips)
    recorded = SourceTable(store).compare(listed).conflicts
    if recorded.num_rows:
        mine = listed.take(recorded["row"])
        at_the_same_place = recorded.set_column(recorded.column_names.index("uri"), "uri", mine["uri"])
        cut = differing(at_the_same_place, mine)
        pairs = list(zip(recorded.to_pylist(), mine.to_pylist(), strict=True))
        wrong = [pair for pair, other in zip(pairs, cut.tolist(), strict=True) if other]
        old, new = (wrong or pairs)[0]
        such = f"{old['clip_id']}: rows of {describe_source(old)}, the list has {describe_source(new)}"
        if wrong:
            msg = (
                f"{url}: {len(wrong):,} clips have ids under which {store.url} has rows of other segments, such as "
                f"{such}; use the list that the rows were computed from, or a store of this list"
            )
            raise UsageError(msg)
        log(f"{url}: {len(pairs):,} clips are in another place than their rows were computed from, such as {such}")
    return clips


def check_sources(store: FeatureStore, clips: pa.Table | None, clips_url: str) -> SourcesChecked:
    """Check that every id with rows means one piece of audio.

    Args:
        store: the store.
        clips: a clip list, whose sources must be the recorded ones; None without one.
        clips_url: where it is.

    Raises:
        StoreError: the store cannot be read.
    """
    checked = SourcesChecked()
    table = SourceTable(store)
    with_rows = ids_with_rows(store)
    for part in table.damaged:
        checked.issues.append(f"{part.entry.path}: {part.reason}")
    checked.add("have two recorded sources", list(_recorded_twice(table)))
    if clips is not None:
        listed = listed_sources(clips)
        first = pc.index_in(pc.unique(listed["clip_id"]), value_set=listed["clip_id"])  # an id twice is another issue
        listed = listed.take(first)
        conflicts = table.compare(listed).conflicts
        pairs = zip(conflicts.to_pylist(), listed.take(conflicts["row"]).to_pylist(), strict=True)
        found = [disagreement(old["clip_id"], (None, old), (clips_url, new)) for old, new in pairs]
        checked.add("have another source on the list than recorded", found)
    revision = pa.chunked_array([table.revisions])
    without = with_rows.filter(pc.invert(pc.is_in(with_rows, value_set=table.ids.filter(pc.greater(revision, 0)))))
    checked.without_source = len(without)
    old = pc.unique(pa.chunked_array([without, *table.ids.filter(pc.equal(revision, 0)).chunks], pa.string()))
    if len(old):
        lists = sources_by_earlier_lists(store, pa.chunked_array([old]))
        found = contradictions(chain(lists, [(None, _current(table, old))]), recorded_relocations(store))
        what = (
            "have rows from before sources were recorded, of one of two pieces of audio (compute them in a new store)"
        )
        checked.add(what, found)
    return checked


def _recorded_twice(table: SourceTable) -> Iterator[dict[str, Any]]:
    """Ids with two current sources, left by a writer that lost its lease."""
    keys = pa.table({"clip_id": table.ids, "revision": pa.chunked_array([table.revisions])})
    counts = keys.group_by(["clip_id", "revision"]).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))["clip_id"].combine_chunks()
    if not len(repeated):
        return
    entries = table.entries(repeated)
    one, other = entries.slice(0, len(entries) - 1), entries.slice(1)
    same_key = np.asarray(
        pc.and_(pc.equal(one["clip_id"], other["clip_id"]), pc.equal(one["revision"], other["revision"]))
    )
    wrong = pa.array(same_key & differing(one, other) & np.asarray(pc.is_valid(one["uri"])))
    for old, new in zip(one.filter(wrong).to_pylist(), other.filter(wrong).to_pylist(), strict=True):
        yield disagreement(old["clip_id"], (None, old), (None, new))


def _current(table: SourceTable, ids: pa.Array) -> pa.Table:
    """The current source of each of the ids that has one."""
    entries = table.entries(ids)
    last = np.ones(len(entries), bool)
    last[:-1] = np.asarray(
        pc.not_equal(entries["clip_id"].slice(0, max(0, len(entries) - 1)), entries["clip_id"].slice(1))
    )
    current = entries.filter(pc.and_(pa.array(last), pc.is_valid(entries["uri"])))
    return current.select(LISTED_SCHEMA.names)
