"""The study: which features tell the classes apart, and which differences are more than noise.

Every variant is evaluated on out-of-fold predictions for training and validation clips, so that all of them count and
the test clips are not used, unless every fold is asked for: the protocol of data sets published with folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from acoustic_env.config import CLASSIFIERS
from acoustic_env.errors import UsageError
from acoustic_env.models.cross_val import out_of_fold
from acoustic_env.models.evaluate import (
    Estimate,
    Floats,
    Ranking,
    auc_with_interval,
    behind_the_best,
    bootstrap,
    mean_over_classes,
    share_interval,
)
from acoustic_env.models.learn import Log, Study
from acoustic_env.models.preprocess import make_preprocessor
from acoustic_env.models.thresholds import Calls

# Blocks that are not embedders: shown alone, and beside every embedder as the source system had them.
HANDMADE: Final = ("mps", "indices")
REPEATS: Final = 300
ALL: Final = "all"


@dataclass(frozen=True)
class Variant:
    """One row of the study before the models.

    Attributes:
        features: blocks joined by `+`.
        signals: a signal, or `all`.
        parts: the (block, signal) pairs side by side.
    """

    features: str
    signals: str
    parts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Attributes:
        features, signals, model: what was evaluated.
        inputs: features before reduction.
        score: the study's metric: AUC (binary), macro F1 (multiclass), mAP (multilabel).
        accuracy: share of clips called right (argmax); None for multilabel.
        behind: the best score minus this one's, paired on the same clips, with an interval that allows for the choice
            of the best (`evaluate.behind_the_best`); None for the best.
    """

    features: str
    signals: str
    model: str
    inputs: int
    score: Estimate
    accuracy: Estimate | None
    behind: Estimate | None


def variants(blocks: Sequence[str], signals: Sequence[str]) -> list[Variant]:
    """Return every block alone, every embedder beside the handmade blocks, all blocks; each signal, then all."""
    handmade = [block for block in HANDMADE if block in blocks]
    embedders = [block for block in blocks if block not in HANDMADE]
    combinations: list[tuple[str, ...]] = [(block,) for block in blocks]
    combinations += [(*handmade, embedder) for embedder in embedders if handmade]
    if len(embedders) > 1 or (not embedders and len(handmade) > 1):
        combinations.append((*handmade, *embedders))
    choices: list[tuple[str, tuple[str, ...]]] = [(signal, (signal,)) for signal in signals]
    if len(signals) > 1:
        choices.append((ALL, tuple(signals)))
    return [
        Variant("+".join(chosen), name, tuple((block, signal) for block in chosen for signal in several))
        for chosen in combinations
        for name, several in choices
    ]


def run_study(study: Study, models: Sequence[str], log: Log = print, *, every_fold: bool = False) -> list[Row]:
    """Return out-of-fold scores of every variant and model, best first.

    Args:
        study: prepared with every block and signal.
        models: kinds.
        log: receives each row as it is done.
        every_fold: predict the clips of test folds too, each by a model of the other folds.
    """
    frames = study.recipe.model.reads_sequences
    for kind in models:
        if CLASSIFIERS.load(kind).reads_sequences != frames:
            msg = f"{kind} and {study.recipe.model.kind} do not read the same: one reads frames, one features of clips"
            raise UsageError(msg)
    model = study.recipe.model
    rows = np.arange(len(study.groups)) if every_fold else study.learning
    y, groups, folds = study.targets.y[rows], study.groups[rows], study.split.folds[rows].astype(np.int64)
    signals = list(dict.fromkeys(column.signal for column in study.matrix.columns))
    found: list[tuple[Variant, str, int, Floats]] = []
    for variant in variants(list(study.matrix.fingerprints), signals):
        matrix = study.matrix.restrict(variant.parts)
        for kind in models:
            probabilities = out_of_fold(
                matrix.values[rows],
                y,
                groups,
                model.of_kind(kind),
                folds,
                model.seed,
                classes=len(study.targets.classes),
                preprocessor=make_preprocessor(matrix.columns, study.recipe.replace(model=model.of_kind(kind))),
                size=model.ensemble,
                variants=[copy.restrict(variant.parts).values[rows] for copy in study.variants],
            )
            found.append((variant, kind, len(matrix.columns), probabilities))
            log(f"{variant.features} {variant.signals} {kind}: {_statistic(y, probabilities)(None):.4f}")
    statistics = [_statistic(y, probabilities) for *_, probabilities in found]
    behind = behind_the_best(statistics, groups, repeats=REPEATS)
    best = max(range(len(found)), key=lambda i: statistics[i](None))
    done = [
        Row(
            variant.features,
            variant.signals,
            kind,
            inputs,
            _score(y, probabilities, groups),
            None if y.ndim == 2 else share_interval(probabilities.argmax(axis=1) == y, groups),
            None if i == best else behind[i],
        )
        for i, (variant, kind, inputs, probabilities) in enumerate(found)
    ]
    return sorted(done, key=lambda row: -row.score.value)


def _statistic(y: Any, probabilities: Floats) -> Callable[[Any], float]:
    if y.ndim == 2:
        return mean_over_classes(y, probabilities, Ranking.average_precision)
    if probabilities.shape[1] == 2:
        return Ranking(y == 1, probabilities[:, 1]).auc
    classes = np.eye(probabilities.shape[1], dtype=bool)
    return Calls(classes[y], classes[probabilities.argmax(axis=1)]).macro_f1


def _score(y: Any, probabilities: Floats, groups: Any) -> Estimate:
    if y.ndim == 1 and probabilities.shape[1] == 2:
        return auc_with_interval(y == 1, probabilities[:, 1], groups)
    return bootstrap(_statistic(y, probabilities), groups, repeats=REPEATS)


def score_name(study: Study) -> str:
    """Return what `Row.score` is in this study."""
    return {"binary": "AUC", "multiclass": "macro F1", "multilabel": "mAP"}[study.recipe.task]


def study_table(rows: Sequence[Row]) -> pa.Table:
    """Return the study as a table, scores with their intervals in columns of their own."""

    def column(take: Callable[[Row], Estimate | None], part: str) -> list[float | None]:
        return [getattr(estimate, part) if (estimate := take(row)) else None for row in rows]

    estimates = {"score": lambda r: r.score, "accuracy": lambda r: r.accuracy, "behind": lambda r: r.behind}
    return pa.table(
        {name: [getattr(row, name) for row in rows] for name in ("features", "signals", "model", "inputs")}
        | {
            name if part == "value" else f"{name}_{part}": pa.array(column(take, part), pa.float64())
            for name, take in estimates.items()
            for part in ("value", "low", "high")
        }
        | {"within_noise": [row.behind is None or row.behind.within_noise() for row in rows]}
    )


def study_lines(rows: Sequence[Row], name: str) -> list[str]:
    """Return the study, human-readable, a line per row."""
    wide = max(len(row.features) for row in rows)
    lines = [f"{'features':<{wide}}  signal  model     {name:<21}  {'accuracy':<21}  behind the best"]
    for row in rows:
        behind = "best"
        if row.behind is not None:
            noise = ", within noise" if row.behind.within_noise() else ""
            behind = f"{row.behind.value:.3f} ({row.behind.low:.3f}–{row.behind.high:.3f}){noise}"
        figures = f"{row.score!s:<21}  {row.accuracy or '-'!s:<21}"
        lines.append(f"{row.features:<{wide}}  {row.signals:<6}  {row.model:<8}  {figures}  {behind}")
    return lines
