"""Both engines side by side on the same clips: `python -m tests.bench [--stages dsp,networks,extract] [--json]`.

Stage `dsp` times decoding, separation, the blocks without networks, and what the fast DSP costs for clips of 5 to 60 s;
`networks` two networks with random weights beside their authors' code. Both are processor seconds of one thread.
`extract` runs the whole job with both engines, and compares the fast job with a plain loop of the same kernels: some
eight minutes of ten on two cores. The clips are real ones of 10 s where ACOUSTIC_ENV_TEST_DATA names the folder of real
data, else generated scenes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.clips import bench_clips
from tests.bench.job import JobResult, measure_job
from tests.bench.stages import DSP, NETWORKS, Timed, measure, measure_lengths

GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", default="dsp,networks,extract", help="Default: all three.")
    parser.add_argument("--num-clips", type=int, default=12, metavar="N", help="Of dsp and networks. Default: 12.")
    parser.add_argument("--num-job-clips", type=int, metavar="N", help="Of extract. Default: 100 per CPU.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    stages = set(options.stages.split(","))
    if unknown := stages - {"dsp", "networks", "extract"}:
        parser.error(f"no stage named {min(unknown)!r}; expected dsp, networks or extract")
    pairs = {**(DSP if "dsp" in stages else {}), **(NETWORKS if "networks" in stages else {})}
    with bench_clips(options.num_clips) as material:
        sample = material.clips(options.num_clips)
        found: dict[str, Any] = {"machine": machine(), "source": material.source, "clips": len(sample)}
        timed = [measure(name, make, sample) for name, make in pairs.items()]
        lengths = measure_lengths(sample[0]) if "dsp" in stages else {}
        job = measure_job(material, options.num_job_clips, log) if "extract" in stages else None
    if options.json:
        found |= {"stages": [dataclasses.asdict(one) for one in timed], "lengths": lengths}
        print(json.dumps(found | {"job": None if job is None else dataclasses.asdict(job)}, indent=2))
        return
    print(*lines(found, timed, lengths, job), sep="\n")


def log(text: str) -> None:
    print(text, file=sys.stderr)


def lines(found: dict[str, Any], timed: list[Timed], lengths: dict[float, float], job: JobResult | None) -> list[str]:
    """Return the results as a table."""
    shown = [found["machine"], f"{found['clips']} clips, {found['source']}; ms of one thread per clip"]
    shown += [f"{'':<18}{'reference':>14}{'fast':>12}{'ratio':>9}"] if timed else []
    for one in timed:
        shown.append(f"{one.name:<18}{1e3 * one.reference_s:>14.1f}{1e3 * one.fast_s:>12.1f}{one.ratio:>8.1f}x")
    shown += [f"dsp, fast, {s:g} s: {1e3 * cost:.1f} ms, {1e3 * cost / s:.1f} ms per s" for s, cost in lengths.items()]
    if job is not None:
        one, reference, fast = job.efficiency, job.reference, job.fast
        shown += [
            f"extract, {job.clips} clips of {job.clip_seconds:g} s, {job.workers} workers",
            f"{'whole command, s':<18}{reference.command_s:>14.1f}{fast.command_s:>12.1f}{job.ratio:>8.1f}x",
            f"{'clips/s, running':<18}{reference.clips_per_second:>14.2f}{fast.clips_per_second:>12.2f}",
            f"{'GiB per worker':<18}{reference.worker_bytes / GIB:>14.2f}{fast.worker_bytes / GIB:>12.2f}",
            f"fast job, {one.clips} clips: {one.job_clips_per_second:.2f} clips/s; a plain loop of the same kernels "
            f"{one.loop_clips_per_second:.2f}: efficiency {one.ratio:.2f}",
        ]
    return shown


def machine() -> str:
    """Describe processor, system and libraries."""
    import scipy
    import torch

    info = Path("/proc/cpuinfo")
    rows = info.read_text().splitlines() if info.is_file() else []
    names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    model = next(iter(names), platform.processor() or platform.machine())
    libraries = f"numpy {np.__version__}, scipy {scipy.__version__}, torch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, {libraries}"


if __name__ == "__main__":
    main()
