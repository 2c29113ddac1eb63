"""Whether a clip is unlike the training clips: its distance to the nearest of them, beside theirs to each other.

Deep nearest neighbors (Sun, Ming, Zhu and Li, ICML 2022) on the preprocessed features that the classifier sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from acoustic_env.models.data.frames import Sequences
from acoustic_env.stats.intervals import Bools, Floats

REFERENCES: Final = 1000
SMALLEST: Final = np.float32(1e-12)  # deviation of a constant feature
LARGEST: Final = 5.0
MARKED: Final = 0.01  # share of clips of the training clips' kind that are marked


@dataclass(frozen=True)
class Novelty:
    """Clips to compare with, and the distance above which a clip is unlike them.

    Attributes:
        references: float32 [clips, features], of at most 1,000 training clips, standardized and cut off at 5.
        mean, scale: float32 [features], means and standard deviations.
        threshold: distance that one in a hundred training clips has to the nearest reference of another group.
    """

    references: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    threshold: float

    @classmethod
    def fit(cls, x: Any, groups: npt.NDArray[np.int64], seed: int) -> Self | None:
        """Draw the references from training clips; None where they are of one group.

        Args:
            x: preprocessed features [n, features], or `Sequences`.
            groups: int64 [n].
            seed: of the draw.
        """
        order = np.random.default_rng(seed).permutation(len(groups))
        compared = np.sort(order[: 2 * REFERENCES])
        kept = np.isin(compared, order[:REFERENCES])
        rows, own = _vectors(x[compared]), groups[compared]
        mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), SMALLEST)
        rows = _standardized(rows, mean, scale)
        distances = cdist(rows, rows[kept])
        distances[own[:, None] == own[kept]] = np.inf
        nearest = distances.min(axis=1)
        if not np.isfinite(nearest).any():
            return None
        return cls(rows[kept], mean, scale, float(np.quantile(nearest[np.isfinite(nearest)], 1 - MARKED)))

    def distances(self, x: Any) -> Floats:
        """Return the distance of each row to the nearest reference, as a multiple of the threshold [n]."""
        rows = _standardized(_vectors(x), self.mean, self.scale)
        return np.asarray(cdist(rows, self.references).min(axis=1) / self.threshold)

    def unlike(self, x: Any) -> Bools:
        """Return which rows are unlike the training clips; bool [n].

        >>> rng = np.random.default_rng(0)
        >>> novelty = Novelty.fit(rng.normal(size=(500, 4)), np.arange(500), seed=0)
        >>> novelty.unlike(np.array([[0, 0, 0, 0], [0, 0, 0, 9]])).tolist()
        [False, True]
        """
        return self.distances(x) > 1

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as arrays, for a file."""
        arrays = {"references": self.references, "mean": self.mean, "scale": self.scale}
        return {**arrays, "threshold": np.array([self.threshold])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Return what `arrays` gave."""
        return cls(arrays["references"], arrays["mean"], arrays["scale"], float(arrays["threshold"][0]))


def _standardized(
    rows: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Standardize rows; without the cutoff, a feature that rarely differs from zero would decide alone."""
    return np.asarray(np.clip((rows - mean) / scale, -LARGEST, LARGEST))


def _vectors(x: Any) -> npt.NDArray[np.float32]:
    """Return rows as float32 [n, features]; of sequences the mean over frames."""
    return x.load().mean(axis=1) if isinstance(x, Sequences) else np.asarray(x, np.float32)
