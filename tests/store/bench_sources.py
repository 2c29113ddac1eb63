"""Compare a long clip list with the sources that a store has recorded, as every run does before it starts.

    python -m tests.store.bench_sources [--clips 2000000] [--json]

Records the sources of that many clips (locations of about 60 characters, segments), then compares in fresh processes:
the same list, one 1 % longer, and the list after the audio moved to another bucket. Peak memory is the comparing
process's own; `list` is what it holds before, the list included.
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
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import BATCH_CLIPS, Listed
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.sources import admit, record
from tests.store.bench_planning import clip_ids


def clip_list(clips: int, bucket: str) -> Iterator[pa.Table]:
    """A list of that many clips of 10 s, each cut from a video, in batches."""
    for first in range(0, clips, BATCH_CLIPS):
        last = min(clips, first + BATCH_CLIPS)
        ids = clip_ids(first, last)
        starts = 10.0 * (np.arange(first, last) % 9000)
        uris = pc.binary_join_element_wise(f"s3://{bucket}/audioset/videos/2024-01/", ids, ".m4a", "")
        yield pa.table({"clip_id": ids, "uri": uris, "start_s": starts, "end_s": starts + 10.0})


def compare(url: str, clips: int, bucket: str, relocated: list[str]) -> dict[str, float]:
    """Seconds and peak memory of one comparison in this process."""
    listed = Listed(clip_list(clips, bucket))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    admission = admit(FeatureStore(url), listed, relocated)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "clips": clips,
        "new": admission.added,
        "seconds": round(seconds, 2),
        "peak_gib": round(peak / 2**20, 2),
        "list_gib": round(before / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compare", nargs=3, metavar=("URL", "BUCKET", "RELOCATED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.compare:
        url, bucket, relocated = given.compare
        print(json.dumps(compare(url, given.clips, bucket, [relocated] if relocated else [])))
        return
    folder = tempfile.mkdtemp(prefix="acoustic-env-sources-")
    try:
        store = FeatureStore(folder)
        started = time.perf_counter()
        record(store, admit(store, Listed(clip_list(given.clips, "bucket"))), "run-0")
        size = sum(entry.size for entry in store.filesystem.entries("clips")) / 2**20
        print(f"recorded in {time.perf_counter() - started:.1f} s, {size:.0f} MiB", file=sys.stderr)
        longer = given.clips + given.clips // 100
        moved = "s3://bucket=s3://other"
        for what, clips, bucket, relocated in (
            ("the same list", given.clips, "bucket", ""),
            ("1 % longer", longer, "bucket", ""),
            ("moved", given.clips, "other", moved),
        ):
            command = [sys.executable, "-m", "tests.store.bench_sources", "--clips", str(clips)]
            command += ["--compare", folder, bucket, relocated]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if given.json:
                print(json.dumps({"what": what, **result}))
            else:
                print(
                    f"{what:<13} {result['clips']:>9,} clips: {result['new']:>9,} to record, "
                    f"{result['seconds']:5.1f} s, peak {result['peak_gib']:.2f} GiB "
                    f"({result['list_gib']:.2f} with the list)"
                )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
