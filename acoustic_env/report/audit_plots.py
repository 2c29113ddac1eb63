"""Plots of the label audit: the ranking, the estimates, and both compared with the truth where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from acoustic_env.audit.intervals import Floats, Interval
from acoustic_env.explain import style
from acoustic_env.explain.plot import Plot, table
from acoustic_env.stats.intervals import Estimate

SECTION: Final = "The label audit"
CLASSES: Final = 6
LABELS: Final = 25
BINS: Final = 40


def quality_plot(labels: Sequence[str], quality: Floats, flagged: npt.NDArray[np.bool_]) -> Plot:
    """Draw the distribution of the quality of given labels, by class."""
    of_label = pd.Series(quality).groupby(pd.Series(labels, dtype=str).to_numpy())
    shown = of_label.size().sort_values(ascending=False, kind="stable").index[:CLASSES]
    edges = np.linspace(0, 1, BINS + 1)
    figure, panel = style.new_panels(9, 3.9)
    heights = {name: np.histogram(of_label.get_group(name), edges)[0] for name in shown}
    for color, name in zip(style.OKABE_ITO, shown, strict=False):
        panel.stairs(heights[name], edges, color=color, lw=2, label=style.shortened(name), fill=False)
    panel.set(xlabel="quality of the given label: 0 = most suspect, 1 = best", ylabel="labels", xlim=(0, 1))
    panel.grid(axis="y")
    style.legend_below(figure, min(3, len(shown)))
    sentence = (
        f"Quality of the {len(quality):,} given labels; listen to the {int(flagged.sum()):,} flagged ones first. It is "
        "a ranking: neither the flags nor the mean quality estimate how many labels are wrong."
    )
    alt = f"Histogram of label quality by class; {np.mean(quality < 0.5):.0%} of the labels have a quality below 0.5."
    bins = {"quality_from": np.tile(edges[:-1], len(shown)), "quality_to": np.tile(edges[1:], len(shown))}
    data = table({"label": np.repeat(shown, BINS), **bins, "labels": np.concatenate(list(heights.values()))})
    return Plot("audit-quality", SECTION, "The ranking of the labels", sentence, alt, figure, data)


def estimate_plot(overall: Interval, labels: Mapping[str, Interval], truth: Mapping[str | None, float]) -> Plot:
    """Draw label accuracy with intervals, overall and by label; crosses where the truth is known (None = overall)."""
    order = sorted(labels, key=lambda name: -labels[name].n)[:LABELS][::-1]
    names, found = [*map(style.shortened, order), "all labels"], [*(labels[name] for name in order), overall]
    known = np.array([truth.get(name, np.nan) for name in (*order, None)], float)
    ends = {key: np.array([getattr(one, key) for one in found]) for key in ("low", "estimate", "high")}
    figure, panel = style.row_panels([f"{name} (n = {one.n})" for name, one in zip(names, found, strict=True)], 0.34)
    last = len(order)
    for number, (rows, label) in enumerate(((range(last, last + 1), "all labels"), (range(last), "one label"))):
        own = (ends[key][list(rows)] for key in ends)
        style.draw_intervals(panel, rows, *own, number=number, label=f"{label}, estimate from the annotated sample")
    if truth:
        panel.plot(known, range(len(names)), "X", color="black", ls="", ms=8, label="truth")
    panel.set(xlim=(-0.02, 1.02), xlabel="share of given labels that are right, 95 % interval")
    style.legend_below(figure, 3)
    against = ""
    if None in truth:
        inside = "inside" if overall.low <= truth[None] <= overall.high else "outside"
        against = f" The truth, known here, is {truth[None]:.3f}, {inside} the interval."
    sentence = (
        f"Estimated from the annotated sample, {overall.estimate:.1%} of the given labels are right (95 % interval "
        f"{overall.low:.1%} to {overall.high:.1%}, {overall.n} answers, {overall.method}).{against}"
    )
    said = [f"{one.estimate:.2f} ({one.low:.2f} to {one.high:.2f})" for one in found]
    listed = [f"{name} {text}" for name, text in zip(names, said, strict=True)]
    alt = f"Estimates with intervals: {'; '.join(listed[::-1])}"
    data = table({"label": names, **ends, "answers": [one.n for one in found], "truth": known})
    return Plot("audit-accuracy", SECTION, "How many labels are right", sentence, alt, figure, data)


def found_plot(wrong: npt.NDArray[np.bool_], quality: Floats, precision: Estimate) -> Plot:
    """Draw the share of the wrong labels found when listening by quality, lowest first; the truth must be known."""
    found = np.cumsum(wrong[np.argsort(quality, kind="stable")])
    listened, total, base = np.arange(1, len(found) + 1), max(int(wrong.sum()), 1), float(wrong.mean())
    figure, panel = style.new_panels(7.5, 4.4)
    panel.plot(listened / len(found), found / total, color=style.OKABE_ITO[0], lw=2, label="by the ranking")
    panel.plot([0, 1], [0, 1], color=style.GREY, lw=1, ls="--", label="in any order")
    panel.plot([0, base, 1], [0, 1, 1], color=style.OKABE_ITO[2], lw=1.2, ls=":", label="best possible")
    panel.set(xlim=(0, 1), ylim=(0, 1.02))
    panel.set(xlabel="share of the labels listened to", ylabel="share of the wrong labels found")
    panel.grid()
    panel.legend(loc="lower right")
    sentence = (
        f"{wrong.sum():,} of {len(wrong):,} given labels are wrong; {found[total - 1]:,} of them are among the "
        f"{total:,} most suspect. Average precision {precision}, by chance {base:.3f}."
    )
    alt = f"Curve of wrong labels found against labels listened to; average precision {precision}, chance {base:.3f}."
    data = table({"listened": listened, "wrong_found": found})
    return Plot("audit-found", SECTION, "What the ranking finds", sentence, alt, figure, data)
