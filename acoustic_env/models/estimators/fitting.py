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

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from acoustic_env.config import ClassifierSettings
from acoustic_env.errors import UsageError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.per_label import PerLabelClassifier
from acoustic_env.stats.intervals import Floats, Integers


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
    >>> from acoustic_env.models.estimators.mlp import MLPSettings
    >>> [stops_on_rows(MLPSettings(patience=patience).estimator(0)) for patience in (15, None)]
    [True, False]
    >>> stops_on_rows(LogisticRegression())
    False
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
    them. What a member predicts for its held-out rows is not what the mean of all members predicts: `out_of_fold`
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
