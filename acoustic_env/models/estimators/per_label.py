"""A classifier of several labels made of one classifier of two classes for each label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.validation import check_is_fitted


class PerLabelClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Copies of an estimator, one fitted to each label, with whatever its `fit` takes beside rows and targets.

    scikit-learn's `OneVsRestClassifier` passes none of it on, its `MultiOutputClassifier` the validation targets of all
    labels to each copy.

    Args:
        estimator: of two classes.

    Attributes:
        estimators_: [labels] fitted copies; None for a label that all training rows have, or none.
        share_: float64 [labels], share of the training rows that have the label.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([[0, 1], [0, 1], [1, 1], [1, 1]], bool)
    >>> PerLabelClassifier(GaussianNB()).fit(X, y, sample_weight=np.ones(4)).predict_proba(X).round(2).tolist()
    [[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Any, y: Any, *, y_val: Any = None, **options: Any) -> PerLabelClassifier:
        """Fit a copy to each label.

        Args:
            X: [n, features].
            y: bool [n, labels].
            y_val: bool [rows to stop on, labels]; each copy gets its label's.
            options: of the estimator's `fit`, the same for each copy.
        """
        y = np.asarray(y, bool)
        self.classes_, self.share_ = np.arange(y.shape[1]), y.mean(axis=0)
        self.estimators_ = []
        for label, share in enumerate(self.share_):
            own = options if y_val is None else {**options, "y_val": np.asarray(y_val)[:, label].astype(np.int64)}
            varies = 0 < share < 1
            self.estimators_.append(
                clone(self.estimator).fit(X, y[:, label].astype(np.int64), **own) if varies else None
            )
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return probabilities [n, labels]; 0 or 1 for a label that no or every training row has."""
        check_is_fitted(self)
        found = np.tile(self.share_, (len(X), 1))
        for label, fitted in enumerate(self.estimators_):
            if fitted is not None:
                found[:, label] = fitted.predict_proba(X)[:, 1]
        return found

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Return which labels have a probability of 0.5 or more, int [n, labels]."""
        return np.asarray(self.predict_proba(X) >= 0.5, np.int64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
