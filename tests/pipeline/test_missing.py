"""What is missing, found part by part, is what the whole tables would say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import clip_table
from acoustic_env.pipeline.books import find_missing
from acoustic_env.pipeline.work import BlockSpec, BlockWork
from acoustic_env.store.feature_store import FeatureStore
from tests.store.tables import SIGNALS, FakeBlock, fake_errors, fake_table

CLIPS = [f"clip {i}" for i in range(40)]


@pytest.fixture
def work() -> BlockWork:
    """Two blocks' worth of bits; this is the second."""
    schema = fake_table(["a"], block=FakeBlock()).schema
    return BlockWork(BlockSpec("fake", "fast", 1, SIGNALS), dict.fromkeys(SIGNALS, schema), 16_000, None, None)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Rows in several parts, some keys twice, some of clips that no list names, and errors."""
    made, rng = FeatureStore(str(tmp_path)), np.random.default_rng(3)
    for number in range(8):
        ids = [*rng.choice(CLIPS, 5, replace=False).tolist(), f"other {number}"]
        made.write_part(fake_table(ids, SIGNALS[: 1 + number % 2]))
    made.write_errors(
        fake_errors(
            ("clip 0", "source", "not_audio", True, 1), ("clip 4", "source", "unreachable", False, 3), uri="/a.wav"
        )
    )
    return made


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_bits_are_the_keys_that_the_store_lacks(
    store: FeatureStore, work: BlockWork, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acoustic_env.io.database.BATCH_ROWS", at_once)
    listed = Listed([clip_table({"clip_id": clip, "uri": "/a.wav"} for clip in CLIPS)])
    found = find_missing(listed, [work], store, store.errors())
    (fingerprint,) = work.versions()
    keys = store.committed_keys("fake", fingerprint)
    lacking = {(c, s) for c in CLIPS for s in SIGNALS} - set(zip(*keys.to_pydict().values(), strict=True))
    excluded = {("clip 0", signal) for signal in SIGNALS}
    for bits, expected in ((found.missing, lacking), (found.pending, lacking - excluded)):
        assert {(CLIPS[row], s) for s in SIGNALS for row in np.flatnonzero(bits & work.spec.bit(s))} == expected
    assert 0 < np.count_nonzero(found.excluded) < len(CLIPS)
