"""Settings that all networks on sequences share: scaling, augmentation, loss, balance, schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from acoustic_env.config import Task
from acoustic_env.errors import UsageError
from acoustic_env.models.estimators.layers import AugmentSettings
from acoustic_env.models.training.settings import NetworkSettings

if TYPE_CHECKING:
    import torch

SCALE_ROWS: Final = 4_096  # that scaling is measured on
RISING: Final = 0.3  # share of the steps in which the rate of one_cycle rises
LEAST_RATE: Final = 0.04  # at its start, of the largest


class SequenceSettings(NetworkSettings):
    """What every network on sequences is trained with."""

    reads_sequences: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    scale: Literal["bands", "clip", "all", "none"] = "bands"
    """Standardize each band by the training rows (bands), each clip by itself (clip), all cells alike by the training
    rows (all), or not at all (none)."""

    loss_name: Literal["cross_entropy", "bce", "focal"] | None = None
    """Loss. Default: cross_entropy for one class of several a clip, else bce, a yes or no for each class."""

    focal_gamma: float = Field(2.0, ge=0)
    """Exponent of the focal loss (Lin et al. 2017)."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a target that is spread over all classes."""

    class_weight: Literal["balanced"] | None = None
    """balanced: rows weigh inversely to the frequency of their rarest class."""

    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Each row once an epoch (shuffle), or as many rows drawn, each class as often (balanced)."""

    upsample: float = Field(1.0, ge=1)
    """Rows of a class rarer than the commonest come up to this many times an epoch; 1: once."""

    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    """What is done to a clip each time it is trained on."""

    schedule: Literal["constant", "cosine", "one_cycle"] = "one_cycle"
    """Learning rate over max_epochs: constant, falling as a cosine, or rising first (Smith and Topin 2019)."""

    batch_size: int = Field(32, ge=1)
    """Rows of a step."""

    max_epochs: int = Field(60, ge=1)
    """Upper bound of epochs; training stops `patience` epochs after the best validation score."""

    patience: int | None = Field(60, ge=1)
    """Epochs without improvement after which training stops, with the best epoch's weights. null: train max_epochs on
    all rows, none held out, and keep the last weights, as schedules that end at a rate near zero want it."""

    precision: Literal["float32", "bf16"] = "float32"
    """Precision of products; bf16 where the device has it."""

    @model_validator(mode="after")
    def _one_balance(self) -> Self:
        asked = (self.sampler == "balanced", self.upsample > 1, self.class_weight is not None, self.per_class)
        if sum(map(bool, asked)) > 1:
            msg = "sampler balanced, upsample, class_weight and per_class each balance the classes; set one of them"
            raise ValueError(msg)
        return self

    def body(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build what is special to the kind: [n, frames, bands] -> logits [n, outputs]."""
        raise NotImplementedError

    def network(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build scaling, augmentation and the kind's body: [n, frames, bands] -> logits [n, outputs].

        Raises:
            UsageError: the layers leave nothing of so few frames or bands.
        """
        import torch

        from acoustic_env.models.estimators.modules import SequenceNetwork

        try:
            body, by_clip = self.body(shape, outputs, task), self.scale == "clip"
            network = SequenceNetwork(shape[1], body, self.augment, by_clip=by_clip, bf16=self.precision == "bf16")
            with torch.no_grad():
                network.eval()(torch.zeros(1, *shape))  # gives lazy layers their size
        except RuntimeError as error:
            msg = f"{self.kind}: its layers do not fit {shape[0]} frames of {shape[1]} bands ({error}); "
            raise UsageError(msg + "set `layers` with less pooling") from error
        return network

    def fit_scaling(self, network: torch.nn.Module, x: Any) -> None:
        """Measure up to 4,096 training rows, evenly spaced."""
        if self.scale in ("bands", "all"):
            rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), SCALE_ROWS)).astype(np.int64))
            network.scale.fit(x.load(rows), (0, 1) if self.scale == "bands" else (0, 1, 2))  # type: ignore[operator, union-attr]

    def epoch_rows(self, y: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch: shuffled, drawn with the classes balanced, or rare ones repeated."""
        if self.sampler == "shuffle" and self.upsample == 1:
            return rng.permutation(len(y))
        factor = rarity(y)
        if self.sampler == "balanced":
            return rng.choice(len(y), len(y), p=factor / factor.sum())
        repeats = np.floor(np.minimum(factor, self.upsample) + rng.random(len(y))).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(len(y)), repeats))

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step by the schedule."""
        done = step / steps
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        if done < RISING:
            share = (1 - math.cos(math.pi * done / RISING)) / 2
            return self.learning_rate * (LEAST_RATE + (1 - LEAST_RATE) * share)
        return self.learning_rate * (1 + math.cos(math.pi * (done - RISING) / (1 - RISING))) / 2

    def mix(self, inputs: torch.Tensor, targets: torch.Tensor, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float targets [n, outputs], with mixup those of rows mixed with another of the batch each."""
        import torch
        from torch.distributions import Beta

        targets = torch.nn.functional.one_hot(targets, outputs) if targets.ndim == 1 else targets
        targets = targets.float()
        if not self.augment.mixup:
            return inputs, targets
        alpha = torch.tensor(self.augment.mixup)
        share, other = float(Beta(alpha, alpha).sample()), torch.randperm(len(inputs), device=inputs.device)
        return tuple(share * own + (1 - share) * own[other] for own in (inputs, targets))  # type: ignore[return-value]

    def loss(
        self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, task: Task
    ) -> torch.Tensor:
        """Compute the mean loss of a batch by the settings.

        Args:
            logits: [n, outputs].
            targets: float [n, outputs], 0 to 1.
            weights: [n] of mean 1, or None.
            task: of the study.
        """
        import torch
        from torch.nn import functional

        kind = self.loss_name or ("cross_entropy" if task == "multiclass" else "bce")
        smoothing = self.label_smoothing
        if kind == "cross_entropy" and logits.shape[1] > 1:
            share = targets / targets.sum(1, keepdim=True).clamp(min=1e-9)
            each = functional.cross_entropy(logits, share, reduction="none", label_smoothing=smoothing)
        else:
            targets = targets * (1 - smoothing) + smoothing / max(2, logits.shape[1])
            cells = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            if kind == "focal":
                right = torch.sigmoid(logits) * targets + torch.sigmoid(-logits) * (1 - targets)
                cells = cells * (1 - right) ** self.focal_gamma
            each = cells.sum(1)
        return (each if weights is None else each * weights).mean()

    def row_weights(self, y: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        """Return weights [n] that balance the classes, where the settings ask for them."""
        return None if self.class_weight is None else rarity(y)

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `NetworkClassifier`."""
        from acoustic_env.models.estimators.network_classifier import NetworkClassifier

        return NetworkClassifier(self, random_state=random_state)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest learning rate, weight decay and mixup."""
        trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
        trial.suggest_float("mixup", 0.0, 0.5)

    def at(self, point: Any) -> Self:
        """Return these settings at a point of the search space."""
        own = {name: value for name, value in point.items() if name != "mixup"}
        return self.replace(**own, augment=self.augment.replace(mixup=point["mixup"]))


def rarity(y: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return how many times rarer than the commonest class each row's class is, its rarest for several, float64 [n].

    >>> rarity(np.array([0, 0, 1])).tolist()
    [1.0, 1.0, 2.0]
    """
    counts = np.bincount(y) if y.ndim == 1 else y.sum(axis=0)
    times = counts.max() / np.maximum(counts, 1)
    return np.asarray(times[y] if y.ndim == 1 else np.maximum(np.where(y, times, 0).max(axis=1), 1), np.float64)
