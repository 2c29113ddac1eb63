"""Plots of a classifier's metrics, of the comparison and of the search, drawn from recorded values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from acoustic_env.explain import style
from acoustic_env.explain.plot import Plot, table
from acoustic_env.stats.intervals import Estimate

NUMBERED: Final = 12  # classes up to which a confusion matrix shows its counts
SHOWN_CLASSES: Final = 30
SHOWN_ROWS: Final = 30
HARDEST: Final = 3  # classes whose curves are colored
POOLED: Final = {"color": "black", "label": "all classes pooled"}
WORDS: Final = {"auc": "AUC", "map": "mAP", "f1": "F1", "ece": "expected calibration error", "brier": "Brier score"}

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


def metric_name(name: str) -> str:
    """Return the display name of a metric.

    >>> metric_name("macro_f1"), metric_name("class_ece")
    ('macro F1', 'class-wise expected calibration error')
    """
    return " ".join(WORDS.get(word, word) for word in name.replace("class_", "class-wise_").split("_"))


def interval_text(estimate: Mapping[str, Any]) -> str:
    """Return a recorded estimate as `Estimate` says it; its null values are NaN there."""
    value, low, high = (np.nan if estimate.get(key) is None else estimate[key] for key in ("value", "low", "high"))
    return "not defined" if np.isnan(value) else str(Estimate(value, low, high, "", estimate.get("withheld") or ""))


def performance_plots(metrics: Metrics, clips: EvaluatedClips = HELD_OUT) -> list[Plot]:
    """Draw curves, confusion, calibration and classes, as far as the task has them."""
    named: dict[str, Any] = {"classes": [style.class_name(name) for name in metrics["classes"]]}
    for key in ("per_class", "class_curves"):
        named[key] = [{**row, "name": style.class_name(row["name"])} for row in metrics.get(key, [])]
    metrics = {**metrics, **named}
    draw = {
        _draw_curves: metrics.get("roc") and metrics.get("precision_recall"),
        _draw_confusion: metrics.get("confusion"),
        _draw_calibration: True,
        _draw_classes: len(metrics["classes"]) > 2,
    }
    return [make(metrics, clips) for make, there in draw.items() if there]


def _plot(clips: EvaluatedClips, name: str, title: str, sentence: str, alt: str, figure: Any, data: pa.Table) -> Plot:
    return Plot(f"{clips.prefix}{name}", clips.section, f"{title}, {clips.name}", sentence, alt, figure, data)


def _unit_square(panel: Any) -> None:
    """Make both axes of a panel shares, with a grid."""
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    panel.grid()


def _draw_curves(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    """Draw the curves of a binary task; of others those of all classes pooled, of each faint, of the hardest in color.

    A binary task's curves are marked at the threshold.
    """
    precision = {row["name"]: row["average_precision"] for row in metrics["per_class"]}
    classes = sorted(metrics["class_curves"], key=lambda row: precision[row["name"]])
    hardest = [row for row in classes[:HARDEST] if precision[row["name"]] < 1.0]
    binary, others = metrics["task"] == "binary", classes[len(hardest) :]
    figure, panels = style.new_panels(9.4, 5.4, 1, 2)
    panels[0].plot([0, 1], [0, 1], color=style.GREY, lw=1, ls="--", label="chance")
    panels[0].set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curves")
    panels[1].set(xlabel="recall", ylabel="precision", title="Precision and recall")
    if binary:
        share = metrics["per_class"][-1]["support"] / metrics["clips"]
        panels[1].axhline(share, color=style.GREY, lw=1, ls="--")
    for panel, kind, drawn_as in zip(panels, ("roc", "precision_recall"), ("default", "steps-post"), strict=True):
        _unit_square(panel)
        for number, row in enumerate(others):
            label = f"each of the other {len(others)} classes" if number == 0 else None
            panel.plot(row[kind]["x"], row[kind]["y"], color=style.FAINT, lw=1.2, drawstyle=drawn_as, label=label)
        curve = metrics[kind]
        whole = {"color": style.OKABE_ITO[0], "label": "classifier"} if binary else POOLED
        panel.plot(curve["x"], curve["y"], lw=2, drawstyle=drawn_as, **whole)
        for number, row in enumerate(hardest):
            label = f"{style.shortened(row['name'], 24)}, average precision {precision[row['name']]:.3f}"
            look = {"color": style.OKABE_ITO[number], "marker": style.MARKERS[number], "ms": 4, "lw": 1.2}
            panel.plot(row[kind]["x"], row[kind]["y"], label=label, markevery=0.12, drawstyle=drawn_as, **look)
        cut = metrics.get("threshold")
        if binary and cut is not None:  # the last point at or above the threshold, where there is one
            at = [i for i, value in enumerate(curve["thresholds"]) if value is None or value >= cut][-1:]
            x, y = ([curve[axis][i] for i in at] for axis in "xy")
            panel.plot(x, y, "D", color=style.OKABE_ITO[1], ms=8, label=f"threshold {cut:.2f}")
    style.legend_below(figure, 3 if binary else 2, panels[0])
    auc, average = (interval_text(metrics["metrics"].get(key, {})) for key in ("auc", "average_precision"))
    first, last = metrics["classes"][0], metrics["classes"][-1]
    on = f"on {metrics['clips']:,} {clips.name}"
    sentence = (
        f"How well the classifier ranks {last} above {first} {on}: AUC {auc}, average precision {average}; the diamond "
        f"is the threshold chosen on {clips.chosen_on}."
    )
    alt = f"ROC curve with AUC {auc} and precision-recall curve with average precision {average}."
    if not binary:
        auc = interval_text(metrics["metrics"]["mean_auc"])
        said = f"{auc}; hardest by average precision: {', '.join(row['name'] for row in hardest)}" if hardest else auc
        sentence = f"How well each class is ranked above the rest {on}: mean AUC over the classes {said}."
        alt = f"ROC and precision-recall curves of all classes pooled and of {len(classes)} classes; mean AUC {said}."
    points = [
        pd.DataFrame({"class": name, "curve": kind, "x": at["x"], "y": at["y"], "threshold": at["thresholds"]})
        for name, both in [(last if binary else POOLED["label"], metrics), *((row["name"], row) for row in classes)]
        for kind, at in ((kind, both[kind]) for kind in ("roc", "precision_recall"))
    ]
    data = table(pd.concat(points).astype({"threshold": float}))
    return _plot(clips, "curves", "ROC and precision-recall curves", sentence, alt, figure, data)


def _draw_confusion(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    counts, classes = np.array(metrics["confusion"], float), metrics["classes"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.6 + 0.55 * len(classes) if len(classes) <= 20 else 12.0
    named = style.label_inches(classes)
    figure, panel = style.new_panels(size + 1.6 + named, size + named)
    figure.set_layout_engine("compressed")  # of panels with square cells; the usual one cuts labels off
    image = panel.imshow(shares, vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts if len(classes) <= NUMBERED else np.empty((0, 0))):
        color = "white" if shares[row, column] < 0.55 else "black"
        panel.text(column, row, f"{count:,.0f}", ha="center", va="center", color=color)
    style.mark_cells(panel, classes, classes)
    panel.set(xlabel="predicted", ylabel="given label")
    panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=panel, label="share of the given class", shrink=0.8)
    off = shares - np.diag(np.diag(shares))
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    sentence = (
        f"{np.trace(counts) / counts.sum():.0%} of {counts.sum():,.0f} {clips.name} agree with the given label; most "
        f"often confused is {classes[row]}, predicted as {classes[column]} in {off[row, column]:.0%} of its clips."
    )
    said = (f"{classes[i]} predicted right {shares[i, i]:.0%} of {counts[i].sum():,.0f}" for i in range(len(classes)))
    alt = f"Confusion matrix: {'; '.join(islice(said, 20))}"
    pairs = {"given": np.repeat(classes, len(classes)), "predicted": np.tile(classes, len(classes))}
    data = table({**pairs, "clips": counts.ravel(), "share": shares.ravel()})
    return _plot(clips, "confusion", "Confusion of the classes", sentence, alt, figure, data)


def _draw_calibration(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    figure, panel = style.new_panels(5.6, 5.0)
    panel.plot([0, 1], [0, 1], color=style.GREY, lw=1, ls="--", label="perfect")
    tables: list[pd.DataFrame] = []
    errors = metrics["calibration"]
    name = "ece" if "ece_before" in errors else "class_ece"
    before, after = errors[f"{name}_before"], errors[f"{name}_after"]  # None: no class has enough positive clips
    for number, (when, ece) in enumerate((("before", before), ("after", after))):
        diagram = metrics[f"reliability_{when}"]
        bins = pd.DataFrame({key: diagram[key] for key in ("predicted", "observed", "low", "high")}, dtype="float64")
        bins = bins.assign(clips=diagram["count"]).query("clips > 0").dropna(subset=["observed"])
        tables.append(bins.assign(when=when))
        ends = [(bins["observed"] - bins["low"]).clip(0), (bins["high"] - bins["observed"]).clip(0)]
        label = f"{when} calibration, mean error {'none' if ece is None else f'{ece:.3f}'}"
        look = {"fmt": style.MARKERS[number], "color": style.OKABE_ITO[number], "ms": 9 - 4 * number, "capsize": 3}
        filled = None if number else "white"
        panel.errorbar(bins["predicted"], bins["observed"], yerr=ends, lw=1.3, mfc=filled, label=label, **look)
    _unit_square(panel)
    panel.set(xlabel="predicted probability", ylabel="observed share")
    style.legend_below(figure, 1)
    fitted = f"fitted on {clips.chosen_on}"
    if before == after:
        fitted = "none was fitted, since it would not have helped"
    elif clips.section == HELD_OUT.section:
        fitted = "each clip by a calibration fitted on others"
    missed, repaired = ("an unknown amount" if error is None else f"{error:.3f}" for error in (before, after))
    of = ""
    if "ece_before" not in errors:
        of = f"as a mean over {int(errors['class_ece_classes']):,} classes with enough positive clips, "
    known = any(bins["low"].notna().any() for bins in tables)
    intervals = " with 95 % intervals" if known else " without intervals, since there are too few recordings"
    sentence = (
        "Calibration: the predicted probability differs from the observed share by "
        f"{missed} before calibration and by {repaired} after it, {of}on {clips.name} ({fitted})."
    )
    alt = (
        f"Observed share against predicted probability{intervals}; mean error "
        f"{missed} before calibration, {repaired} after."
    )
    data = table(pd.concat(tables)[["when", "predicted", "observed", "low", "high", "clips"]])
    return _plot(clips, "calibration", "Calibration", sentence, alt, figure, data)


def _draw_classes(metrics: Metrics, clips: EvaluatedClips) -> Plot:
    ranked = (row for row in metrics["per_class"] if row["auc"] is not None)
    rows = sorted(ranked, key=lambda row: -(row["average_precision"] or 0))
    half = SHOWN_CLASSES // 2
    shown = (rows if len(rows) <= SHOWN_CLASSES else [*rows[:half], *rows[-half:]])[::-1]
    figure, panel = style.row_panels([f"{style.shortened(row['name'])} ({row['support']:,})" for row in shown])
    for number, key in enumerate(("average_precision", "f1", "auc")):
        look = {"color": style.OKABE_ITO[number], "ms": 6, "ls": "", "label": metric_name(key)}
        panel.plot([row[key] for row in shown], range(len(shown)), style.MARKERS[number], **look)
    panel.set(xlim=(-0.02, 1.02), xlabel=f"score on {clips.name} (number of clips of the class in brackets)")
    style.legend_below(figure, 3)
    best, worst = (rows[0]["name"], rows[-1]["name"]) if rows else ("none", "none")
    which = "all classes" if len(shown) == len(rows) else f"the best and the worst {half} of {len(rows)} classes"
    sentence = f"How well each class is found ({which}): best is {best}, hardest is {worst}."
    said = (f"{row['name']} {row['average_precision']:.2f}" for row in rows[:10])
    alt = f"Dots of average precision, F1 and AUC of each class: {', '.join(said)}"
    data = pa.Table.from_pylist(list(metrics["per_class"]))
    return _plot(clips, "classes", "Each class", sentence, alt, figure, data)


def comparison_score(row: Mapping[str, Any], name: str = "score") -> str:
    """Return a number of a comparison's row with its interval."""
    return interval_text({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def _ends(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return low ends, scores and high ends; the scores themselves where there is no interval."""
    scores = pd.DataFrame(rows, columns=["score_low", "score", "score_high"], dtype=float)
    known = scores.notna().all(axis=1)
    return [scores[name].where(known, scores["score"]) for name in scores]


def comparison_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the comparison's rows (of compare.csv), best first, with intervals; mark those within noise of the best."""
    shown = list(rows[:SHOWN_ROWS])[::-1]
    several = len({row["model"] for row in rows}) > 1
    labels = [f"{row['features']}, {row['signals']}" + (f", {row['model']}" if several else "") for row in shown]
    figure, panel = style.row_panels(labels)
    near = np.array([bool(row["within_noise"]) for row in shown])
    for number, label in enumerate(("best, or within noise of it", "behind the best by more than noise")):
        places = np.flatnonzero(near != number)
        style.draw_intervals(panel, places, *_ends([shown[place] for place in places]), number=number, label=label)
    panel.set_xlabel("out-of-fold score (AUC, macro F1 or mAP) with 95 % interval")
    style.legend_below(figure, 2)
    best, others = rows[0], sum(bool(row["within_noise"]) for row in rows) - 1
    sentence = (
        f"{best['features']} ({best['signals']}, {best['model']}) scores best, "
        f"{comparison_score(best)}; {others} of the other {len(rows) - 1} variants are within "
        "noise of it (paired on the same clips, with intervals that allow for the choice of the best among all: the "
        "truly best variant is the best here or within noise in 95 of 100 studies)."
    )
    said = [f"{label} {comparison_score(row)}" for label, row in zip(labels, shown, strict=True)]
    alt = f"Scores with intervals, best first: {'; '.join(said[:-9:-1])}"
    data = pa.Table.from_pylist([dict(row) for row in rows])
    return Plot("comparison", "The comparison", "Which features separate the classes", sentence, alt, figure, data)


def comparison_times_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the score of each row of a comparison against its training time, a marker and color for each model."""
    figure, panel = style.new_panels(9, 4)
    for number, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        own = [row for row in rows if row["model"] == model]
        color, marker = style.OKABE_ITO[number % len(style.OKABE_ITO)], style.MARKERS[number % len(style.MARKERS)]
        seconds, (low, score, high) = [row["train_seconds"] for row in own], _ends(own)
        panel.vlines(seconds, low, high, color=color, lw=1.2, alpha=0.6)
        panel.plot(seconds, score, marker, color=color, ms=7, label=style.shortened(model))
    panel.set(
        xlabel="s to train once, mean over the folds", ylabel="out-of-fold score with 95 % interval", xscale="log"
    )
    panel.grid()
    figure.legend(loc="outside right upper")
    best, fastest = rows[0], min(rows, key=lambda row: row["train_seconds"])
    sentence = (
        f"Best is {best['model']} on {best['features']}, {comparison_score(best)} after {best['train_seconds']:.2g} s "
        f"of training; fastest is {fastest['model']} on {fastest['features']}, {comparison_score(fastest)} after "
        f"{fastest['train_seconds']:.2g} s. Times are of this run on its machine, with whatever ran beside it."
    )
    columns = ("features", "signals", "model", "score", "score_low", "score_high", "train_seconds", "predict_seconds")
    data = pa.Table.from_pylist([{name: row[name] for name in columns} for row in rows])
    return Plot("comparison-times", "The comparison", "Score against training time", sentence, sentence, figure, data)


def history_plot(histories: Sequence[Sequence[Mapping[str, float]]]) -> Plot:
    """Draw loss and validation score of each epoch, a line for each member, with the epoch that is kept.

    Networks without validation rows have training loss only.
    """
    figure, (losses, scores) = style.new_panels(9, 3.6, 1, 2)
    epochs = [pd.DataFrame(history) for history in histories]
    validated = math.isfinite(histories[-1][-1]["validation_score"])
    best = [rows.sort_values(["validation_score", "validation_loss"], ascending=[False, True]) for rows in epochs]
    kept = [rows.iloc[0] for rows in best] if validated else [rows.iloc[-1] for rows in epochs]
    training, validation, chosen = style.OKABE_ITO[:3]
    for number, (rows, own) in enumerate(zip(epochs, kept, strict=True)):
        labels = ("training", "validation", "kept") if number == 0 else (None, None, None)
        losses.plot(rows["epoch"], rows["train_loss"], color=training, lw=1.5, label=labels[0])
        losses.plot(rows["epoch"], rows["validation_loss"], color=validation, lw=1.5, label=labels[1])
        scores.plot(rows["epoch"], rows["validation_score"], color=validation, lw=1.5)
        scores.plot(own["epoch"], own["validation_score"], "D", color=chosen, ms=6, label=labels[2])
    losses.set(xlabel="epoch", ylabel="loss", title="Loss", ylim=(0, None))
    scores.set(xlabel="epoch", ylabel="score", title="Validation score")
    for panel in (losses, scores):
        panel.grid()
        panel.legend(loc="best")
    numbers = "the last, no rows were held out"
    if validated:
        numbers = ", ".join(f"{own['epoch']:.0f} ({own['validation_score']:.3f})" for own in kept[:5])
        numbers = f"that with the best validation score, {numbers}{', ...' * (len(kept) > 5)}"
    caption = (
        f"Training of {len(histories)} network{'s' * (len(histories) > 1)}. The epoch whose weights are kept: "
        f"{numbers}. Training loss has dropout and augmentation."
    )
    alt = f"Loss and validation score by epoch; the epoch kept: {numbers}."
    data = table(pd.concat(epochs, keys=range(len(epochs)), names=["member"]).reset_index(level=0))
    return Plot("history", "The classifier", "Training history", caption, alt, figure, data)


def searched_settings(columns: Sequence[str]) -> list[str]:
    """Return the searched settings among the columns of trials.csv."""
    return [name for name in columns if name not in ("trial", "score", "seconds", "error", "epochs")]


@style.drawn
def trials_plot(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the trials of trials.csv: score in order with the best so far, and against the searched numbers."""
    done = sorted((row for row in rows if row["score"] is not None), key=lambda row: row["trial"])
    order, scores = [row["trial"] + 1 for row in done], np.array([row["score"] for row in done])
    searched = searched_settings(list(rows[0])) if rows else []
    numbers = [name for name in searched if done and all(isinstance(row[name], int | float) for row in done)][:3]
    columns = 1 + len(numbers)
    figure, ((left, *others),) = style.new_panels(1.5 + 3 * columns, 4.0, 1, columns, sharey=True, squeeze=False)
    left.plot(order, scores, "o", color=style.OKABE_ITO[0], ms=5, label="trial")
    best = np.maximum.accumulate(scores)
    left.step(order, best, where="post", color=style.OKABE_ITO[1], lw=2, label="best so far")
    left.set(xlabel="trial", ylabel="validation score", title="The search")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    for name, panel in zip(numbers, others, strict=True):
        values = [row[name] for row in done]
        panel.plot(values, scores, "o", color=style.OKABE_ITO[0], ms=5)
        wide = min(values) > 0 and max(values) > 20 * min(values)
        panel.set(xlabel=name.replace("_", " "), xscale="log" if wide else "linear")
    for panel in (left, *others):
        panel.grid()
    found = "no trial succeeded"
    if done:
        top = done[int(scores.argmax())]
        short = {name: f"{top[name]:.3g}" if isinstance(top[name], float) else top[name] for name in searched}
        chosen = (f"{name} {value}" for name, value in short.items() if value is not None)
        found = f"the best of {len(done)} trials reached {top['score']:.3f} with {', '.join(chosen)}"
    caption = (
        f"Search of the settings: {found}; the best of many tries is too good by chance: evaluate it on test clips."
    )
    data = pa.Table.from_pylist([dict(row) for row in rows])
    alt = f"Validation scores of the trials: {found}."
    return Plot("trials", "The search", "Trials of the search", caption, alt, figure, data)
