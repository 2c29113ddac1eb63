"""Compute how many clips to annotate for an interval of a wanted width, by design."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.intervals import Floats, z_value
from acoustic_env.audit.ranking import quality_of
from acoustic_env.audit.sample import inclusion_probabilities, score_strata
from acoustic_env.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """A sample size.

    Attributes:
        design: simple, stratified, unequal, ...
        n: clip-label rows in all.
        per_class: whether every class is to reach the half-width by itself.
        note: the assumption behind the number.
    """

    design: str
    n: int
    per_class: bool
    note: str


def simple_size(share: float, half_width: float, frame: int | None = None, level: float = 0.95) -> int:
    """Return the rows of a simple random sample for an interval of +- `half_width`: z^2 p (1 - p) / h^2.

    Args:
        share: expected share of right labels; 0.5 is the safe guess.
        half_width: h.
        frame: rows there are; a sample of a small frame may be smaller.
        level: coverage.

    >>> simple_size(0.74, 0.05), simple_size(0.74, 0.05, frame=500)
    (296, 186)
    """
    return _corrected(z_value(level) ** 2 * share * (1.0 - share) / half_width**2, frame)


def plan(half_width: float, share: float, ranked: pa.Table | None = None, level: float = 0.95) -> list[Plan]:
    """Return a plan for every design.

    What stratifying and unequal probabilities save depends on the ranking, whose qualities are taken as probabilities
    here; only the size of the simple design is sufficient whatever the ranking.

    Args:
        half_width: wanted, in (0, 0.5).
        share: expected share of right labels, in (0, 1).
        ranked: the ranked table (given labels of it are the frame); None plans simple samples of a large frame.
        level: coverage.

    Raises:
        UsageError: a half-width or share that cannot be.

    >>> for found in plan(0.05, 0.8, pa.table({"label": ["rain"] * 1000, "given": [True] * 1000,
    ...                                        "quality": np.linspace(0.6, 1.0, 1000)})):
    ...     print(found.design, found.n, found.per_class)
    simple 198 False
    stratified 174 False
    unequal 169 False
    simple 198 True
    """
    if not 0.0 < half_width < 0.5:
        raise UsageError(f"--half-width {half_width:g}: expected a number between 0 and 0.5")
    if not 0.0 < share < 1.0:
        raise UsageError(f"--accuracy {share:g}: expected a share between 0 and 1")
    if ranked is None:
        return [Plan("simple", simple_size(share, half_width, None, level), False, f"at accuracy {share:g}")]
    frame = ranked.filter(ranked.column("given"))
    quality = quality_of(frame)
    labels = np.asarray(frame.column("label").to_pylist())
    size, factor = len(quality), (z_value(level) / half_width) ** 2
    simple = simple_size(share, half_width, size, level)
    strata = _mean_by(quality, score_strata(labels, quality, simple).astype(str))
    plans = [
        Plan("simple", simple, False, f"at accuracy {share:g}, whatever the ranking"),
        Plan("stratified", _corrected(factor * _neyman(*strata), size), False, "if the qualities are right"),
        Plan("unequal", _unequal(quality, factor), False, "if the qualities are right"),
    ]
    by_class = [simple_size(share, half_width, int(count), level) for count in np.unique(labels, return_counts=True)[1]]
    return [*plans, Plan("simple", sum(by_class), True, f"every class at accuracy {share:g}")]


def _neyman(sizes: Floats, means: Floats) -> float:
    """Return the variance times n of the stratified estimator under Neyman allocation: (sum W_h s_h)^2."""
    return float((sizes / sizes.sum()) @ np.sqrt(means * (1.0 - means))) ** 2


def _unequal(quality: Floats, factor: float) -> int:
    """Return the least n whose difference estimator reaches the width, with answers of variance q (1 - q)."""
    size, doubt = len(quality), quality * (1.0 - quality)
    low, high = 1, size
    while low < high:
        n = (low + high) // 2
        inclusion = inclusion_probabilities(quality, n)
        variance = float((doubt * (1.0 / inclusion - 1.0)).sum()) / size**2
        low, high = (low, n) if factor * variance <= 1.0 else (n + 1, high)
    return low


def _mean_by(quality: Floats, strata: npt.NDArray[np.str_]) -> tuple[Floats, Floats]:
    _, index = np.unique(strata, return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    return sizes, np.bincount(index, weights=quality) / sizes


def _corrected(n: float, frame: int | None) -> int:
    return math.ceil(round(n if frame is None else n / (1.0 + n / frame), 6))
