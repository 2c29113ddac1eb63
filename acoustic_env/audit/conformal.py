"""Abstention with a guarantee: split conformal sets, class-conditional because errors are not equally frequent.

For each truth (the label applies, or not) the score 1 - p of clips known to have that truth gives the threshold that
at least 1 - delta of such clips stay below. A row whose set holds one answer may be acted on; two answers or none mean
that the score cannot tell. Valid for rows drawn like the calibration rows; weights make a designed sample stand for
its frame (Vovk's Mondrian sets; Tibshirani et al. 2019 for weights).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ConformalSets:
    """Thresholds by truth; infinite where too few clips are known for any claim.

    Attributes:
        applies: largest score 1 - p at which "applies" stays in the set.
        absent: largest score p at which "does not apply" stays in the set.
        known: number of calibration rows whose label applies, and does not.
    """

    applies: float
    absent: float
    known: tuple[int, int]

    def decide(self, posterior: Floats) -> npt.NDArray[np.int64]:
        """[rows] 1 where the label applies, 0 where it does not, -1 where the set is not a single answer.

        Args:
            posterior: [rows] P(label applies), on the calibration's scale.
        """
        may_apply, may_not = 1.0 - posterior <= self.applies, posterior <= self.absent
        return np.where(may_apply & ~may_not, 1, np.where(may_not & ~may_apply, 0, -1))


def calibrate(posterior: Floats, applies: Bools, weight: Floats, delta: float) -> ConformalSets:
    """Thresholds from rows whose truth is known.

    Args:
        posterior: [rows] P(label applies).
        applies: [rows] truth.
        weight: [rows] inverse inclusion probabilities; equal for a simple sample.
        delta: share of clips of each truth whose set may miss it.
    """
    return ConformalSets(
        _threshold(1.0 - posterior[applies], weight[applies], delta),
        _threshold(posterior[~applies], weight[~applies], delta),
        (int(applies.sum()), int((~applies).sum())),
    )


def _threshold(scores: Floats, weight: Floats, delta: float) -> float:
    """Smallest score that (1 - delta) of the weight, the new row's own included, does not exceed."""
    if len(scores) == 0:
        return float("inf")
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(weight[order])
    needed = (1.0 - delta) * (below[-1] + weight.max())
    place = int(np.searchsorted(below, needed * (1.0 - 1e-12)))
    return float(scores[order][place]) if place < len(scores) else float("inf")
