"""The deliberate over-fit: a network that cannot learn a few rows by heart has a fault, not too little data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from acoustic_env.config import Task, classifier_settings
from acoustic_env.errors import UsageError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.windows import in_windows
from acoustic_env.models.training.loop import LocalSession, TrainingSpec, train_network
from acoustic_env.models.training.settings import NetworkSettings

EPOCHS: Final = 200
LEARNED: Final = 0.02  # of the first epoch's loss
# Without what keeps a network from learning rows by heart.
PLAIN: Final[dict[str, Any]] = {
    "dropout": 0.0,
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "augment": {},
    "sampler": "shuffle",
    "upsample": 1.0,
    "class_weight": None,
    "schedule": "constant",
    "workers": 0,
    "max_epochs": EPOCHS,
    "patience": EPOCHS,
}


@dataclass(frozen=True)
class Overfit:
    """What training on a few rows alone came to.

    Attributes:
        rows: trained on.
        losses: mean loss of each epoch.

    >>> Overfit(64, (0.7, 0.3, 0.01)).learned
    True
    """

    rows: int
    losses: tuple[float, ...]

    @property
    def learned(self) -> bool:
        """Whether the loss fell to a fiftieth."""
        return self.losses[-1] <= LEARNED * self.losses[0]


def overfit(settings: NetworkSettings, task: Task, classes: int, train: Examples, batches: int) -> Overfit:
    """Train a network on its first batches alone, for 200 epochs, without regularization and augmentation.

    Args:
        settings: of the network.
        task: of the rows.
        classes: number of classes.
        train: rows to take the batches from, by the seed.
        batches: how many.

    Raises:
        UsageError: the kind of classifier is no network.
    """
    if not isinstance(settings, NetworkSettings):
        raise UsageError(f"--overfit is for networks; {settings.kind} is none")
    rows = np.random.default_rng(settings.seed).permutation(len(train))[: batches * settings.batch_size]
    plain: Any = classifier_settings(_without_regularization(settings.as_json()))
    few = train.take(np.sort(rows))
    few = in_windows(few)
    trained = train_network(TrainingSpec(plain, task, classes), few, None, LocalSession())
    return Overfit(len(rows), tuple(epoch["train_loss"] for epoch in trained.history))


def _without_regularization(settings: Any) -> Any:
    """Return settings as plain data with `PLAIN` in place, in the layers as well."""
    if isinstance(settings, list):
        return [_without_regularization(each) for each in settings]
    if isinstance(settings, Mapping):
        plain = {name: _without_regularization(value) for name, value in settings.items()}
        return plain | {name: value for name, value in PLAIN.items() if name in settings}
    return settings
