"""The one form in which every check answers, whatever it looks for.

A score per clip and label, a flag, a number for the data set, and details. The checks are the scorers, by their
probabilities of the classes, and duplicates with contradicting labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.confident import confident_flags, confident_joint
from acoustic_env.audit.intervals import Floats
from acoustic_env.features.block import Json

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DUPLICATES: Final = "duplicates"  # name of the check


@dataclass(frozen=True)
class CheckResult:
    """Result of a check.

    Attributes:
        name: of the check; its column in the ranked table.
        score: [clips, classes] in 0 to 1, low where the list looks wrong about that clip and label: a label that is
            given and looks wrong, or one that is not given and looks missing.
        flagged: [clips] whether the check considers the clip's given label wrong.
        summary: one number for the data set, named in `information["summary"]`; never an error rate.
        information: details.
    """

    name: str
    score: Floats
    flagged: Bools
    summary: float
    information: Mapping[str, Json]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.score).all() and self.score.min() >= 0.0 and self.score.max() <= 1.0):
            msg = f"check {self.name}: a score lies outside 0 to 1 or is not finite"
            raise ValueError(msg)
        if self.flagged.shape != (len(self.score),):
            msg = f"check {self.name}: {self.flagged.shape} flags for {len(self.score)} clips"
            raise ValueError(msg)


def label_quality(probabilities: Floats, given: Ints) -> Floats:
    """Return [clips, classes] P(the list is right): p where the class is given, 1 - p where not; its own inverse."""
    score = 1.0 - probabilities
    rows = np.arange(len(given))
    score[rows, given] = probabilities[rows, given]
    return np.clip(score, 0.0, 1.0)


def from_probabilities(name: str, probabilities: Floats, given: Ints) -> CheckResult:
    """Return the result of a scorer from its probabilities [clips, classes]."""
    flagged = confident_flags(given, probabilities)
    agreeing = float((probabilities.argmax(axis=1) == given).mean())
    joint = confident_joint(given, probabilities)
    information: dict[str, Json] = {
        "summary": "share of clips whose likeliest class is the given one",
        "flagged": int(flagged.sum()),
        "confident_joint": joint.round(6).tolist(),
    }
    return CheckResult(name, label_quality(probabilities, given), flagged, agreeing, information)


def duplicates_check(groups: Ints, given: Ints, classes: int) -> CheckResult:
    """Check duplicates for contradicting labels: the score is the share of a clip's duplicates that carry its label.

    Args:
        groups: [clips] number of the clip's set of duplicates, -1 for none.
        given: [clips] class each clip is given.
        classes: how many.
    """
    share = np.ones(len(groups))
    grouped = np.flatnonzero(groups >= 0)
    if len(grouped):
        _, index = np.unique(groups[grouped], return_inverse=True)
        cells = index * classes + given[grouped]
        share[grouped] = np.bincount(cells)[cells] / np.bincount(index)[index]
    contradicted: Bools = np.less(share, 1.0)
    score = np.ones((len(groups), classes))
    score[np.arange(len(groups)), given] = share
    information: dict[str, Json] = {
        "summary": "clips whose duplicates carry another label",
        "flagged": int(contradicted.sum()),
    }
    return CheckResult(DUPLICATES, score, contradicted, float(contradicted.sum()), information)


def duplicate_sets(original: Mapping[str, str], clip_ids: Sequence[str]) -> Ints:
    """Return [clips] the number of each clip's set of duplicates, -1 for a clip without any among these.

    Args:
        original: clip id -> the clip it is a duplicate of, which may itself be one of another; no cycles.
        clip_ids: [clips].
    """
    roots = []
    for clip_id in clip_ids:
        root = clip_id
        while root in original:
            root = original[root]
        roots.append(root)
    _, number, members = np.unique(np.asarray(roots), return_inverse=True, return_counts=True)
    return np.where(members[number] > 1, number, -1).astype(np.int64)
