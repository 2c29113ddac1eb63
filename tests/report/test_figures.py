"""Figures of performance for every task, drawn from recorded numbers alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from acoustic_env.config import Task
from acoustic_env.explain.plot import Plot
from acoustic_env.models.validation.performance import performance
from acoustic_env.report.plots import (
    HELD_OUT,
    TEST,
    EvaluatedClips,
    comparison_plot,
    performance_plots,
    trials_plot,
)

N = 150


def recorded(task: Task, classes: int) -> dict[str, Any]:
    random = np.random.default_rng(classes)
    names = [f"class {c}" for c in range(classes)]
    y: Any = random.integers(0, classes, N)
    scores = random.normal(size=(N, classes)) + 1.5 * np.eye(classes)[y]
    if task == "multilabel":
        y = np.eye(classes, dtype=bool)[y]
        y[:, -1] = False
        probabilities = 1 / (1 + np.exp(-scores))
    else:
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    judged = performance(task, names, y, probabilities, np.arange(N), np.full(classes, 0.5), probabilities)
    text = json.dumps(judged.as_json())
    return dict(json.loads(text))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "classes", "names"),
    [
        ("binary", 2, ["curves", "confusion", "calibration"]),
        ("multiclass", 4, ["curves", "confusion", "calibration", "classes"]),
        ("multiclass", 40, ["curves", "confusion", "calibration", "classes"]),
        ("multilabel", 5, ["curves", "calibration", "classes"]),
    ],
)
@pytest.mark.parametrize("judged", [HELD_OUT, TEST])
def test_every_task_has_its_figures_with_words_and_data(
    task: Task, classes: int, names: list[str], judged: EvaluatedClips, tmp_path: Any
) -> None:
    found = performance_plots(recorded(task, classes), judged)
    assert [plot.name for plot in found] == [f"{judged.prefix}{name}" for name in names]
    for plot in found:
        entry = plot.save(tmp_path)
        assert entry.caption.endswith(".")
        assert entry.title.endswith(judged.name)
        assert entry.section == judged.section
        assert len(entry.alt) > 30
        assert plot.data.num_rows > 0


def test_the_curve_is_marked_where_the_threshold_cuts_it() -> None:
    metrics = recorded("binary", 2)
    curves: Plot = performance_plots(metrics)[0]
    panel = curves.figure.axes[0]
    marked = next(line for line in panel.lines if "threshold" in str(line.get_label()))
    called = np.array(metrics["confusion"])
    rates = called[0, 1] / called[0].sum(), called[1, 1] / called[1].sum()
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == pytest.approx(rates)


def test_a_threshold_that_no_clip_reaches_is_at_the_start_of_the_roc_curve_and_not_on_the_other() -> None:
    metrics = recorded("binary", 2) | {"threshold": 0.9999}
    panels = performance_plots(metrics)[0].figure.axes
    roc, precision = (next(line for line in p.lines if "threshold" in str(line.get_label())) for p in panels)
    assert (list(roc.get_xdata()), list(roc.get_ydata())) == ([0], [0])
    assert len(precision.get_xdata()) == 0


def test_curves_of_several_classes_name_the_hardest_and_keep_every_class_in_the_data() -> None:
    metrics = recorded("multiclass", 6)
    curves = performance_plots(metrics)[0]
    hardest = min(metrics["per_class"], key=lambda row: row["average_precision"])["name"]
    labels = [text.get_text() for text in curves.figure.legends[0].get_texts()]
    assert any(label.startswith(hardest) for label in labels)
    assert "each of the other 3 classes" in labels
    assert hardest in curves.caption
    assert set(curves.data["class"].to_pylist()) == {"all classes pooled", *metrics["classes"]}
    first = curves.data.filter(curves.data["class"].to_numpy() == hardest).to_pylist()[0]
    assert (first["curve"], first["x"], first["y"], first["threshold"]) == ("roc", 0.0, 0.0, None)


def test_bundles_from_before_there_were_curves_of_many_classes_are_drawn_without() -> None:
    metrics = recorded("multiclass", 4)
    del metrics["class_curves"]
    metrics |= {"roc": None, "precision_recall": None}
    assert [figure.name for figure in performance_plots(metrics)] == ["confusion", "calibration", "classes"]


def test_the_study_marks_what_is_within_noise_and_the_search_survives_failed_trials() -> None:
    row = {"signals": "raw", "model": "mlp", "inputs": 60, "score_low": 0.7, "score_high": 0.9}
    rows = [
        {**row, "features": "a", "score": 0.8, "within_noise": True, "behind": None},
        {**row, "features": "b", "score": 0.79, "within_noise": True, "behind": 0.01},
        {**row, "features": "c", "score": 0.7, "within_noise": False, "behind": 0.1},
    ]
    assert "1 of the other 2 variants" in comparison_plot(rows).caption
    failed = {"trial": 0, "score": None, "layers": "16", "activation": "relu", "dropout": 0.1, "learning_rate": 1e-3}
    assert "no trial succeeded" in trials_plot([failed]).caption
    assert "reached 0.810" in trials_plot([failed, {**failed, "trial": 1, "score": 0.81}]).caption


def test_classes_of_audioset_go_by_their_names() -> None:
    metrics = recorded("multiclass", 4)
    metrics["classes"][0] = metrics["per_class"][0]["name"] = metrics["class_curves"][0]["name"] = "/m/09x0r"
    confusion = performance_plots(metrics)[1]
    assert "Speech" in confusion.alt
    assert "/m/09x0r" not in confusion.alt
