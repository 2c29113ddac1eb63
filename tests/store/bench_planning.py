"""Planning against a large store: what is missing of a list whose clips are (nearly) all there.

    python -m tests.store.bench_planning [--clips 2000000] [--part-clips 512] [--folder DIR] [--json]

Writes parts of a block of 60 columns with the keys of that many clips and three signals (the values are one constant,
so that the disk is not what is measured), then plans in a fresh process: once with nothing left to do, once with a list
that is 1 % longer. Peak memory is the planning process's own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from acoustic_env.features.block import METADATA_PREFIX
from acoustic_env.store import layout
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.parts import part_bytes
from acoustic_env.store.schema import digest, sort_by_key

BLOCK, FINGERPRINT = "indices", "0123456789abcdef"
SIGNALS = ("raw", "fg", "bg")
COLUMNS = 60


def clip_ids(first: int, last: int) -> pa.Array:
    """Ids like AudioSet's (`<ytid>_<start in ms>`, 11 + 1 + 5 characters), spread over the alphabet."""
    numbers = np.arange(first, last, dtype=np.uint64)
    spread = (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)
    return pa.array([f"{value:011x}_{10 * (number % 9000):05d}" for value, number in zip(spread, numbers, strict=True)])


def fill(store: FeatureStore, clips: int, part_clips: int) -> None:
    """Write the parts (without flushing each to the disk)."""
    schema = pa.schema(
        [pa.field("clip_id", pa.string(), nullable=False), pa.field("signal", pa.string(), nullable=False)]
        + [pa.field(f"index_{i:02d}", pa.float64()) for i in range(COLUMNS)],
        metadata={f"{METADATA_PREFIX}block": BLOCK, f"{METADATA_PREFIX}fingerprint": FINGERPRINT},
    )
    folder = layout.block_folder(BLOCK, FINGERPRINT)
    for first in range(0, clips, part_clips):
        ids = clip_ids(first, min(clips, first + part_clips))
        rows = len(ids) * len(SIGNALS)
        keys = [ids.take(pa.array(np.repeat(np.arange(len(ids)), len(SIGNALS)))), pa.array(SIGNALS * len(ids))]
        values = [pa.array(np.full(rows, 0.5))] * COLUMNS
        table = sort_by_key(pa.table([*keys, *values], schema=schema))
        name = digest(table, ["clip_id", "signal"], f"{BLOCK}/{FINGERPRINT}")
        path = store.filesystem.folder / layout.part_path(folder, name)  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part_bytes(table))


def plan(url: str, clips: int) -> dict[str, float]:
    """Seconds and peak memory of `missing` for a list of so many clips, in this process."""
    ids = pa.chunked_array([clip_ids(0, clips)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    missing = FeatureStore(url).missing(ids, SIGNALS, BLOCK, FINGERPRINT)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "clips": clips,
        "missing": missing.num_rows,
        "seconds": round(seconds, 2),
        "peak_gib": round(peak / 2**20, 2),
        "list_gib": round(before / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_000_000)
    parser.add_argument("--part-clips", type=int, default=512)
    parser.add_argument("--folder", help="where the store is made; kept if given, and used again if it is full")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plan", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plan:
        print(json.dumps(plan(given.plan, given.clips)))
        return
    folder = given.folder or tempfile.mkdtemp(prefix="acoustic-env-planning-")
    try:
        store = FeatureStore(folder)
        started = time.perf_counter()
        if not store.blocks():
            fill(store, given.clips, given.part_clips)
        print(f"{len(store.parts(BLOCK, FINGERPRINT)):,} parts there after {time.perf_counter() - started:.0f} s",
              file=sys.stderr)  # fmt: skip
        for clips in (given.clips, given.clips + given.clips // 100):
            command = [sys.executable, "-m", "tests.store.bench_planning", "--plan", folder, "--clips", str(clips)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if given.json:
                print(json.dumps(result))
            else:
                print(
                    f"list of {result['clips']:>9,} clips: {result['missing']:>6,} keys missing, "
                    f"{result['seconds']:6.1f} s, peak {result['peak_gib']:.2f} GiB ({result['list_gib']:.2f} the list)"
                )
    finally:
        if not given.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
