"""Data whose truth is known, as users have them: few recordings, of equal or unequal length, classes common or rare.

Clips of a recording share an effect on their scores, or on how often they are right. The truth is that of very many
recordings of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from acoustic_env.models.validation.thresholds import Calls
from acoustic_env.stats.intervals import Statistic, of_metric, of_share
from acoustic_env.stats.ranking import Ranking, mean_over_classes

GROUPS = (5, 10, 20, 50)
PREVALENCES = (0.02, 0.1, 0.5)  # of a class
WRONG = (0.1, 0.25, 0.5)  # share of the clips, for accuracy
METRICS = ("auc", "accuracy", "macro_f1", "map")
CLIPS = 30  # of a recording, on average
POPULATION = 20_000  # recordings


@dataclass(frozen=True)
class Cell:
    """One case of the simulation."""

    metric: str
    groups: int
    equal: bool
    prevalence: float  # of the rarest class; for accuracy the share of wrong clips

    def __str__(self) -> str:
        return f"{self.metric}-{self.groups}-{'equal' if self.equal else 'unequal'}-{self.prevalence:g}"


@dataclass(frozen=True)
class Drawn:
    """One sample: a statistic of weights, the recordings of its rows, and which recordings have each class."""

    statistic: Statistic
    groups: npt.NDArray[np.int64]
    truth: npt.NDArray[np.bool_]
    spread: Statistic | None = None


def draw(cell: Cell, random: np.random.Generator, groups: int) -> Drawn:
    """Draw clips of so many recordings."""
    sizes = np.full(groups, CLIPS)
    if not cell.equal:
        sizes = np.maximum(random.lognormal(np.log(CLIPS) - 0.25, 0.7, groups).astype(int), 1)
    group = np.repeat(np.arange(groups), sizes)
    n = len(group)
    if cell.metric == "accuracy":
        right = random.random(n) < random.beta(4 * (1 - cell.prevalence), 4 * cell.prevalence, groups)[group]
        return Drawn(lambda w: float(right.mean() if w is None else w @ right / w.sum()), group, right[:, None])
    shares = {"auc": [cell.prevalence], "macro_f1": [cell.prevalence, 0.3], "map": [cell.prevalence, 0.3, 0.1]}
    own = np.array(shares[cell.metric])
    # A recording has more of some classes than others.
    rates = np.stack([random.beta(4 * p, 4 * (1 - p), groups) for p in own], axis=1)[group]
    if cell.metric == "macro_f1":
        both = np.c_[rates * 0.9 / np.maximum(rates.sum(axis=1, keepdims=True), 0.9), np.zeros(n)]
        both[:, -1] = 1 - both.sum(axis=1)
        y = (random.random(n)[:, None] > np.cumsum(both, axis=1)).sum(axis=1).clip(max=2)
        truth = np.eye(3, dtype=bool)[y]
        scores = 1.8 * truth + 0.7 * random.normal(size=(groups, 3))[group] + random.normal(size=(n, 3))
        called = np.eye(3, dtype=bool)[scores.argmax(axis=1)]
        return Drawn(Calls(truth, called).macro_f1, group, truth, Calls.less_certain(truth, called).macro_f1)
    truth = random.random((n, len(own))) < rates
    scores = 1.5 * truth + 0.7 * random.normal(size=(groups, len(own)))[group] + random.normal(size=truth.shape)
    if cell.metric == "auc":
        return Drawn(Ranking(truth[:, 0], scores[:, 0]).auc, group, truth)
    return Drawn(mean_over_classes(truth, scores, Ranking.average_precision), group, truth)


@cache
def truth_of(cell: Cell) -> float:
    """Return the metric over very many recordings."""
    return draw(cell, np.random.default_rng(1), POPULATION).statistic(None)


@dataclass(frozen=True)
class Measured:
    """How a cell's intervals did."""

    cell: Cell
    printed: int  # samples whose interval was not withheld
    coverage: float
    width: float  # mean, over that of a normal interval with the true standard error

    def __str__(self) -> str:
        return f"| {self.cell} | {self.printed:,} | {self.coverage:.3f} | {self.width:.2f} |"


def measure(cell: Cell, repeats: int) -> Measured:
    """Draw samples, and count which of their intervals hold the truth."""
    truth, values, widths, held = truth_of(cell), [], [], 0
    for repeat in range(repeats):
        drawn = draw(cell, np.random.default_rng([23, repeat]), cell.groups)
        if cell.metric == "accuracy":
            found = of_share(drawn.truth[:, 0], drawn.groups)
        else:
            found = of_metric(drawn.statistic, drawn.groups, drawn.truth, spread=drawn.spread)
        if not found.withheld:
            values.append(found.value)
            widths.append(found.high - found.low)
            held += found.low <= truth <= found.high
    normal = 2 * 1.96 * float(np.std(values)) if len(values) > 1 else float("nan")
    return Measured(
        cell, len(values), held / max(len(values), 1), float(np.mean(widths)) / normal if values else normal
    )
