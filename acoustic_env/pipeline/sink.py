"""The last stage: finished rows become part files and errors, under the leases, and only a small summary travels on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.sources import describe_source, listed_sources
from acoustic_env.errors import RESOLVED
from acoustic_env.io.retry import expect_answers
from acoustic_env.memory import peak_memory
from acoustic_env.pipeline import metrics
from acoustic_env.pipeline.rows import BUSY, MEMORY, NODE, ROWS, SECONDS, RowError, unpack_errors, unpack_rows
from acoustic_env.pipeline.work import BlockWork, lacking_pairs
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path
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
    """Write slices of finished clips to the store: first the errors, then the blocks' parts, each with its manifest.

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

    def __call__(self, clips: pa.Table, number: int = 0) -> Written:
        """Write a slice.

        Args:
            clips: as they leave the last stage.
            number: of the slice in this run.
        """
        started = time.perf_counter()
        name = f"{self.run_id}-{number:06d}"
        check_all(self.store.url, self.leases)
        failures = self._failures(clips)
        errors = pa.concat_tables([failures, self._resolved(clips)])
        if errors.num_rows:
            self.store.write_errors(errors, name)
        written = {}
        for work in self.works:
            rows = unpack_rows(clips[f"{ROWS}{work.spec.name}"], work.schema)
            for signals in work.versions().values():
                part = rows.filter(pc.is_in(rows["signal"], value_set=pa.array(signals)))
                if part.num_rows:
                    part = part.replace_schema_metadata(work.schemas[signals[0]].metadata)
                    self.store.write_part(part, self.leases[lease_path(work.spec.name)], name)
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

    def _failures(self, clips: pa.Table) -> pa.Table:
        failed = clips.filter(pc.greater(pc.list_value_length(clips["errors"]), 0))
        return self._rows(failed, unpack_errors(failed))

    def _resolved(self, clips: pa.Table) -> pa.Table:
        """Rows that end earlier errors, of clips that failed before, of what they have no error of now."""
        again = clips.filter(pc.and_(pc.greater(clips["attempt"], 1), pc.not_equal(clips["need"], 0)))
        specs = [work.spec for work in self.works]
        resolved = []
        for need, errors in zip(again["need"].to_pylist(), unpack_errors(again), strict=True):
            failed = {(error.block, error.signal) for error in errors}
            subjects = [(None, None), *((spec.name, signal) for spec, signal in lacking_pairs(need, specs))]
            done = [] if (None, None) in failed else [subject for subject in subjects if subject not in failed]
            resolved.append([RowError("compute", RESOLVED, "", False, *subject) for subject in done])
        return self._rows(again, resolved)

    def _rows(self, clips: pa.Table, errors: Sequence[Sequence[RowError]]) -> pa.Table:
        """Errors of clips as rows of the errors table."""
        versions = {work.spec.name: work.fingerprints for work in self.works}
        keys = zip(listed_sources(clips).to_pylist(), clips["attempt"].to_pylist(), errors, strict=True)
        rows = [
            error._asdict()
            | {"clip_id": source["clip_id"], "source": describe_source(source), "attempt": attempt}
            | {"run_id": self.run_id, "fingerprint": versions[error.block][error.signal or ""] if error.block else None}
            for source, attempt, own in keys
            for error in own
        ]
        return pa.Table.from_pylist(rows, schema=ERROR_SCHEMA)


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
