"""Scorers of the audit: functions that score whether a label is right, by name.

A scorer is a function of clips with given labels, of which it may learn from some and returns probabilities of the
classes for others. Every registered classifier is one, with settings that make it quick and hard to convince by a
single label; the checks that are no classifiers have names of their own. Another package adds scorers by the
entry-point group `acoustic_env.scorers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from acoustic_env.config import CLASSIFIERS, classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from acoustic_env.audit.intervals import Bools, Floats, Ints
    from acoustic_env.audit.neighbors import Neighborhood
    from acoustic_env.config import ClassifierSettings
    from acoustic_env.models.data.frames import Sequences

    Features = npt.NDArray[np.float32]

# Settings that make the kinds quick and hard to convince; other kinds have their own defaults.
QUICK: Final[dict[str, dict[str, Any]]] = {
    "mlp": {"layers": (128,), "weight_decay": 1e-3},
    "xgboost": {
        "eta": 0.06,
        "colsample_bytree": 0.3,
        "min_child_weight": 5.0,
        "reg_lambda": 5.0,
        "max_bin": 64,
        "rounds": 150,
    },
    "logistic": {"penalty": 0.03},
    "attention": {"hidden": (128,), "dense": (128,)},
}
# Settings for up to so many rows: more rows need fewer passes.
MLP_EFFORT: Final[tuple[tuple[int, dict[str, int]], ...]] = (
    (5_000, {"ensemble": 2, "max_epochs": 25, "batch_size": 128}),
    (20_000, {"max_epochs": 12, "batch_size": 256}),
    (2**62, {"max_epochs": 4, "batch_size": 512}),
)
SEQUENCE_EFFORT: Final[tuple[tuple[int, dict[str, int]], ...]] = (
    (1_000, {"max_epochs": 30, "batch_size": 32}),
    (5_000, {"max_epochs": 15, "batch_size": 64}),
    (20_000, {"max_epochs": 10, "batch_size": 128}),
    (2**62, {"max_epochs": 5, "batch_size": 512}),
)
TREE_ROWS: Final = 25_000  # a tree learns from a share of more rows


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
        sequences: frames of the clips, for classifiers that read them; None if there are none.
        model: settings of a classifier on sequences, which a scorer of its kind takes in place of quick ones.
        fitted: what scorers learned, by name and rows, kept for further clips after those; None to keep none.
    """

    features: Features
    target: Floats
    exclusive: bool
    folds: Ints
    neighborhood: Neighborhood
    seed: int
    sequences: Sequences | None = None
    model: ClassifierSettings | None = None
    fitted: dict[tuple[str, bytes], Any] | None = None

    @property
    def prior(self) -> float:
        """Probability of each class before anything is known."""
        return 1.0 / self.target.shape[1] if self.exclusive else 0.5

    def fit_once(self, name: str, train: Bools, fit: Callable[[], Any]) -> Any:
        """Return what a scorer learned from the clips `train`, by `fit` unless it was kept."""
        if self.fitted is None:
            return fit()
        key = (name, train.nonzero()[0].tobytes())
        if key not in self.fitted:
            self.fitted[key] = fit()
        return self.fitted[key]


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
        raise UsageError(f"no scorer named {name!r}; expected one of: {', '.join(scorer_kinds())}")
    return partial(score_by_classifier, name)


def read_sequences(scorers: Iterable[str]) -> tuple[str, ...]:
    """Return the scorers that read frames instead of features of clips.

    >>> read_sequences(["logistic", "attention", "neighbors"])
    ('attention',)
    """
    return tuple(name for name in scorers if name in CLASSIFIERS and CLASSIFIERS.load(name).reads_sequences)


def score_by_classifier(kind: str, clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
    """Return probabilities [held out, classes] of a registered kind of classifier.

    Args:
        kind: name in the registry of classifiers.
        clips: all clips.
        train: [clips] to learn from.
        held_out: [clips] to predict.

    Raises:
        UsageError: a kind that reads frames, and the clips have none.
    """
    from acoustic_env.models.estimators.fitting import Ensemble

    classifier = _settings(kind, clips, int(train.sum()))
    x: Any = clips.sequences if classifier.reads_sequences else clips.features
    if x is None:
        raise UsageError(f"scorer {kind} reads frames, and these clips come without any")
    members = clips.fit_once(kind, train, lambda: _fit(classifier, clips, x, train))
    labels = clips.target.shape[1]
    return Ensemble(members, max(labels, 2)).predict_proba(x[held_out])[:, :labels]


def _fit(classifier: ClassifierSettings, clips: LabeledClips, x: Any, train: Bools) -> list[Any]:
    import numpy as np

    from acoustic_env.models.data.examples import Examples
    from acoustic_env.models.estimators.fitting import fit, make_estimator
    from acoustic_env.models.estimators.per_label import PerLabelClassifier

    target = clips.target[train]
    y = target.argmax(axis=1) if clips.exclusive else target > 0
    if y.shape[1:] == (1,):  # a classifier would take one label alone for the two classes of a binary task
        y = np.repeat(y, 2, axis=1)
    examples = Examples(x[train], y, clips.folds[train])
    members = []
    for member in range(classifier.ensemble):
        estimator = make_estimator(classifier, clips.seed * 100 + member)
        if classifier.kind == "xgboost" and not clips.exclusive:  # trees of many labels together share their splits
            estimator = PerLabelClassifier(estimator)
        members.append(fit(estimator, examples))
    return members


def _settings(kind: str, clips: LabeledClips, rows: int) -> ClassifierSettings:
    """Return the settings of a kind that learns from so many rows."""
    if clips.model is not None and clips.model.kind == kind:
        return clips.model.replace(ensemble=1)
    settings: dict[str, Any] = {"kind": kind, **QUICK.get(kind, {})}
    if kind == "mlp":
        settings |= next(effort for most, effort in MLP_EFFORT if rows <= most)
    if kind == "xgboost":
        settings["subsample"] = 0.7 * min(1.0, TREE_ROWS / rows)
    if CLASSIFIERS.load(kind).reads_sequences:
        settings |= next(effort for most, effort in SEQUENCE_EFFORT if rows <= most)
    return classifier_settings(settings)
