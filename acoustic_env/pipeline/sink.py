"""The last stage: finished rows become part files and errors, under the leases, and only a small summary travels on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import describe_source, listed_sources
from acoustic_env.errors import RESOLVED
from acoustic_env.io.retry import expect_answers
from acoustic_env.memory import peak_memory
from acoustic_env.pipeline import metrics
from acoustic_env.pipeline.task import WORK_SCHEMA, RowError, Task, unpack
from acoustic_env.pipeline.work import BlockWork, lacking_pairs
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path
from acoustic_env.store.lease import check
from acoustic_env.store.schema import ERROR_SCHEMA

PREPARES: Final = "cpu"  # the pool that every clip passes


@dataclass(frozen=True)
class Written:
    """What a batch was.

    Attributes:
        clips, failed: how many.
        rows: of each block.
        seconds: of each stage.
        memory: pool -> peak bytes of a worker.
        nodes: node -> clips whose waveforms it prepared, and worker seconds of all pools.
    """

    clips: int
    failed: int
    rows: dict[str, int]
    seconds: dict[str, float]
    memory: dict[str, int]
    nodes: dict[str, tuple[int, float]]


class Write:
    """Write slices of finished tasks to the store: first the errors, then the blocks' parts, each with its manifest.

    What failed in an earlier run and succeeds now gets a `resolved` row. It comes before the rows: killed between the
    two, the clip is pending and the next run computes it. A slice that is written again, because its writer died,
    gives its files the same names.
    """

    def __init__(self, store_url: str, leases: Mapping[str, int], works: Sequence[BlockWork], run_id: str) -> None:
        self.store = FeatureStore(store_url)
        self.leases = dict(leases)
        self.works = tuple(works)
        self.run_id = run_id
        expect_answers()

    def ready(self) -> None:
        """Tell that this writer has started."""

    def __call__(self, number: int, *packed: pa.Table) -> Written:
        """Write a slice.

        Args:
            number: of the slice in this run.
            packed: tasks as they leave the last stage.
        """
        started = time.perf_counter()
        tasks = [task for table in packed for task in unpack(table)]
        name = f"{self.run_id}-{number:06d}"
        check(self.store.url, self.leases)
        failures = self._rows([(task, i, error) for task in tasks for i, error in task.errors])
        errors = pa.concat_tables([failures, self._rows(self._resolved(tasks))])
        if errors.num_rows:
            self.store.write_errors(errors, name)
        written = {work.spec.name: self._write_rows(work, tasks, name) for work in self.works}
        spent = time.perf_counter() - started
        clips = sum(len(task.clips) for task in tasks)
        _record(clips, failures, written, spent)
        return _summary(tasks, clips, pc.count_distinct(failures["clip_id"]).as_py(), written, spent)

    def _write_rows(self, work: BlockWork, tasks: Sequence[Task], name: str) -> int:
        """Write the rows of a block, a part for each of its versions; returns how many."""
        pieces = [rows.cast(work.schema) for task in tasks for rows in task.rows.get(work.spec.name, ())]
        rows = pa.concat_tables([work.schema.empty_table(), *pieces])
        for signals in work.versions().values():
            part = rows.filter(pc.is_in(rows["signal"], value_set=pa.array(signals)))
            if part.num_rows:
                part = part.replace_schema_metadata(work.schemas[signals[0]].metadata)
                self.store.write_part(part, self.leases[lease_path(work.spec.name)], name)
        return len(rows)

    def _resolved(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, int, RowError]]:
        """Errors that end earlier ones, of clips that failed before, of what they have no error of now."""
        specs = [work.spec for work in self.works]
        for task in tasks:
            failed: dict[int, set[tuple[str | None, str | None]]] = {}
            for i, error in task.errors:
                failed.setdefault(i, set()).add((error.block, error.signal))
            for i in pc.indices_nonzero(pc.greater(task.clips["attempt"], 1)).to_pylist():
                subjects = {(None, None), *((s.name, name) for s, name in lacking_pairs(_need(task, i), specs))}
                done = set() if (None, None) in failed.get(i, set()) else subjects - failed.get(i, set())
                for subject in sorted(done, key=str):
                    yield task, i, RowError("compute", RESOLVED, "", False, *subject)

    def _rows(self, errors: Iterable[tuple[Task, int, RowError]]) -> pa.Table:
        """Errors of clips as rows of the errors table."""
        versions = {work.spec.name: work.fingerprints for work in self.works}
        found = list(errors)
        clips = pa.concat_tables([WORK_SCHEMA.empty_table(), *(task.clips.slice(i, 1) for task, i, _ in found)])
        sources = listed_sources(clips).to_pylist()
        rows = [
            error._asdict()
            | {"clip_id": source["clip_id"], "source": describe_source(source), "attempt": attempt}
            | {"run_id": self.run_id, "fingerprint": versions[error.block][error.signal or ""] if error.block else None}
            for (_, _, error), source, attempt in zip(found, sources, clips["attempt"].to_pylist(), strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=ERROR_SCHEMA)


def _need(task: Task, i: int) -> int:
    return int(task.clips["need"][i].as_py())


def _record(clips: int, failures: pa.Table, rows: Mapping[str, int], seconds: float) -> None:
    """Record the metrics of a slice; a clip with several errors counts under one of their codes."""
    codes = failures.group_by("clip_id").aggregate([("code", "min")])["code_min"].value_counts().to_pylist()
    metrics.CLIPS.record(clips - sum(code["counts"] for code in codes), "done")
    for code in codes:
        metrics.CLIPS.record(code["counts"], code["values"])
    for block, written in rows.items():
        metrics.ROWS.record(written, block)
    metrics.record_stages({"write": seconds}, clips)


def _summary(tasks: Sequence[Task], clips: int, failed: int, rows: dict[str, int], spent: float) -> Written:
    seconds: Counter[str] = Counter()
    memory = {"write": peak_memory()}
    nodes: dict[str, tuple[int, float]] = {}
    for task in tasks:
        seconds.update(task.seconds)
        for pool, node, busy_s, peak in task.worked:
            memory[pool] = max(memory.get(pool, 0), peak)
            done, before = nodes.get(node, (0, 0.0))
            nodes[node] = done + (len(task.clips) if pool == PREPARES else 0), before + busy_s
    return Written(clips, failed, rows, {**seconds, "write": spent}, memory, nodes)
