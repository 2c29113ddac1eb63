"""The last stage: finished rows become part files and errors, under the leases, and only a small summary travels on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import RESOLVED
from acoustic_env.io.retry import expect_answers
from acoustic_env.memory import peak_memory
from acoustic_env.pipeline import metrics
from acoustic_env.pipeline.rows import BUSY, MEMORY, NODE, ROWS, SECONDS, unpack_rows
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import check_all
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
    """Write a batch of finished clips to the store: first the errors, then the blocks' parts.

    A clip that failed in an earlier run and has no error now gets a `resolved` row. It comes before the clip's rows:
    killed between the two, the clip is pending and the next run computes it. (Rows first would leave a computed clip
    whose old error still excludes it from other blocks.) A crash leaves whole parts only; what is missing is found
    again from the keys that can be read.
    """

    def __init__(self, store_url: str, leases: Mapping[str, int], works: Sequence[BlockWork], run_id: str) -> None:
        self.store_url = store_url
        self.leases = dict(leases)
        self.works = tuple(works)
        self.run_id = run_id
        expect_answers()

    def __call__(self, clips: pa.Table) -> Written:
        started = time.perf_counter()
        store = FeatureStore(self.store_url)
        check_all(self.store_url, self.leases)
        failures = self._errors(clips)
        errors = pa.concat_tables([failures, self._resolved(clips)])
        if errors.num_rows:
            store.write_errors(errors)
        written = {}
        for work in self.works:
            rows = unpack_rows(clips[f"{ROWS}{work.spec.name}"], work.schema)
            for signals in work.versions().values():
                part = rows.filter(pc.is_in(rows["signal"], value_set=pa.array(signals)))
                if part.num_rows:
                    store.write_part(part.replace_schema_metadata(work.schemas[signals[0]].metadata))
            written[work.spec.name] = rows.num_rows
        spent = time.perf_counter() - started
        _record(clips.num_rows, failures, written, spent)
        return Written(
            clips.num_rows,
            failed=pc.count_distinct(failures["clip_id"]).as_py(),
            rows=written,
            seconds={stage: pc.sum(column).as_py() or 0.0 for stage, column in _columns(clips, SECONDS)}
            | {"write": spent},
            memory={pool: pc.max(column).as_py() or 0 for pool, column in _columns(clips, MEMORY)}
            | {"write": peak_memory()},
            nodes=_nodes(clips),
        )

    def _errors(self, clips: pa.Table) -> pa.Table:
        lists = clips["errors"].combine_chunks()
        errors = pa.Table.from_struct_array(lists.flatten())
        clips = clips.select(["clip_id", "attempt"]).take(lists.value_parent_indices())
        return self._of_this_run(clips, {name: errors[name] for name in errors.column_names})

    def _resolved(self, clips: pa.Table) -> pa.Table:
        """Rows that end the earlier errors of clips without an error now."""
        failed = pc.greater(pc.list_value_length(clips["errors"]), 0)
        cured = clips.filter(pc.and_(pc.greater(clips["attempt"], 1), pc.invert(failed)))
        resolved = {"stage": "compute", "code": RESOLVED, "permanent": False, "message": None, "signal": None}
        return self._of_this_run(cured, {name: pa.array([value] * len(cured)) for name, value in resolved.items()})

    def _of_this_run(self, clips: pa.Table, errors: dict[str, pa.Array]) -> pa.Table:
        """An error of each clip as a row of the errors table."""
        keys = {"clip_id": clips["clip_id"], "attempt": clips["attempt"], "run_id": pa.repeat(self.run_id, len(clips))}
        return pa.table(keys | errors).select(ERROR_SCHEMA.names).cast(ERROR_SCHEMA)


def _record(clips: int, failures: pa.Table, rows: Mapping[str, int], seconds: float) -> None:
    """Record the metrics of a batch; a clip with several errors counts under one of their codes."""
    codes = failures.group_by("clip_id").aggregate([("code", "min")])["code_min"].value_counts().to_pylist()
    metrics.CLIPS.record(clips - sum(code["counts"] for code in codes), "done")
    for code in codes:
        metrics.CLIPS.record(code["counts"], code["values"])
    for block, written in rows.items():
        metrics.ROWS.record(written, block)
    metrics.record_stages({"write": seconds}, clips)


def _nodes(clips: pa.Table) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for pool, nodes in _columns(clips, NODE):
        spent = pa.table({"node": nodes, "busy": clips[f"{BUSY}{pool}"]}).group_by("node")
        for row in spent.aggregate([("busy", "count"), ("busy", "sum")]).to_pylist():
            before, seconds = found.get(row["node"], (0, 0.0))
            done = row["busy_count"] if pool == PREPARES else 0
            found[row["node"]] = (before + done, seconds + row["busy_sum"])
    return found


def _columns(clips: pa.Table, prefix: str) -> list[tuple[str, pa.ChunkedArray]]:
    return [(name.removeprefix(prefix), clips[name]) for name in clips.column_names if name.startswith(prefix)]
