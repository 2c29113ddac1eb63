"""The two sides of a stage of the benchmark, and how their seconds are taken."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from acoustic_env.bench.clips import BenchClip

Side = Callable[[BenchClip], object]


@dataclass(frozen=True)
class Pair:
    """A stage's two sides, and what to make ready for a clip before its clocks start; results are thrown away."""

    reference: Side
    fast: Side
    ready: Side = id


def seconds(side: Side, clip: BenchClip) -> float:
    """Processor seconds of this process for one clip."""
    begin = time.process_time()
    side(clip)
    return time.process_time() - begin


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """BLAS, OpenMP and torch's own pool at one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
