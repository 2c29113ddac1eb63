"""Networks on scikit-learn's contract: rows are features [n, features], or frames [n, frames, bands]."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.models.data.arrays import dump_arrays, load_arrays
from acoustic_env.models.data.cut import Cut
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.data.windows import Windows, fit_exponent, in_windows, pool
from acoustic_env.models.estimators.contract import TaskClassifier, probabilities
from acoustic_env.models.training.loop import (
    Arrays,
    LocalSession,
    TrainingSpec,
    default_device,
    forward,
    train_network,
)
from acoustic_env.models.training.settings import NetworkSettings
from acoustic_env.stats.intervals import Floats

if TYPE_CHECKING:
    import torch


class NetworkClassifier(TaskClassifier):
    """A PyTorch network of a registered kind, trained in this process or by Ray Train's workers.

    Args:
        settings: of the kind; they build the network and train it.
        checkpoints: where Ray Train's workers keep checkpoints, a folder or URL every node sees; None for the memory of
            the run. Without workers there are none.
        random_state: seed of weights, order, augmentation and dropout.

    Attributes:
        device: where it trains in this process and predicts; None for a GPU where a network of its kind is worth one
            and this process may use it.
        weights_: the network's state as PyTorch names it.
        shape_: of a row: features, or the frames and bands of a clip or a window.
        history_: the metrics of each epoch.
        cut_: how clips are cut into windows, None for whole rows.
        exponent_: of learned pooling, fitted on validation rows.

    >>> from acoustic_env.models.estimators.mlp import MLPSettings
    >>> y = np.repeat([0, 1], 50)
    >>> X = np.random.default_rng(23).normal(size=(100, 3)) + 3 * y[:, None]
    >>> fitted = NetworkClassifier(MLPSettings(layers=(8,), max_epochs=3), random_state=23).fit(X, y)
    >>> fitted.predict_proba(X).shape, len(fitted.history_), sorted(fitted.weights_)[0]
    ((100, 2), 3, '1.bias')
    """

    file_suffix: ClassVar = "safetensors"
    device: str | None = None

    def __init__(self, settings: NetworkSettings, checkpoints: str | None = None, random_state: Any = None) -> None:
        self.settings = settings
        self.checkpoints = checkpoints
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None
    ) -> NetworkClassifier:
        """Train; the weights of the best validation epoch are kept, without validation rows those of the last.

        Args:
            X: [n, features], or `Sequences` or an array [n, frames, bands].
            y: [n] classes, or bool [n, classes] for multilabel.
            sample_weight: [n].
            X_val, y_val: validation rows.

        Rows that are to be cut into windows (`Sequences.cut`) are trained on and stopped on window by window.

        Raises:
            ValueError: one class only, or wrong shapes.
            UsageError: more Ray Train workers than CPUs.
        """
        train, validation = self.check_rows(X, y, sample_weight, X_val, y_val)
        balance = self.settings.row_weights(train.y)
        if balance is not None:
            train = replace(train, weights=balance * (1 if train.weights is None else train.weights))
        self.cut_, self.exponent_ = getattr(train.x, "cut", None), 0.0
        train, held = in_windows(train), None if validation is None else in_windows(validation)
        self.shape_, spec = tuple(train.x.shape[1:]), self.spec()
        if spec.settings.workers:
            from acoustic_env.models.training.on_ray import train_on_ray

            trained = train_on_ray(spec, train, held, self.checkpoints)
        else:
            trained = train_network(spec, train, held, LocalSession(self.runs_on))
        self.weights_, self.history_ = trained.best_weights, [dict(epoch) for epoch in trained.history]
        if validation is not None and held is not None and self.cut_ is not None and self.cut_.pooling == "learned":
            found = probabilities(self.logits(held.x), self.task_)
            self.exponent_ = fit_exponent(found, held.groups, validation.y, self.task_)
        return self

    def check_rows(
        self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None, groups: Any = None
    ) -> tuple[Examples, Examples | None]:
        """Check the arguments of `fit`; frames are not read for it."""
        if not self.settings.reads_sequences:
            return super().check_rows(X, y, sample_weight, X_val, y_val, groups)
        x, coded = Sequences.of(X), self.code_targets(np.asarray(y))
        train = Examples(x, coded, np.arange(len(x)), None if sample_weight is None else np.asarray(sample_weight))
        if X_val is None or not len(X_val):
            return train, None
        return train, Examples(Sequences.of(X_val), self.codes(y_val), np.arange(len(X_val)))

    def spec(self) -> TrainingSpec:
        """Return what `fit` trains, of the task and the classes it found."""
        return TrainingSpec(self.settings.replace(seed=self.seed()), self.task_, len(self.classes_))

    @property
    def runs_on(self) -> str:
        """Where the network trains in this process and predicts."""
        return self.device or default_device(self.settings)

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
        return network.to(getattr(torch, spec.settings.predicts_in)).eval().requires_grad_(requires_grad=False)

    def logits(self, X: Any) -> Floats:
        """Return logits [n, outputs]."""
        network = self.network()
        frames = self.settings.reads_sequences
        return forward(network, Sequences.of(X) if frames else validate_data(self, X, dtype=np.float32, reset=False))

    def predict_proba(self, X: Any) -> Floats:
        """Return probabilities [n, classes], those of windows pooled, or [windows, classes] where they are not."""
        check_is_fitted(self, "weights_")
        if self.cut_ is None:
            return probabilities(self.logits(X), self.task_)
        windows = Windows(Sequences.of(X), self.cut_)
        found = probabilities(self.logits(windows), self.task_)
        if self.cut_.pooling is None:
            return found
        return pool(found, windows.owners, self.cut_.pooling, self.task_, self.exponent_)

    def dump_fitted(self) -> bytes:
        """Return what `fit` learned as safetensors."""
        arrays = {f"network.{name}": value for name, value in self.weights_.items()}
        described = {name: getattr(self, f"{name}_") for name in ("task", "shape", "history", "cut", "exponent")}
        return dump_arrays({**arrays, "classes": np.asarray(self.classes_)}, described)

    def load_fitted(self, data: bytes) -> NetworkClassifier:
        """Take over what `dump_fitted` returned."""
        arrays, described = load_arrays(data)
        self.task_, self.classes_ = described["task"], arrays.pop("classes")
        self.shape_, self.history_ = tuple(described["shape"]), described["history"]
        self.cut_ = Cut(*described["cut"]) if described["cut"] else None
        self.exponent_, self.n_features_in_ = described["exponent"], self.shape_[-1]
        self.weights_ = {name.removeprefix("network."): value for name, value in arrays.items()}
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = not self.settings.reads_sequences
        tags.input_tags.three_d_array = self.settings.reads_sequences
        return tags


# Networks that predict, by weights and device; no attributes of their classifiers, which are copied and stored.
_NETWORKS: WeakKeyDictionary[NetworkClassifier, tuple[Arrays, str, torch.nn.Module]] = WeakKeyDictionary()
