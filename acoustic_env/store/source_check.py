"""The recorded sources of a store's ids against a clip list, for `store verify` and for readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.sources import SOURCE_COLUMNS, describe_source, differing
from acoustic_env.clips.table import group_by, read_clips
from acoustic_env.errors import UsageError
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import SourceTable, ids_with_rows

NAMED: Final = 3
Pair = tuple[dict[str, Any], dict[str, Any]]  # two sources of one id


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

    def add(self, what: str, found: Sequence[Pair]) -> None:
        """Note ids with two sources, if there are any; a source without a `list` is the recorded one."""
        if not found:
            return
        names = ("list", *SOURCE_COLUMNS)
        entries = [
            {"clip_id": pair[0]["clip_id"], "sources": [{name: source.get(name) for name in names} for source in pair]}
            for pair in found
        ]
        self.differing += entries
        shown = "; ".join(f"{entry['clip_id']}: {describe_both(entry)}" for entry in entries[:NAMED])
        self.issues.append(f"{len(found):,} clips {what}: {shown}{'; ...' if len(found) > NAMED else ''}")


def describe_both(entry: dict[str, Any]) -> str:
    """Return both sources of an id as text, each with its list."""
    return ", ".join(
        f"{describe_source(source)} {'recorded' if source['list'] is None else 'in ' + source['list']}"
        for source in entry["sources"]
    )


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
    recorded = SourceTable(store).compare(listed).conflicts
    if recorded.num_rows:
        mine = listed.take(recorded["row"].to_numpy())
        at_the_same_place = recorded.set_column(recorded.column_names.index("uri"), "uri", mine["uri"])
        cut = differing(at_the_same_place, mine)
        pairs = list(zip(recorded.to_pylist(), mine.to_pylist(), strict=True))
        wrong = [pair for pair, other in zip(pairs, cut.tolist(), strict=True) if other]
        old, new = (wrong or pairs)[0]
        such = f"{old['clip_id']}: rows of {describe_source(old)}, the list has {describe_source(new)}"
        if wrong:
            raise UsageError(
                f"{url}: {len(wrong):,} clips have ids under which {store.url} has rows of other segments, such as "
                f"{such}; use the list that the rows were computed from, or a store of this list"
            )
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
    checked.add("have two recorded sources", _recorded_twice(table))
    if clips is not None:
        first = pc.index_in(pc.unique(clips["clip_id"]), value_set=clips["clip_id"])  # an id twice is another issue
        listed = Listed([clips.take(first)])
        conflicts = table.compare(listed).conflicts
        pairs = zip(conflicts.to_pylist(), listed.take(conflicts["row"].to_numpy()).to_pylist(), strict=True)
        found = [(old, {**new, "list": clips_url}) for old, new in pairs]
        checked.add("have another source on the list than recorded", found)
    checked.without_source = len(with_rows.filter(pc.invert(pc.is_in(with_rows, value_set=table.ids))))
    return checked


def _recorded_twice(table: SourceTable) -> list[Pair]:
    """Ids with two current sources, left by a writer that lost its lease."""
    keys = pa.table({"clip_id": table.ids, "revision": pa.chunked_array([table.revisions])})
    counts = keys.group_by(["clip_id", "revision"]).aggregate([([], "count_all")])
    repeated = counts.filter(pc.greater(counts["count_all"], 1))["clip_id"].combine_chunks()
    if not len(repeated):
        return []
    entries = table.entries(repeated)
    one, other = entries.slice(0, len(entries) - 1), entries.slice(1)
    same = pc.and_(pc.equal(one["clip_id"], other["clip_id"]), pc.equal(one["revision"], other["revision"]))
    one, other = one.filter(same), other.filter(same)
    wrong = pa.array(differing(one, other))
    return list(zip(one.filter(wrong).to_pylist(), other.filter(wrong).to_pylist(), strict=True))
