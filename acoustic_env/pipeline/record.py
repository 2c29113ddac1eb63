"""The record of a run, stored as STORE/runs/<run_id>/record.json."""

from __future__ import annotations

import platform
import time
import uuid
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from acoustic_env import __version__
from acoustic_env.pipeline.sink import Written

LIBRARIES: Final = (
    "ray", "numpy", "scipy", "pyarrow", "soundfile", "soxr", "av", "noisereduce", "scikit-maad", "soundsig", "torch",
)  # fmt: skip


def _run_id() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"


def _versions() -> dict[str, str]:
    found = {"acoustic-env": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class RunRecord:
    """What a run did.

    Attributes:
        settings: as given.
        fingerprints: block -> signal -> fingerprint.
        clips: on the list (after --limit).
        pending: clips with something missing at the start.
        pairs: block -> pairs of a clip and a signal that lacked its rows at the start.
        pools: pool -> its workers.
        lost: a line for each part that a manifest named and that was gone or damaged.
        finished: clips that went through, failed ones included.
        failed: clips of this run with an error.
        failed_on_list: clips of the list that lack rows because of an error, of this run or an earlier one.
        left: clips still with something missing that a run without --retry-errors would do.
        stopped: why the run stopped before its end; empty for one that did not.
        faults: workers that were at fault, with node, reason and whether the node was left out (`health.Fault`).
        rows: block -> rows written; after a fault without those whose writer was stopped before it reported them.
        seconds: stage -> worker seconds; `wall` is the whole streaming part.
        clips_per_second: finished / wall.
        throughput: stage -> clips per worker-second.
        nodes: node -> `clips` that its CPU workers did and worker `seconds` of all its pools.
        relocated: prefixes `old` and `new` of --relocated, and of how many `clips` the recorded source changed by it.
        memory: pool -> peak memory of a worker in bytes, pages shared with other processes included.
        versions: of this package, Python and the libraries.
        run_id: unique, sortable by start.
    """

    settings: dict[str, Any]
    fingerprints: dict[str, dict[str, str]]
    clips: int
    pending: int = 0
    pairs: dict[str, int] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    finished: int = 0
    failed: int = 0
    failed_on_list: int = 0
    left: int = 0
    stopped: str = ""
    faults: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    clips_per_second: float = 0.0
    throughput: dict[str, float] = field(default_factory=dict)
    relocated: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, dict[str, float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=_versions)
    run_id: str = field(default_factory=_run_id)

    def count(self, written: Written) -> None:
        """Add a slice that is in the store."""
        self.finished += written.clips
        self.failed += written.failed
        for block, rows in written.rows.items():
            self.rows[block] = self.rows.get(block, 0) + rows
        for stage, seconds in written.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for pool, peak in written.memory.items():
            self.memory[pool] = max(self.memory.get(pool, 0), peak)
        for node, (clips, seconds) in written.nodes.items():
            done = self.nodes.setdefault(node, {"clips": 0, "seconds": 0.0})
            done["clips"] += clips
            done["seconds"] += seconds

    def finish(self, wall_s: float) -> None:
        """Set throughputs from the seconds of the streaming part."""
        self.throughput = {stage: self.finished / spent for stage, spent in self.seconds.items() if spent > 0}
        self.seconds["wall"] = wall_s
        self.clips_per_second = self.finished / wall_s
