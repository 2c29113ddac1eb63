"""The contract of a check, and the checks there are.

A check looks at one study (exclusive classes, or one class of a multi-label study as yes and no) and answers in one
form, whatever it looks for: a score per clip and label, a flag, a number for the set, and details. A new check is a
function with this signature and one line in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.combine import fit_combination
from acoustic_env.audit.confident import confident_flags, confident_joint
from acoustic_env.audit.intervals import Floats
from acoustic_env.audit.neighbours import Neighbourhood
from acoustic_env.audit.witnesses import Features, Witness, out_of_fold
from acoustic_env.features.block import Json

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """What checks look at.

    Attributes:
        features: float32 [clips, features], scaled, finite.
        given: [clips] class each clip is given, 0..classes-1.
        classes: how many.
        folds: [clips] grouped folds.
        neighbourhood: nearest clips of other folds.
        seed: of models.
        models: witnesses by name.
        tags: scores in [0, 1] from taggers that never saw these labels, by name, [clips, classes]; NaN where absent.
        duplicates: [clips] number of the clip's group of duplicates, -1 for none.
    """

    features: Features
    given: Ints
    classes: int
    folds: Ints
    neighbourhood: Neighbourhood
    seed: int
    models: Mapping[str, Witness]
    tags: Mapping[str, Floats] = field(default_factory=dict)
    duplicates: Ints | None = None

    @property
    def one_hot(self) -> Floats:
        """[clips, classes] the given labels as distributions."""
        return np.eye(self.classes)[self.given]


@dataclass(frozen=True)
class CheckResult:
    """What every check answers.

    Attributes:
        name: of the check; its column in the ranked table.
        score: [clips, classes] in 0 to 1, low where the list looks wrong about that clip and label: a label that is
            given and looks wrong, or one that is not given and looks missing.
        flagged: [clips] whether the check takes the clip's given label for wrong.
        summary: one number for the set, named in `information["summary"]`; never an error rate.
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


Check = Callable[[Evidence, str], CheckResult]
"""(evidence, name) -> result."""


def statement_score(probabilities: Floats, given: Ints) -> Floats:
    """[clips, classes] P(the list is right about this clip and class): p where given, 1 - p where not."""
    score = 1.0 - probabilities
    rows = np.arange(len(given))
    score[rows, given] = probabilities[rows, given]
    return np.clip(score, 0.0, 1.0)


def class_probabilities(score: Floats, given: Ints) -> Floats:
    """[clips, classes] the probabilities behind a `statement_score`: its inverse."""
    return statement_score(score, given)


def from_probabilities(name: str, probabilities: Floats, given: Ints) -> CheckResult:
    """The result of a check that believes in probabilities of the classes."""
    flagged = confident_flags(given, probabilities)
    agreeing = float((probabilities.argmax(axis=1) == given).mean())
    joint = confident_joint(given, probabilities)
    information: dict[str, Json] = {
        "summary": "share of clips whose likeliest class is the given one",
        "flagged": int(flagged.sum()),
        "confident_joint": joint.round(6).tolist(),
    }
    return CheckResult(name, statement_score(probabilities, given), flagged, agreeing, information)


def model_check(evidence: Evidence, name: str) -> CheckResult:
    """Out-of-fold probabilities of the model called `name`."""
    found = out_of_fold(evidence.models[name], evidence.features, evidence.one_hot, evidence.folds, evidence.seed)
    return from_probabilities(name, found, evidence.given)


def neighbours_check(evidence: Evidence, name: str) -> CheckResult:
    """Labels of the nearest clips of other folds."""
    return from_probabilities(name, evidence.neighbourhood.vote(evidence.one_hot), evidence.given)


def tags_check(evidence: Evidence, name: str) -> CheckResult:
    """Scores of a tagger trained on other data; clips without a score count as undecided.

    A tagger's scores are independent per class and not calibrated: their shares are calibrated to the given labels,
    by one slope and one bias a class.
    """
    scores = evidence.tags[name]
    known = np.isfinite(scores).all(axis=1, keepdims=True)
    shares = np.where(known, np.nan_to_num(scores), 0.0) + 1e-3
    shares /= shares.sum(axis=1, keepdims=True)
    calibrated = np.exp(fit_combination(shares[None], evidence.given).log_posterior(shares[None]))
    undecided = np.full_like(calibrated, 1.0 / evidence.classes)
    return from_probabilities(name, np.where(known, calibrated, undecided), evidence.given)


def duplicates_check(evidence: Evidence, name: str) -> CheckResult:
    """Duplicates with contradicting labels: the score is the share of a clip's duplicates that carry its label."""
    groups = evidence.duplicates if evidence.duplicates is not None else np.full(len(evidence.given), -1)
    share = np.ones(len(groups))
    grouped = np.flatnonzero(groups >= 0)
    if len(grouped):
        _, index = np.unique(groups[grouped], return_inverse=True)
        cells = index * evidence.classes + evidence.given[grouped]
        share[grouped] = np.bincount(cells)[cells] / np.bincount(index)[index]
    contradicted: Bools = np.less(share, 1.0)
    score = np.ones((len(groups), evidence.classes))
    score[np.arange(len(groups)), evidence.given] = share
    information: dict[str, Json] = {
        "summary": "clips whose duplicates carry another label",
        "flagged": int(contradicted.sum()),
    }
    return CheckResult(name, score, contradicted, float(contradicted.sum()), information)


def duplicate_sets(original: Mapping[str, str], clip_ids: Sequence[str]) -> Ints:
    """[clips] number of each clip's set of duplicates, -1 for a clip without any among these.

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


CHECKS: Final[dict[str, Check]] = {
    "mlp": model_check,
    "xgboost": model_check,
    "logistic": model_check,
    "neighbours": neighbours_check,
    "tags": tags_check,
    "duplicates": duplicates_check,
}
