"""Clusters to break: raylets of this host, or nodes with a network, a disk and processes of their own.

`python -m tests.pipeline.raylets keep` keeps the raylets of one cluster, told line by line: Ray's `Cluster` ends the
process group it is in. `python -m tests.pipeline.raylets extract ADDRESS ...` is the driver of a run: the command with
workers that take their time.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
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
# A node that does not answer for 10 s is dead.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
GATE = "ACOUSTIC_ENV_TEST_GATE"  # names the folder where workers wait for the file `open`
GATE_AFTER = "ACOUSTIC_ENV_TEST_GATE_AFTER"  # how many tasks they do before; 1 where it is not set


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

    def end(self, limit_s: float = 600.0) -> tuple[int, str]:
        """Wait for it; return its exit code and what it said."""
        return self.process.wait(limit_s), self.said.read_text(encoding="utf-8")


@contextmanager
def driver(
    address: str, folder: Path, *arguments: str, clock_s: float = 0.0, on: Machine | None = None
) -> Iterator[Driver]:
    """`acoustic-env extract` on the cluster at an address, killed where it outlives the block.

    Args:
        address: of the cluster.
        folder: for what it prints.
        arguments: of the command.
        clock_s: how far its clock is ahead; where it is, the driver is on a machine of another name, too.
        on: the machine it runs on; None for this one.
    """
    command = [sys.executable, "-m", "tests.pipeline.raylets", "extract", address, str(clock_s), *arguments]
    name = uuid.uuid4().hex[:8]
    printed, said = folder / f"{name}.out", folder / f"{name}.err"
    with printed.open("wb") as out, said.open("wb") as err:
        process = subprocess.Popen(
            on.inside(*command) if on else command,
            env=environment(**HEADLESS, **({"TMPDIR": "/srv"} if on else {})),
            stdout=out,
            stderr=err,
        )
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
        """Give an order: `start`, `add`, `kill NUMBER`, `kill head`, `end`.

        `start` answers with the address, `add` with the node's number.
        """
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


class Machine:
    """A node with processes, a network interface and a disk (`/srv`) of its own, by Linux namespaces (root).

    Args:
        number: of the machine; 1 is the head, with the switch the others are plugged into.
        disk_mib: size of its disk.
        gate: where its workers wait (`GATE`).

    Raises:
        OSError: this system does not allow it.
    """

    def __init__(self, number: int, disk_mib: int, gate: Path) -> None:
        self.number, self.address, self.gate = number, f"10.77.0.{number}", gate
        script = f"set -e; hostname node{number}; mount -t tmpfs -o size={disk_mib}m disk /srv; echo up; "
        script += "while sleep 1; do :; done"  # the first process of a machine reaps what others leave
        namespaces = ["--net", "--mount", "--pid", "--uts", "--mount-proc", "--fork", "--kill-child"]
        self.process = subprocess.Popen(["unshare", *namespaces, "sh", "-c", script], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self.stop()
            raise OSError("this system makes no namespaces")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        self.first = children.strip()

    def inside(self, *words: str) -> list[str]:
        """Return the command that runs another one on this machine."""
        return ["nsenter", "--target", self.first, "--net", "--mount", "--pid", "--uts", *words]

    def run(self, *words: str) -> None:
        """Run a command on this machine; raises CalledProcessError where it fails."""
        subprocess.run(self.inside(*words), check=True, capture_output=True, timeout=240)

    def ray(self, *words: str) -> None:
        """Start Ray on this machine; it ends with the machine."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, f"--node-ip-address={self.address}"]
        command += ["--object-store-memory=100000000"]
        variables = environment(TMPDIR="/srv", **HEALTH, **{GATE: str(self.gate)})
        subprocess.run(self.inside(*command), env=variables, check=True, capture_output=True, timeout=400)

    def lead(self, *words: str) -> None:
        """Start Ray on this machine as a head without CPUs."""
        self.ray("--head", "--port=6379", "--num-cpus=0", "--temp-dir=/srv/ray", *words)

    def join(self, head: Machine) -> None:
        """Start Ray on this machine as a worker of one CPU."""
        self.ray(f"--address={head.address}:6379", "--num-cpus=1")

    def fill_disk(self) -> None:
        """Fill its disk to the last byte."""
        self.run("sh", "-c", "cat /dev/zero > /srv/full || true")

    def stop(self) -> None:
        """Power off: all its processes, its mounts and its network are gone."""
        self.process.kill()
        self.process.wait()


def join_all(head: Machine, workers: list[Machine]) -> None:
    """Start Ray on all workers at once."""
    with ThreadPoolExecutor() as together:
        list(together.map(lambda machine: machine.join(head), workers))


@contextmanager
def machines(workers: int, gate: Path, disk_mib: int = 256) -> Iterator[list[Machine]]:
    """A machine for a head and some for workers, off after the block; Ray does not run yet."""
    found: list[Machine] = []
    try:
        for number in range(1, workers + 2):
            found.append(Machine(number, disk_mib, gate))
            plug(found[0], found[-1])
        yield found
    finally:
        for machine in reversed(found):
            machine.stop()


def plug(head: Machine, machine: Machine) -> None:
    """Give a machine its address: the head has the switch, every other one a cable to it."""
    ip = ["nsenter", "--target", head.first, "--net", "ip"]
    card = "switch" if machine is head else "eth0"
    commands = [[*ip, "link", "add", "switch", "type", "bridge"]]
    if machine is not head:
        cable = ["link", "add", f"cable{machine.number}", "type", "veth", "peer", "name", card, "netns", machine.first]
        commands = [[*ip, *cable], [*ip, "link", "set", f"cable{machine.number}", "master", "switch", "up"]]
    commands += [machine.inside("ip", "address", "add", f"{machine.address}/24", "dev", card)]
    commands += [machine.inside("ip", "link", "set", name, "up") for name in ("lo", card)]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, timeout=60)


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
    """In a worker: take some time for each clip, and wait at the gate, if any (Ray's worker_process_setup_hook)."""
    from acoustic_env.audio import prepare
    from acoustic_env.pipeline.guard import CrashIsolatedStage

    decode_and_resample = prepare.decode_and_resample

    def decode(*arguments: Any) -> Any:
        time.sleep(PAUSE_S)
        return decode_and_resample(*arguments)

    prepare.decode_and_resample = decode
    if GATE not in os.environ:
        return
    gate, call, tasks = Path(os.environ[GATE]), CrashIsolatedStage.__call__, count()
    after = int(os.environ.get(GATE_AFTER, "1"))

    def wait(*arguments: Any) -> Any:
        if next(tasks) == after:
            (gate / f"{platform.node()} {os.getpid()}").touch()
            while not (gate / "open").exists():
                time.sleep(0.05)
        return call(*arguments)

    CrashIsolatedStage.__call__ = wait  # type: ignore[method-assign]


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
