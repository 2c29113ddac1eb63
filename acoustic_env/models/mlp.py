"""The MLP: its network, the one training loop that both this process and Ray workers run, and the classifier.

The loop knows no Ray. What differs between one process and many is a `Session`: who I am, where the last run got to,
where to report. Every epoch draws its order and its dropout from (seed, epoch), so a run that was killed and resumed
ends with the weights it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy import special

from acoustic_env.config import ModelSettings, Task
from acoustic_env.models.classifier import Examples, State
from acoustic_env.models.evaluate import Floats, Ranking, mean_over_classes, roc_auc

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]

# Rows of one forward pass outside training.
PREDICT_ROWS: Final = 8192


@dataclass(frozen=True)
class Progress:
    """Where training stands after an epoch: everything the next epoch needs.

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
        """Where an earlier attempt got to, or None."""

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network with its gradients averaged over the workers."""

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        """Called after each epoch; `progress` is made only when it is kept, which the last one should be."""


class LocalSession:
    """A session of one process that keeps nothing."""

    rank = 0
    workers = 1

    def resume(self) -> Progress | None:
        """Nothing to resume."""
        return None

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network itself."""
        return network

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        """Nobody listens."""


@dataclass(frozen=True)
class Job:
    """What to train: passed to workers as it is.

    Attributes:
        settings: of the model.
        task: of the study.
        classes: how many.
    """

    settings: ModelSettings
    task: Task
    classes: int

    @property
    def outputs(self) -> int:
        """Units of the last layer: one logit for binary."""
        return 1 if self.task == "binary" else self.classes


Trainer = Callable[[Job, Examples, Examples], Arrays]


