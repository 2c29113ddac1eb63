"""Plots of a classifier's metrics, of the study and of the search, drawn from recorded values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from acoustic_env.explain import style
from acoustic_env.explain.plot import Plot

NUMBERED: Final = 12  # classes up to which a confusion matrix shows its counts
SHOWN_CLASSES: Final = 30
SHOWN_ROWS: Final = 30
HARDEST: Final = 3  # classes whose curves are colored
METRIC_NAMES: Final = {
    "auc": "AUC",
    "average_precision": "average precision",
    "map": "mAP",
    "mean_auc": "mean AUC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "ece": "expected calibration error",
    "class_ece": "expected calibration error by class",
    "brier": "Brier score",
}

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class EvaluatedClips:
    """The clips that a metric was measured on."""

    name: str  # "held-out clips" or "test clips"; windows or recordings, where the bundle answers for those
    section: str  # heading of the plots
    prefix: str  # of the plots' names
    chosen_on: str  # the clips that threshold and calibration were chosen on, as seen from these

    def counting(self, level: str) -> EvaluatedClips:
        """Return these, named by what the bundle's metrics count.

        >>> TEST.counting("window").name
        'test windows'
        """
        return replace(self, name=self.name.replace("clips", f"{level}s"))


HELD_OUT: Final = EvaluatedClips("held-out clips", "The classifier", "", "these clips")
TEST: Final = EvaluatedClips("test clips", "The classifier on test clips", "test-", "the held-out clips of training")


def calibration_errors(metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the calibration error before and after calibration; None where no class has enough positive clips."""
    errors = metrics["calibration"]
    name = "ece" if "ece_before" in errors else "class_ece"
    return errors[f"{name}_before"], errors[f"{name}_after"]


def metric_name(name: str) -> str:
    """Return the display name of a metric."""
    return METRIC_NAMES.get(name, name.replace("_", " "))


