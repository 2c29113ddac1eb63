"""How far the fast engine's numbers may lie from the reference's, column by column, both given the same samples.

A number passes when |found - expected| <= relative * |expected| + absolute. An undefined number (NaN) is equal to an
undefined one only. The rule is a relative 1e-6; the table holds the exceptions, each with its reason. What was found on
626 real clips, three signals each, is far inside: 4e-12 for every index, 6e-5 for a cell of the modulation spectrum.

Two more things:

* A clip of two spectrogram frames (0.096 to 0.128 s) has no median-equalized spectrogram: each of its cells is 1 but
  for rounding, so the reference's own ECU, ECV and EPS columns are rounding noise there. They are compared from three
  frames on.
* Along the whole float32 chain each engine, and each machine, separates for itself. Foregrounds agree but for the last
  digit of some samples, and `OWN_SEPARATION` holds what that may do to their indices: 1e-5 and one exception. It does
  not hold where a clip is digitally silent. There the gate leaves 1e-17, its rounding, and columns that measure each
  bin against its own median (BGNf, EAS to EPS_SKEW, the covers, ACTsp, EVNsp, TFSD, AGI) measure that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Tolerance:
    """Largest difference allowed."""

    relative: float = 1e-6  # of the expected number
    absolute: float = 0.0  # in the column's unit
    of_largest: float = 0.0  # of the largest number of a vector, allowed to each
    rounding: float = 0.0  # how far moving every sample by an ulp may move the number, in the column's unit
    reason: str = ""  # why it is not the rule


RULE: Final = Tolerance()
_DIFFERENCE: Final = "a difference of numbers of order one, near zero for many clips"
TOLERANCES: Final[dict[str, Tolerance]] = {
    "MEANt": Tolerance(
        absolute=1e-12,
        rounding=1e-8,  # half an ulp of float32 samples of RMS 0.1 is 3.7e-9
        reason="the mean of a signal whose mean was removed: rounding of the samples",
    ),
    "SKEWt": Tolerance(absolute=1e-9, reason="sums of cubes that cancel for a symmetric signal"),
    "SKEWf": Tolerance(absolute=1e-9, reason="sums of cubes that cancel"),
    "NDSI": Tolerance(absolute=1e-9, reason=_DIFFERENCE),
    "EAS": Tolerance(absolute=1e-9, reason=_DIFFERENCE),
    "ECU": Tolerance(absolute=1e-9, reason=_DIFFERENCE),
    "ECV": Tolerance(absolute=1e-9, reason=_DIFFERENCE),
    "EPS": Tolerance(absolute=1e-9, reason=_DIFFERENCE),
    "BI": Tolerance(absolute=1e-9, reason="levels above the lowest: zero for a flat spectrum"),
    "AEI": Tolerance(absolute=1e-9, reason="inequality: zero where all bands are alike"),
    "mps": Tolerance(
        relative=1e-4,
        of_largest=1e-10,
        reason="computed in float32; cells far below the largest are what is left of sums that cancel",
    ),
}
OWN_SEPARATION: Final[dict[str, Tolerance]] = {
    "TFSD": Tolerance(relative=1e-2, reason="logarithms of cells the gate has all but closed: the last digits show"),
    "mps": TOLERANCES["mps"],
}


def tolerance(column: str, own_separation: bool = False) -> Tolerance:
    """Return a column's tolerance; `own_separation` for a foreground or background that each side separated itself.

    >>> tolerance("ACI").relative
    1e-06
    """
    allowed = TOLERANCES.get(column, RULE)
    if own_separation:
        allowed = OWN_SEPARATION.get(column, dataclasses.replace(allowed, relative=1e-5))
    return allowed


def rounding_floor(column: str) -> float:
    """Return the standard deviation over clips at or below which a column holds rounding alone, in its unit.

    >>> rounding_floor("MEANt"), rounding_floor("NDSI"), rounding_floor("ACI")
    (1e-08, 1e-09, 0.0)
    """
    allowed = TOLERANCES.get(column, RULE)
    return max(allowed.absolute, allowed.rounding)


def within(
    column: str, expected: npt.NDArray[Any], found: npt.NDArray[Any], own_separation: bool = False
) -> npt.NDArray[np.bool_]:
    """Return whether each number, [...] or for a vector column [..., size], is as near as its column asks.

    >>> within("ACI", np.array([100.0, np.nan]), np.array([100.00001, np.nan]))
    array([ True,  True])
    """
    allowed = tolerance(column, own_separation)
    wanted, got = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    bound = allowed.relative * np.abs(wanted) + allowed.absolute
    if allowed.of_largest:
        bound = bound + allowed.of_largest * np.abs(wanted).max(axis=-1, keepdims=True)
    return (np.abs(got - wanted) <= bound) | (np.isnan(wanted) & np.isnan(got))
