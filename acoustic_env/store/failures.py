"""Which of the recorded errors are still open: the others were cured by a later attempt."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.schema import SHARED_STAGES


@dataclass(frozen=True)
class FailureCount:
    """Clips with one kind of error.

    Attributes:
        stage: fetch, decode, prepare, compute (the worker died) or a block.
        code: one of `errors.ERROR_CODES`.
        clips: how many.
        permanent: of them, final until --retry-errors.
    """

    stage: str
    code: str
    clips: int
    permanent: int


def open_errors(store: FeatureStore) -> pa.Table:
    """The last attempt's error of each (clip, stage), without those that rows disprove; `schema.ERROR_SCHEMA`.

    An error of a block is disproved when the clip has a row for every signal that a version of the block holds, an
    error of a stage they share (`SHARED_STAGES`) when that is so for any block.
    """
    errors = store.errors()
    if not errors.num_rows:
        return errors
    errors = errors.sort_by([("attempt", "ascending")])
    others = [name for name in errors.schema.names if name not in ("clip_id", "stage")]
    last = errors.group_by(["clip_id", "stage"], use_threads=False).aggregate([(name, "last") for name in others])
    last = last.rename_columns([name.removesuffix("_last") for name in last.column_names])
    last = last.select(errors.schema.names).cast(errors.schema).sort_by([("clip_id", "ascending")])
    complete = {block: _complete(store, block, fingerprints) for block, fingerprints in store.blocks().items()}
    shared = pc.is_in(last["stage"], value_set=pa.array(SHARED_STAGES))
    cured = pa.chunked_array([pa.array([False] * last.num_rows, pa.bool_())])
    for block, ids in complete.items():
        concerned = pc.or_(shared, pc.equal(last["stage"], block))
        cured = pc.or_(cured, pc.and_(concerned, pc.is_in(last["clip_id"], value_set=ids)))
    return last.filter(pc.invert(cured)).combine_chunks()


def _complete(store: FeatureStore, block: str, fingerprints: list[str]) -> pa.Array:
    """Clips with every signal that some version of the block holds."""
    found = []
    for fingerprint in fingerprints:
        keys = store.committed_keys(block, fingerprint)
        signals = pc.count_distinct(keys["signal"]).as_py()
        counts = keys.group_by("clip_id").aggregate([("signal", "count")])
        found += counts.filter(pc.equal(counts["signal_count"], signals))["clip_id"].chunks
    return pc.unique(pa.chunked_array(found, pa.string()))


def count_failures(errors: pa.Table) -> list[FailureCount]:
    """Clips per stage and code, most first."""
    grouped = errors.append_column("final", pc.cast(errors["permanent"], pa.int64()))
    counts = grouped.group_by(["stage", "code"]).aggregate([("clip_id", "count_distinct"), ("final", "sum")])
    rows = [
        FailureCount(row["stage"], row["code"], row["clip_id_count_distinct"], row["final_sum"])
        for row in counts.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row.clips, row.stage, row.code))
