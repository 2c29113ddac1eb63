"""Performance of a model on one set of clips: metrics with intervals, per class, curves, calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.config import Level, Task
from acoustic_env.models.validation.reliability import (
    CLASS_POSITIVES,
    Reliability,
    brier,
    class_errors,
    positive_mass,
    reliability,
)
from acoustic_env.models.validation.thresholds import Calls
from acoustic_env.stats.intervals import Estimate, Floats, Statistic, Weights, of_metric, of_share
from acoustic_env.stats.ranking import (
    Curve,
    Ranking,
    finite_mean,
    mean_over_classes,
    precision_recall_curve,
    roc_curve,
)

# What is kept of a curve: enough for a plot, whatever the number of clips.
CURVE_POINTS: Final = 400
CLASS_POINTS: Final = 60
CURVE_CLASSES: Final = 30
SHOWN: Final = 5  # classes whose calibration is printed, the worst first


@dataclass(frozen=True)
class ClassMetrics:
    """One class against the rest.

    Attributes:
        name: of the class.
        support: clips of it; predicted: clips called it.
        precision, recall, f1: 0 where there is nothing to divide by.
        auc, average_precision: NaN where the clips are all of it or none is.
        share: of the clips that are of it; mean_posterior: the mean of its calibrated probabilities, the same where
            these are right.
        calibration_error: its expected calibration error by itself (`reliability.class_errors`), after calibration; NaN
            with fewer than 20 clips of it.
    """

    name: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float
    auc: float
    average_precision: float
    share: float
    mean_posterior: float
    calibration_error: float


@dataclass(frozen=True)
class ClassCurves:
    """The curves of one class against the rest.

    Attributes:
        name: of the class.
        roc, precision_recall: of calibrated probabilities, thinned to about 60 points.
    """

    name: str
    roc: Curve
    precision_recall: Curve


@dataclass(frozen=True)
class Performance:
    """A model on one set of clips.

    Attributes:
        task, classes: of the study.
        clips, groups: how many.
        metrics: name -> estimate with interval: `auc`, `average_precision`, `accuracy`, `balanced_accuracy`, `f1`
            (binary); `accuracy`, `balanced_accuracy`, `macro_f1`, `mean_auc` (multiclass); `map`, `mean_auc`,
            `macro_f1`, `micro_f1`, `elementwise_accuracy` and `always_no_accuracy` (multilabel): the share of pairs of
            a clip and a class that are right at a probability of 1/2, and if every class is denied.
        per_class: every class of the study, whether it has clips or not.
        undefined: classes without clips, or with all of them, which no mean AUC or mAP can contain.
        confusion: [classes, classes], rows given, columns predicted; None for multilabel.
        threshold: the decision's (binary); NaN otherwise, and where rows had their own.
        calibration: name -> value, before and after calibration: `brier`, summed over the classes for multiclass;
            `class_ece`, the mean over the `class_ece_classes` classes with enough positive clips; and `ece` of the
            positive class (binary) or of the highest probability (multiclass), which hides what is wrong with rare
            classes.
        reliability_before, reliability_after: the diagrams; of all pairs, in bins of equal positive mass, for
            multilabel.
        roc, precision_recall: the curves of calibrated probabilities, thinned to about 400 points: of the positive
            class (binary), or of all pairs of a clip and a class pooled (multiclass, multilabel).
        class_curves: of each class with a ranking, for multiclass and multilabel studies of up to 30 classes.
        level: what `clips` counts.
    """

    task: Task
    classes: tuple[str, ...]
    clips: int
    groups: int
    metrics: dict[str, Estimate]
    per_class: list[ClassMetrics]
    undefined: list[str]
    confusion: Floats | None
    threshold: float
    calibration: dict[str, float]
    reliability_before: Reliability
    reliability_after: Reliability
    roc: Curve
    precision_recall: Curve
    class_curves: list[ClassCurves]
    level: Level = "clip"

    def as_json(self) -> dict[str, Any]:
        """Return plain data: arrays as lists, NaN and infinity as None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def lines(self) -> list[str]:
        """Return the metrics, human-readable, one a line."""
        found = [f"{self.clips:,} {self.level}s in {self.groups:,} group{'' if self.groups == 1 else 's'}"]
        found += [f"{name.replace('_', ' '):<20} {estimate}" for name, estimate in self.metrics.items()]
        errors = {name: value for name, value in self.calibration.items() if np.isfinite(value)}
        counted = errors.pop("class_ece_classes")
        found += [f"{name.replace('_', ' '):<20} {value:.4f}" for name, value in errors.items()]
        least = f"{CLASS_POSITIVES} {self.level}s or more each"
        found.append(f"{'class ece of':<20} {counted:.0f} of {len(self.classes)} classes, {least}")
        worst = sorted(self.per_class, key=lambda one: -abs(one.mean_posterior - one.share))[:SHOWN]
        for one in worst:
            line = f"{one.name}: {one.share:.1%} of the {self.level}s, mean posterior {one.mean_posterior:.1%}"
            known = np.isfinite(one.calibration_error)
            found.append(line + (f", calibration error {one.calibration_error:.3f}" if known else ""))
        if self.undefined:
            shown = ", ".join(self.undefined[:5]) + (", ..." if len(self.undefined) > 5 else "")
            counted_as = "; macro f1 counts a class without clips as 0" if "macro_f1" in self.metrics else ""
            undefined = f"{len(self.undefined)} ({shown}){counted_as}"
            found.append(f"without a ranking (no clip of the class, or no other): {undefined}")
        return found


