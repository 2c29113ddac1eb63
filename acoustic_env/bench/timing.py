"""Timing of the benchmark: processor seconds of the two sides of a stage; one thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from acoustic_env.bench.clips import BenchClip

Side = Callable[[BenchClip], object]


@dataclass(frozen=True)
class Pair:
    """The two engines of a stage as functions of a clip; their results are discarded."""

    reference: Side
    fast: Side


def cpu_seconds(side: Side, clip: BenchClip) -> float:
    """Return the processor seconds of this process for one clip."""
    started = time.process_time()
    side(clip)
    return time.process_time() - started


def wall_seconds(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP and PyTorch to one thread, as in a worker of the job."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
