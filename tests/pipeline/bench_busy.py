"""Measure how much longer a short extraction takes beside busy processes than alone.

Print the wall time of `acoustic-env extract` over three generated clips on an idle machine, the same beside one busy
process per CPU, and their ratio. Run it on a machine that does nothing else.

python -m tests.pipeline.bench_busy [--runs 2] [--busy 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipeline.test_extract import write_noise

CLIPS = 3
ALLOWED_RATIO = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2, help="runs of each kind; the medians are compared")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="busy processes (default: one per CPU)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        listed = write_noise(Path(folder) / "audio", CLIPS, seconds=10.0)
        alone, beside = [], []
        for run in range(options.runs):
            alone.append(_extract(listed, Path(folder) / f"alone-{run}"))
            with _busy(options.busy):
                beside.append(_extract(listed, Path(folder) / f"beside-{run}"))
            print(f"run {run}: alone {alone[-1]:.1f} s, beside {options.busy} busy processes {beside[-1]:.1f} s")
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"ratio of the medians {ratio:.2f}, allowed {ALLOWED_RATIO:g}")
    sys.exit(ratio > ALLOWED_RATIO)


def _extract(listed: Path, store: Path) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "acoustic_env.cli", "extract", "--clips", str(listed), "--store", str(store)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
