"""Classifier `naive_bayes`: Gaussian naive Bayes of scikit-learn."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from acoustic_env.config import ClassifierSettings


class NaiveBayesSettings(ClassifierSettings):
    """Independent Gaussian features per class."""

    kind: Literal["naive_bayes"] = "naive_bayes"

    smoothing: float = Field(1e-9, gt=0)
    """Share of the largest variance that is added to every variance."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `GaussianNB`."""
        from sklearn.naive_bayes import GaussianNB

        return GaussianNB(var_smoothing=self.smoothing)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest the smoothing."""
        trial.suggest_float("smoothing", 1e-12, 1.0, log=True)
