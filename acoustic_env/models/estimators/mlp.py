"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field

from acoustic_env.config import Task
from acoustic_env.models.training.settings import NetworkSettings

if TYPE_CHECKING:
    import torch

MAX_LAYERS: Final = 5
WIDE_INPUTS: Final = 600
"""Above this many inputs the search allows 512 units in a layer instead of 256, as the source system did."""


class MLPSettings(NetworkSettings):
    """A multilayer perceptron, stopped on validation rows."""

    trial_settings: ClassVar[Mapping[str, Any]] = {"max_epochs": 50, "patience": 5}
    predicts_in: ClassVar[str] = "float64"

    kind: Literal["mlp"] = "mlp"

    layers: tuple[Annotated[int, Field(ge=1)], ...] = (240,)
    """Hidden units of each layer."""

    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the hidden layers."""

    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout on the input and after every hidden layer, in [0, 1)."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `NetworkClassifier`."""
        from acoustic_env.models.estimators.network_classifier import NetworkClassifier

        return NetworkClassifier(self, random_state=random_state)

    def network(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build dropout, then (linear, activation, dropout) per hidden layer, then linear."""
        from torch import nn

        activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[self.activation]
        (inputs,) = shape
        layers: list[nn.Module] = [nn.Dropout(self.dropout)]
        for width, units in pairwise((inputs, *self.layers)):
            layers += [nn.Linear(width, units), activation(), nn.Dropout(self.dropout)]
        return nn.Sequential(*layers, nn.Linear((inputs, *self.layers)[-1], outputs))

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
