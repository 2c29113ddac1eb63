"""Networks on scikit-learn's contract: where they run, and the fitted network for its device."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.utils.validation import check_is_fitted

from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.contract import TaskClassifier
from acoustic_env.models.training.loop import Arrays, LocalSession, TrainingSpec, default_device, train_network

if TYPE_CHECKING:
    import torch


class NetworkClassifier(TaskClassifier):
    """A classifier that is a PyTorch network, trained in this process or by Ray Train's workers.

    A subclass implements `spec`, sets `shape_`, and calls `train` in its `fit`.

    Attributes:
        device: where it trains in this process and predicts; None for a GPU where a network of its kind is worth one
            and this process may use it.
        history_: the metrics of each epoch.
        weights_: the network's state as PyTorch names it.
        shape_: of a row.
    """

    file_suffix: ClassVar = "safetensors"
    device: str | None = None
    checkpoints: str | None
    shape_: tuple[int, ...]

    @abstractmethod
    def spec(self) -> TrainingSpec:
        """Return what `fit` trains, of the task and the classes it found."""

    def train(self, train: Examples, validation: Examples | None) -> None:
        """Train on rows, stopped on validation rows where there are some, and keep weights and history."""
        spec = self.spec()
        if spec.settings.workers:
            from acoustic_env.models.training.on_ray import train_on_ray

            trained = train_on_ray(spec, train, validation, self.checkpoints)
        else:
            trained = train_network(spec, train, validation, LocalSession(self.runs_on))
        self.weights_, self.history_ = trained.best_weights, [dict(epoch) for epoch in trained.history]

    @property
    def runs_on(self) -> str:
        """Where the network trains in this process and predicts."""
        return self.device or default_device(self.spec().settings)

    def network(self) -> torch.nn.Module:
        """Return the fitted network on its device, rows [n, *shape] to logits [n, outputs], without dropout.

        It is the same until the classifier is fitted again or given another device: change one of `build` instead.
        """
        check_is_fitted(self, "weights_")
        device = self.runs_on
        weights, place, network = _NETWORKS.get(self, (None, None, None))
        if network is None or weights is not self.weights_ or place != device:
            network = self.build(device)
            _NETWORKS[self] = (self.weights_, device, network)
        return network

    def build(self, device: str) -> torch.nn.Module:
        """Return a new copy of the fitted network on a device."""
        import torch

        spec = self.spec()
        network = spec.settings.network(self.shape_, spec.outputs, self.task_).to(device)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.weights_.items()})
        return network.eval().requires_grad_(requires_grad=False)


# Networks that predict, by weights and device; no attributes of their classifiers, which are copied and stored.
_NETWORKS: WeakKeyDictionary[NetworkClassifier, tuple[Arrays, str, torch.nn.Module]] = WeakKeyDictionary()
