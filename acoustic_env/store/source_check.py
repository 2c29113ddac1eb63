"""The recorded sources of a store's ids against a clip list, for `store verify` and for readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.sources import SOURCE_COLUMNS, describe_source
from acoustic_env.clips.table import group_by, read_clips
from acoustic_env.errors import UsageError
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import Pair, compare, differing, load_with_rows

NAMED: Final = 3
RECORDED_TWICE: Final = """  -- by a writer that lost its lease
WITH twice AS (
    SELECT *, rowid AS number FROM recorded
    WHERE clip_id IN (SELECT clip_id FROM recorded GROUP BY clip_id HAVING count(*) > 1)
)
SELECT one, other FROM twice AS one JOIN twice AS other USING (clip_id)
WHERE one.number < other.number
    AND NOT same_audio(one.uri, one.start_s, one.end_s, other.uri, other.start_s, other.end_s)
ORDER BY clip_id
"""


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


def check_sources(store: FeatureStore, listed: Listed, clips_url: str) -> SourcesChecked:
    """Check that every id with rows means one piece of audio.

    Args:
        store: the store.
        listed: a clip list, whose sources must be the recorded ones; empty without one.
        clips_url: where it is.

    Raises:
        StoreError: the store cannot be read.
    """
    checked = SourcesChecked()
    for part in compare(store, listed):
        checked.issues.append(f"{part.entry.path}: {part.reason}")
    twice = [(pair["one"], pair["other"]) for pair in listed.sql(RECORDED_TWICE).to_pylist()]
    checked.add("have two recorded sources", twice)
    found = [(old, {**new, "list": clips_url}) for old, new in differing(listed, "true")]
    checked.add("have another source on the list than recorded", found)
    load_with_rows(store, listed, "ANTI JOIN recorded")
    checked.without_source = listed.count("(SELECT DISTINCT clip_id FROM with_rows)")
    return checked
