"""The plan never starves the readers, and says by how much a machine is too small."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acoustic_env.errors import UsageError
from acoustic_env.pipeline.plan import GIB, Device, Plan, Resources, describe, make_plan
from acoustic_env.pipeline.work import BlockSpec, BlockWork


def work(name: str, architecture: str | None = None, position: int = 0) -> BlockWork:
    spec = BlockSpec(name, "fast", position, ("raw", "fg", "bg"))
    gpu_pool = "mps" if name == "mps" else architecture
    return BlockWork(spec, {"raw": pa.schema([("clip_id", pa.string())])}, 16_000, architecture, gpu_pool)


DSP = [work("indices"), work("mps", position=1)]
NETWORKS = [work("yamnet", "yamnet", 2), work("vggish", "vggish", 3), work("panns", "cnn14", 4)]


def cpus_used(plan: Plan) -> float:
    return sum(pool.workers * pool.cpus for pool in plan.pools)


def plan_for(
    works: list[BlockWork], clips: int, resources: Resources, device: Device = "auto", *, remote: bool = False
) -> Plan:
    return make_plan(works, clips, resources, device, remote=remote)


@given(
    cpus=st.integers(1, 512),
    gpus=st.integers(0, 16),
    memory=st.integers(16, 4096),
    networks=st.integers(0, 3),
    clips=st.integers(1, 2_000_000),
    remote=st.booleans(),
)
def test_all_pools_fit_on_any_cluster_and_every_pool_gets_a_worker(
    cpus: int, gpus: int, memory: int, networks: int, clips: int, remote: bool
) -> None:
    resources = Resources(cpus, gpus, memory * GIB)
    try:
        plan = plan_for([*DSP, *NETWORKS[:networks]], clips, resources, remote=remote)
    except UsageError:
        assert memory < 16 + 2 * cpus + 8 * gpus, "only a machine with little memory for its pools may be refused"
        return
    assert cpus_used(plan) <= cpus + 1e-9
    assert all(1 <= pool.workers <= clips for pool in plan.pools), "Ray warns of workers that no clip can reach"
    assert all(pool.cpus > 0 or pool.gpus > 0 for pool in plan.pools)
    assert sum(pool.workers * pool.gpus for pool in plan.pools) <= gpus + 1e-9
    assert plan.memory <= memory * GIB
    assert [plan.pools[0].name == "decode", plan.pools[-1].name] == [remote, "write"]
    assert plan.part_clips % plan.task_clips == 0, "Ray Data hands the sink whole tasks"


def test_a_machine_with_one_cpu_gets_a_plan_of_fractions() -> None:
    plan = plan_for([*DSP, *NETWORKS], 100, Resources(1, 0, 24 * GIB))
    assert cpus_used(plan) <= 1
    assert [pool.workers for pool in plan.pools] == [1] * len(plan.pools)


def test_a_machine_with_too_little_memory_is_refused_with_what_is_missing() -> None:
    with pytest.raises(UsageError, match=r"GiB short"):
        plan_for(DSP, 100, Resources(2, 0, 2 * GIB))


def test_little_memory_shrinks_the_pools_before_it_refuses() -> None:
    roomy = plan_for(DSP, 100, Resources(16, 0, 128 * GIB))
    tight = plan_for(DSP, 100, Resources(16, 0, 16 * GIB))
    assert tight.compute[0].workers < roomy.compute[0].workers == 16


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="no GPU"):
        plan_for(NETWORKS, 100, Resources(8, 0, 64 * GIB), "cuda")


def test_networks_and_the_modulation_spectrum_share_each_gpu_and_the_rest_stays_on_cpus() -> None:
    plan = plan_for([*DSP, *NETWORKS], 100, Resources(16, 2, 128 * GIB))
    cpu, *on_gpus = plan.compute
    assert ([block.spec.name for block in cpu.blocks], cpu.gpus) == (["indices"], 0)
    assert [(pool.name, pool.workers) for pool in on_gpus] == [("mps", 2), ("yamnet", 2), ("vggish", 2), ("cnn14", 2)]
    assert all(pool.gpus == pytest.approx(1 / 4, abs=1e-3) for pool in on_gpus)
    assert plan.device == "cuda"


def test_without_networks_a_gpu_takes_the_modulation_spectrum() -> None:
    plan = plan_for(DSP, 100, Resources(16, 1, 128 * GIB))
    assert [(pool.name, pool.gpus) for pool in plan.compute] == [("cpu", 0), ("mps", 1)]
    assert plan.compute[0].memory == plan_for(DSP, 100, Resources(16, 0, 128 * GIB)).compute[0].memory


def test_networks_stay_on_the_cpu_when_told_to() -> None:
    plan = plan_for(NETWORKS, 100, Resources(16, 2, 128 * GIB), "cpu")
    assert plan.device == "cpu"
    assert [pool.name for pool in plan.compute] == ["cpu"]
    assert all(pool.gpus == 0 for pool in plan.pools)


def test_on_cpus_one_pool_does_everything_so_that_processes_are_no_more_than_cores() -> None:
    plan = plan_for([*DSP, *NETWORKS], 100, Resources(8, 0, 128 * GIB))
    assert [(pool.name, pool.workers) for pool in plan.compute] == [("cpu", 8)]
    assert len(plan.compute[0].blocks) == 5


def test_a_block_and_its_per_frame_table_share_one_pool() -> None:
    plan = plan_for([NETWORKS[0], work("yamnet_frames", "yamnet", 1)], 10, Resources(2, 1, 24 * GIB))
    pool = plan.compute[1]
    assert [block.spec.name for block in pool.blocks] == ["yamnet", "yamnet_frames"]


def test_a_few_clips_are_still_spread_over_all_workers() -> None:
    plan = plan_for(DSP, 16, Resources(2, 0, 24 * GIB))
    assert plan.task_clips <= 8


def test_the_plan_reads_as_one_line_a_pool() -> None:
    resources = Resources(2, 0, 24 * GIB)
    lines = describe(plan_for(DSP, 100, resources), resources)
    assert sum(line.startswith("pool") for line in lines) == 2
    assert any("indices, mps" in line for line in lines)
