"""The calibration error of a multi-label study was pooled over clips and classes: easy negatives made it small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from acoustic_env.models.validation.performance import performance
from acoustic_env.models.validation.reliability import class_errors, reliability

CLASSES = 5


def clips(said: float, true: float, n: int = 10_000, easy: float = 0.001) -> tuple[Any, Any]:
    """99 % easy negatives; of each class 1 % of the clips are said with one probability and true with another."""
    random = np.random.default_rng(0)
    probabilities = np.full((n, CLASSES), easy)
    probabilities[: n // 100] = said
    truth = np.zeros((n, CLASSES), bool)
    truth[: n // 100] = random.random((n // 100, CLASSES)) < true
    return truth, probabilities


def calibration(truth: Any, probabilities: Any) -> dict[str, float]:
    return performance(
        "multilabel", "abcde", truth, probabilities, np.arange(len(truth)), np.full(CLASSES, 0.5), probabilities
    ).calibration


def test_a_model_that_is_too_sure_of_positives_shows_it_behind_99_percent_of_easy_negatives() -> None:
    truth, probabilities = clips(said=0.95, true=0.5)
    assert reliability(truth.ravel(), probabilities.ravel()).expected_error < 0.01  # what was shown
    found = calibration(truth, probabilities)
    assert found["class_ece_before"] > 0.3
    assert found["class_ece_classes"] == CLASSES
    assert "ece_before" not in found


def test_a_model_that_is_too_unsure_of_positives_shows_it_too() -> None:
    truth, probabilities = clips(said=0.05, true=0.6)
    assert calibration(truth, probabilities)["class_ece_before"] > 0.3


def test_a_class_that_is_wrong_one_way_does_not_make_up_for_one_that_is_wrong_the_other() -> None:
    random = np.random.default_rng(1)
    probabilities = np.full((4000, 2), 0.5)
    truth = random.random((4000, 2)) < np.array([0.3, 0.7])
    assert reliability(truth.ravel(), probabilities.ravel()).expected_error < 0.03
    assert class_errors(truth, probabilities).mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("rarity", [0.5, 0.05, 0.005])
def test_probabilities_that_mean_what_they_say_have_a_small_error_however_rare_the_class(rarity: float) -> None:
    random = np.random.default_rng(2)
    probabilities = random.beta(0.5, 0.5 / rarity - 0.5, size=(20_000, 20))
    truth = random.random(probabilities.shape) < probabilities
    assert np.nanmean(class_errors(truth, probabilities)) < 0.05


def test_classes_with_few_clips_are_not_counted_and_none_is_said() -> None:
    truth, probabilities = np.zeros((500, 3), bool), np.full((500, 3), 0.01)
    truth[:19, 0], truth[:20, 1] = True, True
    assert np.isfinite(class_errors(truth, probabilities)).tolist() == [False, True, False]
    assert np.isnan(calibration(truth[:, [0] * CLASSES], probabilities[:, [0] * CLASSES])["class_ece_after"])
