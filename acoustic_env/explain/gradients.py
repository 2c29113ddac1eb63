"""The log odds of a class as a function of the preprocessed features that can be differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from acoustic_env.features.precision import float32_products
from acoustic_env.stats.intervals import Floats

if TYPE_CHECKING:
    import torch


class LogOdds:
    """log P(class) - log P(not class) of the mean of fitted members, each `is_smooth`, computed in `dtype`."""

    def __init__(self, members: Sequence[Any], chosen: int, dtype: type[np.floating[Any]] = np.float64) -> None:
        self._chosen, self._dtype = chosen, dtype
        self._device: str = next((one.runs_on for one in members if hasattr(one, "network")), "cpu")
        self._members = [(_scores(member, dtype, self._device), _task(member)) for member in members]

    def value(self, x: npt.NDArray[Any]) -> Floats:
        """Return the log odds [n] of rows [n, d]."""
        import torch

        with torch.no_grad(), float32_products(tf32=False):
            return np.asarray(self._of(self._tensor(x)).cpu().numpy(), np.float64)

    def gradient(self, x: npt.NDArray[Any]) -> Floats:
        """Return the derivatives [n, d] at rows [n, d]."""
        import torch

        inputs = self._tensor(x).requires_grad_()
        with float32_products(tf32=False):
            (found,) = torch.autograd.grad(self._of(inputs).sum(), inputs)
        return np.asarray(found.cpu().numpy(), np.float64)

    def _tensor(self, x: npt.NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.asarray(x, self._dtype)).to(self._device)

    def _of(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        logs = [_log_probabilities(network(x), task, self._chosen) for network, task in self._members]
        inside, outside = (torch.logsumexp(torch.stack(side), dim=0) for side in zip(*logs, strict=True))
        return inside - outside


def is_smooth(member: Any, classes: int) -> bool:
    """Return whether a fitted estimator is a network or a logistic regression that knows every class."""
    from sklearn.linear_model import LogisticRegression

    from acoustic_env.models.estimators.logistic import LogisticClassifier

    smooth = hasattr(member, "network") or isinstance(member, LogisticClassifier | LogisticRegression)
    return smooth and len(member.classes_) == classes


def weight_count(members: Sequence[Any]) -> int:
    """Return the weights of all members: what one evaluation costs."""
    arrays = [array for one in members for array in ([one.coef_] if hasattr(one, "coef_") else one.weights_.values())]
    return sum(math.prod(array.shape) for array in arrays)


def _task(member: Any) -> str:
    return str(getattr(member, "task_", "binary" if len(member.classes_) == 2 else "multiclass"))


def _log_probabilities(scores: torch.Tensor, task: str, chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log P(class) and log P(not class) [n] of output scores."""
    import torch
    from torch.nn import functional

    if task == "multiclass":
        whole = torch.logsumexp(scores, dim=1)
        others = [c for c in range(scores.shape[1]) if c != chosen]
        return scores[:, chosen] - whole, torch.logsumexp(scores[:, others], dim=1) - whole
    score = scores[:, 0] * (1 if chosen else -1) if task == "binary" else scores[:, chosen]
    return functional.logsigmoid(score), functional.logsigmoid(-score)


def _scores(member: Any, dtype: type[np.floating[Any]], device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the output scores of a member as a function on a device."""
    import torch

    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, dtype)).to(device)

    if hasattr(member, "coef_"):
        weight, bias = tensor(member.coef_).T, tensor(member.intercept_)
        return lambda x: x @ weight + bias
    network: torch.nn.Module = member.build(device).to(tensor(0).dtype)
    for module in network.modules():
        if isinstance(module, torch.nn.RNNBase):
            module.train()  # cuDNN differentiates it in training only; without dropout it computes the same
    return network
