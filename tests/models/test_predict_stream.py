"""`predict` reads the store once and writes part by part: the same numbers as the whole table, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.audit.table import write_stream
from acoustic_env.io.spool import RowFile
from acoustic_env.models import predict as predict_module
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.data.matrix import load_matrix
from acoustic_env.models.learn import bundle_matrix
from acoustic_env.models.predict import predict, predict_stream
from tests.models.conftest import SIGNALS, Disk, Generated, write_block
from tests.models.test_learn_commands import silent, trained


def test_rows_on_disk_are_those_written_in_any_order() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    file, order = RowFile(60, 3), np.random.default_rng(1).permutation(50)
    for some in np.split(order, [7, 20]):
        file.write(some, values[some])
    np.testing.assert_array_equal(file[order], values[order])
    np.testing.assert_array_equal(file[:50], values)
    np.testing.assert_array_equal(file[np.arange(60) % 2 == 0][:25], values[::2])
    assert np.isnan(file[50:]).all()
    assert file[np.array([], np.int64)].shape == (0, 3)


def test_features_on_disk_are_those_in_memory(disk: Disk) -> None:
    write_block(disk.store, Generated("mps", 2), [f"clip{i:03d}" for i in range(0, 300, 3)], np.zeros(100))
    ids = disk.table()["clip_id"].take(np.random.default_rng(0).permutation(300)).to_pylist()
    for blocks in (["yamnet", "indices"], ["mps", "yamnet"]):
        held, spooled = (load_matrix(disk.feature_store(), ids, blocks, SIGNALS, spooled=way) for way in (False, True))
        np.testing.assert_array_equal(spooled.values[:], held.values)
        assert (spooled.columns, spooled.absent, spooled.fingerprints) == (held.columns, held.absent, held.fingerprints)


def test_tables_in_chunks_are_the_prediction_of_the_whole_matrix(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(trained(disk, "--model", "logistic"))
    ids = disk.table()["clip_id"].take(np.random.default_rng(0).permutation(300)).to_pylist()
    whole = bundle.predict_proba(bundle_matrix(bundle, ids, disk.feature_store()))
    monkeypatch.setattr(predict_module, "CHUNK", 64)
    monkeypatch.setattr(predict_module, "ROWS", 50)
    lines: list[str] = []
    tables = list(predict_stream(bundle, [*ids, "none"], disk.feature_store(), lines.append))
    assert len(tables) > 12
    table = pa.concat_tables(tables)
    assert table["clip_id"].to_pylist() == np.repeat(ids, 2).tolist()
    np.testing.assert_allclose(table["posterior"].to_numpy(), whole.ravel(), rtol=1e-12)
    assert all("no row for 1 of 301 clips (none)" in line for line in lines)
    write_stream(tables, f"{disk.folder}/out.csv")
    write_stream(tables, f"{disk.folder}/out.parquet")
    assert pa.csv.read_csv(f"{disk.folder}/out.csv").num_rows == 600
    assert pq.read_table(f"{disk.folder}/out.parquet").equals(table)


@pytest.mark.slow
def test_predict_holds_neither_the_features_nor_the_predictions(tmp_path: Path, disk: Disk) -> None:
    bundle, store, more = Bundle.load(trained(disk, "--model", "logistic")), disk.feature_store(), 60_000
    ids = [f"more{i:06d}" for i in range(more)]
    for start in range(0, more, 10_000):
        for name, size in (("indices", 4), ("yamnet", 6)):
            write_block(disk.store, Generated(name, size), ids[start : start + 10_000], np.zeros(10_000), seed=start)
    predict(bundle, ids[:10], store, silent)  # what is imported on first use does not count
    tracemalloc.start()
    rows = write_stream(predict_stream(bundle, ids, store, silent), f"{tmp_path}/out.parquet")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 2 * more
    assert peak < 12 * 2**20  # NumPy's arrays; the features alone are 7.3 MiB, the ids 5
