"""Histogram gradient boosting (scikit-learn)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from acoustic_env.config import ClassifierSettings


class GradientBoostingSettings(ClassifierSettings):
    """Histogram gradient boosting, stopped on validation rows; without any, all `max_iter` trees are grown."""

    kind: Literal["gradient_boosting"] = "gradient_boosting"

    learning_rate: float = Field(0.05, gt=0)
    """Shrinkage of each tree."""

    max_iter: int = Field(400, ge=1)
    """Upper bound of trees per class; training stops `patience` trees after the best validation loss."""

    patience: int = Field(20, ge=1)
    """Trees without improvement after which training stops."""

    max_leaf_nodes: int = Field(15, ge=2)
    """Leaves of a tree."""

    l2_regularization: float = Field(1.0, ge=0)
    """L2 penalty of the leaves."""

    max_features: float = Field(0.5, gt=0, le=1)
    """Share of the features considered at each split, in (0, 1]."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `HistGradientBoostingClassifier`."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        own = self.own()
        patience = own.pop("patience")
        return HistGradientBoostingClassifier(
            **own, early_stopping=True, n_iter_no_change=patience, random_state=random_state
        )

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest learning rate, leaves, penalty and the features of a split."""
        trial.suggest_float("learning_rate", 0.01, 0.3, log=True)
        trial.suggest_int("max_leaf_nodes", 4, 64, log=True)
        trial.suggest_float("l2_regularization", 1e-3, 100.0, log=True)
        trial.suggest_float("max_features", 0.1, 1.0)
