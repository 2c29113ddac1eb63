"""Scorers of the audit: functions that score whether a label is right, by name.

A scorer is a function of clips with given labels, of which it may learn from some and returns probabilities of the
classes for others. The classifiers of `models` are scorers, with settings that make them quick and hard to convince by
a single label; the checks that are no classifiers have names of their own. Another package adds scorers by the
entry-point group `acoustic_env.scorers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from acoustic_env.config import CLASSIFIERS
from acoustic_env.errors import UsageError
from acoustic_env.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from acoustic_env.audit.intervals import Floats
    from acoustic_env.audit.neighbors import Neighborhood

    Features = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabeledClips:
    """Clips with given labels, as scorers see them.

    Attributes:
        features: float32 [clips, features], scaled, finite.
        target: [clips, classes] 0 or 1, the given labels.
        exclusive: every clip has one of the classes; else each class is a label of its own, present or not.
        folds: [clips] grouped folds, 0 to 2 or more.
        neighborhood: nearest clips of other folds.
        seed: of whatever is random.
    """

    features: Features
    target: Floats
    exclusive: bool
    folds: Ints
    neighborhood: Neighborhood
    seed: int

    @property
    def prior(self) -> float:
        """Probability of each class before anything is known."""
        return 1.0 / self.target.shape[1] if self.exclusive else 0.5


class Scorer(Protocol):
    """A function that learns from the labels of some clips and scores others."""

    def __call__(self, clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
        """Return probabilities [held out, classes]; rows sum to 1 where classes are exclusive.

        Args:
            clips: all clips.
            train: [clips] those whose labels may be used.
            held_out: [clips] those to score, none of them in `train`.
        """


SCORERS: Final[Registry[Scorer]] = Registry(
    "scorers", "scorer", {"neighbors": "acoustic_env.audit.neighbors:score_by_neighbors"}
)


def scorer_kinds() -> tuple[str, ...]:
    """Return the names of all scorers: the classifiers, then the other checks.

    >>> {"mlp", "random_forest", "neighbors"} <= set(scorer_kinds())
    True
    """
    return (*CLASSIFIERS.names(), *SCORERS.names())


def load_scorer(name: str) -> Scorer:
    """Return the scorer of a name.

    Raises:
        UsageError: no such scorer, or the package that defines it cannot be imported.
    """
    if name in SCORERS:
        return SCORERS.load(name)
    if name not in CLASSIFIERS:
        msg = f"no scorer named {name!r}; expected one of: {', '.join(scorer_kinds())}"
        raise UsageError(msg)
    from acoustic_env.audit.classifier_scorers import score_by_classifier

    return partial(score_by_classifier, name)
