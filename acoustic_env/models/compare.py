"""The comparison: which features tell the classes apart, and which differences are more than noise.

Every variant is evaluated on out-of-fold predictions for training and validation clips, so that all of them count and
the test clips are not used, unless every fold is asked for: the protocol of data sets published with folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from acoustic_env.config import ClassifierSettings
from acoustic_env.errors import UsageError
from acoustic_env.features.registry import names_where
from acoustic_env.models.data.preprocessing import make_preprocessor
from acoustic_env.models.data.windows import at_level
from acoustic_env.models.learn import Log, Study
from acoustic_env.models.searched import SearchedClassifier
from acoustic_env.models.training.on_ray import one_group
from acoustic_env.models.validation.cross_fitting import OutOfFold, out_of_fold
from acoustic_env.models.validation.thresholds import main_score, main_spread
from acoustic_env.stats.intervals import Estimate, Floats, behind_the_best, of_metric, of_share

ALL: Final = "all"
TIMES: Final = ("train_seconds", "predict_seconds")


@dataclass(frozen=True)
class Variant:
    """One row of the comparison before the models.

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
    """One row of the comparison.

    Attributes:
        features, signals, model: what was evaluated.
        inputs: features before reduction.
        score: its metric: AUC (binary), macro F1 (multiclass), mAP (multilabel).
        accuracy: share of clips called right (argmax); None for multilabel.
        behind: the best score minus this one's, paired on the same clips, with an interval that allows for the choice
            of the best (`stats.intervals.behind_the_best`); None for the best.
        train_seconds: of training once, mean over the folds, with the search of settings where there was one.
        predict_seconds: of 1,000 clips.
    """

    features: str
    signals: str
    model: str
    inputs: int
    score: Estimate
    accuracy: Estimate | None
    behind: Estimate | None
    train_seconds: float
    predict_seconds: float


def variants(blocks: Sequence[str], signals: Sequence[str]) -> list[Variant]:
    """Return every block alone, every embedder beside the handmade blocks, all blocks; each signal, then all.

    >>> [(one.features, one.signals) for one in variants(["indices", "mps"], ["raw"])]
    [('indices', 'raw'), ('mps', 'raw'), ('indices+mps', 'raw')]
    """
    handmade = names_where("handmade", blocks)
    embedders = [block for block in blocks if block not in handmade]
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


@one_group()
def compare(
    study: Study,
    models: Mapping[str, ClassifierSettings],
    log: Log = print,
    *,
    every_fold: bool = False,
    trials: int | None = None,
) -> list[Row]:
    """Return out-of-fold scores of every variant and model, best first.

    Args:
        study: prepared with every block and signal.
        models: name -> settings.
        log: receives each row as it is done.
        every_fold: predict the clips of test folds too, each by a model of the other folds.
        trials: search each classifier's settings in so many trials on inner folds of each training part; None: as
            they are.
    """
    for name, settings in models.items():
        if settings.reads_sequences != study.recipe.model.reads_sequences:
            msg = f"{name} and {study.recipe.model.kind} do not read the same: one reads frames, one features of clips"
            raise UsageError(msg)
    if trials is not None and study.variants:
        raise UsageError(
            f"recipe {study.recipe.name}: --trials would score variants, which are for training; leave one of them out"
        )
    rows = np.arange(len(study.groups)) if every_fold else study.learning
    signals = list(dict.fromkeys(column.signal for column in study.matrix.columns))
    recordings = study.clips["group"].take(pa.array(rows)).to_pylist()
    found: list[tuple[Variant, str, int, OutOfFold]] = []
    for variant in variants(list(study.matrix.fingerprints), signals):
        for name, settings in models.items():
            matrix, *copies = (whole.restrict(variant.parts) for whole in (study.matrix, *study.variants))
            predicted = out_of_fold(
                replace(study, matrix=matrix, variants=tuple(copies)).examples(rows),
                settings if trials is None else SearchedClassifier(settings, trials),
                study.split.folds[rows].astype(np.int64),
                settings.seed,
                classes=len(study.targets.classes),
                preprocessor=make_preprocessor(matrix.columns, study.recipe.replace(model=settings)),
                size=settings.ensemble,
            )
            truth, pooled, units = at_level(study.recipe, study.targets.y[rows], predicted.probabilities, recordings)
            found.append((variant, name, len(matrix.columns), replace(predicted, probabilities=pooled)))
            log(f"{variant.features} {variant.signals} {name}: {main_score(truth, pooled)(None):.4f}")
    return _rows(truth, units, found)


