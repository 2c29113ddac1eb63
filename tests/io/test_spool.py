"""Rows in a temporary file: no write is silently cut short."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.io import spool
from acoustic_env.io.spool import RowFile, Spool


def test_runs_longer_than_one_call_of_the_system_takes_come_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PIECE_BYTES", 64)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: real(file, memoryview(data).cast("B")[:64], at))
    values = np.arange(400, dtype=np.float32).reshape(100, 4)
    rows = np.array([*range(50), *range(60, 110)])
    file = RowFile(110, 4)
    file.write(rows, values)
    assert np.array_equal(file[rows], values)
    assert np.isnan(file[50:60]).all()
    assert file[np.array([], np.int64)].shape == (0, 4)


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    file = RowFile(2, 4)
    monkeypatch.setattr(os, "pwrite", lambda _file, data, _at: memoryview(data).nbytes // 2)
    with pytest.raises(OSError, match="No space left"):
        file.write(np.array([0, 1]), np.zeros((2, 4)))


def test_a_spool_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = Spool(pa.schema([("n", pa.int64())]))
    rows.append(pa.table({"n": [1]}))
    assert [table.num_rows for table in rows.tables()] == [table.num_rows for table in rows.tables()] == [1]
    assert len(list(tmp_path.iterdir())) == 1
    del rows
    gc.collect()
    assert not list(tmp_path.iterdir())
