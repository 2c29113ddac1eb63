"""What travels through the graph arrives as it was sent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.errors import ClipError
from acoustic_env.pipeline.pending import cut_tasks
from acoustic_env.pipeline.task import Group, RowError, Task, Worked, row_error, unpack
from tests.pipeline.tasks import named

ROWS = pa.table({"clip_id": ["a"], "signal": ["raw"], "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
SIZES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 50)), max_size=4)


@settings(deadline=None)  # the first call may take long on a busy machine
@given(SIZES)
def test_a_task_survives_packing_joining_and_slicing(sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(1)
    groups = [
        Group(tuple(range(i, i + clips)), i + 1,
              {rate: {name: rng.normal(size=(clips, samples)).astype(np.float32) for name in ("raw", "fg")}
               for rate in (16_000, 32_000)})
        for i, (clips, samples) in enumerate(sizes)
    ]  # fmt: skip
    task = named("a", "b")
    task.errors.append((1, RowError("decode", "empty", "no samples", permanent=True)))
    task.rows["level"], task.groups = [ROWS, ROWS], groups
    task.spend("decode", 1.5)
    task.worked.append(Worked("cpu", "node 1", 2.5, 100))
    joined = pa.concat_tables([named("c").pack(), task.pack()], promote_options="default")
    for found in (unpack(joined.slice(1))[0], unpack(joined)[1]):
        assert found.clips.equals(task.clips)
        assert (found.errors, found.seconds, found.worked) == (task.errors, task.seconds, task.worked)
        assert pa.concat_tables(found.rows["level"]).equals(pa.concat_tables([ROWS, ROWS]))
        assert [(group.clips, group.need) for group in found.groups] == [(group.clips, group.need) for group in groups]
        for ours, theirs in zip(found.groups, groups, strict=True):
            for rate, waves in theirs.waves.items():
                assert {name: wave.tolist() for name, wave in waves.items()} == {
                    name: wave.tolist() for name, wave in ours.waves[rate].items()
                }


def test_the_clips_of_a_task_are_those_of_its_row_of_the_pending_list() -> None:
    clips = named(*"abcde").clips
    tasks = cut_tasks(clips, 65)
    assert [task.clips["clip_id"].to_pylist() for task in unpack(tasks)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [task.clips["clip_id"].to_pylist() for task in unpack(tasks.slice(1, 1))] == [["c", "d"]]


def test_a_clip_alone_and_taken_in_again_keeps_what_became_of_it() -> None:
    task = named("a", "b")
    task.groups = [Group((0, 1), 1, {16_000: {"raw": np.arange(6, dtype=np.float32).reshape(2, 3)}})]
    one = task.only(1)
    assert one.clips["clip_id"].to_pylist() == ["b"]
    assert one.groups[0].waves[16_000]["raw"].tolist() == [[3.0, 4.0, 5.0]]
    one.errors.append((0, RowError("compute", "compute_failed", "odd", permanent=True)))
    one.rows["level"] = [ROWS]
    whole = Task(task.clips)
    whole.take_in(1, one)
    assert [position for position, _ in whole.errors] == [1]
    assert whole.groups[0].clips == (1,)
    assert whole.rows == {"level": [ROWS]}


def test_a_clip_error_keeps_its_code_and_anything_else_becomes_the_stages_own() -> None:
    assert row_error("decode", ClipError("download_failed", "timed out")).permanent is False
    assert row_error("decode", ValueError("odd")) == RowError("decode", "decode_failed", "ValueError: odd", True)
    assert row_error("mps", ValueError("odd")).code == "compute_failed"
    assert row_error("mps", MemoryError()).permanent is False
