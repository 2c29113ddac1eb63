"""Clusters to break: raylets of this host.

`python -m tests.pipeline.raylets keep` keeps the raylets of one cluster, told line by line: Ray's `Cluster` ends the
process group it is in. `python -m tests.pipeline.raylets extract ADDRESS ...` is the driver of a run: the command with
workers that take their time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
PAUSE_S = 0.05  # that a worker takes for each clip, so that a run can be disturbed


def environment(**more: str) -> dict[str, str]:
    """The variables of nodes and drivers."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    variables.pop("RAY_ADDRESS", None)
    return variables | {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "120"} | more


# A driver that has lost its head ends after 10 s, not 60.
HEADLESS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


@dataclass
class Driver:
    """A run of `acoustic-env extract`.

    Attributes:
        process: the command.
        said: the file of its standard error; `printed`: of its output.
    """

    process: subprocess.Popen[bytes]
    printed: Path
    said: Path

    def end(self, limit_s: float = 150.0) -> tuple[int, str]:
        """Wait for it; return its exit code and what it said."""
        return self.process.wait(limit_s), self.said.read_text(encoding="utf-8")


@contextmanager
def driver(address: str, folder: Path, *arguments: str, clock_s: float = 0.0) -> Iterator[Driver]:
    """`acoustic-env extract` on the cluster at an address, killed where it outlives the block.

    Args:
        address: of the cluster.
        folder: for what it prints.
        arguments: of the command.
        clock_s: how far its clock is ahead; where it is, the driver is on a machine of another name, too.
    """
    command = [sys.executable, "-m", "tests.pipeline.raylets", "extract", address, str(clock_s), *arguments]
    name = uuid.uuid4().hex[:8]
    printed, said = folder / f"{name}.out", folder / f"{name}.err"
    with printed.open("wb") as out, said.open("wb") as err:
        process = subprocess.Popen(command, env=environment(**HEADLESS), stdout=out, stderr=err)
    try:
        yield Driver(process, printed, said)
    finally:
        process.kill()
        process.wait()


class Raylets:
    """A zero-CPU head and workers of one CPU, all on this host."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.raylets", "keep"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tell(self, *words: object) -> str:
        """Give an order: `start` and `add` answer with an address and a node's number, `kill NUMBER`, `end`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(*words, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("done "):
                return line.removeprefix("done ").strip()
        raise RuntimeError(f"the cluster ended at {words}")


@contextmanager
def raylets() -> Iterator[Raylets]:
    """Raylets that end with the block."""
    cluster = Raylets()
    try:
        yield cluster
    finally:
        try:
            cluster.process.communicate("end\n", timeout=30)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            cluster.process.kill()  # Ray's reaper ends the others
            cluster.process.wait()


def _keep() -> None:
    from ray.cluster_utils import Cluster

    cluster: Any = None
    nodes: list[Any] = []
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        answer: object = ""
        if order == "start":
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            answer = cluster.address
        elif order == "add":
            nodes.append(cluster.add_node(wait=False, num_cpus=1))
            answer = len(nodes) - 1
        elif order == "kill" and argument == "head":
            cluster.remove_node(cluster.head_node, allow_graceful=False)
        elif order == "kill":
            cluster.remove_node(nodes[int(argument)], allow_graceful=False)
        else:
            cluster.shutdown()
        print("done", answer, flush=True)
        if order == "end":
            break


def take_time() -> None:
    """In a worker: take some time for each clip (Ray's worker_process_setup_hook)."""
    from acoustic_env.audio import prepare

    decode_and_resample = prepare.decode_and_resample

    def decode(*arguments: Any) -> Any:
        time.sleep(PAUSE_S)
        return decode_and_resample(*arguments)

    prepare.decode_and_resample = decode


def _extract(address: str, clock_s: float, arguments: list[str]) -> int:
    import ray

    from acoustic_env.cli import main
    from acoustic_env.store import lease

    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"worker_process_setup_hook": "tests.pipeline.raylets.take_time"},
    )
    lease.HEARTBEATS, lease.WATCH_S = 60, 5.0  # type: ignore[misc]  one a second: a test does not wait for half a minute
    if clock_s:
        # The lease's clock and host alone: with another time.time Ray Data cannot send its own objects.
        lease.time = SimpleNamespace(**vars(time) | {"time": lambda: time.time() + clock_s})  # type: ignore[assignment]
        lease.socket = SimpleNamespace(gethostname=lambda: f"clock {clock_s:g}")  # type: ignore[assignment]
    return main(["extract", *arguments])


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        _keep()
    else:
        sys.exit(_extract(sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
