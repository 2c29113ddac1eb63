"""The contract of a classifier: reduced features in, probabilities out, its state as plain arrays and facts.

`x` is float32 [n, features] of reduced features, finite and of the order of one (`reduce.Reducer`). `y` is int64 [n],
an index into the classes, or bool [n, classes] for multilabel. Probabilities are float64 [n, classes]: rows sum to one
for binary (negative, positive) and multiclass; for multilabel each column is its own probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from acoustic_env.config import ModelKind, ModelSettings, Task
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json
from acoustic_env.models.evaluate import Floats, Integers

# Named, not imported: torch and xgboost take seconds to load.
CLASSIFIERS: Final[dict[ModelKind, str]] = {
    "mlp": "acoustic_env.models.mlp:MlpClassifier",
    "xgboost": "acoustic_env.models.xgboost_classifier:XGBoostClassifier",
    "logistic": "acoustic_env.models.logistic:LogisticClassifier",
}


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
    """A trained model: one of `CLASSIFIERS`, or an `Ensemble` of them."""

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Probabilities [n, classes]."""

    def state(self) -> State:
        """What `restore_classifier` needs."""


class Trainable(Classifier, Protocol):
    """One model that can be trained."""

    def fit(self, train: Examples, validation: Examples) -> None:
        """Train on `train`; `validation` is for stopping."""


def make_classifier(
    settings: ModelSettings, task: Task, classes: int, member: int = 0, trainer: Callable[..., Any] | None = None
) -> Trainable:
    """One untrained model; `member` is added to its seed; an MLP trains where `trainer` does, None for here."""
    made: Any = _kind(settings.kind)(settings.replace(seed=settings.seed + member), task, classes)
    if trainer is not None and settings.kind == "mlp":
        made.trainer = trainer
    trainable: Trainable = made
    return trainable


def fit_ensemble(
    settings: ModelSettings,
    task: Task,
    classes: int,
    data: Examples,
    folds: Integers,
    first: Sequence[int],
    trainer: Callable[..., Any] | None = None,
) -> Ensemble:
    """Models of successive seeds, each with another fold held out to stop on.

    With `settings.ensemble` of 1 this is one model trained without the `first` folds. With more, the next members hold
    out the other folds in turn, so every row trains most members. What the held-out rows are called by one member says
    nothing of the mean of all: `crossfit` judges that.

    Args:
        settings: of the model; `ensemble` says how many.
        task: of the study.
        classes: how many.
        data: all rows but the test's.
        folds: fold of each row [n].
        first: the folds the first member holds out: the study's validation folds.
        trainer: where an MLP trains; None for this process.
    """
    others = [[int(fold)] for fold in np.unique(folds) if fold not in first]
    held_out = [list(first), *others]
    members: list[Classifier] = []
    for member in range(settings.ensemble):
        held = np.isin(folds, held_out[member % len(held_out)])
        model = make_classifier(settings, task, classes, member, trainer)
        model.fit(data.take(~held), data.take(held))
        members.append(model)
    return Ensemble(members)


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
    """Models whose probabilities are averaged."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        self.members = members

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Mean probabilities [n, classes]."""
        return np.asarray(sum(member.predict_proba(x) for member in self.members) / len(self.members))

    def state(self) -> State:
        """Every member's state, array names prefixed by the member's number."""
        states = [member.state() for member in self.members]
        arrays = {f"{i}.{name}": array for i, state in enumerate(states) for name, array in state.arrays.items()}
        return State(arrays, {"kind": "ensemble", "members": [state.facts for state in states]})

    @classmethod
    def restore(cls, state: State) -> Ensemble:
        """The ensemble whose state this is."""
        facts: Any = state.facts["members"]
        return cls([restore_classifier(State(_of_member(state.arrays, i), own)) for i, own in enumerate(facts)])


def _of_member(arrays: Mapping[str, npt.NDArray[Any]], member: int) -> dict[str, npt.NDArray[Any]]:
    prefix = f"{member}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
