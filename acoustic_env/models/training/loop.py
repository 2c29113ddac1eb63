"""The training loop of networks, which both this process and Ray workers run. It knows neither Ray nor the network.

What differs between one process and many is the session: who I am, on which device, where the last run got to, where
to report. The first process alone validates, and all decide by its numbers. Every epoch draws its order and its dropout
from (seed, epoch), so a run that was killed and resumed ends with the weights it would have had. Within an epoch
nothing waits for the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from acoustic_env.config import Task
from acoustic_env.errors import UsageError
from acoustic_env.features.precision import float32_products
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.training.settings import NetworkSettings
from acoustic_env.stats.ranking import Ranking, mean_over_classes

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]

# Of one forward pass outside training.
PREDICT_ROWS: Final = 8192
# Frames times bands of sequences: on a GPU 1 GiB for each 32 channels of a convolution as large as its input.
PREDICT_CELLS: Final = {"cpu": 1 << 20, "cuda": 1 << 23}


class Diverged(UsageError):  # noqa: N818  the outcome's own name
    """The loss or the logits of a network are not finite any more."""


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
    """The surroundings of a training loop: the current process, without checkpoints.

    Args:
        device: where the network trains; None for a GPU where it is worth one and this process may use it.

    Attributes:
        rank, workers: which worker of how many this is.
    """

    rank = 0
    workers = 1
    device: str | None = None

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def resume(self) -> Progress | None:
        """Return where an earlier attempt got to, or None; local training cannot resume."""
        return None

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Average the gradients of the network over the workers; here, return the network itself."""
        return network

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a number over the workers."""
        return value

    def of_first(self, values: Sequence[float]) -> Sequence[float]:
        """Return the first worker's numbers."""
        return values

    def report(self, state: Progress, snapshot: Callable[[], Progress], *, last: bool) -> None:
        """Receive the state after an epoch; `snapshot` adds its arrays, and is called only when they are kept."""


class DistributedSession(LocalSession):
    """One process of a `torch.distributed` group, without checkpoints."""

    def __init__(self, device: str) -> None:
        from torch import distributed

        super().__init__(device)
        self.rank, self.workers = distributed.get_rank(), distributed.get_world_size()

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """Average the gradients of the network over the workers; all have the first one's weights and buffers."""
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(network)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a number over the workers."""
        from torch import distributed

        distributed.all_reduce(value)
        return value / self.workers

    def of_first(self, values: Sequence[float]) -> Sequence[float]:
        """Return the first worker's numbers."""
        import torch

        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(shared, src=0)
        found: list[float] = shared.tolist()
        return found


def default_device(settings: NetworkSettings) -> str:
    """Return "cuda" for a network that is worth a GPU, where this process may use one, else "cpu"."""
    from acoustic_env.pipeline.cluster import may_use_gpu

    return "cuda" if settings.uses_gpu and may_use_gpu() else "cpu"


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

    Raises:
        Diverged: the loss, the weights or a logit of a validation row are not finite after an epoch.
    """
    import torch

    settings, device = spec.settings, session.device or default_device(spec.settings)
    torch.manual_seed(settings.seed)
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
        torch.manual_seed((settings.seed * 100_003 + epoch) * 1_009 + session.rank)
        network.train()
        loss, waited = _run_epoch(wrapped, optimizer, data, order, session, spec, epoch)
        own = (math.nan, math.nan)
        if validation is not None and not session.rank:
            own = validation_score(forward(network, validation.x), validation.y, spec.task)
        score, held_loss = session.of_first(own)
        rate = optimizer.param_groups[0]["lr"]
        if not math.isfinite(loss) or (validation is not None and not math.isfinite(held_loss)):
            raise Diverged(
                f"the {settings.kind} diverged in epoch {epoch} at learning rate {rate:.2g}: its loss is {loss:.4g}, "
                f"on validation rows {held_loss:.4g}; set a lower `learning_rate` or `max_grad_norm` "
                f"(now {settings.max_grad_norm:g}) in the recipe's `model`"
            )
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
            "learning_rate": rate,
            "seconds": time.perf_counter() - started,
            "data_seconds": waited,
        }
        state = replace(state, history=(*state.history, metrics))
        session.report(state, partial(_snapshot, state, best, network, optimizer), last=state.is_last(settings))
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
    """Return the mean loss, NaN where the weights are not finite any more, and the seconds spent waiting for rows."""
    import torch

    settings, waited = spec.settings, 0.0
    total = torch.zeros((), dtype=torch.float64, device=data.device)
    batches = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    own = [batch[session.rank :: session.workers] for batch in batches]
    # A last batch with fewer rows than workers leaves some without: they still join the averaging, weight zero.
    coming = data.batches([rows if len(rows) else batch[:1] for rows, batch in zip(own, batches, strict=True)])
    steps, parameters = len(batches), list(network.parameters())
    with float32_products(tf32=False):
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
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            total += loss.detach().double() * len(batch)
    finite = torch.stack([parameter.isfinite().all() for parameter in parameters]).all()
    return session.mean(torch.where(finite, total / len(order), math.nan)).item(), waited


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

        def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
            made = torch.from_numpy(array)
            return made if self.device == "cpu" else made.pin_memory().to(self.device, non_blocking=True)

        for rows, x in zip(batches, _one_ahead(read_batches(self.x, batches)), strict=True):
            weights = None if self.weights is None else tensor(self.weights[rows])
            yield tensor(x), tensor(self.targets[rows]), weights


def _one_ahead(arrays: Iterator[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield arrays, while a thread reads the next one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, arrays, None)
        while (array := coming.result()) is not None:
            coming = thread.submit(next, arrays, None)
            yield array


def read_batches(x: Any, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the rows of each batch, of an array or of `Sequences`."""
    return x.batches(batches) if isinstance(x, Sequences) else (x[rows] for rows in batches)


def forward(network: torch.nn.Module, x: Any) -> npt.NDArray[Any]:
    """Return logits [n, outputs] of rows, without dropout, on the network's device and in its precision."""
    import torch

    network.eval()
    like = next(network.parameters())
    step = PREDICT_ROWS if x.ndim == 2 else max(1, PREDICT_CELLS[like.device.type] // math.prod(x.shape[1:]))
    batches = [np.arange(start, min(start + step, len(x))) for start in range(0, len(x), step)]
    with torch.no_grad(), float32_products(tf32=False):
        parts = [network(torch.from_numpy(rows).to(like)) for rows in read_batches(x, batches)]
        return np.asarray(torch.cat(parts).cpu().numpy())


def validation_score(logits: npt.NDArray[np.float32], y: npt.NDArray[Any], task: Task) -> tuple[float, float]:
    """Return the score training stops on and the log loss that breaks its ties.

    The score is AUC (binary), mean one-against-rest AUC (multiclass) or mAP (multilabel); rows of one class only have
    none, and then it is minus the loss. Logits that are not finite have neither: NaN.
    """
    if not np.isfinite(logits).all():
        return math.nan, math.nan
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
