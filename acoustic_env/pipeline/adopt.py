"""Rows that older code wrote under one fingerprint for all signals, taken over where their numbers are today's.

Until fingerprints covered each signal apart, they named the separator for raw, too, and libraries that the fast engine
does not call. Parts say in their metadata what their fingerprint covered, so that what is covered today can be compared
with it and nothing need be computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio import prepare
from acoustic_env.audio.signals import SIGNALS
from acoustic_env.features.block import METADATA_PREFIX
from acoustic_env.pipeline.work import BlockWork, block_work
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.schema import Described

# What fingerprints cover since, at the values that all older rows were made with.
SINCE: Final = {"libsoxr": "0.1", "silence_rms": 1e-8}
SEPARATION_SINCE: Final = {"version": 1, "rounding": 1e-12}
UNCALLED: Final = ("scikit-maad", "soundsig")  # by the fast engine


def older_versions(store: FeatureStore, works: Sequence[BlockWork]) -> list[tuple[BlockWork, list[Described]]]:
    """Return the versions under an older fingerprint whose numbers are those that their block has today."""
    there = store.blocks()
    found = []
    for work in works:
        if set(there.get(work.spec.name, ())) - set(work.fingerprints.values()):
            versions = [version for version in store.fingerprints(work.spec.name) if version.covers_all_signals]
            found.append((work, [version for version in versions if _today(version) == _described(work)]))
    return [(work, versions) for work, versions in found if versions]


def adopt(
    store: FeatureStore, works: Sequence[BlockWork], log: Callable[[str], None], check: Callable[[], None]
) -> None:
    """Move rows under older fingerprints to today's, part by part; the caller holds the lease.

    An older part goes when its rows are written, under names that follow from their keys. Stopped anywhere, the next
    call goes on.

    Args:
        store: the store.
        works: the blocks of the run.
        log: receives a line for each version moved.
        check: called before each part; raises when the lease is lost.
    """
    for work, versions in older_versions(store, works):
        every = block_work(replace(work.spec, signals=SIGNALS.names()))
        for version in versions:
            parts = store.parts(version.block, version.fingerprint)
            for entry in parts:
                check()
                part = store.scan_one(entry, None)
                if isinstance(part, ScannedPart):
                    _rewrite(store, every, part.table)
                    store.filesystem.remove(entry.path)
            log(f"store     {version.block} {version.fingerprint}: {len(parts)} parts moved to today's fingerprints")


def _rewrite(store: FeatureStore, work: BlockWork, table: pa.Table) -> None:
    for signals in work.versions().values():
        rows = table.filter(pc.is_in(table["signal"], value_set=pa.array(signals)))
        today = work.schemas[signals[0]].metadata
        covered = {f"{METADATA_PREFIX}{name}".encode() for name in ("fingerprint", "signals", "parameters", "audio")}
        metadata = {**table.schema.metadata, **{name: today[name] for name in covered}}
        if rows.num_rows:
            store.write_part(rows.replace_schema_metadata(metadata))


def _today(version: Described) -> dict[str, Any]:
    """What the fingerprint of fg of the same numbers covers today."""
    separation = {**version.audio["separation"], **SEPARATION_SINCE, "engine": version.engine}
    uncalled = UNCALLED if version.engine == "fast" else ()
    return {
        "version": version.version,
        "engine": version.engine,
        "parameters": {name: value for name, value in version.parameters.items() if name not in uncalled},
        "audio": {**version.audio, **SINCE, "separation": separation},
    }


def _described(work: BlockWork) -> dict[str, Any]:
    block = work.spec.make()
    described = {
        "version": str(block.version),
        "engine": block.engine,
        "parameters": block.parameters(),
        "audio": prepare.parameters(block.sample_rate, block.engine, "fg"),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain
