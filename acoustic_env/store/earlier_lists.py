"""Sources of ids from the clip lists of earlier runs, where no table records them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import Relocation, listed_sources
from acoustic_env.clips.table import read_clips
from acoustic_env.errors import AcousticEnvError
from acoustic_env.store.feature_store import FeatureStore


def sources_by_earlier_lists(store: FeatureStore, ids: pa.Array) -> Iterator[tuple[str, pa.Table | None]]:
    """Yield the location of each list that a run record names, with its sources of the ids, in the order of the runs.

    The sources are a table of `LISTED_SCHEMA`; None where the list cannot be read, or has fewer rows than its run had
    clips and is another file by now.
    """
    clips_of: dict[str, int] = {}
    for record in store.runs():
        url = (record.get("settings") or {}).get("clips")
        if url and isinstance(record.get("clips"), int):
            clips_of[url] = max(clips_of.get(url, 0), record["clips"])
    for url, clips in clips_of.items():
        try:
            listed = listed_sources(read_clips(url)).slice(0, clips)
        except AcousticEnvError:
            yield url, None
            continue
        among = pc.is_in(listed["clip_id"], value_set=ids)
        yield url, None if len(listed) < clips else listed.filter(among).combine_chunks()


def recorded_relocations(store: FeatureStore) -> list[Relocation]:
    """Return the relocations of all runs, oldest first."""
    entries = [entry for record in store.runs() for entry in record.get("relocated") or []]
    return [Relocation(entry["old"], entry["new"]) for entry in entries]