def interval_text(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """Return "value (low–high)", or why there is no interval."""
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    shown = f"{value:.{digits}f}"
    if low is None or high is None:
        reason = estimate.get("withheld")
        return f"{shown} (no interval: {reason}, too few)" if reason else f"{shown} (no interval)"
    return f"{shown} ({low:.{digits}f}–{high:.{digits}f})"


def performance_plots(metrics: Metrics, clips: EvaluatedClips = HELD_OUT) -> list[Plot]:
    """Draw curves, confusion, calibration and classes, as far as the task has them."""
    found = []
    named = [{**row, "name": style.class_name(row["name"])} for row in metrics["per_class"]]
    curves = [{**row, "name": style.class_name(row["name"])} for row in metrics.get("class_curves", [])]
    names = [style.class_name(name) for name in metrics["classes"]]
    metrics = {**metrics, "classes": names, "per_class": named, "class_curves": curves}
    if metrics.get("roc") and metrics.get("precision_recall"):
        draw = _draw_curves if metrics["task"] == "binary" else _draw_pooled_curves
        found.append(draw(metrics, clips))
    if metrics.get("confusion"):
        found.append(_draw_confusion(metrics, clips))
    found.append(_draw_calibration(metrics, clips))
    if len(metrics["classes"]) > 2:
        found.append(_draw_classes(metrics, clips))
    return found


def _plot(clips: EvaluatedClips, name: str, title: str, sentence: str, alt: str, figure: Any, data: pa.Table) -> Plot:
    title = f"{title}, {clips.name}"
    return Plot(f"{clips.prefix}{name}", clips.section, title, sentence, alt, figure, data)


def _curve_panels(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure with empty panels of ROC curves, with that of chance, and of precision and recall."""
    figure, (roc, precision) = style.new_panels(width, height, 1, 2)
    roc.plot([0, 1], [0, 1], color=style.GREY, lw=1, ls="--", label="chance")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curves")
    precision.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    for panel in (roc, precision):
        panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        panel.grid(color="#eeeeee", lw=0.6)
    return figure, (roc, precision)


@style.drawn
def _draw_curves(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    name = metrics["classes"][-1]
    figure, (left, right) = _curve_panels(9, 4.4)
    left.set_title("ROC curve")
    roc, pr = metrics["roc"], metrics["precision_recall"]
    left.plot(roc["x"], roc["y"], color=style.OKABE_ITO[0], lw=2, label="classifier")
    share = metrics["per_class"][-1]["support"] / metrics["clips"]
    right.axhline(share, color=style.GREY, lw=1, ls="--", label="chance")
    right.step(pr["x"], pr["y"], where="post", color=style.OKABE_ITO[0], lw=2, label="classifier")
    cut = metrics.get("threshold")
    for panel, curve in ((left, roc), (right, pr)):
        at = _at_threshold(curve["thresholds"], cut)
        if at is not None:
            panel.plot(
                curve["x"][at], curve["y"][at], "D", color=style.OKABE_ITO[1], ms=8, label=f"threshold {cut:.2f}"
            )
        panel.legend(loc="lower right")
    auc, precision = (interval_text(metrics["metrics"][key]) for key in ("auc", "average_precision"))
    sentence = (
        f"How well the classifier ranks {name} above {metrics['classes'][0]} on {metrics['clips']:,} {clips.name}: "
        f"AUC {auc}, average precision {precision}; the diamond is the threshold chosen on {clips.chosen_on}."
    )
    alt = f"ROC curve with AUC {auc} and precision-recall curve with average precision {precision}."
    data = _curve_table([(name, metrics)])
    return _plot(clips, "curves", "ROC and precision-recall curves", sentence, alt, figure, data)


def _curve_table(curves: Sequence[tuple[str, Metrics]]) -> pa.Table:
    """Return the points of the two curves of each class or pool."""
    schema = pa.schema(
        {"class": pa.string(), "curve": pa.string()} | dict.fromkeys(("x", "y", "threshold"), pa.float64())
    )
    return pa.Table.from_pylist(
        [
            {"class": name, "curve": kind, "x": x, "y": y, "threshold": threshold}
            for name, both in curves
            for kind in ("roc", "precision_recall")
            for x, y, threshold in zip(*(both[kind][key] for key in ("x", "y", "thresholds")), strict=True)
        ],
        schema,
    )


@style.drawn
def _draw_pooled_curves(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    """Draw the curves of all classes pooled, of each class faint, and of the hardest in color."""
    precision = {row["name"]: row["average_precision"] for row in metrics["per_class"]}
    classes = sorted(metrics["class_curves"], key=lambda row: precision[row["name"]])
    hardest = [row for row in classes[:HARDEST] if precision[row["name"]] < 1.0]
    others = len(classes) - len(hardest)
    figure, panels = _curve_panels(9.4, 5.4)
    for panel, kind, drawstyle in zip(panels, ("roc", "precision_recall"), ("default", "steps-post"), strict=True):
        options = {"drawstyle": drawstyle}
        for row in classes[len(hardest) :]:
            panel.plot(row[kind]["x"], row[kind]["y"], color=style.FAINT, lw=1.2, **options)
        pooled = metrics[kind]
        panel.plot(pooled["x"], pooled["y"], color="black", lw=2, label="all classes pooled", **options)
        for number, row in enumerate(hardest):
            label = f"{style.shortened(row['name'], 24)}, average precision {precision[row['name']]:.3f}"
            look = {"color": style.OKABE_ITO[number], "marker": style.MARKERS[number], "ms": 4, "lw": 1.2}
            panel.plot(row[kind]["x"], row[kind]["y"], label=label, markevery=0.12, **look, **options)
        if others:
            panel.plot([], [], color=style.FAINT, lw=1.2, label=f"each of the other {others} classes")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    auc = interval_text(metrics["metrics"]["mean_auc"])
    said = f"; hardest by average precision: {', '.join(row['name'] for row in hardest)}" if hardest else ""
    sentence = (
        f"How well each class is ranked above the rest on {metrics['clips']:,} {clips.name}: mean AUC over the "
        f"classes {auc}{said}."
    )
    alt = f"ROC and precision-recall curves of all classes pooled and of {len(classes)} classes; mean AUC {auc}{said}."
    data = _curve_table([("all classes pooled", metrics), *((row["name"], row) for row in classes)])
    return _plot(clips, "curves", "ROC and precision-recall curves", sentence, alt, figure, data)


def _at_threshold(thresholds: Sequence[float | None], cut: float | None) -> int | None:
    """Return the last point of a curve at or above the threshold."""
    if cut is None:
        return None
    above = [i for i, value in enumerate(thresholds) if value is None or value >= cut]
    return above[-1] if above else None


@style.drawn
def _draw_confusion(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    counts, classes = np.array(metrics["confusion"], float), metrics["classes"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.6 + 0.55 * min(len(classes), 20) if len(classes) <= 20 else 12.0
    figure, panel = style.new_panels(size + 1.6, size)
    image = panel.imshow(shares, cmap=style.SEQUENTIAL, vmin=0, vmax=1)
    if len(classes) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] < 0.55 else "black"
            panel.text(column, row, f"{count:,.0f}", ha="center", va="center", color=color)
    names = [style.shortened(name, 24) for name in classes]
    panel.set_xticks(
        range(len(classes)), names, rotation=45 if len(classes) > 3 else 0, ha="right" if len(classes) > 3 else "center"
    )
    panel.set_yticks(range(len(classes)), names)
    panel.set(xlabel="predicted", ylabel="given label")
    for spine in panel.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=panel, label="share of the given class", shrink=0.8)
    right = np.trace(counts) / counts.sum()
    off = shares - np.diag(np.diag(shares))
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    sentence = (
        f"{right:.0%} of {counts.sum():,.0f} {clips.name} agree with the given label; most often "
        f"confused is {classes[row]}, predicted as {classes[column]} in {off[row, column]:.0%} of its clips."
    )
    alt = "Confusion matrix: " + "; ".join(
        f"{classes[i]} predicted right {shares[i, i]:.0%} of {counts[i].sum():,.0f}"
        for i in range(min(len(classes), 20))
    )
    first, second = np.indices(counts.shape)
    data = pa.table(
        {
            "given": [classes[i] for i in first.ravel()],
            "predicted": [classes[i] for i in second.ravel()],
            "clips": counts.ravel(),
            "share": shares.ravel(),
        }
    )
    return _plot(clips, "confusion", "Confusion of the classes", sentence, alt, figure, data)


@style.drawn
def _draw_calibration(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    figure, panel = style.new_panels(5.6, 5.0)
    panel.plot([0, 1], [0, 1], color=style.GREY, lw=1, ls="--", label="perfect")
    tables: list[pd.DataFrame] = []
    before, after = calibration_errors(metrics)
    for number, (when, ece) in enumerate((("before", before), ("after", after))):
        diagram = metrics[f"reliability_{when}"]
        bins = pd.DataFrame({key: diagram[key] for key in ("predicted", "observed", "low", "high")}, dtype="float64")
        bins = bins.assign(when=when, clips=diagram["count"]).query("clips > 0").dropna()
        tables.append(bins)
        panel.errorbar(
            bins["predicted"],
            bins["observed"],
            yerr=[(bins["observed"] - bins["low"]).clip(0), (bins["high"] - bins["observed"]).clip(0)],
            fmt=style.MARKERS[number],
            color=style.OKABE_ITO[number],
            ms=9 - 4 * number,
            mfc="white" if when == "before" else None,
            capsize=3,
            lw=1.3,
            label=f"{when} calibration, mean error {'none' if ece is None else f'{ece:.3f}'}",
        )
    panel.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="predicted probability", ylabel="observed share"
    )
    panel.grid(color=style.FAINT, lw=0.6)
    figure.legend(loc="outside lower center", ncols=1)
    if before == after:
        fitted = "none was fitted, since it would not have helped"
    elif clips.section == HELD_OUT.section:
        fitted = "each clip by a calibration fitted on others"
    else:
        fitted = f"fitted on {clips.chosen_on}"
    missed, repaired = ("an unknown amount" if error is None else f"{error:.3f}" for error in (before, after))
    counted = metrics["calibration"]["class_ece_classes"]
    of = (
        ""
        if "ece_before" in metrics["calibration"]
        else f"as a mean over {int(counted):,} classes with enough positive clips, "
    )
    sentence = (
        "Calibration: the predicted probability differs from the observed share by "
        f"{missed} before calibration and by {repaired} after it, {of}on {clips.name} ({fitted})."
    )
    alt = (
        "Observed share against predicted probability with 95 % intervals; mean error "
        f"{missed} before calibration, {repaired} after."
    )
    shown = ["when", "predicted", "observed", "low", "high", "clips"]
    data = pa.Table.from_pandas(pd.concat(tables)[shown], preserve_index=False)
    return _plot(clips, "calibration", "Calibration", sentence, alt, figure, data)


@style.drawn
def _draw_classes(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    rows = sorted(
        (row for row in metrics["per_class"] if row["auc"] is not None),
        key=lambda row: -(row["average_precision"] or 0),
    )
    half = SHOWN_CLASSES // 2
    shown = rows if len(rows) <= SHOWN_CLASSES else [*rows[:half], *rows[-half:]]
    shown = shown[::-1]
    figure, panel = style.new_panels(9, 1.5 + 0.27 * max(len(shown), 2))
    places = range(len(shown))
    for number, (key, label) in enumerate((("average_precision", "average precision"), ("f1", "F1"), ("auc", "AUC"))):
        panel.plot(
            [row[key] for row in shown],
            places,
            style.MARKERS[number],
            color=style.OKABE_ITO[number],
            ms=6,
            ls="",
            label=label,
        )
    panel.set_yticks(places, [f"{style.shortened(row['name'])} ({row['support']:,})" for row in shown])
    panel.set(xlim=(-0.02, 1.02), xlabel=f"score on {clips.name} (number of clips of the class in brackets)")
    panel.grid(color=style.FAINT, lw=0.6)
    figure.legend(loc="outside lower center", ncols=3)
    best, worst = (rows[0]["name"], rows[-1]["name"]) if rows else ("none", "none")
    which = "all classes" if len(shown) == len(rows) else f"the best and the worst {half} of {len(rows)} classes"
    sentence = f"How well each class is found ({which}): best is {best}, hardest is {worst}."
    alt = "Dots of average precision, F1 and AUC of each class: " + ", ".join(
        f"{row['name']} {row['average_precision']:.2f}" for row in shown[::-1][:10]
    )
    data = pa.Table.from_pylist(list(metrics["per_class"]))
    return _plot(clips, "classes", "Each class", sentence, alt, figure, data)


def study_score(row: Mapping[str, Any], name: str = "score") -> str:
    """Return a number of a study's row with its interval."""
    return interval_text({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the ends of a score's interval; the score itself, where there is none."""
    low, high = row["score_low"], row["score_high"]
    return (row["score"], row["score"]) if low is None or high is None else (low, high)


@style.drawn
def study_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the study's rows (of study.csv), best first, with intervals; mark those within noise of the best."""
    shown = list(rows[:SHOWN_ROWS])[::-1]
    figure, panel = style.new_panels(9, 1.5 + 0.28 * max(len(shown), 2))
    for place, row in enumerate(shown):
        color, marker = (style.OKABE_ITO[0], "o") if row["within_noise"] else (style.OKABE_ITO[1], "^")
        panel.plot(_ends(row), [place, place], color=color, lw=2)
        panel.plot(row["score"], place, marker, color=color, ms=7)
    panel.plot([], [], "o", color=style.OKABE_ITO[0], label="best, or within noise of it")
    panel.plot([], [], "^", color=style.OKABE_ITO[1], label="behind the best by more than noise")
    several = len({row["model"] for row in rows}) > 1
    labels = [f"{row['features']}, {row['signals']}" + (f", {row['model']}" if several else "") for row in shown]
    panel.set_yticks(range(len(shown)), [style.shortened(label, 44) for label in labels])
    panel.set_xlabel("out-of-fold score (AUC, macro F1 or mAP) with 95 % interval")
    panel.grid(axis="x", color=style.FAINT, lw=0.6)
    figure.legend(loc="outside lower center", ncols=2)
    best = rows[0]
    near = sum(bool(row["within_noise"]) for row in rows) - 1
    sentence = (
        f"{best['features']} ({best['signals']}, {best['model']}) scores best, "
        f"{study_score(best)}; {near} of the other {len(rows) - 1} variants are within "
        "noise of it (paired on the same clips, with intervals that allow for the choice of the best among all: the "
        "truly best variant is the best here or within noise in 95 of 100 studies)."
    )
    alt = "Scores with intervals, best first: " + "; ".join(
        f"{label} {row['score']:.3f}" for label, row in list(zip(labels, shown, strict=True))[::-1][:8]
    )
    data = pa.Table.from_pylist([dict(row) for row in rows])
    return Plot("study", "The study", "Which features separate the classes", sentence, alt, figure, data)


@style.drawn
def study_times_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the score of each row of a study against its training time, a marker and color for each model."""
    figure, panel = style.new_panels(9, 4)
    models = list(dict.fromkeys(row["model"] for row in rows))
    for number, model in enumerate(models):
        own = [row for row in rows if row["model"] == model]
        color, marker = style.OKABE_ITO[number % len(style.OKABE_ITO)], style.MARKERS[number % len(style.MARKERS)]
        x, y = ([row[name] for row in own] for name in ("train_seconds", "score"))
        panel.vlines(x, *zip(*map(_ends, own), strict=True), color=color, lw=1.2, alpha=0.6)
        panel.plot(x, y, marker, color=color, ms=7, label=model)
    panel.set_xscale("log")
    panel.set(xlabel="s to train once, mean over the folds", ylabel="out-of-fold score with 95 % interval")
    panel.grid(color=style.FAINT, lw=0.6)
    figure.legend(loc="outside right upper")
    best, fastest = rows[0], min(rows, key=lambda row: row["train_seconds"])
    sentence = (
        f"Best is {best['model']} on {best['features']}, {best['score']:.3f} after {best['train_seconds']:.2g} s of "
        f"training; fastest is {fastest['model']} on {fastest['features']}, {fastest['score']:.3f} after "
        f"{fastest['train_seconds']:.2g} s. Times are of this run on its machine, with whatever ran beside it."
    )
    columns = ("features", "signals", "model", "score", "score_low", "score_high", "train_seconds", "predict_seconds")
    data = pa.Table.from_pylist([{name: row[name] for name in columns} for row in rows])
    return Plot("study-times", "The study", "Score against training time", sentence, sentence, figure, data)


@style.drawn
def history_plot(histories: Sequence[Sequence[Mapping[str, float]]]) -> Plot:
    """Draw loss and validation score of each epoch, a line for each member, with the epoch that is kept.

    Networks without validation rows have training loss only.
    """
    figure, (losses, scores) = style.new_panels(9, 3.6, 1, 2)
    kept = []
    for history in histories:
        epochs = [epoch["epoch"] for epoch in history]
        validated = math.isfinite(history[-1]["validation_score"])
        best = history[-1]
        if validated:
            best = max(history, key=lambda epoch: (epoch["validation_score"], -epoch["validation_loss"]))
        kept.append(best)
        for name, color in (("train_loss", style.OKABE_ITO[0]), ("validation_loss", style.OKABE_ITO[1])):
            losses.plot(epochs, [epoch[name] for epoch in history], color=color, lw=1.5)
        scores.plot(epochs, [epoch["validation_score"] for epoch in history], color=style.OKABE_ITO[1], lw=1.5)
        scores.plot(best["epoch"], best["validation_score"], "D", color=style.OKABE_ITO[2], ms=6)
    losses.plot([], [], color=style.OKABE_ITO[0], label="training")
    losses.plot([], [], color=style.OKABE_ITO[1], label="validation")
    scores.plot([], [], "D", color=style.OKABE_ITO[2], label="kept")
    losses.set(xlabel="epoch", ylabel="loss", title="Loss", ylim=(0, None))
    scores.set(xlabel="epoch", ylabel="score", title="Validation score")
    for panel in (losses, scores):
        panel.grid(color=style.FAINT, lw=0.6)
        panel.legend(loc="best")
    numbers = "the last, no rows were held out"
    if validated:
        numbers = ", ".join(f"{best['epoch']:.0f} ({best['validation_score']:.3f})" for best in kept[:5])
        numbers = f"that with the best validation score, {numbers}{', ...' * (len(kept) > 5)}"
    caption = (
        f"Training of {len(histories)} network{'s' * (len(histories) > 1)}. The epoch whose weights are kept: "
        f"{numbers}. Training loss has dropout and augmentation."
    )
    alt = f"Loss and validation score by epoch; the epoch kept: {numbers}."
    rows = [{"member": member, **epoch} for member, history in enumerate(histories) for epoch in history]
    return Plot("history", "The classifier", "Training history", caption, alt, figure, pa.Table.from_pylist(rows))


def searched_settings(columns: Sequence[str]) -> list[str]:
    """Return the searched settings among the columns of trials.csv."""
    return [name for name in columns if name not in ("trial", "score", "seconds", "error", "epochs")]


@style.drawn
def trials_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the trials of trials.csv: score in order with the best so far, and against the searched numbers."""
    done = sorted((row for row in rows if row["score"] is not None), key=lambda row: row["trial"])
    scores = [row["score"] for row in done]
    searched = searched_settings(list(rows[0])) if rows else []
    numbers = [name for name in searched if done and all(isinstance(row[name], int | float) for row in done)][:3]
    columns = 1 + len(numbers)
    figure, ((left, *others),) = style.new_panels(1.5 + 3 * columns, 4.0, 1, columns, sharey=True, squeeze=False)
    left.plot([row["trial"] + 1 for row in done], scores, "o", color=style.OKABE_ITO[0], ms=5, label="trial")
    best = list(np.maximum.accumulate(scores)) if scores else []
    left.step(
        [row["trial"] + 1 for row in done], best, where="post", color=style.OKABE_ITO[1], lw=2, label="best so far"
    )
    left.set(xlabel="trial", ylabel="validation score", title="The search")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    for name, panel in zip(numbers, others, strict=True):
        values = [row[name] for row in done]
        panel.plot(values, scores, "o", color=style.OKABE_ITO[0], ms=5)
        wide = min(values) > 0 and max(values) > 20 * min(values)
        panel.set(xlabel=name.replace("_", " "), xscale="log" if wide else "linear")
    for panel in (left, *others):
        panel.grid(color=style.FAINT, lw=0.6)
    top = max(done, key=lambda row: row["score"]) if done else None
    found = "no trial succeeded"
    if top is not None:
        chosen = (f"{name} {_short(top[name])}" for name in searched if top[name] is not None)
        found = f"the best of {len(done)} trials reached {top['score']:.3f} with {', '.join(chosen)}"
    caption = (
        f"Search of the settings: {found}; the best of many tries is too good by chance: evaluate it on test clips."
    )
    data = pa.Table.from_pylist([dict(row) for row in rows])
    alt = f"Validation scores of the trials: {found}."
    return Plot("trials", "The search", "Trials of the search", caption, alt, figure, data)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
