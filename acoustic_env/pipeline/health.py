"""Tell a sick worker from a bad clip: the worker's failure costs no clip, and its node is named or left out.

A broken CUDA context, a missing library or an unmounted disk fails fast, so a sick worker would draw most tasks and
write an error for each of their clips. After a failure the worker therefore computes the golden clip. If that fails
too, the task ends with `SickWorkerError`, nothing of it is recorded, and the run starts new workers for the clips that
are left: everywhere at first, then without the node. The clip that came first is done in a process of its own.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from acoustic_env.audio.fetch import local_file, open_source
from acoustic_env.errors import AcousticEnvError, ClipError, ErrorCode

MAX_STRIKES: Final = 3  # of one node, before it is left out
MAX_RESTARTS: Final = 20  # of one run
MAX_ASKED: Final = 4  # other nodes, whether they can read a file
ASK_S: Final = 60.0

# A sound worker reports these of a bad clip, a sick one of any: the golden clip decides.
SUSPICIOUS_CODES: Final[frozenset[ErrorCode]] = frozenset({"not_audio", "decode_failed", "compute_failed"})
# Of a local file these may be the node's fault: another node decides. Of a remote one only wrong settings are.
UNREADABLE_CODES: Final[frozenset[ErrorCode]] = frozenset(
    {"not_found", "unreachable", "access_denied", "download_failed"}
)
UNREADABLE_REMOTE_CODES: Final[frozenset[ErrorCode]] = frozenset({"unreachable"})


class SickWorkerError(AcousticEnvError):
    """A worker that cannot do what a sound one can; nothing of its task is recorded.

    Args:
        host: name of its machine.
        node: Ray's id of it; empty outside Ray.
        reason: what it could not do.
        clip_id: the clip it noticed this by, None where it was sick from the start.
    """

    exit_code = 1

    def __init__(self, host: str, node: str, reason: str, clip_id: str | None = None) -> None:
        super().__init__(f"the worker on {host} is at fault, not its clips: {reason}")
        self.host, self.node, self.reason, self.clip_id = host, node, reason, clip_id

    def __reduce__(self) -> tuple[type[SickWorkerError], tuple[str, str, str, str | None]]:
        return type(self), (self.host, self.node, self.reason, self.clip_id)


class NoHealthyWorkerError(AcousticEnvError):
    """No node is left that can do the work; the message names what failed on which node."""

    exit_code = 1


def node_name() -> str:
    """Return the name of this node: its machine's, and in Ray the start of the node's id."""
    return f"{platform.node()} {_node_id()[:8]}".strip()


def sick(reason: str, clip_id: str | None = None) -> SickWorkerError:
    """Return the error of this worker."""
    return SickWorkerError(platform.node(), _node_id(), reason, clip_id)


def _node_id() -> str:
    """Return Ray's id of this node; empty outside Ray."""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def describe(error: BaseException) -> str:
    """Return an exception as a reason: its text, after its class where it is not one of ours."""
    return str(error) if isinstance(error, AcousticEnvError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Fault:
    """A sick worker, as the run record keeps it.

    Attributes:
        host, node, reason, clip_id: as of `SickWorkerError`.
        left_out: whether the run goes on without the node.
    """

    host: str
    node: str
    reason: str
    clip_id: str | None
    left_out: bool


@dataclass
class Health:
    """What a run has learned of its nodes by the faults so far."""

    faults: list[Fault] = field(default_factory=list)

    @property
    def left_out(self) -> set[str]:
        """Ids of the nodes that get no work any more."""
        return {fault.node for fault in self.faults if fault.left_out}

    @property
    def suspects(self) -> set[str]:
        """Clips at which a worker fell sick; they are done in a process of their own."""
        return {fault.clip_id for fault in self.faults if fault.clip_id is not None}

    def note(self, error: SickWorkerError, nodes: Collection[str], guilty: Collection[str]) -> Fault:
        """Take in a sick worker and decide whether its node stays.

        A node is left out at once where a new process is sick from the start, else after `MAX_STRIKES`.

        Args:
            error: of the worker.
            nodes: ids of the nodes of the cluster that can work.
            guilty: clips that have an error of this run: what they broke was not the node's fault.

        Raises:
            NoHealthyWorkerError: no node is left, or this has happened too often.
        """
        strikes = 1 + sum(fault.node == error.node and fault.clip_id not in guilty for fault in self.faults)
        out = error.clip_id is None or strikes >= MAX_STRIKES
        fault = Fault(error.host, error.node, error.reason, error.clip_id, out)
        self.faults.append(fault)
        if not set(nodes) - self.left_out:
            raise NoHealthyWorkerError(f"no worker is left that can do the work. {self._reasons()}")
        if len(self.faults) > MAX_RESTARTS:
            raise NoHealthyWorkerError(f"workers fell sick {len(self.faults)} times. {self._reasons()}")
        return fault

    def _reasons(self) -> str:
        last = {(fault.host, fault.node): fault.reason for fault in self.faults}
        return "; ".join(f"{host}: {reason}" for (host, _), reason in last.items())


def unreadable_here(uri: str, code: ErrorCode) -> bool:
    """Return whether a file that ended with one of `UNREADABLE_CODES` may be unreadable on this node only."""
    return code in UNREADABLE_REMOTE_CODES or local_file(uri) is not None


def read_elsewhere(uris: Sequence[str]) -> tuple[str, str] | None:
    """Ask other nodes of the cluster whether they can open files that this one cannot.

    Args:
        uris: of the files.

    Returns:
        A file and the name of a node that can open it; None where none can, or there is no other node.
    """
    import ray

    if not ray.is_initialized():
        return None
    here, nodes = ray.get_runtime_context().get_node_id(), ray.nodes()  # type: ignore[no-untyped-call]
    names = {str(node["NodeID"]): str(node["NodeManagerHostname"]) for node in nodes_to_ask(nodes, here, uris[0])}
    answers = ask_nodes(list(names), ASK_S, _openable, uris)
    return next(((opened[0], names[node]) for node, opened in answers if opened), None)


def ask_nodes(
    node_ids: Sequence[str], limit_s: float, question: Callable[..., Any], *arguments: Any
) -> Iterator[tuple[str, Any]]:
    """Call a function on nodes; yield their answers in order, without those that left, are busy, or as sick."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(question)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in node_ids]
    answers = [ask.options(scheduling_strategy=place).remote(*arguments) for place in places]
    deadline = time.monotonic() + limit_s
    for node, answer in zip(node_ids, answers, strict=True):
        with suppress(ray.exceptions.RayError, TimeoutError):
            yield node, ray.get(answer, timeout=max(1.0, deadline - time.monotonic()))


def nodes_to_ask(nodes: Sequence[dict[str, Any]], here: str, uri: str) -> list[dict[str, Any]]:
    """Choose up to `MAX_ASKED` other nodes, those with processors first; which ones depends on the node and the file.

    >>> every = [{"NodeID": str(i), "Alive": True, "Resources": {"CPU": 1.0}} for i in range(9)]
    >>> [[node["NodeID"] for node in nodes_to_ask(every, here, "/a.wav")] for here in ("0", "1")]
    [['1', '5', '4', '6'], ['6', '4', '7', '2']]
    """
    others = sorted(
        (node for node in nodes if node["Alive"] and node["NodeID"] != here), key=lambda n: str(n["NodeID"])
    )
    Random(f"{here} {uri}").shuffle(others)
    return sorted(others, key=lambda node: not node["Resources"].get("CPU"))[:MAX_ASKED]


def _openable(uris: Sequence[str]) -> list[str]:
    opened = []
    for uri in uris:
        with suppress(ClipError):
            open_source(uri).close()
            opened.append(uri)
    return opened
