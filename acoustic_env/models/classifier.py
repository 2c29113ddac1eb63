"""The contract of a classifier: reduced features in, probabilities out, its state as plain arrays and facts.

`x` is float32 [n, features] of reduced features, finite and of the order of one (`reduce.Reducer`). `y` is int64 [n],
an index into the classes, or bool [n, classes] for multilabel. Probabilities are float64 [n, classes]: rows sum to one
for binary (negative, positive) and multiclass; for multilabel each column is its own probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from acoustic_env.config import ModelKind, ModelSettings, Task
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json
from acoustic_env.models.evaluate import Floats
from acoustic_env.models.folds import grouped_folds

# Named, not imported: torch and xgboost take seconds to load.
CLASSIFIERS: Final[dict[ModelKind, str]] = {
    "mlp": "acoustic_env.models.mlp:MlpClassifier",
    "xgboost": "acoustic_env.models.boosted:BoostedClassifier",
    "logistic": "acoustic_env.models.logistic:LogisticClassifier",
}
# Each member of an ensemble is stopped on its own fold of this many when no validation rows are given.
INNER_FOLDS: Final = 8


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to stop on.

    Attributes:
        x: float32 [n, features].
        y: int64 [n], or bool [n, classes].
        groups: int64 [n], rows that must not be split.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    groups: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: npt.NDArray[Any]) -> Examples:
        """The chosen rows (index or mask)."""
        return Examples(self.x[rows], self.y[rows], self.groups[rows])

    def split(self, member: int, seed: int) -> tuple[Examples, Examples]:
        """Training rows and a held-out inner fold, another one for each member of an ensemble."""
        folds = min(INNER_FOLDS, len(np.unique(self.groups)))
        held = grouped_folds(self.y, self.groups, folds, seed) == member % folds
        return self.take(~held), self.take(held)


@dataclass(frozen=True)
class State:
    """A trained classifier as it is stored: arrays for safetensors, facts for JSON.

    Attributes:
        arrays: by name.
        facts: `kind` and what else is needed to rebuild it.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    facts: Mapping[str, Json]


class Classifier(Protocol):
    """One model. Built by `make_classifier`, trained by `fit`, or rebuilt by `restore_classifier`."""

    def fit(self, train: Examples, validation: Examples | None) -> None:
        """Train; `validation` is for stopping and choosing, and without it an inner fold of `train` is held out."""

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Probabilities [n, classes]."""

    def state(self) -> State:
        """What `restore_classifier` needs."""


def make_classifier(settings: ModelSettings, task: Task, classes: int) -> Classifier:
    """An untrained classifier, an ensemble when `settings.ensemble` is above one."""
    if settings.ensemble > 1:
        return Ensemble(settings, task, classes)
    return make_member(settings, task, classes, 0)


def make_member(settings: ModelSettings, task: Task, classes: int, member: int) -> Classifier:
    """One model; `member` moves its seed and its inner fold."""
    made: Classifier = _kind(settings.kind)(settings, task, classes, member)
    return made


def restore_classifier(state: State) -> Classifier:
    """The classifier whose state this is.

    Raises:
        UsageError: a kind this version does not know.
    """
    kind = state.facts["kind"]
    if kind == "ensemble":
        return Ensemble.restore(state)
    restored: Classifier = _kind(str(kind)).restore(state)
    return restored


def _kind(kind: str) -> Any:
    if kind not in CLASSIFIERS:
        msg = f"no model of kind {kind!r}; there are {', '.join(CLASSIFIERS)}"
        raise UsageError(msg)
    module, _, attribute = CLASSIFIERS[kind].partition(":")
    return getattr(import_module(module), attribute)


class Ensemble:
    """Models of successive seeds whose probabilities are averaged."""

    def __init__(self, settings: ModelSettings, task: Task, classes: int) -> None:
        alone = replace(settings, ensemble=1)
        self._members: Sequence[Classifier] = [
            make_member(alone, task, classes, member) for member in range(settings.ensemble)
        ]

    def fit(self, train: Examples, validation: Examples | None) -> None:
        """Train every member on the same rows, or without `validation` each with its own inner fold held out."""
        for member in self._members:
            member.fit(train, validation)

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Mean probabilities [n, classes]."""
        total = self._members[0].predict_proba(x)
        for member in self._members[1:]:
            total = total + member.predict_proba(x)
        return total / len(self._members)

    def state(self) -> State:
        """Every member's state, array names prefixed by the member's number."""
        states = [member.state() for member in self._members]
        arrays = {f"{i}.{name}": array for i, state in enumerate(states) for name, array in state.arrays.items()}
        return State(arrays, {"kind": "ensemble", "members": [state.facts for state in states]})

    @classmethod
    def restore(cls, state: State) -> Ensemble:
        """The ensemble whose state this is."""
        made = cls.__new__(cls)
        facts: Any = state.facts["members"]
        made._members = [
            restore_classifier(State(_of_member(state.arrays, i), member)) for i, member in enumerate(facts)
        ]
        return made


def _of_member(arrays: Mapping[str, npt.NDArray[Any]], member: int) -> dict[str, npt.NDArray[Any]]:
    prefix = f"{member}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
