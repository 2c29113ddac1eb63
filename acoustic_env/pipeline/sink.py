"""The last stage: finished rows become part files and errors, under the lease, and only a small summary travels on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.memory import peak_memory
from acoustic_env.pipeline.rows import MEMORY, SECONDS, memory_column, rows_column, unpack_rows
from acoustic_env.pipeline.work import BlockWork
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import check
from acoustic_env.store.schema import ERROR_SCHEMA


class Write:
    """A batch of finished clips into the store: first the blocks' parts, then the errors.

    A crash between two writes leaves whole parts only; what is missing is found again from the keys that can be read.
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
        for work in self.works:
            rows = unpack_rows(clips[rows_column(work.spec.name)], work.schema)
            if rows.num_rows:
                store.write_part(rows)
            summary[rows_column(work.spec.name)] = rows.num_rows
        errors = self._errors(clips)
        if errors.num_rows:
            store.write_errors(errors)
        summary["failed"] = pc.count_distinct(errors["clip_id"]).as_py()
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
                "stage": struct["stage"],
                "code": struct["code"],
                "message": struct["message"],
                "permanent": struct["permanent"],
                "attempt": clips["attempt"].combine_chunks().take(owner),
                "run_id": pa.array([self.run_id] * struct.num_rows, pa.string()),
            },
            schema=ERROR_SCHEMA,
        )
