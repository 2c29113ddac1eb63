"""A clip that kills its worker, in real Ray: the job ends, the clip is named, its neighbors have their results."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from acoustic_env.features import registry
from acoustic_env.pipeline import compute
from acoustic_env.pipeline.compute import Compute, ComputeSettings
from acoustic_env.pipeline.guard import HANG_S, MAX_CRASHES, CrashIsolatedStage, _death, alarm
from acoustic_env.pipeline.health import SickWorkerError
from acoustic_env.pipeline.task import RowError, Task, unpack
from tests.pipeline.fakes import DEADLY_SAMPLES, DeadlyStage
from tests.pipeline.tasks import errors_of, named, noise, rows_of, works
from tests.pipeline.test_compute import FAKES, fake_blocks

__all__ = ["fake_blocks"]

BLOCKS = registry.BLOCKS


@pytest.fixture
def marks(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the marks of this test lie: a short path, as sockets below it have at most 107 characters."""
    folder = tmp_path_factory.mktemp("marks")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    monkeypatch.setattr("tempfile.tempdir", None)


def mark_of(guarded: CrashIsolatedStage, task: Task) -> Path:
    return guarded._mark(task.clips["clip_id"].to_pylist())


def done_by(guarded: CrashIsolatedStage, task: Task) -> Task:
    (done,) = unpack(guarded(task.pack()))
    return done


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_clip_that_kills_its_worker_is_an_error_and_its_neighbors_are_done() -> None:
    from ray.data import ActorPoolStrategy

    deadly = named("a", "SIGSEGV-1", "b", "SIGSEGV-2")
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    mark_of(guarded, deadly).write_bytes(b"x" * (MAX_CRASHES - 1))  # one more, in this run
    data = ray.data.from_arrow([deadly.pack(), named("c", "d").pack()])
    done = data.map_batches(
        CrashIsolatedStage,
        fn_constructor_args=(DeadlyStage, (), "run", "cpu"),
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(size=1),
        num_cpus=0.5,
    )
    tasks = [task for block in done.iter_batches(batch_size=None, batch_format="pyarrow") for task in unpack(block)]
    result = {clip: errors for task in tasks for clip, errors in errors_of(task).items()}
    died = [("worker_died", None, None)]
    assert result == {"a": [], "b": [], "c": [], "d": [], "SIGSEGV-1": died, "SIGSEGV-2": died}
    errors = [error for task in tasks for _, error in task.errors]
    assert all(error.permanent for error in errors)
    assert errors[0].message.startswith("the worker process ended by SIGSEGV on this clip")


def test_a_clip_killed_for_memory_may_be_tried_again(marks: Path) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    clips = named("SIGKILL-1", "a")
    mark_of(guarded, clips).write_bytes(b"x" * MAX_CRASHES)
    (((position, error),)) = done_by(guarded, clips).errors
    assert (position, error.code, error.permanent) == (0, "out_of_memory", False)
    assert not list(marks.glob("acoustic-env-*"))


class Impatient(Compute):
    """Waits a second for a clip, in another process, too."""

    def __init__(self, settings: ComputeSettings) -> None:
        compute.HANG_S = 1.0  # type: ignore[misc]
        super().__init__(settings)


def test_a_clip_whose_decoding_never_ends_is_an_error_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "BLOCKS", BLOCKS)
    monkeypatch.setattr(compute, "HANG_S", compute.HANG_S)  # put back at the end
    blocks = works("placeholder")
    clips = Task(noise(tmp_path, {"a": 16_000, "endless": 0, "b": 16_000}, blocks))
    os.mkfifo(tmp_path / "endless.wav")  # opening a pipe that nobody writes to waits for ever
    guarded = CrashIsolatedStage(Impatient, (ComputeSettings(blocks),), "run", "cpu")
    mark_of(guarded, clips).write_bytes(b"x" * MAX_CRASHES)
    assert errors_of(done_by(guarded, clips)) == {"a": [], "endless": [("timed_out", None, None)], "b": []}


class WithFakes(Compute):
    """Knows the fake blocks, in another process, too."""

    def __init__(self, settings: ComputeSettings) -> None:
        registry.BLOCKS = FAKES  # type: ignore[misc]
        super().__init__(settings)


def one_by_one(folder: Path, settings: ComputeSettings) -> Task:
    """Noise, "a" and one that is deadly to the raw signal of a block, done clip by clip."""
    samples = {"a": 16_000, "deadly": DEADLY_SAMPLES}
    clips = Task(noise(folder, samples, (*settings.blocks, *settings.passes_on)))
    guarded = CrashIsolatedStage(WithFakes, (settings,), "run", "cpu", suspects=["a"])
    return done_by(guarded, clips)


