"""The one form in which every check answers, whatever it looks for.

A score per clip and label, a flag, a number for the data set, and details. The checks are the scorers, by their
probabilities of the classes, and duplicates with contradicting labels.

Flags are those of confident learning: labels that confident predictions contradict (Northcutt, Jiang & Chuang 2021,
JAIR 70). Its joint of given and likely labels is no error rate: of errors on ambiguous clips it misses more than half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from acoustic_env.audit.intervals import Bools, Floats, Ints
from acoustic_env.features.block import Json

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
            raise ValueError(f"check {self.name}: a score lies outside 0 to 1 or is not finite")
        if self.flagged.shape != (len(self.score),):
            raise ValueError(f"check {self.name}: {self.flagged.shape} flags for {len(self.score)} clips")


def label_quality(probabilities: Floats, given: Ints) -> Floats:
    """Return [clips, classes] P(the list is right): p where the class is given, 1 - p where not; its own inverse.

    >>> label_quality(np.array([[0.25, 0.75]]), np.array([0]))
    array([[0.25, 0.25]])
    """
    score = 1.0 - probabilities
    rows = np.arange(len(given))
    score[rows, given] = probabilities[rows, given]
    return np.clip(score, 0.0, 1.0)


def from_probabilities(name: str, probabilities: Floats, given: Ints) -> CheckResult:
    """Return the result of a scorer from its probabilities [clips, classes].

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.9, 0.1]])
    >>> found = from_probabilities("mlp", probabilities, np.array([0, 0, 1, 1]))
    >>> found.flagged.tolist(), found.summary, found.score[3].round(1).tolist()
    ([False, False, False, True], 0.75, [0.1, 0.1])
    """
    flagged = confident_flags(given, probabilities)
    agreeing = float((probabilities.argmax(axis=1) == given).mean())
    joint = confident_joint(given, probabilities)
    information: dict[str, Json] = {
        "summary": "share of clips whose likeliest class is the given one",
        "flagged": int(flagged.sum()),
        "confident_joint": joint.round(6).tolist(),
    }
    return CheckResult(name, label_quality(probabilities, given), flagged, agreeing, information)


def class_thresholds(given: Ints, probabilities: Floats) -> Floats:
    """Return [K] the mean of P(class k) over the clips given k; 1 for a class without clips.

    >>> class_thresholds(np.array([0, 0, 1]), np.array([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])).tolist()
    [0.5, 0.75]
    """
    classes = probabilities.shape[1]
    counts = np.bincount(given, minlength=classes)
    own = np.bincount(given, weights=probabilities[np.arange(len(given)), given], minlength=classes)
    return np.where(counts > 0, own / np.maximum(counts, 1), 1.0)


def confident_class(given: Ints, probabilities: Floats) -> Ints:
    """Return [clips] the likeliest class among those that reach their threshold; -1 where none does.

    >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.9, 0.1], [0.4, 0.6]])
    >>> confident_class(np.array([0, 0, 1, 1, 1]), probabilities).tolist()
    [0, -1, 1, 0, 1]
    """
    above = np.where(probabilities >= class_thresholds(given, probabilities) - 1e-6, probabilities, -1.0)
    chosen: Ints = above.argmax(axis=1)
    return np.where(above.max(axis=1) >= 0.0, chosen, -1)


def confident_joint(given: Ints, probabilities: Floats) -> Floats:
    """Return [K, K] the share of clips given i that are confidently k; calibrated to the counts given, sums to 1.

    Rows are given labels. A class in which nothing is confident stays on the diagonal.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]])
    >>> confident_joint(np.array([0, 0, 1, 1]), probabilities).tolist()
    [[0.5, 0.0], [0.25, 0.25]]
    """
    classes = probabilities.shape[1]
    likely = confident_class(given, probabilities)
    kept = likely >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (given[kept], likely[kept]), 1.0)
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1.0
    counts = np.bincount(given, minlength=classes)
    calibrated = joint / joint.sum(axis=1, keepdims=True) * counts[:, None]
    return np.asarray(calibrated / calibrated.sum())


def confident_flags(given: Ints, probabilities: Floats) -> Bools:
    """Return [clips] whether the clip is confidently of another class, likelier than the given one.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]])
    >>> confident_flags(np.array([0, 0, 1, 1]), probabilities).tolist()
    [False, False, False, True]
    """
    likely = confident_class(given, probabilities)
    rows = np.arange(len(given))
    better = probabilities[rows, np.maximum(likely, 0)] > probabilities[rows, given]
    flags: Bools = (likely >= 0) & (likely != given) & better
    return flags


def duplicates_check(groups: Ints, given: Ints, classes: int) -> CheckResult:
    """Check duplicates for contradicting labels: the score is the share of a clip's duplicates that carry its label.

    Args:
        groups: [clips] number of the clip's set of duplicates, -1 for none.
        given: [clips] class each clip is given.
        classes: how many.

    >>> found = duplicates_check(np.array([0, 0, 0, -1]), given=np.array([1, 1, 0, 0]), classes=2)
    >>> found.score.round(2).tolist(), found.flagged.tolist()
    ([[1.0, 0.67], [1.0, 0.67], [0.33, 1.0], [1.0, 1.0]], [True, True, True, False])
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

    >>> duplicate_sets({"b": "a", "c": "b"}, ["a", "b", "c", "d"]).tolist()
    [0, 0, 0, -1]
    """
    roots = []
    for clip_id in clip_ids:
        root = clip_id
        while root in original:
            root = original[root]
        roots.append(root)
    _, number, members = np.unique(np.asarray(roots), return_inverse=True, return_counts=True)
    return np.where(members[number] > 1, number, -1).astype(np.int64)
