"""The MLP: its network, the one training loop that both this process and Ray workers run, and the classifier.

The loop knows no Ray. What differs between one process and many is a `Session`: who I am, where the last run got to,
where to report. Every epoch draws its order and its dropout from (seed, epoch), so a run that was killed and resumed
ends with the weights it would have had.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy import special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.config import Task
from acoustic_env.models.classifier import Examples, check_rows, most_likely, probabilities
from acoustic_env.models.classifiers.mlp import MLPSettings
from acoustic_env.models.evaluate import Floats, Ranking, mean_over_classes, roc_auc

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]

# Rows of one forward pass outside training.
PREDICT_ROWS: Final = 8192


@dataclass(frozen=True)
class Progress:
    """The state of training after an epoch: everything the next epoch needs.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch (from 1) with the best validation score so far.
        best_score: that score.
        best_loss: its validation loss, which breaks ties of the score.
        arrays: `weights.*` of now, `best.*` of the best epoch, `optimizer.*`.
    """

    epoch: int
    best_epoch: int
    best_score: float
    best_loss: float
    arrays: Arrays

    @property
    def best_weights(self) -> Arrays:
        """The best epoch's weights, by the names of `build_network`'s layers."""
        return {name.removeprefix("best."): array for name, array in self.arrays.items() if name.startswith("best.")}


class Session(Protocol):
    """The surroundings of a training loop.

    Attributes:
        rank, workers: which worker of how many this is.
    """

    rank: int
    workers: int

    def resume(self) -> Progress | None:
        """Return where an earlier attempt got to, or None."""

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Average the gradients of the network over the workers."""

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        """Receive the metrics of an epoch; `progress` is made only when it is kept, which the last one should be."""


class LocalSession:
    """Training in the current process, without checkpoints."""

    rank = 0
    workers = 1

    def resume(self) -> Progress | None:
        """Return None; local training cannot resume."""
        return None

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network itself."""
        return network

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        """Ignore the metrics."""


@dataclass(frozen=True)
class TrainingSpec:
    """What to train: passed to workers as it is.

    Attributes:
        settings: of the MLP; `seed` is that of weights, dropout and order.
        task: of the rows.
        classes: number of classes.
    """

    settings: MLPSettings
    task: Task
    classes: int

    @property
    def outputs(self) -> int:
        """Units of the last layer: one logit for binary."""
        return 1 if self.task == "binary" else self.classes


def build_network(inputs: int, outputs: int, settings: MLPSettings) -> torch.nn.Sequential:
    """Build dropout, then (linear, activation, dropout) per hidden layer, then linear: [n, inputs] -> [n, outputs]."""
    from torch import nn

    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[settings.activation]
    layers: list[nn.Module] = [nn.Dropout(settings.dropout)]
    width = inputs
    for units in settings.layers:
        layers += [nn.Linear(width, units), activation(), nn.Dropout(settings.dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def train_network(spec: TrainingSpec, train: Examples, validation: Examples | None, session: Session) -> Arrays:
    """Train until the validation score has not improved for `patience` epochs; return the best epoch's weights.

    Without validation rows it trains for `max_epochs` and returns the last weights. Each step takes one batch of
    `batch_size` rows, distributed over the workers, whose gradients are averaged: the same steps whatever their number.

    Args:
        spec: what to train.
        train, validation: rows; every worker has all of them.
        session: the surroundings.

    Returns:
        `<layer>.weight` and `<layer>.bias` as float32 arrays.
    """
    import torch

    settings = spec.settings
    torch.manual_seed(settings.seed)
    network = build_network(train.x.shape[1], spec.outputs, settings)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = session.resume()
    if state is None:
        state = Progress(0, 0, -math.inf, math.inf, {})
    else:
        _load(network, optimizer, state.arrays)
    best = state.best_weights
    wrapped = session.wrap(network)
    data = _tensors(train, spec.task)
    best_epoch, best_score, best_loss = state.best_epoch, state.best_score, state.best_loss

    last = state.epoch >= settings.max_epochs or state.epoch - best_epoch >= settings.patience
    epoch = state.epoch
    while not last:
        epoch += 1
        order = torch.from_numpy(np.random.default_rng([settings.seed, epoch]).permutation(len(train)))
        torch.manual_seed((settings.seed * 100_003 + epoch) * 1_009 + session.rank)
        network.train()
        loss = _run_epoch(wrapped, optimizer, data, order, session, spec)
        score, held_loss = float(epoch), 0.0
        if validation is not None:
            score, held_loss = validation_score(forward(network, validation.x), validation.y, spec.task)
        if (score, -held_loss) > (best_score, -best_loss):
            best_epoch, best_score, best_loss = epoch, score, held_loss
            if validation is not None or epoch == settings.max_epochs:
                best = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
        last = epoch >= settings.max_epochs or epoch - best_epoch >= settings.patience
        reached = Progress(epoch, best_epoch, best_score, best_loss, {})
        metrics = {
            "epoch": float(epoch),
            "train_loss": loss,
            "validation_score": score,
            "validation_loss": held_loss,
            "best_score": best_score,
        }
        session.report(metrics, partial(_snapshot, reached, best, network, optimizer), last=last)
    return best


def _run_epoch(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    order: torch.Tensor,
    session: Session,
    spec: TrainingSpec,
) -> float:
    inputs, targets, weights = data
    total = 0.0
    for start in range(0, len(order), spec.settings.batch_size):
        batch = order[start : start + spec.settings.batch_size]
        rows = batch[session.rank :: session.workers]
        # A last batch with fewer rows than workers leaves some without: they still join the averaging, weight zero.
        share = len(rows) * session.workers / len(batch)
        rows = rows if len(rows) else batch[:1]
        loss = (
            _loss(network(inputs[rows]), targets[rows], None if weights is None else weights[rows], spec.task) * share
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return total / len(order)


def _tensors(examples: Examples, task: Task) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Inputs, targets and weights (of mean 1) of rows."""
    import torch

    y, weights = examples.y, examples.weights
    # bool until used: 22,000 clips of 527 classes as float32 would be 46 MB a copy.
    targets = y.astype(np.int64) if task == "multiclass" else y.astype(bool) if y.ndim == 2 else (y[:, None] == 1)
    scaled = None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))
    return torch.from_numpy(examples.x), torch.from_numpy(targets), scaled


