"""The multilayer perceptron on scikit-learn's contract: trained with PyTorch, predicts with NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.config import classifier_settings
from acoustic_env.models.data.arrays import dump_arrays, load_arrays
from acoustic_env.models.estimators.contract import in_double, probabilities
from acoustic_env.models.estimators.network_classifier import NetworkClassifier
from acoustic_env.models.training.loop import TrainingSpec
from acoustic_env.stats.intervals import Floats


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
        settings: Any = classifier_settings({"kind": "mlp", **own, "layers": list(self.layers), "seed": self.seed()})
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
