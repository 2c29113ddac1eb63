"""Networks on sequences as a classifier on scikit-learn's contract; rows are frames [n, frames, bands]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from acoustic_env.models.data.arrays import dump_arrays, load_arrays
from acoustic_env.models.data.cut import Cut
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.data.windows import Windows, fit_exponent, in_windows, pool
from acoustic_env.models.estimators.contract import probabilities
from acoustic_env.models.estimators.network_classifier import NetworkClassifier
from acoustic_env.models.training.loop import TrainingSpec, forward
from acoustic_env.models.training.settings import NetworkSettings
from acoustic_env.stats.intervals import Floats


class SequenceClassifier(NetworkClassifier):
    """A network of a registered kind.

    Args:
        settings: of the kind; they build the network and train it.
        checkpoints: where Ray Train's workers keep checkpoints; None for the memory of the run.
        random_state: seed of weights, order, augmentation and dropout.

    Attributes:
        weights_: the network's state as PyTorch names it.
        shape_: frames and bands of a row, or of a window.
        history_: the metrics of each epoch.
        cut_: how rows are cut into windows, None for whole rows.
        exponent_: of learned pooling, fitted on validation rows.
    """

    def __init__(self, settings: NetworkSettings, checkpoints: str | None = None, random_state: Any = None) -> None:
        self.settings = settings
        self.checkpoints = checkpoints
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None
    ) -> SequenceClassifier:
        """Train; the weights of the best validation epoch are kept, without validation rows those of the last.

        Args:
            X: `Sequences` or an array [n, frames, bands].
            y: [n] classes, or bool [n, classes] for multilabel.
            sample_weight: [n].
            X_val, y_val: validation rows.

        Rows that are to be cut into windows (`Sequences.cut`) are trained on and stopped on window by window.

        Raises:
            ValueError: one class only, or rows that are no sequences.
            UsageError: more Ray Train workers than CPUs.
        """
        x, y = Sequences.of(X), np.asarray(y)
        coded = self.code_targets(y)
        weights = self.settings.row_weights(coded)
        if sample_weight is not None:
            weights = np.asarray(sample_weight) * (1 if weights is None else weights)
        train = in_windows(Examples(x, coded, np.arange(len(x)), weights))
        held = None
        if X_val is not None and len(X_val):
            known = np.asarray(y_val)
            known = known.astype(bool) if known.ndim == 2 else np.searchsorted(self.classes_, known)
            held = in_windows(Examples(Sequences.of(X_val), known, np.arange(len(X_val))))
        self.shape_, self.cut_, self.exponent_ = train.x.shape[1:], x.cut, 0.0
        self.train(train, held)
        if held is not None and x.cut is not None and x.cut.pooling == "learned":
            found = probabilities(self.logits(held.x), self.task_)
            self.exponent_ = fit_exponent(found, held.groups, known, self.task_)
        return self

    def spec(self) -> TrainingSpec:
        return TrainingSpec(self.settings.replace(seed=self.seed()), self.task_, len(self.classes_))

    def logits(self, X: Any) -> npt.NDArray[np.float32]:
        """Return logits [n, outputs]."""
        return forward(self.network(), Sequences.of(X))

    def predict_proba(self, X: Any) -> Floats:
        """Return probabilities [n, classes], those of windows pooled, or [windows, classes] where they are not."""
        x = Sequences.of(X)
        if self.cut_ is None:
            return probabilities(self.logits(x), self.task_)
        windows = Windows(x, self.cut_)
        found = probabilities(self.logits(windows), self.task_)
        if self.cut_.pooling is None:
            return found
        return pool(found, windows.owners, self.cut_.pooling, self.task_, self.exponent_)

    def dump_fitted(self) -> bytes:
        """Return what `fit` learned as safetensors."""
        arrays = {f"network.{name}": value for name, value in self.weights_.items()}
        described = {name: getattr(self, f"{name}_") for name in ("task", "shape", "history", "cut", "exponent")}
        return dump_arrays({**arrays, "classes": np.asarray(self.classes_)}, described)

    def load_fitted(self, data: bytes) -> SequenceClassifier:
        """Take over what `dump_fitted` returned."""
        arrays, described = load_arrays(data)
        self.task_, self.classes_ = described["task"], arrays.pop("classes")
        self.shape_, self.history_ = tuple(described["shape"]), described["history"]
        self.cut_ = Cut(*described["cut"]) if described["cut"] else None
        self.exponent_ = described["exponent"]
        self.weights_ = {name.removeprefix("network."): value for name, value in arrays.items()}
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags
