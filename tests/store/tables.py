"""Tables of a made-up block, whose numbers follow from the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from acoustic_env.features.block import Column, FeatureBlock, fingerprint, table_schema, to_table
from acoustic_env.store.schema import ERROR_SCHEMA, SHARED_STAGES

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


def fake_errors(*rows: tuple[str, str, str, bool, int], run_id: str = "run-1") -> pa.Table:
    """Rows of the errors table from (clip_id, stage, code, permanent, attempt), of a block for each of its signals."""
    names = ("clip_id", "stage", "code", "permanent", "attempt")
    same = {"message": "what happened", "run_id": run_id}
    filled = [
        {**dict(zip(names, row, strict=True)), **same, "signal": signal}
        for row in rows
        for signal in ((None,) if row[1] in SHARED_STAGES else SIGNALS)
    ]
    return pa.Table.from_pylist(filled, schema=ERROR_SCHEMA)
