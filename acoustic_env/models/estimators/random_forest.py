"""Random forest (scikit-learn)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from acoustic_env.config import ClassifierSettings


class RandomForestSettings(ClassifierSettings):
    """A random forest."""

    kind: Literal["random_forest"] = "random_forest"

    n_estimators: int = Field(500, ge=1)
    """Number of trees."""

    max_features: float = Field(0.1, gt=0, le=1)
    """Share of the features considered at each split, in (0, 1]."""

    min_samples_leaf: int = Field(1, ge=1)
    """Rows in a leaf, at least."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `RandomForestClassifier`."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(**self.own(), n_jobs=-1, random_state=random_state)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest the features of a split and the rows of a leaf."""
        trial.suggest_float("max_features", 0.01, 1.0, log=True)
        trial.suggest_int("min_samples_leaf", 1, 20, log=True)
