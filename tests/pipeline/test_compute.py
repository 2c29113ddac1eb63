"""The stages without Ray: what happens to a clip, and what does not happen to its neighbors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from acoustic_env.errors import AcousticEnvError
from acoustic_env.features import registry
from acoustic_env.pipeline.compute import STEP_SAMPLES, Compute, ComputeSettings
from acoustic_env.pipeline.guard import CrashIsolatedStage
from acoustic_env.pipeline.task import Task, unpack
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.registry import Registry
from tests.pipeline.fakes import POISON_SAMPLES
from tests.pipeline.tasks import errors_of, noise, rows_of, works

FAKES = Registry(
    "blocks",
    "feature block",
    {name: f"tests.pipeline.fakes:{name.capitalize()}Block" for name in ("level", "signal", "deadly")},
)


@pytest.fixture(autouse=True)
def fake_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BLOCKS", FAKES)


def run(clips: pa.Table, blocks: tuple[BlockWork, ...]) -> Task:
    return Compute(ComputeSettings(blocks))(Task(clips))


def keys(task: Task, work: BlockWork) -> set[tuple[str, str]]:
    rows = rows_of(task, work)
    return set(zip(rows["clip_id"].to_pylist(), rows["signal"].to_pylist(), strict=True))


def test_clips_of_several_lengths_give_a_row_for_each_signal(tmp_path: Path) -> None:
    blocks = works("level")
    result = run(noise(tmp_path, {"a": 16_000, "b": 8_000, "c": 16_000}, blocks), blocks)
    assert keys(result, blocks[0]) == {(clip, signal) for clip in "abc" for signal in ("raw", "fg", "bg")}
    assert (result.errors, result.groups) == ([], [])


def test_a_missing_file_is_an_error_of_its_own_clip_only(tmp_path: Path) -> None:
    blocks = works("level")
    result = run(noise(tmp_path, {"a": 16_000, "gone": 0, "c": 16_000}, blocks), blocks)
    assert {clip for clip, _ in keys(result, blocks[0])} == {"a", "c"}
    assert errors_of(result) == {"a": [], "gone": [("not_found", None, None)], "c": []}


def test_a_block_that_raises_for_one_clip_keeps_the_neighbors_of_the_same_batch(tmp_path: Path) -> None:
    blocks = works("level", "signal")
    result = run(noise(tmp_path, {"a": 16_000, "poison": POISON_SAMPLES}, blocks), blocks)
    assert keys(result, blocks[0]) == {("a", signal) for signal in ("raw", "fg", "bg")}
    failed = [("compute_failed", block, signal) for block in ("level", "signal") for signal in ("raw", "fg", "bg")]
    assert errors_of(result) == {"a": [("compute_failed", "signal", "raw")], "poison": failed}


def test_a_block_that_fails_for_one_signal_keeps_the_others(tmp_path: Path) -> None:
    blocks = works("signal")
    result = run(noise(tmp_path, {"a": 16_000, "b": 16_000}, blocks), blocks)
    assert keys(result, blocks[0]) == {(clip, signal) for clip in "ab" for signal in ("fg", "bg")}
    assert errors_of(result) == {clip: [("compute_failed", "signal", "raw")] for clip in "ab"}


def test_only_what_a_clip_owes_is_computed(tmp_path: Path) -> None:
    blocks = works("level")
    table = noise(tmp_path, {"a": 16_000, "b": 16_000}, blocks)
    spec = blocks[0].spec
    table = table.set_column(4, "need", pa.array([spec.bit("raw"), spec.bit("bg")], pa.int64()))
    assert keys(run(table, blocks), blocks[0]) == {("a", "raw"), ("b", "bg")}


def test_signals_handed_to_a_later_pool_are_those_the_first_pool_would_have_used(tmp_path: Path) -> None:
    first, second = works("level", "signal")
    table = noise(tmp_path, {"a": 16_000, "b": 9_000, "gone": 0}, (first, second))
    passed = Compute(ComputeSettings((first,), passes_on=(second,)))(Task(table))
    assert passed.groups
    (arrived,) = unpack(passed.pack())
    apart = Compute(ComputeSettings((second,), first=False))(arrived)
    together = run(table, (first, second))
    for work in (first, second):
        assert rows_of(apart, work).equals(rows_of(together, work))
    assert not apart.groups
    assert sorted(errors_of(apart).items()) == sorted(errors_of(together).items())


def test_the_numbers_do_not_depend_on_how_clips_are_batched(tmp_path: Path) -> None:
    blocks = works("level")
    table = noise(tmp_path, dict.fromkeys("abcde", 16_000), blocks)
    whole = rows_of(run(table, blocks), blocks[0])
    single = [rows_of(run(table.slice(i, 1), blocks), blocks[0]) for i in range(5)]
    assert whole.equals(pa.concat_tables(single).combine_chunks())


def renamed(schema: pa.Schema, fingerprint: str) -> pa.Schema:
    return schema.with_metadata({**schema.metadata, b"acoustic_env.fingerprint": fingerprint.encode()})


def test_a_worker_that_would_compute_another_version_refuses_before_it_writes(tmp_path: Path) -> None:
    (planned,) = works("level")
    other = replace(planned, schemas=dict.fromkeys(planned.schemas, renamed(planned.schema, "0123456789abcdef")))
    worker = CrashIsolatedStage(Compute, (ComputeSettings((other,)),), "run", "cpu")
    with pytest.raises(AcousticEnvError, match="planned for 0123456789abcdef"):
        worker(Task(noise(tmp_path, {"a": 16_000}, (planned,))).pack())


def test_a_long_clip_has_its_rows_and_one_beyond_the_memory_an_error_that_is_not_final(
    tmp_path: Path,
) -> None:
    (work,) = blocks = works("level")
    clips = noise(tmp_path, {"long": 3 * STEP_SAMPLES, "short": 16_000}, blocks)
    assert keys(run(clips, blocks), work) == {(clip, s) for clip in ("long", "short") for s in ("raw", "fg", "bg")}
    bounded = Compute(ComputeSettings(blocks, longest_s=100.0))(Task(clips))
    assert errors_of(bounded) == {"long": [("out_of_memory", None, None)], "short": []}
    ((_, error),) = bounded.errors
    assert not error.permanent
    assert "240 s of audio" in error.message
    assert "--max-workers" in error.message
