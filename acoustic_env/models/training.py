"""The training loop of networks, which both this process and Ray workers run. It knows neither Ray nor the network.

What differs between one process and many is the session: who I am, where the last run got to, where to report. Every
epoch draws its order and its dropout from (seed, epoch), so a run that was killed and resumed ends with the weights it
would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from acoustic_env.config import Task
from acoustic_env.models.classifier import Examples
from acoustic_env.models.classifiers.network import NetworkSettings
from acoustic_env.models.evaluate import Ranking, mean_over_classes
from acoustic_env.models.sequences import Sequences

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]

# Rows of one forward pass outside training.
PREDICT_ROWS: Final = 8192
PREDICT_CELLS: Final = 1 << 20  # frames times bands of sequences


@dataclass(frozen=True)
class Progress:
    """The state of training after an epoch: everything the next epoch needs.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch (from 1) with the best validation score so far.
        best_score: that score.
        best_loss: its validation loss, which breaks ties of the score.
        history: metrics of each epoch.
        arrays: `weights.*` of now, `best.*` of the best epoch, `optimizer.*`.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    best_loss: float = math.inf
    history: Sequence[Mapping[str, float]] = ()
    arrays: Arrays = field(default_factory=dict)

    @property
    def best_weights(self) -> Arrays:
        """The best epoch's weights, by the names of the network's layers."""
        return {name.removeprefix("best."): array for name, array in self.arrays.items() if name.startswith("best.")}

    def is_last(self, settings: NetworkSettings) -> bool:
        """Return whether training ends after this epoch."""
        stale = self.epoch - self.best_epoch
        return self.epoch >= settings.max_epochs or (settings.patience is not None and stale >= settings.patience)


class LocalSession:
    """The surroundings of a training loop: the current process, without checkpoints. `RaySession` is a worker's.

    Attributes:
        rank, workers: which worker of how many this is.
    """

    rank = 0
    workers = 1

    def resume(self) -> Progress | None:
        """Return where an earlier attempt got to, or None; local training cannot resume."""
        return None

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Average the gradients of the network over the workers; here, return the network itself."""
        return network

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        """Receive the metrics of an epoch; `progress` is made only when it is kept, which the last one should be."""


@dataclass(frozen=True)
class TrainingSpec:
    """What to train: passed to workers as it is.

    Attributes:
        settings: of the network; `seed` is that of weights, dropout and order.
        task: of the rows.
        classes: number of classes.
    """

    settings: NetworkSettings
    task: Task
    classes: int

    @property
    def outputs(self) -> int:
        """Units of the last layer: one logit for binary."""
        return 1 if self.task == "binary" else self.classes


def train_network(spec: TrainingSpec, train: Examples, validation: Examples | None, session: LocalSession) -> Progress:
    """Train until the validation score has not improved for `patience` epochs.

    Without validation rows, or with a patience of None, it trains for `max_epochs`, and the last weights are the best.
    Each step takes one batch of `batch_size` rows, distributed over the workers, whose gradients are averaged: the same
    steps whatever their number.

    Args:
        spec: what to train.
        train, validation: rows; every worker has, or can read, all of them. Without validation rows their metrics are
            NaN.
        session: the surroundings.

    Returns:
        The state after the last epoch, with the best epoch's weights.
    """
    import torch

    settings = spec.settings
    torch.manual_seed(settings.seed)
    device = "cuda" if settings.uses_gpu and torch.cuda.is_available() else "cpu"
    network = settings.network(tuple(train.x.shape[1:]), spec.outputs, spec.task).to(device)
    settings.fit_scaling(network, train.x)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = session.resume()
    if state is None:
        state = Progress()
    else:
        _load(network, optimizer, state.arrays)
    best, state = state.best_weights, replace(state, arrays={})
    wrapped = session.wrap(network)
    data = _Rows(train, spec.task, device)
    stops = validation is not None and settings.patience is not None

    while not state.is_last(settings):
        epoch = state.epoch + 1
        started = time.perf_counter()
        rng = np.random.default_rng([settings.seed, epoch])
        order = settings.epoch_rows(train.y, rng)
        if isinstance(train.x, Sequences):
            order = train.x.shuffle(order, rng)
        torch.manual_seed((settings.seed * 100_003 + epoch) * 1_009 + session.rank)
        network.train()
        loss, waited = _run_epoch(wrapped, optimizer, data, order, session, spec, epoch)
        score = held_loss = math.nan
        if validation is not None:
            score, held_loss = validation_score(forward(network, validation.x), validation.y, spec.task)
        state = replace(state, epoch=epoch)
        reached = (score, held_loss) if stops else (float(epoch), 0.0)
        if (reached[0], -reached[1]) > (state.best_score, -state.best_loss):
            state = replace(state, best_epoch=epoch, best_score=reached[0], best_loss=reached[1])
            if stops or epoch == settings.max_epochs:
                best = {name: value.cpu().numpy().copy() for name, value in network.state_dict().items()}
        metrics = {
            "epoch": float(epoch),
            "train_loss": loss,
            "validation_score": score,
            "validation_loss": held_loss,
            "best_score": state.best_score,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
            "data_seconds": waited,
        }
        state = replace(state, history=(*state.history, metrics))
        session.report(metrics, partial(_snapshot, state, best, network, optimizer), last=state.is_last(settings))
    return replace(state, arrays={f"best.{name}": value for name, value in best.items()})


def _run_epoch(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: _Rows,
    order: npt.NDArray[np.int64],
    session: LocalSession,
    spec: TrainingSpec,
    epoch: int,
) -> tuple[float, float]:
    """Return the mean loss, and the seconds that the network waited for rows."""
    settings, total, waited = spec.settings, 0.0, 0.0
    batches = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    own = [batch[session.rank :: session.workers] for batch in batches]
    # A last batch with fewer rows than workers leaves some without: they still join the averaging, weight zero.
    coming = data.batches([rows if len(rows) else batch[:1] for rows, batch in zip(own, batches, strict=True)])
    steps = len(batches)
    for step, (rows, batch) in enumerate(zip(own, batches, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate_at((epoch - 1) * steps + step, steps * settings.max_epochs)
        started = time.perf_counter()
        inputs, targets, weights = next(coming)
        waited += time.perf_counter() - started
        inputs, targets = settings.mix(inputs, targets, spec.outputs)
        share = len(rows) * session.workers / len(batch)
        loss = settings.loss(network(inputs), targets, weights, spec.task) * share
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return total / len(order), waited


class _Rows:
    """Rows as tensors, batch by batch.

    Args:
        examples: rows; `x` may be `Sequences`, which are read when batches want them.
        task: of the rows.
        device: of the tensors.
    """

    def __init__(self, examples: Examples, task: Task, device: str) -> None:
        self.x, self.device, y = examples.x, device, examples.y
        # bool until used: 22,000 clips of 527 classes as float32 would be 46 MB a copy.
        self.targets = y.astype(np.int64) if task == "multiclass" else y.reshape(len(y), -1).astype(bool, copy=False)
        weights = examples.weights
        self.weights = None if weights is None else (weights / weights.mean()).astype(np.float32)

    def batches(
        self, batches: Sequence[npt.NDArray[np.int64]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yield inputs, targets and weights (of mean 1 over all rows) of the rows of each batch."""
        import torch

        for rows, x in zip(batches, read_batches(self.x, batches), strict=True):
            arrays = (x, self.targets[rows], None if self.weights is None else self.weights[rows])
            inputs, targets, weights = (None if a is None else torch.from_numpy(a).to(self.device) for a in arrays)
            assert inputs is not None
            assert targets is not None
            yield inputs, targets, weights


