"""Export a block of a large store: seconds and peak memory of `store export`, each time in a process of its own.

    python -m tests.store.bench_export [--clips 200000] [--folder DIR]

Writes parts with the columns of the block `placeholder`, three signals, the table of sources, and a clip list in
another order than the store's; then exports to Parquet and CSV, long and wide, with the list and without.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from acoustic_env.clips.listed import Listed
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.registry import make_block
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import admit, record
from tests.store.bench_planning import clip_ids
from tests.store.tables import AUDIO

SIGNALS = ("raw", "fg", "bg")
PART_CLIPS = 20_000


def clip_list(clips: int) -> pa.Table:
    """A clip list with labels, groups and a column of a user's own."""
    ids = clip_ids(0, clips)
    numbers = pa.array(np.arange(clips))
    labels = pa.array([["rain"], ["dog", "rain, heavy"], []], pa.list_(pa.string())).take(
        pa.array(np.arange(clips) % 3)
    )
    starts = 10.0 * (np.arange(clips) % 9000)
    return pa.table(
        {
            "clip_id": ids,
            "uri": pc.binary_join_element_wise("s3://bucket/audioset/videos/2024-01/", ids, ".m4a", ""),
            "start_s": starts,
            "end_s": starts + 10.0,
            "labels": labels.take(pa.array(np.arange(clips) % 3)),
            "group": pc.binary_join_element_wise("video-", pc.divide(numbers, 10).cast(pa.string()), ""),
            "site": pa.array(["dune", "heath"]).take(pa.array(np.arange(clips) % 2)),
        }
    )


def fill(store: FeatureStore, clips: int) -> None:
    """Write parts of random rows."""
    schema, rng = table_schema(make_block("placeholder", "fast"), AUDIO, SIGNALS), np.random.default_rng(1)
    for first in range(0, clips, PART_CLIPS):
        ids = clip_ids(first, min(clips, first + PART_CLIPS)).to_pylist()
        keys = [(clip_id, signal) for clip_id in ids for signal in SIGNALS]
        values = {
            field.name: rng.random((len(keys), field.type.list_size), np.float32)
            for field in schema
            if pa.types.is_fixed_size_list(field.type)
        }
        store.write_part(to_table(schema, [key[0] for key in keys], [key[1] for key in keys], values))


def measure(arguments: list[str]) -> tuple[float, float, float]:
    """Return the seconds, those of processors, and the peak memory in MiB of one command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "acoustic_env.cli", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)}: ended with {status}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="acoustic-env-export-") as name:
        folder = given.folder or Path(name)
        store, clips = FeatureStore(str(folder / "store")), str(folder / "clips.parquet")
        if not (folder / "clips.parquet").exists():
            fill(store, given.clips)
            table = clip_list(given.clips)
            record(store, admit(store, Listed([table])), "run-0")
            pq.write_table(table, clips)
        for out in ("long.parquet", "long.csv", "wide.parquet", "wide.csv"):
            for listed in ([], ["--clips", clips]):
                options = [*listed, *(["--wide"] if out.startswith("wide") else [])]
                target = ["--block", "placeholder", "--out", str(folder / out)]
                seconds, cpu, peak = measure(["store", "export", store.url, *target, *options])
                size = (folder / out).stat().st_size / 2**20
                what = f"{out}{', with the list' if listed else ''}"
                print(
                    f"{what:<28} {seconds:6.1f} s, CPU {cpu:6.1f} s {peak:7.0f} MiB, file {size:,.0f} MiB", flush=True
                )


if __name__ == "__main__":
    main()
