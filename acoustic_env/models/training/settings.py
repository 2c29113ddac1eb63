"""Settings that every network has: those of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from acoustic_env.config import ClassifierSettings, Task

if TYPE_CHECKING:
    import torch


class NetworkSettings(ClassifierSettings):
    """A network, stopped on validation rows unless patience is null; a kind adds its layers and builds them."""

    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of AdamW."""

    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of AdamW, 0 for none."""

    batch_size: int = Field(256, ge=1)
    """Rows of a step."""

    max_epochs: int = Field(200, ge=1)
    """Upper bound of epochs; training stops `patience` epochs after the best validation score."""

    patience: int | None = Field(15, ge=1)
    """Epochs without improvement after which training stops, with the best epoch's weights. null: train max_epochs on
    all rows, none held out, and keep the last weights, as schedules that end at a rate near zero want it."""

    max_grad_norm: float = Field(10.0, gt=0)
    """Norm that the gradients of a step are scaled down to where it is larger."""

    workers: int = Field(0, ge=0)
    """Ray Train workers; 0 trains in this process with the same code."""

    uses_gpu: ClassVar[bool] = False
    """Whether a GPU is worth it where there is one."""

    predicts_in: ClassVar[str] = "float32"
    """Precision of predictions. In float32 those of a row may differ by 1e-7 with the number of rows beside it."""

    def network(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build the network: rows [n, *shape] -> logits [n, outputs]."""
        raise NotImplementedError

    def fit_scaling(self, network: torch.nn.Module, x: Any) -> None:
        """Set what the network learns of its inputs before training; nothing by default."""

    def epoch_rows(self, y: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch in the order they are trained on: each once."""
        return rng.permutation(len(y))

    def row_weights(self, y: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        """Return weights [n] that balance the classes, where the settings ask for them; here, None."""
        return None

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step (from 0) of so many."""
        return self.learning_rate

    def mix(self, inputs: torch.Tensor, targets: torch.Tensor, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch to train on: as it is, or rows mixed with each other."""
        return inputs, targets

    def loss(
        self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, task: Task
    ) -> torch.Tensor:
        """Compute the mean loss of a batch: cross-entropy, for multilabel and binary a binary one per output.

        Args:
            logits: [n, outputs].
            targets: int64 [n] for multiclass, else bool [n, outputs].
            weights: [n] of mean 1, or None.
            task: of the study.
        """
        from torch.nn import functional

        if task == "multiclass":
            if weights is None:
                return functional.cross_entropy(logits, targets)
            return (functional.cross_entropy(logits, targets, reduction="none") * weights).mean()
        own = None if weights is None else weights[:, None]
        return functional.binary_cross_entropy_with_logits(logits, targets.float(), own, reduction="sum") / len(targets)
