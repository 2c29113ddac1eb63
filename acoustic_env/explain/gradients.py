"""The log-odds of a class as a function of the reduced features that can be differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from acoustic_env.models.classifier import Classifier, Ensemble, State
from acoustic_env.models.evaluate import Floats

if TYPE_CHECKING:
    import torch

SMOOTH = ("mlp", "logistic")


def members_of(classifier: Classifier) -> list[State]:
    """The states of the models that a classifier averages; its own where it is one model."""
    models = classifier.members if isinstance(classifier, Ensemble) else [classifier]
    return [model.state() for model in models]


class LogOdds:
    """log P(class) - log P(not class) of a classifier of MLPs or logistic regressions.

    Args:
        members: states of the models whose probabilities are averaged, each of a kind in `SMOOTH`.
        chosen: number of the class.
    """

    def __init__(self, members: list[State], chosen: int) -> None:
        self._members = [(_network(state), str(state.facts.get("task"))) for state in members]
        self._chosen = chosen

    def value(self, x: npt.NDArray[Any]) -> Floats:
        """[n] of rows [n, d]."""
        import torch

        with torch.no_grad():
            return np.asarray(self._of(torch.from_numpy(np.asarray(x, np.float64))).numpy())

    def gradient(self, x: npt.NDArray[Any]) -> Floats:
        """Derivatives [n, d] at rows [n, d]."""
        import torch

        inputs = torch.from_numpy(np.asarray(x, np.float64)).requires_grad_()
        (found,) = torch.autograd.grad(self._of(inputs).sum(), inputs)
        return np.asarray(found.numpy())

    def _of(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        logs = [_log_probabilities(network(x), task, self._chosen) for network, task in self._members]
        inside, outside = (torch.logsumexp(torch.stack(side), dim=0) for side in zip(*logs, strict=True))
        return inside - outside


def _log_probabilities(scores: torch.Tensor, task: str, chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """log P(class) and log P(not class) [n] of output scores."""
    import torch
    from torch.nn import functional

    if task == "multiclass":
        whole = torch.logsumexp(scores, dim=1)
        others = [c for c in range(scores.shape[1]) if c != chosen]
        return scores[:, chosen] - whole, torch.logsumexp(scores[:, others], dim=1) - whole
    score = scores[:, 0] * (1 if chosen else -1) if task == "binary" else scores[:, chosen]
    return functional.logsigmoid(score), functional.logsigmoid(-score)


def _network(state: State) -> Callable[[torch.Tensor], torch.Tensor]:
    """Output scores of a stored model in double precision."""
    import torch

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(state.arrays[name], np.float64))

    if state.facts["kind"] == "logistic":
        weights = tensor("weights")
        return lambda x: x @ weights[:-1] + weights[-1]
    numbers = sorted({int(name.split(".")[0]) for name in state.arrays})
    layers = [(tensor(f"{number}.weight").T, tensor(f"{number}.bias")) for number in numbers]
    activation = {"relu": torch.relu, "tanh": torch.tanh}[str(state.facts["activation"])]

    def network(x: torch.Tensor) -> torch.Tensor:
        for weight, bias in layers[:-1]:
            x = activation(x @ weight + bias)
        return x @ layers[-1][0] + layers[-1][1]

    return network


def parameters(members: list[State]) -> int:
    """Weights in all: what one evaluation costs."""
    return sum(math.prod(array.shape) for state in members for array in state.arrays.values())
