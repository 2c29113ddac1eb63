"""Memory against the length of the list: peak of the driver and of the object store for 1,000 and 10,000 clips.

    python -m tests.pipeline.bench_memory [--clips 1000,10000] [--local] [--blocks placeholder] [--runs 3]

Clips are half-second segments of one long noise file, the block is `placeholder`, the cheapest, or those named.
The audio counts as remote, so that waveforms travel through the object store from readers of their own; with --local
the workers decode, and the store holds the list and finished rows. Each run has a process of its own, the lengths take
turns, and a figure is the median of its runs; the object store is sampled every 50 ms.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import soundfile

from acoustic_env.clips.table import clip_table, write_clips

RATE, SECONDS = 16_000, 60


def measure(clips: int, prefix: str, blocks: tuple[str, ...]) -> dict[str, float]:
    """Run one extraction here; peaks in MiB."""
    import ray

    from acoustic_env.options import ExtractSettings
    from acoustic_env.pipeline.extract import extract

    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0).normal(0, 0.1, RATE * SECONDS)
        soundfile.write(Path(folder, "noise.wav"), noise, RATE)
        rows = [
            {
                "clip_id": f"c{i:06d}",
                "uri": f"{prefix}{Path(folder, 'noise.wav')}",
                "start_s": i % 118 / 2,
                "end_s": i % 118 / 2 + 0.5,
            }
            for i in range(clips)
        ]
        write_clips(clip_table(rows), str(Path(folder, "clips.parquet")))
        used = [0.0]
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.05):
                if ray.is_initialized():
                    total = ray.cluster_resources().get("object_store_memory", 0.0)
                    used[0] = max(used[0], total - ray.available_resources().get("object_store_memory", total))

        watcher = threading.Thread(target=watch)
        watcher.start()
        settings = ExtractSettings(
            clips=str(Path(folder, "clips.parquet")), store=str(Path(folder, "store")), blocks=blocks
        )
        record = extract(settings)
        stop.set()
        watcher.join()
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "clips": clips,
        "driver_mib": driver,
        "object_store_mib": used[0] / 2**20,
        "clips_per_s": record.clips_per_second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", default="1000,10000")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--blocks", default="placeholder")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, "" if options.local else "local://", tuple(options.blocks.split(",")))))
        return
    lengths = options.clips.split(",")
    peaks: dict[str, list[dict[str, float]]] = {clips: [] for clips in lengths}
    for _ in range(options.runs):
        for clips in lengths:
            command = [sys.executable, "-m", "tests.pipeline.bench_memory", "--one", clips, "--blocks", options.blocks]
            command += ["--local"] if options.local else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[clips].append(json.loads(done.stdout))
            print(" ".join(f"{name} {value:.1f}" for name, value in peaks[clips][-1].items()), flush=True)
    for name in ("driver_mib", "object_store_mib"):
        first, last = (statistics.median(peak[name] for peak in peaks[clips]) for clips in (lengths[0], lengths[-1]))
        print(f"{name}: {last:.1f} / {first:.1f} = {last / max(first, 1e-9):.2f}")


if __name__ == "__main__":
    main()