def _loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, task: Task) -> torch.Tensor:
    from torch.nn import functional

    if task == "multiclass":
        if weights is None:
            return functional.cross_entropy(logits, targets)
        return (functional.cross_entropy(logits, targets, reduction="none") * weights).mean()
    own = None if weights is None else weights[:, None]
    return functional.binary_cross_entropy_with_logits(logits, targets.float(), own, reduction="sum") / len(targets)


def forward(network: torch.nn.Module, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return logits [n, outputs] without dropout."""
    import torch

    network.eval()
    with torch.no_grad():
        parts = [network(torch.from_numpy(x[i : i + PREDICT_ROWS])).numpy() for i in range(0, len(x), PREDICT_ROWS)]
    return np.concatenate(parts)


def validation_score(logits: npt.NDArray[np.float32], y: npt.NDArray[Any], task: Task) -> tuple[float, float]:
    """Return the score training stops on and the log loss that breaks its ties.

    The score is AUC (binary), mean one-against-rest AUC (multiclass) or mAP (multilabel); rows of one class only have
    none, and then it is minus the loss.
    """
    if task == "multiclass":
        truth = np.eye(logits.shape[1], dtype=bool)[y]
        loss = float(np.mean(special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]))
        score = mean_over_classes(truth, logits, Ranking.auc)(None)
    else:
        truth = y if y.ndim == 2 else (y == 1)[:, None]
        loss = float(np.mean((np.logaddexp(0, logits) - logits * truth).sum(axis=1)))
        if task == "binary":
            score = roc_auc(truth[:, 0], logits[:, 0])
        else:
            score = mean_over_classes(truth, logits, Ranking.average_precision)(None)
    return (score if np.isfinite(score) else -loss), loss


def _snapshot(reached: Progress, best: Arrays, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    arrays: Arrays = {f"best.{name}": value for name, value in best.items()}
    arrays |= {f"weights.{name}": value.detach().numpy() for name, value in network.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{index}.{name}": value.numpy() for name, value in moments.items()}
    return Progress(reached.epoch, reached.best_epoch, reached.best_score, reached.best_loss, arrays)


def _load(network: torch.nn.Module, optimizer: torch.optim.Optimizer, arrays: Arrays) -> None:
    import torch

    def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    prefix = "weights."
    network.load_state_dict({n.removeprefix(prefix): tensor(a) for n, a in arrays.items() if n.startswith(prefix)})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, array in arrays.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = tensor(array)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


class MLPClassifier(ClassifierMixin, BaseEstimator):
    """A multilayer perceptron on scikit-learn's contract; predicts with NumPy alone.

    Args:
        layers, activation, dropout, learning_rate, weight_decay, batch_size, max_epochs, patience, workers: see
            `MLPSettings`.
        checkpoints: where Ray Train's workers keep checkpoints, a folder or URL every node sees; None for a temporary
            folder. Without workers there are none.
        random_state: seed of weights, dropout and order.

    Attributes:
        classes_: [classes].
        weights_: `<layer>.weight` and `<layer>.bias`, named as PyTorch names them in `build_network`.
    """

    file_suffix: ClassVar = "safetensors"
    task_: Task
    classes_: npt.NDArray[Any]

    def __init__(
        self,
        layers: Sequence[int] = (240,),
        activation: str = "relu",
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 256,
        max_epochs: int = 200,
        patience: int = 15,
        workers: int = 0,
        checkpoints: str | None = None,
        random_state: Any = None,
    ) -> None:
        self.layers = layers
        self.activation = activation
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.workers = workers
        self.checkpoints = checkpoints
        self.random_state = random_state

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
        train, validation = check_rows(self, X, y, sample_weight, X_val, y_val)
        own = {name: value for name, value in self.get_params().items() if name not in ("checkpoints", "random_state")}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        settings = MLPSettings(**{**own, "layers": tuple(self.layers), "seed": int(seed)})
        spec = TrainingSpec(settings, self.task_, len(self.classes_))
        if not self.workers:
            self.weights_ = train_network(spec, train, validation, LocalSession())
            return self
        from acoustic_env.models.train import train_on_ray

        with nullcontext(self.checkpoints) if self.checkpoints else tempfile.TemporaryDirectory() as place:
            self.weights_ = train_on_ray(spec, train, validation, place)
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Return probabilities [n, classes]."""
        return probabilities(self.logits(X), self.task_)

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the likeliest class [n], or bool [n, classes] of probability 0.5 or more for multilabel."""
        return most_likely(self.predict_proba(X), self.classes_, self.task_)

    def logits(self, X: Any) -> npt.NDArray[np.float32]:
        """Return logits [n, outputs]."""
        check_is_fitted(self, "weights_")
        found: npt.NDArray[np.float32] = validate_data(self, X, dtype=np.float32, reset=False)
        names = sorted({int(name.split(".")[0]) for name in self.weights_})
        for name in names:
            found = found @ self.weights_[f"{name}.weight"].T + self.weights_[f"{name}.bias"]
            if name != names[-1]:
                found = np.maximum(found, 0, out=found) if self.activation == "relu" else np.tanh(found, out=found)
        return found

    def dump_fitted(self) -> bytes:
        """Return what `fit` learned as safetensors."""
        from safetensors.numpy import save

        return save({**self.weights_, "classes": np.asarray(self.classes_)}, {"task": self.task_})

    def load_fitted(self, data: bytes) -> MLPClassifier:
        """Take over what `dump_fitted` returned."""
        from safetensors.numpy import load

        self.weights_ = load(data)
        self.classes_ = self.weights_.pop("classes")
        first = min(self.weights_, key=lambda name: int(name.split(".")[0]))
        self.n_features_in_ = self.weights_[f"{first.split('.')[0]}.weight"].shape[1]
        self.task_ = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["task"]
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
