"""The last stage: finished rows become part files and errors, under the lease, and only a small summary travels on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import RESOLVED
from acoustic_env.memory import peak_memory
from acoustic_env.pipeline.rows import MEMORY, SECONDS, memory_column, rows_column, unpack_rows
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import check
from acoustic_env.store.schema import ERROR_SCHEMA


class Write:
    """Write a batch of finished clips to the store: first the errors, then the blocks' parts.

    A clip that failed in an earlier run and has no error now gets a `resolved` row. It comes before the clip's rows:
    killed between the two, the clip is pending and the next run computes it. (Rows first would leave a computed clip
    whose old error still excludes it from other blocks.) A crash leaves whole parts only; what is missing is found
    again from the keys that can be read.
    """

    def __init__(self, store_url: str, token: int, works: Sequence[BlockWork], run_id: str) -> None:
        self.store_url = store_url
        self.token = token
        self.works = tuple(works)
        self.run_id = run_id

    def __call__(self, clips: pa.Table) -> pa.Table:
        store = FeatureStore(self.store_url)
        check(self.store_url, self.token)
        summary: dict[str, float] = {"clips": clips.num_rows}
        errors = self._errors(clips)
        summary["failed"] = pc.count_distinct(errors["clip_id"]).as_py()
        errors = pa.concat_tables([errors, self._resolved(clips)])
        if errors.num_rows:
            store.write_errors(errors)
        for work in self.works:
            rows = unpack_rows(clips[rows_column(work.spec.name)], work.schema)
            for signals in work.versions().values():
                part = rows.filter(pc.is_in(rows["signal"], value_set=pa.array(signals)))
                if part.num_rows:
                    store.write_part(part.replace_schema_metadata(work.schemas[signals[0]].metadata))
            summary[rows_column(work.spec.name)] = rows.num_rows
        for name in clips.column_names:
            if name.startswith(SECONDS):
                summary[name] = pc.sum(clips[name]).as_py() or 0.0
            elif name.startswith(MEMORY):
                summary[name] = pc.max(clips[name]).as_py() or 0
        summary[memory_column("write")] = peak_memory()
        return pa.table({name: pa.array([float(value)]) for name, value in summary.items()})

    def _errors(self, clips: pa.Table) -> pa.Table:
        lists = clips["errors"].combine_chunks()
        struct = pa.Table.from_struct_array(lists.flatten())
        owner = lists.value_parent_indices()
        return pa.table(
            {
                "clip_id": clips["clip_id"].combine_chunks().take(owner),
                "signal": struct["signal"],
                "stage": struct["stage"],
                "code": struct["code"],
                "message": struct["message"],
                "permanent": struct["permanent"],
                "attempt": clips["attempt"].combine_chunks().take(owner),
                "run_id": pa.array([self.run_id] * struct.num_rows, pa.string()),
            },
            schema=ERROR_SCHEMA,
        )

    def _resolved(self, clips: pa.Table) -> pa.Table:
        """Rows that end the earlier errors of clips without an error now."""
        failed = pc.greater(pc.list_value_length(clips["errors"]), 0)
        cured = clips.filter(pc.and_(pc.greater(clips["attempt"], 1), pc.invert(failed)))
        return pa.table(
            {
                "clip_id": cured["clip_id"],
                "signal": pa.nulls(cured.num_rows, pa.string()),
                "stage": pa.repeat("compute", cured.num_rows),
                "code": pa.repeat(RESOLVED, cured.num_rows),
                "message": pa.nulls(cured.num_rows, pa.string()),
                "permanent": pa.repeat(False, cured.num_rows),
                "attempt": cured["attempt"],
                "run_id": pa.repeat(self.run_id, cured.num_rows),
            },
            schema=ERROR_SCHEMA,
        )
