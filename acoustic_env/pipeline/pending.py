"""The pending list of a run: Parquet below `STORE/runs/<run_id>/pending/`, one row a task, read lazily by the graph.

Neighbors share a shard, and clips of like length a task; the longest come first, lest a worker ends alone with them. A
task is bounded by seconds of audio; where the clips lie in row groups of Parquet files, which are read as a whole, a
row group stays in one task.

A list whose URLs hold credentials is not written: its tasks go through Ray's memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from acoustic_env.clips.listed import Listed
from acoustic_env.io.location import without_credentials
from acoustic_env.pipeline.task import ASSUMED_S, WORK_SCHEMA
from acoustic_env.store import layout
from acoustic_env.store.feature_store import FeatureStore

FILE_CLIPS: Final = 2**18  # sorted together
SAMPLED: Final = 2**14  # locations that `Pending` keeps
TASK_SCHEMA: Final = pa.schema([("clips", pa.list_(pa.struct(list(WORK_SCHEMA))))])

Need = npt.NDArray[np.int64]  # [clips of the list], a bit for each missing block and signal (`pipeline.work`)


@dataclass
class Pending:
    """What there is to do, with the figures that a plan needs.

    Attributes:
        clips: how many.
        seconds: of audio, `ASSUMED_S` for a clip whose length is not known.
        longest_s: known length.
        need: bits that any clip lacks.
        uris: locations of the first clips.
        secret: whether any location holds credentials.
        rows: yields the rows, `WORK_SCHEMA`, some at a time.
    """

    clips: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0
    need: int = 0
    uris: list[str] = field(default_factory=list)
    secret: bool = False
    rows: Callable[[], Iterator[pa.Table]] = lambda: iter(())

    @property
    def mean_s(self) -> float:
        """Seconds a clip."""
        return self.seconds / self.clips


def measure(listed: Listed, need: Need, errors: pa.Table) -> Pending:
    """Return what the clips lack, and its figures."""
    found = Pending(rows=partial(pending_rows, listed, need, errors))
    for rows in found.rows():
        seconds = rows["seconds"]
        found.clips += len(rows)
        found.seconds += pc.sum(pc.fill_null(seconds, ASSUMED_S)).as_py()
        found.longest_s = max(found.longest_s, pc.max(seconds).as_py() or 0.0)
        found.need |= int(np.bitwise_or.reduce(rows["need"].to_numpy()))
        found.uris += rows["uri"].slice(0, SAMPLED - len(found.uris)).to_pylist()
        suspicious = rows["uri"].filter(pc.match_substring_regex(rows["uri"], "[?#@]"))
        found.secret = found.secret or any(without_credentials(uri) != uri for uri in suspicious.to_pylist())
    return found


def pending_rows(listed: Listed, need: Need, errors: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of the clips that lack something, `WORK_SCHEMA`, `FILE_CLIPS` or fewer at a time.

    Args:
        listed: the clip list.
        need: of its clips.
        errors: of the store, for the number of earlier attempts.
    """
    failed = errors.group_by("clip_id").aggregate([("attempt", "max")])
    ids, attempts = failed["clip_id"].combine_chunks(), failed["attempt_max"].combine_chunks()
    for rows, clips in listed.tables():
        for first in range(0, len(clips), FILE_CLIPS):
            own = need[rows][first : first + FILE_CLIPS]
            lacking = clips.slice(first, FILE_CLIPS).filter(pa.array(own != 0)).combine_chunks()
            if not len(lacking):
                continue
            before = pc.fill_null(attempts.take(pc.index_in(lacking["clip_id"], value_set=ids)), 0)
            lacking = lacking.append_column("need", pa.array(own[own != 0]))
            lacking = lacking.append_column("attempt", pc.cast(pc.add(before, 1), pa.int32()))
            lacking = lacking.append_column("seconds", _seconds(lacking))
            yield lacking.select(WORK_SCHEMA.names).cast(WORK_SCHEMA)


def _seconds(clips: pa.Table) -> pa.ChunkedArray:
    """Return how long each clip is in s, null where the list does not say."""
    segment = pc.subtract(clips["end_s"], pc.fill_null(clips["start_s"], 0.0))
    seconds = pc.coalesce(segment, clips["duration_s"])
    return pc.if_else(pc.greater(seconds, 0.0), seconds, None)


def cut_tasks(rows: pa.Table, task_s: float, least_s: float = 0.0) -> pa.Table:
    """Sort pending rows and cut them into tasks: `TASK_SCHEMA`.

    Args:
        rows: of `pending_rows`.
        task_s: seconds of audio a task, at most, unless one clip or one row group alone has more.
        least_s: a shorter clip counts as that long.
    """
    placed = pc.is_valid(rows["byte_offset"])
    shard = pc.if_else(placed, pc.replace_substring_regex(rows["uri"], "^(tar|parquet)://.*?::", ""), "")
    seconds = pc.fill_null(rows["seconds"], ASSUMED_S)
    keys = pa.table({"shard": shard, "offset": rows["byte_offset"], "seconds": seconds})
    order = pc.sort_indices(keys, [("shard", "ascending"), ("offset", "ascending"), ("seconds", "descending")])
    rows, keys = rows.take(order).combine_chunks(), keys.take(order)
    same = pc.and_(*(pc.equal(keys[name][1:], keys[name][:-1]) for name in ("shard", "offset")))
    starts = np.flatnonzero(~np.concatenate([[False], pc.fill_null(same, False).to_numpy()]))  # of what stays together
    ends = np.cumsum(np.maximum(keys["seconds"].to_numpy(), least_s))[np.append(starts[1:], len(rows)) - 1]
    offsets, unit = [0], 0
    while unit < len(starts):
        done = ends[unit - 1] if unit else 0.0
        unit = max(unit + 1, int(np.searchsorted(ends, done + task_s * (1 + 1e-9), "right")))
        offsets.append(int(starts[unit]) if unit < len(starts) else len(rows))
    clips = rows.to_struct_array().combine_chunks()
    return pa.table([pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), clips)], schema=TASK_SCHEMA)


@contextmanager
def stored(store: FeatureStore, run_id: str, tables: Iterable[pa.Table]) -> Iterator[dict[str, int]]:
    """Tables of tasks as files of the run, for the length of the block: path in the store -> number of tasks."""
    written: dict[str, int] = {}
    try:
        for number, tasks in enumerate(tables):
            path = layout.pending_path(run_id, number)
            buffer = io.BytesIO()
            pq.write_table(tasks, buffer, compression="zstd")
            store.filesystem.write(path, buffer.getvalue())
            written[path] = len(tasks)
        yield written
    finally:
        for path in written:
            store.filesystem.remove(path)


def remove_leftovers(store: FeatureStore, holders: Callable[[], Sequence[str]]) -> None:
    """Remove the files of runs that were killed.

    Args:
        store: the store.
        holders: returns who holds leases now, as text: a run has its leases before its first file.
    """
    left = [entry.path for entry in store.filesystem.entries(layout.RUNS) if "/pending/" in entry.path]
    alive = " ".join(holders()) if left else ""
    for path in left:
        if path.split("/")[1] not in alive:
            store.filesystem.remove(path)


def read_tasks(store_url: str, path: str) -> pa.Table:
    """Read a file of tasks."""
    return pq.read_table(io.BytesIO(FeatureStore(store_url).filesystem.read(path)), schema=TASK_SCHEMA)