def performance(
    task: Task,
    classes: Sequence[str],
    y: npt.NDArray[Any],
    probabilities: Floats,
    groups: npt.NDArray[Any],
    thresholds: Floats,
    calibrated: Floats,
) -> Performance:
    """Measure probabilities before and after calibration, with thresholds, both fitted on other rows.

    Args:
        task, classes: of the study.
        y: int64 [n] class index, or bool [n, classes].
        probabilities: [n, classes], before calibration.
        groups: [n].
        thresholds: [classes], or [n, classes] where rows have their own, on calibrated probabilities; a binary study
            uses the last column, a multiclass one calls the largest multiple of a threshold.
        calibrated: [n, classes], after calibration.

    >>> random = np.random.default_rng(23)
    >>> y = np.repeat([0, 1], 50)
    >>> p = np.clip(0.3 + 0.4 * y + random.normal(scale=0.1, size=100), 0, 1)
    >>> both = np.stack([1 - p, p], axis=1)
    >>> found = performance("binary", ["quiet", "loud"], y, both, np.arange(100), np.array([0.5, 0.5]), both)
    >>> found.confusion.tolist(), round(found.metrics["accuracy"].value, 2)
    ([[48.0, 2.0], [2.0, 48.0]], 0.96)
    """
    truth = y if task == "multilabel" else np.eye(len(classes), dtype=bool)[y]
    threshold = float(thresholds[-1]) if task == "binary" and thresholds.ndim == 1 else float("nan")
    called = called_classes(task, calibrated, thresholds)
    rankings = [Ranking(truth[:, c], calibrated[:, c]) for c in range(len(classes))]
    before, after = _events(task, truth, probabilities), _events(task, truth, calibrated)
    of_events = np.repeat(groups, truth.shape[1]) if task == "multilabel" else groups
    diagrams = tuple(
        reliability(*pair, weights=positive_mass(*pair) if task == "multilabel" else None, groups=of_events)
        for pair in (before, after)
    )
    by_class = class_errors(truth, probabilities), class_errors(truth, calibrated)
    errors = {
        f"class_ece_{when}": float(finite_mean(own)) for when, own in zip(("before", "after"), by_class, strict=True)
    }
    errors["class_ece_classes"] = float(np.isfinite(by_class[1]).sum())
    if task != "multilabel":
        errors |= {"ece_before": diagrams[0].expected_error, "ece_after": diagrams[1].expected_error}
    whole = ((truth, probabilities), (truth, calibrated)) if task == "multiclass" else (before, after)
    squared = {f"brier_{when}": brier(*pair) for when, pair in zip(("before", "after"), whole, strict=True)}
    per_class = _per_class(classes, truth, called, rankings, calibrated, by_class[1])
    curves_shown = task != "binary" and len(classes) <= CURVE_CLASSES
    curves = [
        ClassCurves(one.name, roc_curve(own, p, CLASS_POINTS), precision_recall_curve(own, p, CLASS_POINTS))
        for one, own, p in zip(per_class, truth.T, calibrated.T, strict=True)
        if curves_shown and np.isfinite(one.auc)
    ]
    pooled = (truth[:, 1], calibrated[:, 1]) if task == "binary" else (truth.ravel(), calibrated.ravel())
    return Performance(
        task=task,
        classes=tuple(classes),
        clips=len(y),
        groups=len(np.unique(groups)),
        metrics=_metrics(task, truth, called, calibrated, groups),
        per_class=per_class,
        undefined=[one.name for one in per_class if not np.isfinite(one.auc)],
        confusion=None if task == "multilabel" else truth.T.astype(np.float64) @ called,
        threshold=threshold,
        calibration={**errors, **squared},
        reliability_before=diagrams[0],
        reliability_after=diagrams[1],
        roc=roc_curve(*pooled, CURVE_POINTS),
        precision_recall=precision_recall_curve(*pooled, CURVE_POINTS),
        class_curves=curves,
    )


