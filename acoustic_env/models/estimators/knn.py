"""k nearest neighbors (scikit-learn)."""

from __future__ import annotations

import copy
import logging
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.config import ClassifierSettings

log = logging.getLogger("acoustic_env.models.estimators.knn")


class KNNClassifier(KNeighborsClassifier):
    """`KNeighborsClassifier` in which all training rows vote where there are fewer than `n_neighbors`.

    Distances are in double precision: in single precision those of a row differ with the rows beside it.

    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([0, 0, 1])
    >>> KNNClassifier(n_neighbors=25).fit(X, y).predict_proba([[1.0]]).round(2).tolist()
    [[0.67, 0.33]]
    """

    def fit(self, X: Any, y: Any) -> KNNClassifier:
        """Keep the rows; warn where they are fewer than `n_neighbors`."""
        super().fit(X, y)
        if self.n_samples_fit_ < self.n_neighbors:
            rows = self.n_samples_fit_
            log.warning("knn: %d training rows for %d neighbors: all of them vote", rows, self.n_neighbors)
        return self

    def _voting(self) -> KNNClassifier:
        check_is_fitted(self)
        voting = copy.copy(self)
        voting.n_neighbors = min(self.n_neighbors, self.n_samples_fit_)
        return voting

    def _double(self, X: Any) -> Any:
        return validate_data(self, X, dtype=np.float64, accept_sparse="csr", reset=False)

    def predict_proba(self, X: Any) -> Any:
        """Return probabilities [n, classes], of several labels a list of them."""
        return KNeighborsClassifier.predict_proba(self._voting(), self._double(X))

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the class with most votes [n]."""
        return np.asarray(KNeighborsClassifier.predict(self._voting(), self._double(X)))


class KNNSettings(ClassifierSettings):
    """A vote of the nearest neighbors; it takes no sample weights."""

    kind: Literal["knn"] = "knn"

    neighbors: int = Field(25, ge=1)
    """Number of neighbors that vote; all training rows where there are fewer."""

    weights: Literal["uniform", "distance"] = "distance"
    """Weight of a vote: equal, or the inverse of the distance."""

    metric: Literal["euclidean", "manhattan", "cosine"] = "cosine"
    """Distance of two rows."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `KNNClassifier`."""
        return KNNClassifier(self.neighbors, weights=self.weights, metric=self.metric)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest neighbors, weights and metric."""
        trial.suggest_int("neighbors", 1, 100, log=True)
        trial.suggest_categorical("weights", ["uniform", "distance"])
        trial.suggest_categorical("metric", ["euclidean", "manhattan", "cosine"])
