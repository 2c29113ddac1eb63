"""Tables of a made-up block, whose numbers follow from the keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import clip_table
from acoustic_env.features.block import METADATA_PREFIX, Column, FeatureBlock, fingerprint, table_schema, to_table
from acoustic_env.pipeline.books import find_missing
from acoustic_env.pipeline.work import BlockSpec, BlockWork
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path
from acoustic_env.store.lease import BlockLeases
from acoustic_env.store.schema import ERROR_SCHEMA

SIGNALS: tuple[str, ...] = ("raw", "fg")
AUDIO = {"level": 0.1}


class FakeBlock(FeatureBlock):
    """A scalar and a vector, without any audio."""

    name = "fake"
    version = 1
    engine = "fast"
    sample_rate = 16_000
    columns = (
        Column("x", pa.float64(), "1", "a scalar"),
        Column("v", pa.list_(pa.float32(), 3), "1", "a vector"),
    )

    def __init__(self, scale: float = 1.0, name: str = "fake", frame_hop_s: float | None = None) -> None:
        self.scale = scale
        self.name = name  # type: ignore[misc]
        self.frame_hop_s = frame_hop_s

    def parameters(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def metadata(self) -> dict[str, str]:
        return {"library": "1.2.3"}

    def compute(self, waveforms: Any) -> dict[str, Any]:
        raise NotImplementedError


def fake_table(ids: Sequence[str], signals: Sequence[str] = SIGNALS, block: FakeBlock | None = None) -> pa.Table:
    """Rows of the block for all clips and signals; with frames, three for each. x is null for the clip `silent`."""
    block = block or FakeBlock()
    keys = [(clip_id, signal) for clip_id in ids for signal in signals]
    x = np.array([float(sum(map(ord, clip_id + signal))) * block.scale for clip_id, signal in keys])
    x[[clip_id == "silent" for clip_id, _ in keys]] = np.nan
    v = np.arange(3, dtype=np.float32) + np.nan_to_num(x)[:, None].astype(np.float32)
    if block.frame_hop_s is not None:
        x, v = x[:, None] + np.arange(3), np.stack([v, v + 1, v + 2], axis=1)
    clip_ids, names = [key[0] for key in keys], [key[1] for key in keys]
    return to_table(table_schema(block, AUDIO), clip_ids, names, {"x": x, "v": v})


def fake_fingerprint(block: FakeBlock | None = None) -> str:
    """Fingerprint of the block's table."""
    return fingerprint(block or FakeBlock(), AUDIO)


def fake_errors(
    *rows: tuple[str, str, str, bool, int], run_id: str = "run-1", fingerprint: str | None = None, uri: str = "x"
) -> pa.Table:
    """Rows of the errors table from (clip_id, subject, code, permanent, attempt).

    The subject is `source`, or a block: then there is a row for each of its signals.
    """
    version = fingerprint or fake_fingerprint()
    filled = [
        {
            "clip_id": clip_id,
            "source": f"{Path(uri).absolute()} (whole file)",
            "block": None if subject == "source" else subject,
            "fingerprint": None if subject == "source" else version,
            "signal": signal,
            "stage": "decode" if subject == "source" else "compute",
            "code": code,
            "message": "what happened",
            "permanent": permanent,
            "attempt": attempt,
            "run_id": run_id,
        }
        for clip_id, subject, code, permanent, attempt in rows
        for signal in ((None,) if subject == "source" else SIGNALS)
    ]
    return pa.Table.from_pylist(filled, schema=ERROR_SCHEMA)


def missing(
    store: FeatureStore,
    ids: Sequence[str],
    signals: Sequence[str] = SIGNALS,
    block: str = "fake",
    fingerprint: str | None = None,
    *,
    retry_errors: bool = False,
    uri: str = "x",
) -> list[tuple[str, str]]:
    """(clip, signal) that a run would compute, signal after signal in the order of the list."""
    described = {f"{METADATA_PREFIX}fingerprint": fingerprint or fake_fingerprint()}
    schemas = {signal: pa.schema([], metadata=described) for signal in signals}
    work = BlockWork(BlockSpec(block, "fast", 0, tuple(signals)), schemas, 16_000, None, None)
    listed = Listed([clip_table([{"clip_id": clip_id, "uri": uri} for clip_id in ids])])
    found = find_missing(listed, [work], store, store.errors())
    need = found.missing if retry_errors else found.pending
    return [(i, s) for s in signals for i, bits in zip(ids, need.tolist(), strict=True) if bits & work.spec.bit(s)]


def begin(url: str, works: Sequence[BlockWork], leases: BlockLeases) -> None:
    """Begin to write all versions of some blocks, as a run does before its first commit."""
    for work in works:
        for version in work.versions():
            FeatureStore(url).begin(work.spec.name, version, leases.tokens[lease_path(work.spec.name)])
