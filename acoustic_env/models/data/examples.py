"""Rows to learn from: features, targets, groups, weights and transformed copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to stop on.

    Attributes:
        x: float32 [n, features], or `Sequences` [n, frames, bands].
        y: int64 [n], or bool [n, classes].
        groups: int64 [n], rows that must not be split.
        weights: [n], None for one each.
        variants: transformed copies of all rows, each as `x`; `fit` learns from them, too.

    >>> rows = Examples(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    >>> rows.take(rows.groups == 1).y.tolist()
    [0, 1]
    """

    x: Any
    y: npt.NDArray[Any]
    groups: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None = None
    variants: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: npt.NDArray[Any]) -> Examples:
        """Return the chosen rows (index or mask)."""
        weights = None if self.weights is None else self.weights[rows]
        variants = tuple(variant[rows] for variant in self.variants)
        return Examples(self.x[rows], self.y[rows], self.groups[rows], weights, variants)

    def map(self, change: Callable[[Any], Any]) -> Examples:
        """Return the rows with `x`, and each copy of it, changed by a function."""
        return replace(self, x=change(self.x), variants=tuple(change(variant) for variant in self.variants))

    def with_variants(self) -> Examples:
        """Return the rows followed by their copies, which have their targets, groups and weights."""
        if not self.variants:
            return self
        copies = 1 + len(self.variants)
        y = np.concatenate([self.y] * copies)
        weights = None if self.weights is None else np.tile(self.weights, copies)
        return Examples(_joined([self.x, *self.variants]), y, np.tile(self.groups, copies), weights)


def _joined(parts: Sequence[Any]) -> Any:
    """Return arrays, or sequences in memory, one after the other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return type(parts[0]).joined(parts)
