"""The pending list as a source of Ray Data: a file is read when the workers ask for its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from acoustic_env.pipeline.pending import read_tasks


class PendingFiles(Datasource):
    """Files of the pending list.

    Args:
        store_url: the store.
        files: path in the store, or Ray's reference to the table -> number of tasks.
    """

    def __init__(self, store_url: str, files: Mapping[Any, int]) -> None:
        self.store_url, self.files = store_url, files

    def estimate_inmemory_data_size(self) -> None:
        """Say nothing: blocks are tasks, whatever their size."""

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """Return a task for each file; Ray Data cuts its rows to blocks."""
        return [
            ReadTask(
                partial(_read, self.store_url, file), BlockMetadata(num_rows=rows, size_bytes=None, exec_stats=None)
            )
            for file, rows in self.files.items()
        ]


def _read(store_url: str, file: Any) -> list[pa.Table]:
    return [ray.get(file) if isinstance(file, ray.ObjectRef) else read_tasks(store_url, file)]
