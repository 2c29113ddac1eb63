"""k nearest neighbors (scikit-learn)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from acoustic_env.config import ClassifierSettings


class KNNSettings(ClassifierSettings):
    """A vote of the nearest neighbors; it takes no sample weights."""

    kind: Literal["knn"] = "knn"

    neighbors: int = Field(25, ge=1)
    """Number of neighbors that vote."""

    weights: Literal["uniform", "distance"] = "distance"
    """Weight of a vote: equal, or the inverse of the distance."""

    metric: Literal["euclidean", "manhattan", "cosine"] = "cosine"
    """Distance of two rows."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `KNeighborsClassifier`."""
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(self.neighbors, weights=self.weights, metric=self.metric)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest neighbors, weights and metric."""
        trial.suggest_int("neighbors", 1, 100, log=True)
        trial.suggest_categorical("weights", ["uniform", "distance"])
        trial.suggest_categorical("metric", ["euclidean", "manhattan", "cosine"])
