"""Planning against a large store: what is missing of a list whose clips are (nearly) all there.

    python -m tests.store.bench_planning [--clips 2000000] [--part-clips 45000] [--folder DIR] [--json]

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
from dataclasses import replace

import numpy as np
import pyarrow as pa

from acoustic_env.clips.listed import Listed
from acoustic_env.features.block import METADATA_PREFIX
from acoustic_env.pipeline.books import find_missing
from acoustic_env.pipeline.work import BlockSpec, BlockWork
from acoustic_env.store import layout
from acoustic_env.store.feature_store import FeatureStore, new_part
from acoustic_env.store.parts import part_bytes
from acoustic_env.store.schema import ERROR_SCHEMA, sort_by_key

BLOCK, FINGERPRINT = "indices", "0123456789abcdef"
SIGNALS = ("raw", "fg", "bg")
COLUMNS = 60


def clip_ids(first: int, last: int) -> pa.Array:
    """Ids like AudioSet's (`<ytid>_<start in ms>`, 11 + 1 + 5 characters), spread over the alphabet."""
    numbers = np.arange(first, last, dtype=np.uint64)
    spread = (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)
    return pa.array([f"{value:011x}_{10 * (number % 9000):05d}" for value, number in zip(spread, numbers, strict=True)])


def fill(store: FeatureStore, clips: int, part_clips: int) -> None:
    """Write the parts (without flushing each to the disk), and a manifest that names them."""
    schema = pa.schema(
        [pa.field("clip_id", pa.string(), nullable=False), pa.field("signal", pa.string(), nullable=False)]
        + [pa.field(f"index_{i:02d}", pa.float64()) for i in range(COLUMNS)],
        metadata={f"{METADATA_PREFIX}block": BLOCK, f"{METADATA_PREFIX}fingerprint": FINGERPRINT},
    )
    version, parts = store.version(BLOCK, FINGERPRINT), []
    for number, first in enumerate(range(0, clips, part_clips)):
        ids = clip_ids(first, min(clips, first + part_clips))
        rows = len(ids) * len(SIGNALS)
        keys = [ids.take(pa.array(np.repeat(np.arange(len(ids)), len(SIGNALS)))), pa.array(SIGNALS * len(ids))]
        values = [pa.array(np.full(rows, 0.5))] * COLUMNS
        table = sort_by_key(pa.table([*keys, *values], schema=schema))
        part = new_part(layout.part_path(version.folder, f"{number:06d}"), table)
        path = store.filesystem.folder / part.path  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part_bytes(table))
        parts.append(replace(part, size=path.stat().st_size))
    version.begin(1, parts)


def plan(url: str, clips: int) -> dict[str, float]:
    """Seconds and peak memory of finding what a list of so many clips lacks, in this process."""
    ids = clip_ids(0, clips)
    listed = Listed([pa.table({"clip_id": ids, "uri": ids, "start_s": pa.nulls(clips, pa.float64()),
                               "end_s": pa.nulls(clips, pa.float64())})])  # fmt: skip
    schemas = dict.fromkeys(SIGNALS, pa.schema([], metadata={f"{METADATA_PREFIX}fingerprint": FINGERPRINT}))
    work = BlockWork(BlockSpec(BLOCK, "fast", 0, SIGNALS), schemas, 16_000, None, None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = find_missing(listed, [work], FeatureStore(url), ERROR_SCHEMA.empty_table())
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "clips": clips,
        "missing": int(np.count_nonzero(found.pending)),
        "seconds": round(seconds, 2),
        "peak_gib": round(peak / 2**20, 2),
        "list_gib": round(before / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_000_000)
    parser.add_argument("--part-clips", type=int, default=45_000)
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
                    f"list of {result['clips']:>9,} clips: {result['missing']:>6,} clips lack rows, "
                    f"{result['seconds']:6.1f} s, peak {result['peak_gib']:.2f} GiB ({result['list_gib']:.2f} the list)"
                )
    finally:
        if not given.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
