"""Sources of ids from the clip lists of earlier runs, where no table records them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import LISTED_SCHEMA, SOURCE_COLUMNS, Relocation, listed_sources, unreconciled
from acoustic_env.clips.table import read_clips
from acoustic_env.errors import AcousticEnvError
from acoustic_env.store.feature_store import FeatureStore


def sources_by_earlier_lists(store: FeatureStore, ids: pa.ChunkedArray) -> Iterator[tuple[str, pa.Table | None]]:
    """Yield each list that a run record names, with its sources of some ids; None where it cannot be read.

    A list with fewer rows than its run had clips is another file by now and counts as not readable.

    Args:
        store: the store.
        ids: of interest.

    Yields:
        The list's location and a table of `LISTED_SCHEMA`, in the order of the first runs.
    """
    wanted = ids.combine_chunks()
    for url, records in _lists(store).items():
        try:
            listed = listed_sources(read_clips(url))
        except AcousticEnvError:
            yield url, None
            continue
        rows = max(len(listed) if limit is None else min(limit, len(listed)) for limit, _ in records)
        if any(min(limit or len(listed), len(listed)) < clips for limit, clips in records):
            yield url, None
            continue
        listed = listed.slice(0, rows)
        yield url, listed.filter(pc.is_in(listed["clip_id"], value_set=wanted)).combine_chunks()


def _lists(store: FeatureStore) -> dict[str, list[tuple[int | None, int]]]:
    """The lists of the runs, each with the limit and the number of clips of every run."""
    found: dict[str, list[tuple[int | None, int]]] = {}
    for record in store.runs():
        settings = record.get("settings") or {}
        url = settings.get("clips")
        if url and isinstance(record.get("clips"), int):
            found.setdefault(url, []).append((settings.get("limit"), record["clips"]))
    return found


def recorded_relocations(store: FeatureStore) -> list[Relocation]:
    """Return the relocations of all runs, oldest first."""
    entries = [entry for record in store.runs() for entry in record.get("relocated") or []]
    return [Relocation(entry["old"], entry["new"]) for entry in entries]


def disagreement(clip_id: str, *sources: tuple[str | None, dict[str, Any]]) -> dict[str, Any]:
    """Return an id and the sources it has, each with its list (None: recorded in the store)."""
    described = [{"list": url, **{name: source[name] for name in SOURCE_COLUMNS}} for url, source in sources]
    return {"clip_id": clip_id, "sources": described}


def contradictions(
    lists: Iterable[tuple[str | None, pa.Table | None]], relocations: Sequence[Relocation]
) -> list[dict[str, Any]]:
    """Return the ids for which two lists have different audio.

    Args:
        lists: locations and sources, as `sources_by_earlier_lists` yields them.
        relocations: of audio that moved between an earlier and a later list.

    Returns:
        For each id `clip_id` and both `sources`: list, uri, start_s and end_s.
    """
    seen = LISTED_SCHEMA.append(pa.field("list", pa.int32())).empty_table()
    urls: list[str | None] = []
    found: list[dict[str, Any]] = []
    for url, listed in lists:
        urls.append(url)
        if listed is None:
            continue
        listed = listed.append_column("list", pa.array(np.full(len(listed), len(urls) - 1, np.int32)))
        before = pc.index_in(listed["clip_id"], value_set=seen["clip_id"].combine_chunks())
        first, again = seen.take(before.drop_null()), listed.filter(pc.is_valid(before))
        differs, _ = unreconciled(first, again, relocations)
        pairs = zip(first.filter(differs).to_pylist(), again.filter(differs).to_pylist(), strict=True)
        for pair in pairs:
            found.append(disagreement(pair[0]["clip_id"], *((urls[source["list"]], source) for source in pair)))
        seen = pa.concat_tables([seen, listed.filter(pc.is_null(before))])
    return found
