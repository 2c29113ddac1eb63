"""What travels through the graph arrives as it was sent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.errors import ClipError
from acoustic_env.pipeline.rows import (
    ERRORS_TYPE,
    RowError,
    pack_errors,
    pack_rows,
    pack_waves,
    row_error,
    unpack_rows,
    unpack_waves,
)

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("signal", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32(), 2)),
    ],
    metadata={"acoustic_env.block": "fake"},
)


@settings(deadline=None)  # the first call may take long on a busy machine
@given(st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=8), st.integers(1, 4))
def test_waveforms_of_any_length_survive_packing_chunking_and_slicing(sizes: list[int | None], cut: int) -> None:
    waves = [None if size is None else np.arange(size, dtype=np.float32) for size in sizes]
    column = pa.chunked_array([pack_waves(waves[:cut]), pack_waves(waves[cut:])])
    for sent, received in zip(waves[1:], unpack_waves(column.slice(1)), strict=True):
        assert (sent is None) == (received is None)
        if sent is not None and received is not None:
            np.testing.assert_array_equal(sent, received)


@settings(deadline=None)  # the first call may take long on a busy machine
@given(st.lists(st.integers(0, 5), min_size=0, max_size=20))
def test_rows_find_their_clip_whatever_the_order_they_were_computed_in(owners: list[int]) -> None:
    ids = [f"clip{owner}" for owner in owners]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2 * len(ids), dtype=np.float32)), 2)
    piece = pa.table([pa.array(ids, pa.string()), pa.array(["raw"] * len(ids), pa.string()), vectors], schema=SCHEMA)
    packed = pack_rows([(piece, np.array(owners, np.int64))], 6, SCHEMA)
    assert len(packed) == 6
    for clip, rows in enumerate(packed.to_pylist()):
        assert {row["clip_id"] for row in rows} <= {f"clip{clip}"}
    restored = unpack_rows(pa.chunked_array([packed.slice(0, 2), packed.slice(2)]), SCHEMA)
    assert restored.schema.equals(SCHEMA, check_metadata=True)
    assert sorted(restored["clip_id"].to_pylist()) == sorted(ids)


def test_clips_without_rows_give_an_empty_table_with_the_schema() -> None:
    packed = pack_rows([], 3, SCHEMA)
    assert packed.to_pylist() == [[], [], []]
    assert unpack_rows(pa.chunked_array([packed]), SCHEMA).num_rows == 0


def test_a_clip_error_keeps_its_code_and_anything_else_becomes_the_stages_own() -> None:
    assert row_error("decode", ClipError("download_failed", "timed out")).permanent is False
    assert row_error("decode", ValueError("odd")) == RowError("decode", "decode_failed", "ValueError: odd", True)
    assert row_error("mps", ValueError("odd")).code == "compute_failed"
    assert row_error("mps", MemoryError()).permanent is False


def test_errors_keep_their_type_even_when_there_are_none() -> None:
    assert pack_errors([[], []]).type == ERRORS_TYPE
    assert pack_errors([[RowError("decode", "empty", "", True)]]).to_pylist()[0][0]["code"] == "empty"
