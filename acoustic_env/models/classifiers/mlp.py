"""The multilayer perceptron (PyTorch); the estimator is in `models/mlp.py`, so that recipes load without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from acoustic_env.config import ClassifierSettings

MAX_LAYERS: Final = 5
WIDE_INPUTS: Final = 600
"""Above this many inputs the search allows 512 units in a layer instead of 256, as the source system did."""


class MLPSettings(ClassifierSettings):
    """A multilayer perceptron, stopped on validation rows."""

    kind: Literal["mlp"] = "mlp"

    layers: tuple[Annotated[int, Field(ge=1)], ...] = (240,)
    """Hidden units of each layer."""

    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the hidden layers."""

    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout on the input and after every hidden layer, in [0, 1)."""

    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of AdamW."""

    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of AdamW, 0 for none."""

    batch_size: int = Field(256, ge=1)
    """Rows of a step."""

    max_epochs: int = Field(200, ge=1)
    """Upper bound of epochs; training stops `patience` epochs after the best validation score."""

    patience: int = Field(15, ge=1)
    """Epochs without improvement after which training stops."""

    workers: int = Field(0, ge=0)
    """Ray Train workers; 0 trains in this process with the same code."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `MLPClassifier`."""
        from acoustic_env.models.mlp import MLPClassifier

        own = {
            name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "ensemble", "seed")
        }
        return MLPClassifier(**own, random_state=random_state)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest layers, units, activation, dropout and learning rate in the ranges of the source system."""
        for layer in range(trial.suggest_int("layers", 1, MAX_LAYERS)):
            trial.suggest_int(f"units_{layer}", 16, 512 if features > WIDE_INPUTS else 256, step=16)
        trial.suggest_categorical("activation", ["relu", "tanh"])
        trial.suggest_float("dropout", 0.0, 0.5)
        trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)

    def at(self, point: Mapping[str, Any]) -> Self:
        """Return these settings at a point of the search space."""
        layers = tuple(int(point[f"units_{layer}"]) for layer in range(int(point["layers"])))
        return self.replace(layers=layers, **{name: point[name] for name in ("activation", "dropout", "learning_rate")})