def test_a_block_that_crashes_on_a_signal_costs_neither_other_blocks_nor_other_signals(tmp_path: Path) -> None:
    blocks = works("deadly", "level", signals=("raw", "fg"))
    done = one_by_one(tmp_path, ComputeSettings(blocks))
    assert errors_of(done) == {"a": [], "deadly": [("worker_died", "deadly", "raw")]}
    assert [len(rows_of(done, work)) for work in blocks] == [3, 4]


def test_a_block_that_crashes_does_not_cost_the_blocks_of_a_later_pool(tmp_path: Path) -> None:
    deadly, later = works("deadly", "level", signals=("raw",))
    done = one_by_one(tmp_path, ComputeSettings((deadly,), passes_on=(later,)))
    assert errors_of(done) == {"a": [], "deadly": [("worker_died", "deadly", "raw")]}
    assert sorted(group.clips for group in done.groups) == [(0,), (1,)]
    assert {group.need for group in done.groups} == {later.spec.mask}


def test_a_clip_that_crashes_where_signals_are_prepared_for_a_later_pool_is_an_error_of_it(tmp_path: Path) -> None:
    (later,) = works("level", signals=("raw",))
    clip = Task(noise(tmp_path, {"a": 16_000}, (later,)))
    stage = Compute(ComputeSettings((), passes_on=(later,)))
    (part,) = stage.parts(clip)
    stage.skip(part, RowError("compute", "worker_died", "it did", permanent=True))
    assert errors_of(part) == {"a": [("worker_died", "level", "raw")]}


@pytest.mark.parametrize("step", ["decode", "compute"])
def test_a_death_is_recorded_under_the_step_that_it_ended(step: str) -> None:
    for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGALRM):
        assert _death(step, -number, remote=False).stage == step


def test_a_download_that_does_not_end_is_tried_again_by_the_next_run() -> None:
    ends = [_death(step, -signal.SIGALRM, remote=remote) for step in ("decode", "compute") for remote in (True, False)]
    assert [error.permanent for error in ends] == [False, True, True, True]


def test_an_alarm_put_off_in_time_ends_nobody() -> None:
    with alarm(0.2) as alive:
        for _ in range(4):
            time.sleep(0.1)
            alive(0.0)
    remaining, _ = signal.getitimer(signal.ITIMER_REAL)
    assert remaining == 0 or remaining > 1, "only pytest's own alarm is left"


def test_a_worker_whose_disk_takes_no_mark_is_at_fault_not_its_clips(
    marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    monkeypatch.setattr(tempfile, "tempdir", str(marks / "gone"))
    with pytest.raises(SickWorkerError, match="set TMPDIR") as fault:
        guarded(named("a").pack())
    assert fault.value.clip_id is None, "its node gets no more work"


def test_a_task_that_ends_leaves_no_mark_and_one_that_fails_neither(marks: Path) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    guarded(named("a").pack())
    with pytest.raises(AttributeError):
        guarded(named("SIGNONE-1").pack())
    assert not list(marks.glob("acoustic-env-*"))


def test_an_error_in_the_child_is_the_runs_error(marks: Path) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    clips = named("a", "SIGNONE-1")
    mark_of(guarded, clips).write_bytes(b"x" * MAX_CRASHES)
    with pytest.raises(AttributeError):
        guarded(clips.pack())


def test_a_clip_that_ends_the_worker_while_it_is_computed_has_errors_of_what_it_lacked(tmp_path: Path) -> None:
    (work,) = blocks = works("level")
    clips = Task(noise(tmp_path, {"a": 16_000}, blocks))
    skipped = Compute(ComputeSettings(blocks)).skip(clips, RowError("compute", "worker_died", "it did", permanent=True))
    assert len(rows_of(skipped, work)) == 0
    assert errors_of(skipped) == {"a": [("worker_died", "level", signal) for signal in ("raw", "fg", "bg")]}


def test_a_task_that_has_hung_once_is_done_clip_by_clip(marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = CrashIsolatedStage(DeadlyStage, (), "run", "cpu")
    clips = named("a", "b")
    mark = mark_of(guarded, clips)
    mark.write_bytes(b"x")
    os.utime(mark, (0, time.time() - HANG_S))
    monkeypatch.setattr(guarded, "stage", None)  # which is not called
    assert done_by(guarded, clips).errors == []
    assert not list(marks.glob("acoustic-env-*"))
