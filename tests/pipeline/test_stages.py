"""The stages without Ray: what happens to a clip, and what does not happen to its neighbors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from acoustic_env.errors import AcousticEnvError
from acoustic_env.features import registry
from acoustic_env.pipeline.guard import CrashIsolatedStage
from acoustic_env.pipeline.rows import WORK_SCHEMA, unpack_rows
from acoustic_env.pipeline.stages import Compute, ComputeSettings, Decode
from acoustic_env.pipeline.work import BlockSpec, BlockWork, block_work
from acoustic_env.registry import Registry
from tests.pipeline.fakes import POISON_SAMPLES


@pytest.fixture(autouse=True)
def fake_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = {"level": "tests.pipeline.fakes:LevelBlock", "signal": "tests.pipeline.fakes:SignalBlock"}
    monkeypatch.setattr(registry, "BLOCKS", Registry("blocks", "feature block", fakes))


def works(*names: str) -> tuple[BlockWork, ...]:
    return tuple(block_work(BlockSpec(name, "fast", i, ("raw", "fg", "bg"))) for i, name in enumerate(names))


def clips(folder: Path, samples: dict[str, int], blocks: tuple[BlockWork, ...]) -> pa.Table:
    """A work table over noise files of the given lengths at 16 kHz; 0 samples means no file."""
    rows = []
    for i, (name, length) in enumerate(samples.items()):
        path = folder / f"{name}.wav"
        if length:
            soundfile.write(path, np.random.default_rng(i).normal(0, 0.2, length), 16_000)
        need = sum(work.spec.mask for work in blocks)
        rows.append({"clip_id": name, "uri": str(path), "start_s": None, "end_s": None, "need": need, "attempt": 1})
    return pa.Table.from_pylist(rows, WORK_SCHEMA)


def run(table: pa.Table, blocks: tuple[BlockWork, ...]) -> pa.Table:
    decoded = Decode(sorted({work.sample_rate for work in blocks}))(table)
    return Compute(ComputeSettings(blocks, decodes=(), prepares=True, passes_on=(), device="cpu"))(decoded)


def keys(result: pa.Table, work: BlockWork) -> set[tuple[str, str]]:
    rows = unpack_rows(result[f"rows:{work.spec.name}"], work.schema)
    return set(zip(rows["clip_id"].to_pylist(), rows["signal"].to_pylist(), strict=True))


def test_clips_of_several_lengths_give_a_row_for_each_signal(tmp_path: Path) -> None:
    blocks = works("level")
    result = run(clips(tmp_path, {"a": 16_000, "b": 8_000, "c": 16_000}, blocks), blocks)
    assert keys(result, blocks[0]) == {(clip, signal) for clip in "abc" for signal in ("raw", "fg", "bg")}
    assert result["errors"].to_pylist() == [[], [], []]
    assert not any(name.startswith("wave:") for name in result.column_names)


def test_a_missing_file_is_an_error_of_its_own_clip_only(tmp_path: Path) -> None:
    blocks = works("level")
    result = run(clips(tmp_path, {"a": 16_000, "gone": 0, "c": 16_000}, blocks), blocks)
    assert {clip for clip, _ in keys(result, blocks[0])} == {"a", "c"}
    errors = dict(zip(result["clip_id"].to_pylist(), result["errors"].to_pylist(), strict=True))
    assert [error["code"] for error in errors["gone"]] == ["not_found"]
    assert errors["a"] == errors["c"] == []


def test_a_block_that_raises_for_one_clip_keeps_the_neighbors_of_the_same_batch(tmp_path: Path) -> None:
    blocks = works("level", "signal")
    result = run(clips(tmp_path, {"a": 16_000, "poison": POISON_SAMPLES}, blocks), blocks)
    assert keys(result, blocks[0]) == {("a", signal) for signal in ("raw", "fg", "bg")}
    poison = result["errors"].to_pylist()[1]
    assert {(error["block"], error["code"]) for error in poison} == {
        ("level", "compute_failed"),
        ("signal", "compute_failed"),
    }


def test_a_block_that_fails_for_one_signal_keeps_the_others(tmp_path: Path) -> None:
    blocks = works("signal")
    result = run(clips(tmp_path, {"a": 16_000, "b": 16_000}, blocks), blocks)
    assert keys(result, blocks[0]) == {(clip, signal) for clip in "ab" for signal in ("fg", "bg")}
    assert [len(errors) for errors in result["errors"].to_pylist()] == [1, 1]


def test_only_what_a_clip_owes_is_computed(tmp_path: Path) -> None:
    blocks = works("level")
    table = clips(tmp_path, {"a": 16_000, "b": 16_000}, blocks)
    spec = blocks[0].spec
    table = table.set_column(4, "need", pa.array([spec.bit("raw"), spec.bit("bg")], pa.int64()))
    assert keys(run(table, blocks), blocks[0]) == {("a", "raw"), ("b", "bg")}


def test_signals_handed_to_a_later_pool_are_those_the_first_pool_would_have_used(tmp_path: Path) -> None:
    first, second = works("level", "signal")
    table = clips(tmp_path, {"a": 16_000, "b": 9_000, "gone": 0}, (first, second))
    decoded = Decode([16_000])(table)
    passed = Compute(ComputeSettings((first,), decodes=(), prepares=True, passes_on=(second,), device="cpu"))(decoded)
    assert any(name.startswith("wave:16000:") for name in passed.column_names)
    apart = Compute(ComputeSettings((second,), decodes=(), prepares=False, passes_on=(), device="cpu"))(passed)
    together = run(table, (first, second))
    for work in (first, second):
        name = f"rows:{work.spec.name}"
        assert unpack_rows(apart[name], work.schema).equals(unpack_rows(together[name], work.schema))
    assert not any(name.startswith("wave:") for name in apart.column_names)


def test_the_numbers_do_not_depend_on_how_clips_are_batched(tmp_path: Path) -> None:
    blocks = works("level")
    table = clips(tmp_path, dict.fromkeys("abcde", 16_000), blocks)
    whole = unpack_rows(run(table, blocks)["rows:level"], blocks[0].schema)
    single = [unpack_rows(run(table.slice(i, 1), blocks)["rows:level"], blocks[0].schema) for i in range(5)]
    assert whole.equals(pa.concat_tables(single).combine_chunks())


def renamed(schema: pa.Schema, fingerprint: str) -> pa.Schema:
    return schema.with_metadata({**schema.metadata, b"acoustic_env.fingerprint": fingerprint.encode()})


def test_a_worker_that_would_compute_another_version_refuses_before_it_writes(tmp_path: Path) -> None:
    (planned,) = works("level")
    other = replace(planned, schemas=dict.fromkeys(planned.schemas, renamed(planned.schema, "0123456789abcdef")))
    decoded = Decode([16_000])(clips(tmp_path, {"a": 16_000}, (planned,)))
    settings = ComputeSettings((other,), decodes=(), prepares=True, passes_on=(), device="cpu")
    worker = CrashIsolatedStage(Compute, (settings,), "run", "cpu")
    with pytest.raises(AcousticEnvError, match="planned for 0123456789abcdef"):
        worker(decoded)
