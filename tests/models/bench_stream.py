"""Training on frames that lie on the local disk: memory, examples per second, waiting, two workers over one.

    python -m tests.models.bench_stream --clips 1000000 [--pairs 4] [--folder DIR]

Generates `vggish_released` of so many clips (10 x 128 bytes each, 1,000 a part) in a temporary folder, and trains
`attention` for an epoch with one thread: with one layer of 128 on a tenth of the clips and on all, with its default
layers on a twentieth, each in a process of its own, in batches of 256; then, with its default layers on a tenth, in one
and in two Ray Train workers, in turns, in batches of 1,024 and 4,096: each worker takes every optimizer's step and all
gradients, whatever its share of the rows. What two workers could reach is measured beside it: two processes at once
that read and train on a half each, without Ray and without the averaging, over one process with all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from acoustic_env.models.training.loop import LocalSession
from tests.models.streams import examples, generate

BATCH, PAIR_BATCHES = 256, (1_024, 4_096)
SMALL = (128,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--folder")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=BATCH, help=argparse.SUPPRESS)
    parser.add_argument("--half", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    if options.train is not None:
        made = {"batch_size": options.batch, "workers": options.workers}
        made |= {"hidden": SMALL} if options.small else {}
        print(json.dumps(train(options.folder, options.train, made, half=options.half)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        started = time.perf_counter()
        ids, y = generate(f"{folder}/store", options.clips, 1_000)
        np.savez(f"{folder}/clips.npz", ids=np.array(ids), y=y)
        print(f"{options.clips:,} clips written in {time.perf_counter() - started:.0f} s", flush=True)
        for part, small in ((10, True), (1, True), (20, False)):
            clips = options.clips // part
            found = run(folder, clips, small=small)
            peak_mib, own_mib = (found[name] / 2**20 for name in ("peak", "own"))
            print(
                f"{clips:>9,} clips, {'one layer of 128' if small else 'default layers'}: peak {peak_mib:,.0f} MiB, "
                f"of it {own_mib:,.0f} for clips and training, {clips / found['seconds']:,.0f} clips/s, "
                f"{found['waiting']:.1%} waiting, indexed in {found['index']:.1f} s",
                flush=True,
            )
        for batch in PAIR_BATCHES:
            print(f"batches of {batch:,}")
            compare_workers(folder, options.clips // 10, batch, options.pairs)


def compare_workers(folder: str, clips: int, batch: int, pairs: int) -> None:
    """Print the times of one worker over those of two, and of one process over two that share nothing."""
    ratios, ceilings = [], []
    for _ in range(pairs):
        whole = run(folder, clips, batch=batch)["seconds"]
        with ThreadPoolExecutor(2) as pool:
            halves = pool.map(lambda _: run(folder, clips, half=True, batch=batch)["seconds"], range(2))
        ceilings.append(whole / max(halves))
        one, two = (run(folder, clips, workers, batch=batch) for workers in (1, 2))
        ratios.append(one["seconds"] / two["seconds"])
        rates = ", ".join(f"{clips / found['seconds']:,.0f}" for found in (one, two))
        waits = ", ".join(f"{found['waiting']:.1%}" for found in (one, two))
        print(
            f"one worker, two: {rates} clips/s ({waits} waiting), ratio {ratios[-1]:.2f}, "
            f"two processes apart {ceilings[-1]:.2f}, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    if pairs:
        print(f"median of {pairs}: {np.median(ratios):.2f}, two processes apart {np.median(ceilings):.2f}")


class Share(LocalSession):
    """The first of so many workers, without the averaging."""

    def __init__(self, workers: int) -> None:
        self.workers = workers


def run(
    folder: str, clips: int, workers: int = 0, *, small: bool = False, half: bool = False, batch: int = BATCH
) -> dict[str, Any]:
    """Train in a process of its own, so that its peak memory is that of the training."""
    command = [sys.executable, "-m", "tests.models.bench_stream", "--folder", folder, "--train", str(clips)]
    command += ["--workers", str(workers), "--batch", str(batch)]
    command += [*(["--small"] if small else []), *(["--half"] if half else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def train(folder: str, clips: int, made: dict[str, Any], *, half: bool) -> dict[str, float]:
    """Train one epoch; seconds are those of the epoch itself."""
    import torch

    from acoustic_env.config import classifier_settings
    from acoustic_env.models.training.loop import TrainingSpec, train_network
    from acoustic_env.models.training.on_ray import train_on_ray

    torch.set_num_threads(1)
    settings: Any = classifier_settings({"kind": "attention", "max_epochs": 1, **made})
    spec = TrainingSpec(settings, "binary", 2)
    before = peak()
    started = time.perf_counter()
    with np.load(Path(folder) / "clips.npz") as listed:
        data = examples(f"{folder}/store", listed["ids"][:clips].tolist(), listed["y"][:clips])
    index = time.perf_counter() - started
    if settings.workers:
        import ray

        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
        with tempfile.TemporaryDirectory() as place:
            progress = train_on_ray(spec, data, None, place)
        ray.shutdown()
    else:
        progress = train_network(spec, data, None, Share(2 if half else 1))
    epoch = progress.history[-1]
    waiting = epoch["data_seconds"] / epoch["seconds"]
    most = peak()
    return {
        "seconds": epoch["seconds"],
        "waiting": waiting,
        "peak": most,
        "own": most - before,
        "index": index,
    }


def peak() -> float:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