def called_classes(task: Task, calibrated: Floats, thresholds: Floats) -> npt.NDArray[np.bool_]:
    """Return which classes rows are called, bool [n, classes].

    Args:
        task: of the study.
        calibrated: [n, classes].
        thresholds: as in `performance`.

    >>> called_classes("binary", np.array([[0.6, 0.4]]), np.array([0.7, 0.3]))
    array([[False,  True]])
    """
    if task == "multilabel":
        return np.asarray(calibrated >= thresholds)
    if task == "binary":
        calls = (calibrated[:, 1] >= thresholds[..., -1]).astype(int)
    else:
        calls = (calibrated / thresholds).argmax(axis=1)
    return np.asarray(np.eye(calibrated.shape[1], dtype=bool)[calls])


def _events(task: Task, truth: npt.NDArray[np.bool_], probabilities: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Return events and their probabilities: the positive class, every class, or being right about the top class."""
    if task == "binary":
        return truth[:, 1], probabilities[:, 1]
    if task == "multilabel":
        return truth.ravel(), probabilities.ravel()
    top = probabilities.argmax(axis=1)
    rows = np.arange(len(top))
    return truth[rows, top], probabilities[rows, top]


def _per_class(
    classes: Sequence[str],
    truth: npt.NDArray[np.bool_],
    called: npt.NDArray[np.bool_],
    rankings: Sequence[Ranking],
    calibrated: Floats,
    errors: Floats,
) -> list[ClassMetrics]:
    support, calls = truth.sum(axis=0), called.sum(axis=0)
    scores = Calls(truth, called).precision_recall_f1()
    return [
        ClassMetrics(
            name=name,
            support=int(support[c]),
            predicted=int(calls[c]),
            precision=float(scores[0][c]),
            recall=float(scores[1][c]),
            f1=float(scores[2][c]),
            auc=ranking.auc(),
            average_precision=ranking.average_precision(),
            share=float(truth[:, c].mean()),
            mean_posterior=float(calibrated[:, c].mean()),
            calibration_error=float(errors[c]),
        )
        for c, (name, ranking) in enumerate(zip(classes, rankings, strict=True))
    ]


def _metrics(
    task: Task,
    truth: npt.NDArray[np.bool_],
    called: npt.NDArray[np.bool_],
    calibrated: Floats,
    groups: npt.NDArray[Any],
) -> dict[str, Estimate]:
    there = truth[:, truth.any(axis=0) & ~truth.all(axis=0)]
    calls, less_certain = Calls(truth, called), Calls.less_certain(truth, called)

    def ranked(statistic: Statistic) -> Estimate:
        return of_metric(statistic, groups, there)

    def of_calls(score: Callable[[Calls, Weights], float]) -> Estimate:
        return of_metric(partial(score, calls), groups, there, spread=partial(score, less_certain))

    if task == "multilabel":
        pairs = np.repeat(groups, truth.shape[1])
        return {
            "map": ranked(mean_over_classes(truth, calibrated, Ranking.average_precision)),
            "mean_auc": ranked(mean_over_classes(truth, calibrated, Ranking.auc)),
            "macro_f1": of_calls(Calls.macro_f1),
            "micro_f1": of_calls(Calls.micro_f1),
            "elementwise_accuracy": of_share(((calibrated >= 0.5) == truth).ravel(), pairs),
            "always_no_accuracy": of_share(~truth.ravel(), pairs),
        }
    shared = {"accuracy": of_share(truth[called], groups), "balanced_accuracy": of_calls(Calls.balanced_accuracy)}
    if task == "multiclass":
        return shared | {
            "macro_f1": of_calls(Calls.macro_f1),
            "mean_auc": ranked(mean_over_classes(truth, calibrated, Ranking.auc)),
        }
    positive = Ranking(truth[:, 1], calibrated[:, 1])
    return {
        "auc": ranked(positive.auc),
        "average_precision": ranked(positive.average_precision),
        **shared,
        "f1": of_calls(lambda own, weights: float(own.precision_recall_f1(weights)[2][1])),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
