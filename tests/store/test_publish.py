"""A block as a table of other programs: each key once, and again only what is new."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from acoustic_env.cli import main
from acoustic_env.errors import UsageError
from acoustic_env.store import publish as publish_module
from acoustic_env.store.compact import compact
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.publish import publish
from tests.s3 import S3Server
from tests.store.tables import FakeBlock, fake_fingerprint, fake_table

deltalake = pytest.importorskip("deltalake")
FP = fake_fingerprint()


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(str(tmp_path / "store"))
    store.write_part(fake_table(["b", "a", "silent"]))
    return store


def in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("clip_id", "ascending"), ("signal", "ascending")]).combine_chunks()


def check_published(store: FeatureStore, out: str, options: dict[str, str]) -> None:
    first = publish(store, "fake", out, "delta")
    assert (first.added, first.rows) == (6, 6)
    store.write_part(fake_table(["b", "c"]))
    list(compact(store.url))
    second = publish(store, "fake", out, "delta")
    assert (second.added, second.rows) == (2, 8)
    assert publish(store, "fake", out, "delta").added == 0
    table = deltalake.DeltaTable(out, storage_options=options)
    assert table.version() == 1
    rows, wanted = in_order(table.to_pyarrow_table()), store.read("fake")
    for name in ("clip_id", "signal", "x", "v"):
        assert rows[name].to_pylist() == wanted[name].to_pylist()
    assert set(rows["fingerprint"].to_pylist()) == {FP}


def test_a_delta_table_gets_each_key_once_and_later_only_new_ones(store: FeatureStore, tmp_path: Path) -> None:
    check_published(store, str(tmp_path / "delta"), {})


@pytest.mark.slow
def test_a_delta_table_on_s3_is_one_on_a_disk(s3: S3Server) -> None:
    store = FeatureStore(s3.url)
    store.write_part(fake_table(["b", "a", "silent"]))
    options = {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_ALLOW_HTTP": "true"}
    check_published(store, f"s3://{s3.bucket}/tables/fake", options)


def test_of_two_that_publish_at_once_one_adds_the_rows(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "delta")
    publish(store, "fake", out, "delta", signals=["raw"])
    real = publish_module._missing_keys

    def another_is_quicker(*arguments: object) -> pa.Table:
        missing = real(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(publish_module, "_missing_keys", real)
        assert publish(store, "fake", out, "delta").added == 3
        return missing

    monkeypatch.setattr(publish_module, "_missing_keys", another_is_quicker)
    with pytest.raises(UsageError, match="the Delta table cannot be read or written"):
        publish(store, "fake", out, "delta")
    assert publish(store, "fake", out, "delta").rows == 6


def test_rows_of_another_version_or_table_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    out = str(tmp_path / "delta")
    publish(store, "fake", out, "delta")
    loud = FakeBlock(scale=2.0)
    store.write_part(fake_table(["a"], block=loud))
    with pytest.raises(UsageError, match=f"has rows of version {FP}"):
        publish(store, "fake", out, "delta", [fake_fingerprint(loud)])
    deltalake.write_deltalake(str(tmp_path / "other"), pa.table({"a": [1]}))
    with pytest.raises(UsageError, match="of another program, without column"):
        publish(store, "fake", str(tmp_path / "other"), "delta", [FP])


def test_a_data_set_has_shards_and_a_card_that_agree(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_part(fake_table([f"clip {i:02d}" for i in range(20)]))
    out = tmp_path / "dataset"
    assert publish(store, "fake", str(out), "huggingface").rows == 46
    monkeypatch.setattr(publish_module, "RANGE_BYTES", 200)
    arguments = ["--block", "fake", "--format", "huggingface", "--out", str(out), "--license", "cc-by-4.0"]
    assert main(["store", "publish", store.url, *arguments]) == 0
    assert "46 rows added, 46 rows" in capsys.readouterr().out
    files = sorted(file.name for file in (out / "data").iterdir())
    assert len(files) > 1
    assert all(re.fullmatch(rf"train-\d{{5}}-of-{len(files):05d}\.parquet", name) for name in files)
    table = pa.concat_tables([pq.read_table(out / "data" / name) for name in files])
    assert table.equals(store.read("fake"))
    _, header, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "cc-by-4.0"
    assert card["dataset_info"]["splits"][0]["num_examples"] == 46
    assert card["dataset_info"]["features"][2:] == [
        {"name": "x", "dtype": "float64"},
        {"name": "v", "sequence": "float32", "length": 3},
    ]
    assert card["dataset_info"]["download_size"] == sum(file.stat().st_size for file in (out / "data").iterdir())
    assert f"version `{FP}`" in text


def test_lists_and_unsigned_numbers_have_types_that_delta_has() -> None:
    frames = pa.list_(pa.list_(pa.uint8(), 128))
    assert publish_module._delta_type(frames) == pa.list_(pa.list_(pa.int16()))
    assert publish_module._feature(frames) == {"sequence": {"sequence": "uint8", "length": 128}}
