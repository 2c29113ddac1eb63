"""Classifiers: scikit-learn estimators of any kind behind one way to fit, to predict and to average.

`x` is float32 [n, features] of preprocessed features, finite and of the order of one. `y` is int64 [n], an index into
the classes, or bool [n, classes] for multilabel. Probabilities are float64 [n, classes]: rows sum to one for binary
(negative, positive) and multiclass; for multilabel each column is its own probability.

An estimator has `fit(X, y)` and `predict_proba(X)`. Its `fit` may also take, by these names, `sample_weight`, `X_val`
and `y_val` (rows to stop training on, as scikit-learn's histogram gradient boosting has them) and `groups` (rows that
must not be split by inner folds); each is passed only to a `fit` that names it. One that cannot learn several labels
at once is fitted label by label (`per_label`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, has_fit_parameter, validate_data

from acoustic_env.config import ClassifierSettings, Task
from acoustic_env.errors import UsageError
from acoustic_env.models.per_label import PerLabelClassifier
from acoustic_env.stats.intervals import Floats, Integers

PREDICTED_ROWS: Final = 8192


@dataclass(frozen=True)
class Examples:
    """Rows to learn from or to stop on.

    Attributes:
        x: float32 [n, features], or `Sequences` [n, frames, bands].
        y: int64 [n], or bool [n, classes].
        groups: int64 [n], rows that must not be split.
        weights: [n], None for one each.
        variants: transformed copies of all rows, each as `x`; `fit` learns from them, too.

    >>> rows = Examples(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    >>> rows.take(rows.groups == 1).y.tolist()
    [0, 1]
    """

    x: Any
    y: npt.NDArray[Any]
    groups: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None = None
    variants: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: npt.NDArray[Any]) -> Examples:
        """Return the chosen rows (index or mask)."""
        weights = None if self.weights is None else self.weights[rows]
        variants = tuple(variant[rows] for variant in self.variants)
        return Examples(self.x[rows], self.y[rows], self.groups[rows], weights, variants)

    def map(self, change: Callable[[Any], Any]) -> Examples:
        """Return the rows with `x`, and each copy of it, changed by a function."""
        return replace(self, x=change(self.x), variants=tuple(change(variant) for variant in self.variants))

    def with_variants(self) -> Examples:
        """Return the rows followed by their copies, which have their targets, groups and weights."""
        if not self.variants:
            return self
        copies = 1 + len(self.variants)
        y = np.concatenate([self.y] * copies)
        weights = None if self.weights is None else np.tile(self.weights, copies)
        return Examples(_joined([self.x, *self.variants]), y, np.tile(self.groups, copies), weights)


def _joined(parts: Sequence[Any]) -> Any:
    """Return arrays, or sequences in memory, one after the other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return type(parts[0]).joined(parts)


def make_estimator(classifier: ClassifierSettings | Any, random_state: int, checkpoints: str | None = None) -> Any:
    """Return an unfitted estimator of a registered kind's settings, or a copy of an estimator.

    Args:
        classifier: settings, or any scikit-learn classifier with `predict_proba`.
        random_state: its seed, where it has one.
        checkpoints: where it keeps checkpoints, where it can.

    >>> from acoustic_env.config import classifier_settings
    >>> make_estimator(classifier_settings({"kind": "logistic", "penalty": 0.01}), random_state=23)
    LogisticClassifier(penalty=0.01, random_state=23)
    """
    settings = isinstance(classifier, ClassifierSettings)
    made = classifier.estimator(random_state) if settings else clone(classifier)
    options = {"random_state": random_state, "checkpoints": checkpoints}
    known = made.get_params(deep=False)
    return made.set_params(**{name: value for name, value in options.items() if name in known})


def fit(estimator: Any, train: Examples, validation: Examples | None = None) -> Any:
    """Fit an estimator and return it; label by label where it cannot learn several at once.

    Args:
        estimator: unfitted.
        train: rows to learn from, with their variants.
        validation: rows to stop on, without variants; not looked at by an estimator that takes none. Without one of
            a class that trains, nothing stops.

    >>> from sklearn.linear_model import LogisticRegression
    >>> rows = Examples(np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), np.array([0, 0, 1, 1]), np.arange(4))
    >>> fit(LogisticRegression(), rows).predict(np.array([[0.5], [2.5]])).tolist()
    [0, 1]
    """
    train = train.with_variants()
    options: dict[str, Any] = {"groups": train.groups}
    if train.weights is not None:
        options["sample_weight"] = train.weights
    known = np.zeros(0, bool)
    if validation is not None:
        known = np.ones(len(validation), bool) if train.y.ndim == 2 else np.isin(validation.y, train.y)
    if validation is not None and known.any() and _early_stopping(estimator) is not False:
        options |= {"X_val": validation.x[known], "y_val": validation.y[known]}
    elif has_fit_parameter(estimator, "X_val") and _early_stopping(estimator):
        estimator.set_params(early_stopping=False)  # else scikit-learn holds out rows of its own, whatever their group
    options = {name: value for name, value in options.items() if has_fit_parameter(estimator, name)}
    if train.y.ndim == 2 and not get_tags(estimator).classifier_tags.multi_label:
        estimator = PerLabelClassifier(estimator)
    return estimator.fit(train.x, train.y, **options)


def _early_stopping(estimator: Any) -> Any:
    """Return scikit-learn's setting of that name, None for estimators without."""
    return estimator.get_params(deep=False).get("early_stopping")


def resampled(y: npt.NDArray[Any], per_class: int, seed: int) -> Integers:
    """Return row numbers with so many rows of each class: a random part of a larger class, a smaller one repeated.

    Args:
        y: int64 [n].
        per_class: rows of each class that has one.
        seed: of the choice.

    >>> y = np.array([0, 0, 0, 0, 1])
    >>> np.bincount(y[resampled(y, 2, seed=23)]).tolist()
    [2, 2]
    """
    random = np.random.default_rng(seed)
    found = []
    for own in np.unique(y):
        rows = random.permutation(np.flatnonzero(y == own))
        found.append(np.resize(rows, per_class))
    return np.sort(np.concatenate(found))


def stops_on_rows(estimator: Any) -> bool:
    """Return whether training stops on held-out rows: its `fit` takes them, and patience is not None.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from acoustic_env.models.mlp import MLPClassifier
    >>> [stops_on_rows(each) for each in (LogisticRegression(), MLPClassifier(), MLPClassifier(patience=None))]
    [False, True, False]
    """
    settings = getattr(estimator, "settings", estimator)
    stops = getattr(settings, "patience", 0) is not None and _early_stopping(estimator) is not False
    return stops and has_fit_parameter(estimator, "X_val")


def predict_proba(estimator: Any, x: npt.NDArray[np.float32], classes: int) -> Floats:
    """Return probabilities [n, classes] of a fitted estimator; 0 for classes without a training row.

    >>> from sklearn.linear_model import LogisticRegression
    >>> x = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    >>> fitted = LogisticRegression().fit(x, np.array([0, 0, 2, 2]))
    >>> predict_proba(fitted, x, 3).round(1).tolist()
    [[0.8, 0.0, 0.2], [0.6, 0.0, 0.4], [0.4, 0.0, 0.6], [0.2, 0.0, 0.8]]
    """
    if not len(x):
        return np.empty((0, classes))
    said = estimator.predict_proba(x)
    if isinstance(said, list):  # one array a label, as scikit-learn's multi-output estimators answer
        return np.stack([_positive(own, seen) for own, seen in zip(said, estimator.classes_, strict=True)], axis=1)
    found = np.asarray(said, np.float64)
    if found.shape[1] == classes:
        return found
    whole = np.zeros((len(found), classes))
    whole[:, np.asarray(estimator.classes_, np.int64)] = found
    return whole


def _positive(said: npt.NDArray[Any], seen: npt.NDArray[Any]) -> Floats:
    """Return the probability [n] of a label that training rows have, lack, or both."""
    column = np.flatnonzero(seen)
    return np.asarray(said[:, column[0]], np.float64) if len(column) else np.zeros(len(said))


class Ensemble:
    """Fitted estimators whose probabilities are averaged.

    Args:
        members: fitted.
        classes: number of classes.
    """

    def __init__(self, members: Sequence[Any], classes: int) -> None:
        self.members, self.classes = list(members), classes

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Return mean probabilities [n, classes]."""
        return np.asarray(sum(predict_proba(member, x, self.classes) for member in self.members) / len(self.members))


def fit_ensemble(
    classifier: ClassifierSettings | Any,
    classes: int,
    data: Examples,
    folds: Integers,
    first: Sequence[int],
    *,
    size: int = 1,
    seed: int = 23,
    checkpoints: str | None = None,
) -> Ensemble:
    """Fit models of successive seeds, each with another fold held out to stop on.

    An ensemble of 1 is one model trained without the `first` folds. With more, the next members hold out the other
    folds in turn, so every row trains most members. An estimator that does not stop on rows learns from all of
    them. What a member predicts for its held-out rows is not what the mean of all members predicts: `cross_val`
    measures that.

    Args:
        classifier: settings or an estimator.
        classes: how many.
        data: all rows but the test's.
        folds: fold of each row [n].
        first: the folds the first member holds out: the study's validation folds.
        size: number of models.
        seed: of the first.
        checkpoints: where estimators that can keep checkpoints.

    Raises:
        UsageError: the rows left for a member are of one class.

    >>> from sklearn.linear_model import LogisticRegression
    >>> rows = Examples(np.arange(8, dtype=np.float32)[:, None], np.repeat([0, 1], 4), np.arange(8))
    >>> ensemble = fit_ensemble(LogisticRegression(), 2, rows, np.arange(8) % 4, (0,), size=2)
    >>> len(ensemble.members), ensemble.predict_proba(rows.x).argmax(axis=1).tolist()
    (2, [0, 0, 0, 0, 1, 1, 1, 1])
    """
    others = [[int(fold)] for fold in np.unique(folds) if fold not in first]
    held_out = [list(first), *others]
    members = []
    for member in range(size):
        held = np.isin(folds, held_out[member % len(held_out)])
        stops = stops_on_rows(make_estimator(classifier, seed + member))
        train, validation = (data.take(~held), data.take(held)) if stops else (data, None)
        if train.y.ndim == 1 and len(np.unique(train.y)) < 2:
            raise UsageError("a class lies in so few groups that the other folds have none of it; add recordings of it")
        members.append(fit_model(classifier, train, validation, seed + member, checkpoints))
    return Ensemble(members, classes)


def fit_model(
    classifier: ClassifierSettings | Any,
    train: Examples,
    validation: Examples | None,
    seed: int,
    checkpoints: str | None = None,
) -> Any:
    """Fit one model of settings, or of an estimator; settings may have the training rows resampled.

    >>> from sklearn.linear_model import LogisticRegression
    >>> rows = Examples(np.arange(8, dtype=np.float32)[:, None], np.repeat([0, 1], 4), np.arange(8))
    >>> fit_model(LogisticRegression(), rows, None, seed=23).predict(rows.x).tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    per_class = classifier.per_class if isinstance(classifier, ClassifierSettings) else None
    if per_class is not None:
        train = train.with_variants()
        train = train.take(resampled(train.y, per_class, seed))
    return fit(make_estimator(classifier, seed, checkpoints), train, validation)


# ---- what the package's own estimators share


class TaskClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of the three tasks: binary and multiclass for y [n], multilabel for bool y [n, classes].

    A subclass implements `fit`, beginning with `check_rows`, and `predict_proba`.

    Attributes:
        classes_: [classes].
        task_: told by y.
    """

    random_state: Any
    classes_: npt.NDArray[Any]
    task_: Task

    def check_rows(
        self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None, groups: Any = None
    ) -> tuple[Examples, Examples | None]:
        """Check the arguments of `fit`, set `classes_`, `task_` and `n_features_in_`, and return coded rows.

        Raises:
            ValueError: wrong shapes, values that are not finite, a continuous target, or one class only.
        """
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True)
        check_classification_targets(y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        coded = self.code_targets(y)
        train = Examples(X, coded, np.arange(len(X)) if groups is None else np.asarray(groups), weights)
        if X_val is None or not len(X_val):
            return train, None
        held = np.asarray(y_val).astype(bool) if y.ndim == 2 else np.searchsorted(self.classes_, y_val)
        X_val = validate_data(self, X_val, dtype=np.float32, reset=False)
        return train, Examples(X_val, held, np.arange(len(X_val)))

    def code_targets(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Set `classes_` and `task_` and return int64 [n] class indices, or bool [n, classes].

        Raises:
            ValueError: one class only.
        """
        if y.ndim == 2:
            self.classes_, self.task_ = np.arange(y.shape[1]), "multilabel"
            return y.astype(bool)
        self.classes_, coded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs rows of two classes, found one class: {self.classes_}")
        self.task_ = "binary" if len(self.classes_) == 2 else "multiclass"
        return coded

    def seed(self) -> int:
        """Return `random_state` as a number."""
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the likeliest class [n], or int [n, classes] of probability 0.5 or more for multilabel."""
        found = self.predict_proba(X)
        if self.task_ == "multilabel":
            return np.asarray(found >= 0.5, np.int64)
        return np.asarray(self.classes_[found.argmax(axis=1)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def in_double(function: Callable[[Floats], Floats], x: npt.NDArray[np.float32]) -> Floats:
    """Apply a function of rows in double precision, some rows at a time.

    In single precision the products of a row differ by 1e-7 with the number of rows beside it.

    Args:
        function: [rows, features] -> [rows, outputs].
        x: [n, features].

    >>> in_double(lambda rows: rows.sum(axis=1, keepdims=True), np.ones((2, 3), np.float32)).tolist()
    [[3.0], [3.0]]
    """
    starts = range(0, max(len(x), 1), PREDICTED_ROWS)
    return np.concatenate([function(x[start : start + PREDICTED_ROWS].astype(np.float64)) for start in starts])


def probabilities(scores: npt.NDArray[Any], task: Task) -> Floats:
    """Return probabilities [n, classes] of log odds [n, outputs].

    >>> probabilities(np.array([[0.0], [2.0]]), "binary").round(2).tolist()
    [[0.5, 0.5], [0.12, 0.88]]
    >>> probabilities(np.array([[0.0, 2.0]]), "multilabel").round(2).tolist()
    [[0.5, 0.88]]
    >>> probabilities(np.array([[0.0, 2.0, 0.0]]), "multiclass").round(2).tolist()
    [[0.11, 0.79, 0.11]]
    """
    scores = scores.astype(np.float64)
    if task == "multiclass":
        return np.asarray(special.softmax(scores, axis=1))
    positive = special.expit(scores)
    return np.hstack([1 - positive, positive]) if task == "binary" else np.asarray(positive)
