"""The plan never starves the readers, and says by how much a machine is too small."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acoustic_env.errors import UsageError
from acoustic_env.pipeline.pending import Pending
from acoustic_env.pipeline.plan import GIB, Device, Node, Plan, describe, make_plan
from acoustic_env.pipeline.work import BlockSpec, BlockWork


def work(name: str, architecture: str | None = None, position: int = 0) -> BlockWork:
    spec = BlockSpec(name, "fast", position, ("raw", "fg", "bg"))
    gpu_pool = "mps" if name == "mps" else architecture
    return BlockWork(spec, {"raw": pa.schema([("clip_id", pa.string())])}, 16_000, architecture, gpu_pool)


DSP = [work("indices"), work("mps", position=1)]
NETWORKS = [work("yamnet", "yamnet", 2), work("vggish", "vggish", 3), work("panns", "cnn14", 4)]


def cpus_used(plan: Plan) -> float:
    return sum(pool.workers * pool.cpus for pool in plan.pools)


def node(cpus: float, gpus: float = 0, memory: int = 0, name: str = "a") -> Node:
    return Node(name, f"host-{name}", cpus, gpus, memory)


def plan_for(
    works: list[BlockWork], clips: int, nodes: Node | list[Node], device: Device = "auto", clip_s: float = 10.0
) -> Plan:
    audio = Pending(clips, clip_s * clips, clip_s)
    return make_plan(works, audio, nodes if isinstance(nodes, list) else [nodes], device)


NODES = st.builds(node, st.integers(0, 24), st.integers(0, 4), st.integers(0, 128).map(GIB.__mul__))


@given(
    nodes=st.lists(NODES, max_size=6),
    networks=st.integers(0, 3),
    clips=st.integers(1, 2_000_000),
    elastic=st.booleans(),
    max_workers=st.none() | st.integers(1, 99),
)
def test_an_accepted_plan_over_commits_no_node_and_leaves_no_pool_empty(
    nodes: list[Node], networks: int, clips: int, elastic: bool, max_workers: int | None
) -> None:
    nodes = [replace(one, node_id=str(number)) for number, one in enumerate(nodes)]
    works = [*DSP, *NETWORKS[:networks]]
    try:
        plan = make_plan(works, Pending(clips, 10.0 * clips), nodes, "auto", elastic=elastic, max_workers=max_workers)
    except UsageError as error:
        able = [one for one in nodes if one.cpus and one.gpus] or [one for one in nodes if one.cpus]
        roomy = any(one.memory >= (16 + 2 * one.cpus + 8 * one.gpus) * GIB for one in able)
        assert not roomy, "only nodes with little memory for the pools, or none at all, may be refused"
        says = re.search(r"node host-a \d .* (GiB|CPUs) short|no worker node has joined", str(error))
        assert says, error  # noqa: PT017  most clusters are accepted
        return
    pools = {pool.name: pool for pool in plan.pools}
    for one in nodes:
        here = plan.placement.get(one.node_id, {})
        assert one.cpus or not here, "a head without CPUs gets no worker"
        assert sum(count * pools[name].cpus for name, count in here.items()) <= one.cpus + 1e-6
        assert sum(count * pools[name].gpus for name, count in here.items()) <= one.gpus
        assert sum(count * pools[name].memory for name, count in here.items()) <= one.memory
    for name, pool in pools.items():
        assert pool.workers == sum(counts[name] for counts in plan.placement.values())
        assert 1 <= pool.workers <= min(clips, pool.most), "Ray warns of workers that no clip can reach"
        assert pool.cpus > 0 or pool.gpus > 0
        assert elastic or pool.most == pool.workers
    assert max_workers is None or pools["cpu"].most <= max_workers
    assert [plan.pools[0].name, plan.pools[-1].name] == ["cpu", "write"]


def test_a_head_without_cpus_alone_is_refused_and_says_how_to_wait() -> None:
    with pytest.raises(UsageError, match=r"no worker node has joined.*--wait-for-nodes"):
        plan_for(DSP, 100, node(0, memory=64 * GIB))


def test_a_network_too_large_for_every_node_is_refused_with_node_pool_and_shortfall() -> None:
    nodes = [node(4, memory=4 * GIB, name="small"), node(1, memory=2 * GIB, name="least")]
    with pytest.raises(UsageError, match=r"pool cpu \(.* 3\.0 GiB\).*node host-small small .* 0\.0 GiB short|short"):
        plan_for([*DSP, *NETWORKS], 100, nodes)


def test_equal_nodes_get_a_worker_a_cpu_each() -> None:
    nodes = [node(4, memory=32 * GIB, name=name) for name in "abc"]
    plan = plan_for(DSP, 1000, nodes)
    assert [plan.placement[name]["cpu"] for name in "abc"] == [4, 4, 4]


def test_a_machine_with_one_cpu_gets_a_plan_of_fractions() -> None:
    plan = plan_for([*DSP, *NETWORKS], 100, node(1, 0, 24 * GIB))
    assert cpus_used(plan) <= 1
    assert [pool.workers for pool in plan.pools] == [1] * len(plan.pools)


def test_a_machine_with_too_little_memory_is_refused_with_what_is_missing() -> None:
    with pytest.raises(UsageError, match=r"GiB short"):
        plan_for(DSP, 100, node(2, 0, 2 * GIB))


def test_little_memory_shrinks_the_pools_before_it_refuses() -> None:
    roomy = plan_for(DSP, 100, node(16, 0, 128 * GIB))
    tight = plan_for(DSP, 100, node(16, 0, 16 * GIB))
    assert tight.compute[0].workers < roomy.compute[0].workers == 16


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="no GPU"):
        plan_for(NETWORKS, 100, node(8, 0, 64 * GIB), "cuda")


def test_one_worker_a_gpu_runs_all_networks_and_the_modulation_spectrum_and_the_rest_stays_on_cpus() -> None:
    plan = plan_for([*DSP, *NETWORKS], 1_000_000, [node(16, 2, 128 * GIB), node(16, 0, 128 * GIB, "b")])
    cpu, gpu = plan.compute
    assert ([block.spec.name for block in cpu.blocks], cpu.gpus) == (["indices"], 0)
    assert [block.spec.name for block in gpu.blocks] == ["mps", "yamnet", "vggish", "panns"]
    assert (gpu.workers, gpu.gpus, plan.device) == (2, 1, "cuda")
    assert plan.placement["a"]["gpu"] == 2
    assert 4 * 3 * 16_000 * plan.task_s <= GIB // 4, "prepared signals of a task"


def test_without_networks_a_gpu_takes_the_modulation_spectrum() -> None:
    plan = plan_for(DSP, 100, node(16, 1, 128 * GIB))
    assert [(pool.name, pool.gpus) for pool in plan.compute] == [("cpu", 0), ("gpu", 1)]
    assert plan.compute[0].memory == plan_for(DSP, 100, node(16, 0, 128 * GIB)).compute[0].memory


def test_networks_stay_on_the_cpu_when_told_to() -> None:
    plan = plan_for(NETWORKS, 100, node(16, 2, 128 * GIB), "cpu")
    assert plan.device == "cpu"
    assert [pool.name for pool in plan.compute] == ["cpu"]
    assert all(pool.gpus == 0 for pool in plan.pools)


def test_on_cpus_one_pool_does_everything_so_that_processes_are_no_more_than_cores() -> None:
    plan = plan_for([*DSP, *NETWORKS], 100, node(8, 0, 128 * GIB))
    assert [(pool.name, pool.workers) for pool in plan.compute] == [("cpu", 8)]
    assert len(plan.compute[0].blocks) == 5


def test_a_block_and_its_per_frame_table_share_one_pool() -> None:
    plan = plan_for([NETWORKS[0], work("yamnet_frames", "yamnet", 1)], 10, node(2, 1, 24 * GIB))
    pool = plan.compute[1]
    assert [block.spec.name for block in pool.blocks] == ["yamnet", "yamnet_frames"]


def test_a_few_clips_are_still_spread_over_all_workers() -> None:
    plan = plan_for(DSP, 16, node(2, 0, 24 * GIB))
    assert plan.task_s <= 80


def test_the_plan_reads_as_one_line_a_pool() -> None:
    machine = node(2, 0, 24 * GIB)
    lines = describe(plan_for(DSP, 100, machine), [machine])
    assert sum(line.startswith("pool") for line in lines) == 2
    assert any("indices, mps" in line for line in lines)


def test_the_memory_of_workers_grows_with_the_longest_clip_until_the_machine_has_no_more() -> None:
    machine = node(4, 0, 64 * GIB)
    short, long, endless = (plan_for(DSP, 100, machine, clip_s=length) for length in (10.0, 2400.0, 86_400.0))
    assert short.compute[0].memory < long.compute[0].memory <= endless.compute[0].memory
    assert long.longest_s == endless.longest_s >= 2400
    assert [pool.workers for pool in endless.compute] == [4]
    (one,) = make_plan(DSP, Pending(100, 8.64e6, 86_400.0), [machine], "auto", max_workers=1).compute
    assert one.memory > 3 * endless.compute[0].memory


def test_tasks_are_bounded_by_seconds_by_bytes_of_rows_and_by_what_waits_for_a_gpu() -> None:
    assert plan_for(DSP, 10**6, node(2, 0, 24 * GIB)).task_s == 1280
    assert plan_for(DSP, 10**6, node(2, 0, 24 * GIB), clip_s=1.0).task_s == 1280
    vectors = work("mps")
    vectors = replace(vectors, schemas={"raw": pa.schema([("v", pa.list_(pa.float32(), 50_000))])})
    frames = work("mps")
    hop = {b"acoustic_env.frame_hop_s": b"0.01"}
    frames = replace(
        frames, schemas={"raw": pa.schema([("frame", pa.int32()), ("v", pa.list_(pa.float32(), 100))], hop)}
    )
    for block, clip_s in itertools.product((vectors, frames), (0.1, 10.0, 3600.0)):
        plan = plan_for([block], 10**6, node(2, 0, 24 * GIB), clip_s=clip_s)
        clips = max(1.0, plan.task_s / max(clip_s, plan.least_s))
        assert clips == 1 or clips * block.row_bytes(clip_s) < 2.1 * GIB // 32


def test_short_clips_beside_a_long_one_do_not_fill_a_task_with_rows() -> None:
    long, short = 14_400.0, 0.1
    plan = make_plan(DSP, Pending(10**5 + 100, 10**5 * short + 100 * long, long), [node(16, 0, 64 * GIB)], "cpu")
    assert plan.task_s / plan.least_s * sum(block.row_bytes(short) for block in DSP) <= GIB / 32 * 1.001


def test_a_pool_never_grows_beyond_a_worker_a_clip() -> None:
    plan = make_plan(DSP, Pending(6, 1e12, 1e12), [node(2, 0, 24 * GIB)], "cpu", elastic=True)
    assert plan.compute[0].most == 6