def build_network(inputs: int, outputs: int, settings: ModelSettings) -> torch.nn.Sequential:
    """Dropout, then (linear, activation, dropout) per hidden layer, then linear: [n, inputs] -> logits [n, outputs]."""
    from torch import nn

    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[settings.activation]
    layers: list[nn.Module] = [nn.Dropout(settings.dropout)]
    width = inputs
    for units in settings.layers:
        layers += [nn.Linear(width, units), activation(), nn.Dropout(settings.dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def train_network(job: Job, train: Examples, validation: Examples, session: Session) -> Arrays:
    """Train until the validation score has not improved for `patience` epochs; the best epoch's weights.

    Each step takes one batch of `batch_size` rows, dealt over the workers, whose gradients are averaged: the same steps
    whatever their number.

    Args:
        job: what to train.
        train, validation: rows; every worker has all of them.
        session: the surroundings.

    Returns:
        `<layer>.weight` and `<layer>.bias` as float32 arrays.
    """
    import torch

    settings = job.settings
    torch.manual_seed(settings.seed)
    network = build_network(train.x.shape[1], job.outputs, settings)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = session.resume()
    if state is None:
        state = Progress(0, 0, -math.inf, math.inf, {})
    else:
        _load(network, optimizer, state.arrays)
    best = state.best_weights
    wrapped = session.wrap(network)
    inputs, targets = torch.from_numpy(train.x), _targets(train.y, job.task)
    best_epoch, best_score, best_loss = state.best_epoch, state.best_score, state.best_loss

    last = state.epoch >= settings.max_epochs or state.epoch - best_epoch >= settings.patience
    epoch = state.epoch
    while not last:
        epoch += 1
        order = torch.from_numpy(np.random.default_rng([settings.seed, epoch]).permutation(len(train)))
        torch.manual_seed((settings.seed * 100_003 + epoch) * 1_009 + session.rank)
        network.train()
        loss = _run_epoch(wrapped, optimizer, inputs, targets, order, settings.batch_size, session, job.task)
        score, held_loss = validation_score(forward(network, validation.x), validation.y, job.task)
        if (score, -held_loss) > (best_score, -best_loss):
            best_epoch, best_score, best_loss = epoch, score, held_loss
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
    inputs: torch.Tensor,
    targets: torch.Tensor,
    order: torch.Tensor,
    batch_size: int,
    session: Session,
    task: Task,
) -> float:
    total = 0.0
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = batch[session.rank :: session.workers]
        # A last batch with fewer rows than workers leaves some without: they still join the averaging, weight zero.
        share = len(rows) * session.workers / len(batch)
        rows = rows if len(rows) else batch[:1]
        loss = _loss(network(inputs[rows]), targets[rows], task) * share
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return total / len(order)


def _targets(y: npt.NDArray[Any], task: Task) -> torch.Tensor:
    import torch

    if task == "multiclass":
        return torch.from_numpy(y.astype(np.int64))
    # bool until used: 22,000 clips of 527 classes as float32 would be 46 MB a copy.
    return torch.from_numpy(y.astype(bool) if y.ndim == 2 else (y[:, None] == 1))


def _loss(logits: torch.Tensor, targets: torch.Tensor, task: Task) -> torch.Tensor:
    from torch.nn import functional

    if task == "multiclass":
        return functional.cross_entropy(logits, targets)
    return functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum") / len(targets)


def forward(network: torch.nn.Module, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits [n, outputs] without dropout."""
    import torch

    network.eval()
    with torch.no_grad():
        parts = [network(torch.from_numpy(x[i : i + PREDICT_ROWS])).numpy() for i in range(0, len(x), PREDICT_ROWS)]
    return np.concatenate(parts)


def validation_score(logits: npt.NDArray[np.float32], y: npt.NDArray[Any], task: Task) -> tuple[float, float]:
    """The score training stops on and the log loss that breaks its ties.

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


def train_locally(job: Job, train: Examples, validation: Examples) -> Arrays:
    """Train in this process."""
    return train_network(job, train, validation, LocalSession())


class MlpClassifier:
    """The MLP behind the classifier contract; predicts with numpy alone.

    Attributes:
        trainer: where it trains: in this process, unless set to `train.train_on_ray`.
    """

    def __init__(self, settings: ModelSettings, task: Task, classes: int) -> None:
        self._job = Job(settings, task, classes)
        self.trainer: Trainer = train_locally
        self.weights_: Arrays = {}

    def fit(self, train: Examples, validation: Examples) -> None:
        """Train where `trainer` does, stopped on `validation`."""
        self.weights_ = self.trainer(self._job, train, validation)

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Probabilities [n, classes]."""
        scores = self.logits(x).astype(np.float64)
        if self._job.task == "multiclass":
            return np.asarray(special.softmax(scores, axis=1))
        positive = special.expit(scores)
        return np.hstack([1 - positive, positive]) if self._job.task == "binary" else np.asarray(positive)

    def logits(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits [n, outputs]."""
        names = sorted({int(name.split(".")[0]) for name in self.weights_})
        found = x
        for name in names:
            found = found @ self.weights_[f"{name}.weight"].T + self.weights_[f"{name}.bias"]
            if name != names[-1]:
                relu = self._job.settings.activation == "relu"
                found = np.maximum(found, 0, out=found) if relu else np.tanh(found, out=found)
        return found

    def state(self) -> State:
        """The weights of each layer, named as PyTorch names them in `build_network`."""
        facts = {
            "kind": "mlp",
            "task": self._job.task,
            "classes": self._job.classes,
            "layers": list(self._job.settings.layers),
            "activation": self._job.settings.activation,
            "dropout": self._job.settings.dropout,
        }
        return State(self.weights_, facts)

    @classmethod
    def restore(cls, state: State) -> MlpClassifier:
        """The classifier whose state this is."""
        facts: Any = state.facts
        settings = ModelSettings(
            layers=tuple(facts["layers"]), activation=facts["activation"], dropout=facts["dropout"]
        )
        made = cls(settings, facts["task"], facts["classes"])
        made.weights_ = {name: np.asarray(array) for name, array in state.arrays.items()}
        return made