def _rows(y: Any, groups: Any, found: Sequence[tuple[Variant, str, int, OutOfFold]]) -> list[Row]:
    """Return the rows of predictions, best first."""
    statistics = [main_score(y, predicted.probabilities) for *_, predicted in found]
    behind = behind_the_best(statistics, groups)
    best = max(range(len(found)), key=lambda i: np.nan_to_num(statistics[i](None), nan=-np.inf))
    done = [
        Row(
            variant.features,
            variant.signals,
            name,
            inputs,
            _score(y, predicted.probabilities, groups),
            None if y.ndim == 2 else of_share(predicted.probabilities.argmax(axis=1) == y, groups),
            None if i == best else behind[i],
            predicted.train_seconds,
            predicted.predict_seconds,
        )
        for i, (variant, name, inputs, predicted) in enumerate(found)
    ]
    return sorted(done, key=lambda row: -np.nan_to_num(row.score.value, nan=-np.inf))


def _score(y: Any, probabilities: Floats, groups: Any) -> Estimate:
    truth = y if y.ndim == 2 else np.eye(probabilities.shape[1], dtype=bool)[y]
    there = truth[:, truth.any(axis=0) & ~truth.all(axis=0)]
    return of_metric(main_score(y, probabilities), groups, there, spread=main_spread(y, probabilities))


def score_name(study: Study) -> str:
    """Return what `Row.score` is in this study."""
    return {"binary": "AUC", "multiclass": "macro F1", "multilabel": "mAP"}[study.recipe.task]


def comparison_table(rows: Sequence[Row]) -> pa.Table:
    """Return the comparison as a table, scores with their intervals in columns of their own."""

    def column(take: Callable[[Row], Estimate | None], part: str) -> list[float | None]:
        found = [getattr(estimate, part) if (estimate := take(row)) else None for row in rows]
        return [None if value is None or not np.isfinite(value) else value for value in found]

    estimates = {"score": lambda r: r.score, "accuracy": lambda r: r.accuracy, "behind": lambda r: r.behind}
    return pa.table(
        {name: [getattr(row, name) for row in rows] for name in ("features", "signals", "model", "inputs", *TIMES)}
        | {
            name if part == "value" else f"{name}_{part}": pa.array(column(take, part), pa.float64())
            for name, take in estimates.items()
            for part in ("value", "low", "high")
        }
        | {"within_noise": [row.behind is None or row.behind.within_noise() for row in rows]}
    )


def comparison_lines(rows: Sequence[Row], name: str) -> list[str]:
    """Return the comparison, human-readable, a line per row."""
    wide, names = (max(len(text) for text in texts) for texts in ([r.features for r in rows], [r.model for r in rows]))
    heading = f"{'features':<{wide}}  signal  {'model':<{names}}  {name:<21}  {'accuracy':<21}"
    lines = [f"{heading}  {'training':>10}  {'1,000 clips':>11}  behind the best"]
    for row in rows:
        behind = "best"
        if row.behind is not None:
            noise = ", within noise" if row.behind.within_noise() else ""
            behind = f"{row.behind}{noise}"
        metrics = f"{row.score!s:<21}  {row.accuracy or '-'!s:<21}"
        times = f"{row.train_seconds:>8.3g} s  {row.predict_seconds:>9.3g} s"
        lines.append(f"{row.features:<{wide}}  {row.signals:<6}  {row.model:<{names}}  {metrics}  {times}  {behind}")
    return lines
