"""The feature matrix: blocks joined by clip, what is absent named."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.errors import UsageError
from acoustic_env.models.data.matrix import load_matrix
from tests.models.conftest import Disk, Generated, write_block


def test_blocks_and_signals_stand_side_by_side_in_the_order_asked_for(disk: Disk) -> None:
    store = disk.feature_store()
    matrix = load_matrix(store, ["clip007", "clip002"], ["yamnet", "indices"], ["fg", "raw"])
    assert matrix.clip_ids == ["clip007", "clip002"]
    assert matrix.values.shape == (2, 2 * (6 + 3) + 2 * (4 + 3))
    assert matrix.values.dtype == np.float32
    names = [str(column) for column in matrix.columns]
    assert names[0] == "yamnet.fg.f0"
    assert names[8] == "yamnet.fg.vector[2]"
    assert names[9] == "yamnet.raw.f0"
    row = store.read("yamnet", signals=["raw"], clip_ids=["clip002"]).to_pylist()[0]
    assert matrix.values[1, 9] == np.float32(row["f0"])
    np.testing.assert_array_equal(matrix.values[1, 15:18], np.float32(row["vector"]))


def test_clips_without_a_row_are_missing_values_and_named(disk: Disk) -> None:
    write_block(disk.store, Generated("mps", 2), ["clip000"], np.zeros(1))
    matrix = load_matrix(disk.feature_store(), ["clip000", "clip001", "clip002"], ["mps"], ["raw"])
    assert np.isfinite(matrix.values[0]).all()
    assert np.isnan(matrix.values[1:]).all()
    assert matrix.summary() == ["block mps, signal raw: no row for 2 of 3 clips (clip001, clip002)"]
    np.testing.assert_array_equal(matrix.complete(), [True, False, False])
    assert matrix.take(matrix.complete()).clip_ids == ["clip000"]


def test_a_signal_that_is_there_for_no_clip_is_refused(disk: Disk) -> None:
    with pytest.raises(UsageError, match="block indices has no row of signal bg for any of the 1 clips"):
        load_matrix(disk.feature_store(), ["clip000"], ["indices"], ["bg"])


def test_a_block_in_two_versions_must_be_chosen(disk: Disk) -> None:
    other = Generated("indices", 4, setting=1)
    write_block(disk.store, other, ["clip000"], np.zeros(1))
    store = disk.feature_store()
    with pytest.raises(UsageError, match="several versions"):
        load_matrix(store, ["clip000"], ["indices"], ["raw"])
    versions = [described.fingerprint for described in store.fingerprints("indices")]
    matrix = load_matrix(store, ["clip000"], ["indices"], ["raw"], {"indices": versions[:1]})
    assert matrix.fingerprints == {"indices": {"raw": versions[0]}}


def test_parts_can_be_taken_out_of_a_matrix(disk: Disk) -> None:
    matrix = load_matrix(disk.feature_store(), ["clip000", "clip001"], ["indices", "yamnet"], ["raw", "fg"])
    alone = load_matrix(disk.feature_store(), ["clip000", "clip001"], ["yamnet"], ["fg"])
    taken = matrix.restrict([("yamnet", "fg")])
    np.testing.assert_array_equal(taken.values, alone.values)
    assert taken.columns == alone.columns
    assert taken.fingerprints == alone.fingerprints
