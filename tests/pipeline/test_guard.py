"""A clip that kills its worker, in real Ray: the job ends, the clip is named, its neighbors have their results."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from acoustic_env.pipeline.guard import HANG_S, MAX_CRASHES, CrashIsolatedStage, _death, alarmed
from acoustic_env.pipeline.health import SickWorkerError
from acoustic_env.pipeline.rows import RowError
from acoustic_env.pipeline.stages import Compute, ComputeSettings, Decode
from tests.pipeline.fakes import DeadlyStage
from tests.pipeline.test_stages import clips as work_table
from tests.pipeline.test_stages import fake_blocks, works

__all__ = ["fake_blocks"]


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the marks of this test lie."""
    folder = tmp_path / "marks"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    monkeypatch.setattr("tempfile.tempdir", None)


def names(*clip_ids: str) -> pa.Table:
    return pa.table({"clip_id": list(clip_ids)})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_clip_that_kills_its_worker_is_an_error_and_its_neighbors_are_done() -> None:
    from ray.data import ActorPoolStrategy

    deadly = names("a", "SIGSEGV-1", "b", "SIGSEGV-2")
    CrashIsolatedStage(DeadlyStage, (), "run", "cpu")._mark(deadly).write_bytes(
        b"x" * (MAX_CRASHES - 1)
    )  # one more, in this run
    data = ray.data.from_blocks([deadly, names("c", "d")])
    done = data.map_batches(
        CrashIsolatedStage,
        fn_constructor_args=(DeadlyStage, (), "run", "cpu"),
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(size=1),
        num_cpus=0.5,
    )
    result = {row["clip_id"]: row["errors"] for row in done.take_all()}
    assert [len(result[clip]) for clip in "abcd"] == [0, 0, 0, 0]
    for clip in ("SIGSEGV-1", "SIGSEGV-2"):
        (error,) = result[clip]
        assert (error["code"], error["permanent"]) == ("worker_died", True)
        assert error["message"].startswith("the worker process ended by SIGSEGV on this clip")


def test_a_clip_killed_for_memory_may_be_tried_again(marks: Path) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    clips = names("SIGKILL-1", "a")
    guarded._mark(clips).write_bytes(b"x" * MAX_CRASHES)
    ((error,), _) = guarded(clips)["errors"].to_pylist()
    assert (error["code"], error["permanent"]) == ("out_of_memory", False)
    assert not list(marks.glob("acoustic-env-*"))


def test_a_clip_whose_decoding_never_ends_is_an_error_of_its_own(tmp_path: Path) -> None:
    blocks = works("level")
    clips = work_table(tmp_path, {"a": 16_000, "endless": 0, "b": 16_000}, blocks)
    os.mkfifo(tmp_path / "endless.wav")  # opening a pipe that nobody writes to waits for ever
    guarded = CrashIsolatedStage(Decode, ((16_000,), 1.0), "run", "cpu")
    guarded._mark(clips).write_bytes(b"x" * MAX_CRASHES)
    errors = guarded(clips)["errors"].to_pylist()
    assert [[error["code"] for error in clip] for clip in errors] == [[], ["timed_out"], []]


@pytest.mark.parametrize("stage", [Decode, Compute])
def test_a_death_is_recorded_under_a_stage_that_later_runs_respect(stage: type) -> None:
    for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGALRM):
        assert _death(stage.__name__.lower(), -number).stage in ("decode", "compute")


def test_an_alarm_put_off_in_time_ends_nobody() -> None:
    assert len(list(alarmed((time.sleep(0.1) for _ in range(4)), 0.2))) == 4
    remaining, _ = signal.getitimer(signal.ITIMER_REAL)
    assert remaining == 0 or remaining > 1, "only pytest's own alarm is left"


def test_a_worker_whose_disk_takes_no_mark_is_at_fault_not_its_clips(
    marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    monkeypatch.setattr(tempfile, "tempdir", str(marks / "gone"))
    with pytest.raises(SickWorkerError, match="set TMPDIR") as fault:
        guarded(names("a"))
    assert fault.value.clip_id is None, "its node gets no more work"


def test_a_task_that_ends_leaves_no_mark_and_one_that_fails_neither(marks: Path) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    guarded(names("a"))
    with pytest.raises(AttributeError):
        guarded(names("SIGNONE-1"))
    assert not list(marks.glob("acoustic-env-*"))


def test_an_error_in_the_child_is_the_runs_error(marks: Path) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    clips = names("a", "SIGNONE-1")
    guarded._mark(clips).write_bytes(b"x" * MAX_CRASHES)
    with pytest.raises(AttributeError):
        guarded(clips)


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_clip_has_the_columns_of_its_neighbors_and_no_rows(tmp_path: Path, fused: bool) -> None:
    blocks = works("level")
    table = work_table(tmp_path, {"a": 16_000, "b": 16_000}, blocks)
    compute = Compute(ComputeSettings(blocks, (16_000,) if fused else (), prepares=True, passes_on=(), device="cpu"))
    arriving = table if fused else Decode([16_000])(table)
    error = RowError("compute", "worker_died", "it did", permanent=True)
    both = pa.concat_tables([compute(arriving.slice(0, 1)), compute.skip(arriving.slice(1, 1), error)])
    assert [len(rows) for rows in both["rows:level"].to_pylist()] == [3, 0]
    missed = [error._replace(block="level", signal=signal)._asdict() for signal in ("raw", "fg", "bg")]
    assert both["errors"].to_pylist() == [[], missed]


def test_a_task_that_has_hung_once_is_done_clip_by_clip(marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    clips = names("a", "b")
    mark = guarded._mark(clips)
    mark.write_bytes(b"x")
    os.utime(mark, (0, time.time() - HANG_S))
    monkeypatch.setattr(guarded, "stage", None)  # which is not called
    assert [errors.as_py() for errors in guarded(clips)["errors"]] == [[], []]
    assert not list(marks.glob("acoustic-env-*"))
