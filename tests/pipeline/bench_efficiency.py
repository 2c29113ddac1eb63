"""Pipeline efficiency on a list of your own: what `tests.bench --stages extract` measures for the fast engine.

python -m tests.pipeline.bench_efficiency --clips clips.parquet [--engine reference] [--blocks yamnet] [--jobs 2]
"""

from __future__ import annotations

import argparse
import statistics
import sys

from acoustic_env.clips.table import read_clips
from tests.bench.job import measure_efficiency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", required=True)
    parser.add_argument("--engine", default="fast", choices=("fast", "reference"))
    parser.add_argument("--blocks", default="")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    clips = read_clips(options.clips)
    blocks = tuple(filter(None, options.blocks.split(",")))
    ratios = []
    for _ in range(options.jobs):
        one = measure_efficiency(options.clips, clips, options.engine, _log, blocks)
        print(f"job {one.job_clips_per_second:.2f}, loop {one.loop_clips_per_second:.2f} clips/s, {one.ratio:.3f}")
        ratios.append(one.ratio)
    print(f"{clips.num_rows} clips, median ratio {statistics.median(ratios):.3f}")


def _log(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
