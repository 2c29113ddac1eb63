"""The graph on a real Ray, laid out as on machines this one is not."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from acoustic_env.clips.table import clip_table, read_clips
from acoustic_env.errors import UsageError
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline import graph
from acoustic_env.pipeline.extract import extract
from acoustic_env.pipeline.health import NoHealthyWorkerError
from acoustic_env.pipeline.pending import Pending, cut_tasks, stored
from acoustic_env.pipeline.plan import GIB, Node, Plan, make_plan
from acoustic_env.pipeline.work import resolve_blocks
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from tests.pipeline.tasks import pending
from tests.pipeline.test_extract import rows, write_noise
from tests.store.tables import begin


def on_processors(plan: Plan) -> Plan:
    """The plan of a machine with GPUs for one without: the same pools, a tenth of a processor for each GPU's worker."""
    pools = tuple(replace(pool, gpus=0.0, cpus=0.1 if pool.gpus else 0.5) for pool in plan.compute)
    return replace(plan, compute=pools, device="cpu")


def assert_same_rows(ours: pa.Table, theirs: pa.Table) -> None:
    """Equal but for the last digits, in which sums over batches of other sizes may differ."""
    assert ours.select(["clip_id", "signal"]).equals(theirs.select(["clip_id", "signal"]))
    assert ours.column_names == theirs.column_names
    for name in ours.column_names[2:]:
        left, right = (np.array(table[name].to_pylist(), np.float64) for table in (ours, theirs))
        np.testing.assert_allclose(left, right, rtol=1e-12, err_msg=name)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_pools_of_a_machine_with_a_gpu_write_the_rows_of_a_machine_without(tmp_path: Path) -> None:
    listed = write_noise(tmp_path / "audio", 10)
    settings = ExtractSettings(
        clips=str(listed), store=str(tmp_path / "apart"), blocks=("indices", "mps", "placeholder")
    )
    works = resolve_blocks(settings)
    clips = read_clips(str(listed))
    need = np.full(clips.num_rows, sum(work.spec.mask for work in works), np.int64)
    plan = make_plan(works, Pending(10, 20.0), [Node("", "", 1, 1, 64 * GIB)], "auto")
    assert [pool.name for pool in plan.compute] == ["cpu", "gpu"]

    tasks = [cut_tasks(pending(clips, need), 5.0)]
    with (
        stored(FeatureStore(settings.store), "run", tasks) as files,
        acquire_blocks(settings.store, [work.spec.name for work in works], "test") as leases,
    ):
        begin(settings.store, works, leases)
        job = graph.Job(settings.store, "run", works, leases.tokens, files)
        batches = list(graph.run(job, on_processors(plan), count()))
    assert sum(written.clips for written in batches) == 10

    extract(settings.replace(store=str(tmp_path / "together")))
    for work in works:
        name = work.spec.name
        assert_same_rows(rows(tmp_path / "apart", name), rows(tmp_path / "together", name))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_block_is_one_task_however_the_files_of_the_pending_list_differ(tmp_path: Path, in_memory: bool) -> None:
    clips = clip_table({"clip_id": f"c{i}", "uri": f"/{i}.wav", "start_s": 0.0, "end_s": 1.0} for i in range(20))
    tables = [cut_tasks(pending(clips), 1.0), *(cut_tasks(pending(clips.slice(i, 1)), 1.0) for i in range(3))]
    with stored(FeatureStore(str(tmp_path)), "run", tables) as files:
        tasks = {ray.put(table): len(table) for table in tables} if in_memory else files
        data = graph._source(tasks, str(tmp_path), elastic=False)
        assert [bundle.num_rows() for bundle in data.iter_internal_ref_bundles()] == [1] * 23


class HangingWriter:
    """Takes a slice, notes it beside the store, and gives nothing back."""

    def __init__(self, store: str, *_: object) -> None:
        self.store = store

    def ready(self) -> None:
        pass

    def __call__(self, *_: object) -> None:
        with Path(f"{self.store}.slices").open("a") as taken:
            taken.write("one\n")
        time.sleep(600)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_writer_that_hangs_ends_the_run_after_one_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "Write", HangingWriter)
    monkeypatch.setattr(graph, "WRITE_S", 5.0)
    settings = ExtractSettings(
        clips=str(write_noise(tmp_path / "audio", 2)), store=str(tmp_path / "store"), blocks=("placeholder",)
    )
    with pytest.raises(NoHealthyWorkerError, match="took more than 5 s for a slice"):
        extract(settings)
    assert Path(f"{settings.store}.slices").read_text() == "one\n", "a slice that hangs is not tried again"


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
def test_a_writer_that_finds_no_place_ends_the_run_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "WAIT_S", 5.0)
    settings = ExtractSettings(
        clips=str(write_noise(tmp_path / "audio", 2)), store=str(tmp_path / "store"), blocks=("placeholder",)
    )
    works = resolve_blocks(settings)
    plan = make_plan(works, Pending(2, 4.0), [Node("", "", 1, 0, 64 * GIB)], "auto")
    plan = replace(on_processors(plan), write=replace(plan.write, cpus=99.0))
    clips = read_clips(settings.clips)
    need = np.full(len(clips), sum(work.spec.mask for work in works), np.int64)
    with (
        stored(FeatureStore(settings.store), "run", [cut_tasks(pending(clips, need), 5.0)]) as files,
        pytest.raises(UsageError, match=r"workers did not start within .* s: they need 99\.\d+ CPUs.*1 write"),
    ):
        list(graph.run(graph.Job(settings.store, "run", works, {}, files), plan, count(), elastic=True))
