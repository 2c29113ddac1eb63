"""Networks on scikit-learn's contract: what they share, and the multilayer perceptron."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.models.classifier import Examples, TaskClassifier, in_double, probabilities
from acoustic_env.models.classifiers.mlp import MLPSettings
from acoustic_env.models.storage import dump_arrays, load_arrays
from acoustic_env.models.training import Arrays, LocalSession, TrainingSpec, default_device, train_network
from acoustic_env.stats.intervals import Floats

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
            from acoustic_env.models.train import train_on_ray

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


@dataclass(eq=False, repr=False)
class MLPClassifier(NetworkClassifier):
    """A multilayer perceptron on scikit-learn's contract; predicts with NumPy alone.

    Args:
        layers, activation, dropout, learning_rate, weight_decay, batch_size, max_epochs, patience, max_grad_norm,
            workers: see `MLPSettings`.
        checkpoints: where Ray Train's workers keep checkpoints, a folder or URL every node sees; None for the memory of
            the run. Without workers there are none.
        random_state: seed of weights, dropout and order.

    Attributes:
        history_: the metrics of each epoch.
        weights_: `<layer>.weight` and `<layer>.bias`, named as PyTorch names them in `MLPSettings.network`.

    >>> y = np.repeat([0, 1], 50)
    >>> X = np.random.default_rng(23).normal(size=(100, 3)) + 3 * y[:, None]
    >>> fitted = MLPClassifier(layers=(8,), max_epochs=3, random_state=23).fit(X, y)
    >>> fitted.predict_proba(X).shape, len(fitted.history_), sorted(fitted.weights_)[0]
    ((100, 2), 3, '1.bias')
    """

    layers: Sequence[int] = (240,)
    activation: str = "relu"
    dropout: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 256
    max_epochs: int = 200
    patience: int | None = 15
    max_grad_norm: float = 10.0
    workers: int = 0
    checkpoints: str | None = None
    random_state: Any = None

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> MLPClassifier:
        """Train on rows, stopped on validation rows where there are some, else for `max_epochs`.

        Args:
            X: [n, features].
            y: [n] classes, or bool [n, classes] for multilabel.
            sample_weight: [n].
            X_val, y_val: validation rows.

        Raises:
            ValueError: one class only, or wrong shapes.
        """
        train, validation = self.check_rows(X, y, sample_weight, X_val, y_val)
        self.shape_ = train.x.shape[1:]
        self.train(train, validation)
        return self

    def spec(self) -> TrainingSpec:
        own = {name: value for name, value in self.get_params().items() if name not in ("checkpoints", "random_state")}
        settings = MLPSettings(**{**own, "layers": tuple(self.layers), "seed": self.seed()})
        return TrainingSpec(settings, self.task_, len(self.classes_))

    def predict_proba(self, X: Any) -> Floats:
        """Return probabilities [n, classes]."""
        return probabilities(self.logits(X), self.task_)

    def logits(self, X: Any) -> Floats:
        """Return logits [n, outputs]."""
        check_is_fitted(self, "weights_")
        return in_double(self._forward, validate_data(self, X, dtype=np.float32, reset=False))

    def _forward(self, found: Floats) -> Floats:
        names = sorted({int(name.split(".")[0]) for name in self.weights_})
        for name in names:
            found = found @ self.weights_[f"{name}.weight"].T + self.weights_[f"{name}.bias"]
            if name != names[-1]:
                found = np.maximum(found, 0, out=found) if self.activation == "relu" else np.tanh(found, out=found)
        return found

    def dump_fitted(self) -> bytes:
        """Return what `fit` learned as safetensors."""
        arrays = {**self.weights_, "classes": np.asarray(self.classes_)}
        return dump_arrays(arrays, {"task": self.task_, "history": self.history_})

    def load_fitted(self, data: bytes) -> MLPClassifier:
        """Take over what `dump_fitted` returned."""
        self.weights_, described = load_arrays(data)
        self.classes_ = self.weights_.pop("classes")
        first = min(self.weights_, key=lambda name: int(name.split(".")[0]))
        self.n_features_in_ = self.weights_[f"{first.split('.')[0]}.weight"].shape[1]
        self.shape_ = (self.n_features_in_,)
        self.task_, self.history_ = described["task"], described["history"]
        return self
