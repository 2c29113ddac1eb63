"""Time of `acoustic-env predict FILE` beside importing torch, and of each further window, on one core.

    OMP_NUM_THREADS=1 python -m tests.models.bench_predict --bundle BUNDLE FILE [--pairs 5]

The command and `import torch` run in turns, each in a process of its own; the ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from acoustic_env import Predictor

WINDOWS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--pairs", type=int, default=5)
    namespace = parser.parse_args()
    with TemporaryDirectory() as folder:
        out = str(Path(folder, "out.parquet"))
        command = ["-m", "acoustic_env.cli", "predict", "--bundle", namespace.bundle, "--out", out, namespace.file]
        pairs = [(seconds("-c", "import torch"), seconds(*command)) for _ in range(namespace.pairs)]
    torch, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(second / first for first, second in pairs)
    print(f"import torch {torch:.2f} s, predict FILE {whole:.2f} s, ratio {ratio:.2f}")
    predictor = Predictor.load(namespace.bundle, window_s=10.0)
    noise = np.random.default_rng(0).normal(scale=0.1, size=WINDOWS * 480_000).astype(np.float32)
    list(predictor.predict_windows(noise[: 8 * 480_000], sample_rate=48_000))
    alone = [timed(predictor, noise[number * 480_000 : (number + 1) * 480_000]) for number in range(WINDOWS)]
    started = time.perf_counter()
    list(predictor.predict_windows(noise, sample_rate=48_000))
    together = (time.perf_counter() - started) / WINDOWS
    print(f"a window of 10 s: {1e3 * statistics.median(alone):.0f} ms alone, {1e3 * together:.0f} ms in a recording")


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def timed(predictor: Predictor, wave: np.ndarray) -> float:
    started = time.perf_counter()
    predictor.predict(wave, sample_rate=48_000)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
