"""The benchmark's stages of CNN14 and mn04 compare like with like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch

from acoustic_env.bench import tagging
from acoustic_env.bench.clips import BenchClip
from acoustic_env.bench.timing import Pair

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", [tagging.panns, tagging.mn04])
def test_both_sides_of_a_stage_compute_the_same(stage: Callable[[], Pair]) -> None:
    rng = np.random.default_rng(3)
    raw = 0.1 * rng.standard_normal(8_000).astype(np.float32)
    clip = BenchClip(b"", 0.0, 0.5, raw, {"raw": raw, "fg": raw / 2, "bg": raw / 2})
    pair = stage()

    sides: list[Any] = [cast(list[Any], side(clip)) for side in (pair.reference, pair.fast)]

    for expected, given in zip(*sides, strict=True):
        for numbers, others in zip(expected, given, strict=True):
            torch.testing.assert_close(others, numbers, atol=1e-5, rtol=1e-4)
