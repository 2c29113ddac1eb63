"""What the package's own estimators share: the three tasks on scikit-learn's contract, products in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

from acoustic_env.config import Task
from acoustic_env.models.data.examples import Examples
from acoustic_env.stats.intervals import Floats

PREDICTED_ROWS: Final = 8192


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
        X_val = validate_data(self, X_val, dtype=np.float32, reset=False)
        return train, Examples(X_val, self.codes(y_val), np.arange(len(X_val)))

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

    def codes(self, y: Any) -> npt.NDArray[Any]:
        """Return targets of rows not trained on as `code_targets` codes those trained on."""
        return np.asarray(y).astype(bool) if self.task_ == "multilabel" else np.searchsorted(self.classes_, y)

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
