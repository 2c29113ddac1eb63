"""What is said of a model: scikit-learn's figures, every class, plain JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from acoustic_env.config import Task
from acoustic_env.models.validation.calibration import Calibrator
from acoustic_env.models.validation.performance import CURVE_CLASSES, CURVE_POINTS, performance


def test_multilabel_figures_are_scikit_learns_and_an_empty_class_is_named_and_counts_as_zero() -> None:
    random = np.random.default_rng(0)
    y = random.random((200, 4)) < 0.3
    y[:, 3] = False
    probabilities = special.expit(random.normal(size=(200, 4)) + 2 * y - 1)
    found = performance("multilabel", "abcd", y, probabilities, np.arange(200), np.full(4, 0.5), probabilities)
    expected = metrics.average_precision_score(y[:, :3], probabilities[:, :3], average="macro")
    assert found.metrics["map"].value == pytest.approx(expected)
    assert found.metrics["mean_auc"].value == pytest.approx(metrics.roc_auc_score(y[:, :3], probabilities[:, :3]))
    called = probabilities >= 0.5
    for average in ("macro", "micro"):
        f1 = metrics.f1_score(y, called, average=average, zero_division=0)
        assert found.metrics[f"{average}_f1"].value == pytest.approx(f1)
    right = 1 - metrics.hamming_loss(y, called)
    assert found.metrics["elementwise_accuracy"].value == pytest.approx(right)
    assert found.metrics["always_no_accuracy"].value == pytest.approx(1 - y.mean())
    assert found.undefined == ["d"]
    assert [one.name for one in found.per_class] == ["a", "b", "c", "d"]
    assert (found.per_class[3].f1, found.per_class[3].support) == (0.0, 0)


def test_binary_figures_use_the_threshold_given_and_the_calibration_given() -> None:
    random = np.random.default_rng(1)
    y = random.integers(0, 2, 300)
    positive = special.expit(random.normal(size=300) + 1.5 * y)
    learned = {"calibration": {"kind": "platt", "slope": [0.5], "shift": [-0.3]}, "thresholds": [0.7, 0.3]}
    calibration = Calibrator.from_json("binary", learned)
    both, thresholds = np.stack([1 - positive, positive], axis=1), calibration.thresholds_
    found = performance("binary", ("no", "yes"), y, both, np.arange(300), thresholds, calibration.predict_proba(both))
    calibrated = special.expit(0.5 * special.logit(positive) - 0.3)
    called = calibrated >= 0.3
    assert found.threshold == 0.3
    assert found.metrics["auc"].value == pytest.approx(metrics.roc_auc_score(y, positive))
    assert found.metrics["average_precision"].value == pytest.approx(metrics.average_precision_score(y, positive))
    assert found.metrics["accuracy"].value == pytest.approx(metrics.accuracy_score(y, called))
    assert found.metrics["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(y, called))
    assert found.metrics["f1"].value == pytest.approx(metrics.f1_score(y, called))
    assert found.calibration["brier_after"] == pytest.approx(metrics.brier_score_loss(y, calibrated))
    assert found.confusion is not None
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(y, called))
    for figure in found.metrics.values():
        assert figure.low <= figure.value <= figure.high


def test_what_is_kept_of_curves_is_bounded_whatever_the_number_of_clips_and_classes() -> None:
    random = np.random.default_rng(2)

    def points(task: Task, n: int, classes: int) -> tuple[int, list[str]]:
        y: Any = np.arange(n) % (classes - 1)  # the last class has no clip
        probabilities = special.softmax(random.normal(size=(n, classes)) + np.eye(classes)[y], axis=1)
        y = np.eye(classes, dtype=bool)[y] if task == "multilabel" else y
        thresholds, names = np.full(classes, 0.5), [f"c{c}" for c in range(classes)]
        found = performance(task, names, y, probabilities, np.arange(n), thresholds, probabilities)
        pooled = found.roc, found.precision_recall
        curves = [*pooled, *(curve for own in found.class_curves for curve in (own.roc, own.precision_recall))]
        return max(len(curve.x) for curve in curves), [own.name for own in found.class_curves]

    for task in ("multiclass", "multilabel"):
        most, named = points(task, 3000, 5)
        assert 100 < most <= CURVE_POINTS + 2
        assert named == ["c0", "c1", "c2", "c3"]
        assert points(task, 200, CURVE_CLASSES + 1)[1] == []


def test_a_class_of_one_recording_leaves_macro_f1_without_an_interval_and_accuracy_with_one() -> None:
    y = np.repeat(np.arange(10), 8)
    sure = np.eye(10)[y] * 0.9 + 0.01
    sure[[3, 40]] = sure[[40, 3]]
    for recordings_of_the_first in (1, 3):
        recordings = y * 10 + np.where(y == 0, np.arange(80) % recordings_of_the_first, np.arange(80) % 8)
        for task, own in (("multiclass", y), ("multilabel", np.eye(10, dtype=bool)[y])):
            found = performance(task, "abcdefghij", own, sure, recordings, np.full(10, 0.5), sure)
            figure = found.metrics["macro_f1"]
            assert figure.value == pytest.approx(metrics.f1_score(y, sure.argmax(axis=1), average="macro"))
            if recordings_of_the_first == 1:
                assert str(figure).endswith("(no interval: 1 group with rows of a class, too few)")
            else:
                assert 0.75 < figure.low < figure.value < figure.high
        if task == "multiclass":
            assert found.metrics["accuracy"].low < found.metrics["accuracy"].value
    # A class that the data lack counts as 0.
    padded = np.pad(sure, ((0, 0), (0, 1)))
    lacking = performance("multiclass", "abcdefghijk", y, padded, recordings, np.ones(11), padded)
    assert lacking.metrics["macro_f1"].value == pytest.approx(figure.value * 10 / 11)


def test_what_is_wrong_with_a_rare_class_stands_beside_it() -> None:
    random = np.random.default_rng(2)
    y = random.choice(3, 2000, p=[0.9, 0.08, 0.02])
    said = special.softmax(1.5 * (1.5 * np.eye(3)[y] + random.normal(size=(2000, 3))), axis=1)
    found = performance("multiclass", "abc", y, said, np.arange(2000), np.ones(3), said)
    rare = found.per_class[2]
    assert (rare.share, rare.mean_posterior) == pytest.approx((np.mean(y == 2), said[:, 2].mean()))
    assert rare.calibration_error > 0.2
    text = "\n".join(found.lines())
    assert f"c: {rare.share:.1%} of the clips, mean posterior {rare.mean_posterior:.1%}" in text


def test_a_performance_is_plain_json_without_nan() -> None:
    y = np.array([0, 1, 0, 1, 2, 2])
    probabilities = np.full((6, 4), 0.25)
    found = performance("multiclass", "abcd", y, probabilities, np.arange(6), np.ones(4), probabilities)
    text = json.dumps(found.as_json(), allow_nan=False)
    assert json.loads(text)["per_class"][3]["auc"] is None
    text = "\n".join(found.lines())
    assert "without a ranking (no clip of the class, or no other): 1 (d); macro f1 counts a class without clips" in text
