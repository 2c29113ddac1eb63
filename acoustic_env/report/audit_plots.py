"""Plots of the label audit: the ranking, the estimates, and both compared with the truth where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.intervals import Floats, Interval
from acoustic_env.explain.plot import Plot
from acoustic_env.explain.style import FAINT, GREY, OKABE_ITO, drawn, new_panels, shortened
from acoustic_env.stats.intervals import Estimate

SECTION: Final = "The label audit"
CLASSES: Final = 6
LABELS: Final = 25
BINS: Final = 40


@drawn
def quality_plot(labels: Sequence[str], quality: Floats, flagged: npt.NDArray[np.bool_]) -> Plot:
    """Draw the distribution of the quality of given labels, by class."""
    names, counts = np.unique(np.array(labels, object).astype(str), return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")[:CLASSES]]
    edges = np.linspace(0, 1, BINS + 1)
    figure, panel = new_panels(9, 3.9)
    of_label = np.array(labels, object)
    columns: dict[str, list[Any]] = {"label": [], "quality_from": [], "quality_to": [], "labels": []}
    for number, name in enumerate(shown):
        heights, _ = np.histogram(quality[of_label == name], edges)
        panel.stairs(heights, edges, color=OKABE_ITO[number], lw=2, label=shortened(str(name)), fill=False)
        row = ([str(name)] * BINS, edges[:-1].tolist(), edges[1:].tolist(), heights.tolist())
        for key, values in zip(columns, row, strict=True):
            columns[key] += values
    panel.set(xlabel="quality of the given label: 0 = most suspect, 1 = best", ylabel="labels", xlim=(0, 1))
    panel.grid(axis="y", color=FAINT, lw=0.6)
    figure.legend(loc="outside lower center", ncols=min(3, len(shown)))
    sentence = (
        f"Quality of the {len(quality):,} given labels; listen to the {int(flagged.sum()):,} flagged ones first. It is "
        "a ranking: neither the flags nor the mean quality estimate how many labels are wrong."
    )
    low = float(np.mean(quality < 0.5))
    alt = f"Histogram of label quality by class; {low:.0%} of the labels have a quality below 0.5."
    return Plot("audit-quality", SECTION, "The ranking of the labels", sentence, alt, figure, pa.table(columns))


@drawn
def estimate_plot(overall: Interval, labels: Mapping[str, Interval], truth: Mapping[str | None, float]) -> Plot:
    """Draw label accuracy with intervals, overall and by label; crosses where the truth is known (None = overall)."""
    order = sorted(labels, key=lambda name: -labels[name].n)[:LABELS]
    rows: list[tuple[str, Interval, float | None]] = [
        *((shortened(name), labels[name], truth.get(name)) for name in order[::-1]),
        ("all labels", overall, truth.get(None)),
    ]
    figure, panel = new_panels(9, 1.5 + 0.34 * max(len(rows), 3))
    for place, (name, interval, known) in enumerate(rows):
        color = OKABE_ITO[0] if name == "all labels" else OKABE_ITO[1]
        panel.plot([interval.low, interval.high], [place, place], color=color, lw=2.5)
        if np.isfinite(interval.estimate):
            panel.plot(interval.estimate, place, "o", color=color, ms=7)
        if known is not None:
            panel.plot(known, place, "X", color="black", ms=8)
    panel.set_yticks(range(len(rows)), [f"{name} (n = {interval.n})" for name, interval, _ in rows])
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.set(xlim=(-0.02, 1.02), xlabel="share of given labels that are right, 95 % interval")
    panel.grid(axis="x", color=FAINT, lw=0.6)
    panel.plot([], [], "o", color=GREY, label="estimate from the annotated sample")
    if truth:
        panel.plot([], [], "X", color="black", ls="", ms=8, label="truth")
    figure.legend(loc="outside lower center", ncols=2)
    known = truth.get(None)
    against = ""
    if known is not None:
        inside = "inside" if overall.low <= known <= overall.high else "outside"
        against = f" The truth, known here, is {known:.3f}, {inside} the interval."
    sentence = (
        f"Estimated from the annotated sample, {overall.estimate:.1%} of the given labels are right (95 % interval "
        f"{overall.low:.1%} to {overall.high:.1%}, {overall.n} answers, {overall.method}).{against}"
    )
    alt = "Estimates with intervals: " + "; ".join(
        f"{name} {interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"
        for name, interval, _ in rows[::-1]
    )
    data = pa.table(
        {
            "label": [name for name, _, _ in rows],
            **{key: [getattr(interval, key) for _, interval, _ in rows] for key in ("estimate", "low", "high")},
            "answers": [interval.n for _, interval, _ in rows],
            "truth": pa.array([known for _, _, known in rows], pa.float64()),
        }
    )
    return Plot("audit-accuracy", SECTION, "How many labels are right", sentence, alt, figure, data)


@drawn
def found_plot(wrong: npt.NDArray[np.bool_], quality: Floats, precision: Estimate) -> Plot:
    """Draw the share of the wrong labels found when listening by quality, lowest first; the truth must be known."""
    ordered = wrong[np.argsort(quality, kind="stable")]
    annotated = np.arange(1, len(ordered) + 1)
    share = np.cumsum(ordered) / max(int(wrong.sum()), 1)
    figure, panel = new_panels(7.5, 4.4)
    panel.plot(annotated / len(ordered), share, color=OKABE_ITO[0], lw=2, label="by the ranking")
    panel.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="in any order")
    base = float(wrong.mean())
    panel.plot([0, base, 1], [0, 1, 1], color=OKABE_ITO[2], lw=1.2, ls=":", label="best possible")
    panel.set(
        xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the labels listened to", ylabel="share of the wrong labels found"
    )
    panel.grid(color=FAINT, lw=0.6)
    panel.legend(loc="lower right")
    k = max(int(wrong.sum()), 1)
    hits = int(ordered[:k].sum())
    sentence = (
        f"{int(wrong.sum()):,} of {len(wrong):,} given labels are wrong; {hits:,} of them are among the {k:,} most "
        f"suspect. Average precision {precision}, by chance {base:.3f}."
    )
    alt = f"Curve of wrong labels found against labels listened to; average precision {precision}, chance {base:.3f}."
    data = pa.table({"listened": annotated, "wrong_found": np.cumsum(ordered)})
    return Plot("audit-found", SECTION, "What the ranking finds", sentence, alt, figure, data)