def read_batches(x: Any, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the rows of each batch, of an array or of `Sequences`."""
    return x.batches(batches) if isinstance(x, Sequences) else (x[rows] for rows in batches)


def forward(network: torch.nn.Module, x: Any) -> npt.NDArray[np.float32]:
    """Return logits [n, outputs] of rows, without dropout."""
    import torch

    network.eval()
    device = next(network.parameters()).device
    step = PREDICT_ROWS if x.ndim == 2 else max(1, PREDICT_CELLS // math.prod(x.shape[1:]))
    order = x.reading_order() if isinstance(x, Sequences) else np.arange(len(x))
    batches = [order[start : start + step] for start in range(0, len(x), step)]
    with torch.no_grad():
        parts = [network(torch.from_numpy(rows).to(device)).cpu().numpy() for rows in read_batches(x, batches)]
    logits = np.concatenate(parts)
    found = np.empty_like(logits)
    found[order] = logits
    return found


def validation_score(logits: npt.NDArray[np.float32], y: npt.NDArray[Any], task: Task) -> tuple[float, float]:
    """Return the score training stops on and the log loss that breaks its ties.

    The score is AUC (binary), mean one-against-rest AUC (multiclass) or mAP (multilabel); rows of one class only have
    none, and then it is minus the loss.
    """
    if task == "multiclass":
        truth = np.eye(logits.shape[1], dtype=bool)[y]
        loss = float(np.mean(special.logsumexp(logits, axis=1) - logits[truth]))
    else:
        truth = y.reshape(len(y), -1) == 1
        loss = float(np.mean((np.logaddexp(0, logits) - logits * truth).sum(axis=1)))
    measure = Ranking.average_precision if task == "multilabel" else Ranking.auc
    score = mean_over_classes(truth, logits, measure)(None)
    return (score if np.isfinite(score) else -loss), loss


def _snapshot(state: Progress, best: Arrays, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    arrays: Arrays = {f"best.{name}": value for name, value in best.items()}
    arrays |= {f"weights.{name}": value.cpu().numpy() for name, value in network.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{index}.{name}": value.cpu().numpy() for name, value in moments.items()}
    return replace(state, arrays=arrays)


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
