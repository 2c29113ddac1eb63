"""Calibration without Platt's targets: fifty clips that a score separates turned a raw 0.70 into 0.9999999.

Without them the least log loss of separable clips lies at an infinite slope. Platt (1999) fits (N+ + 1)/(N+ + 2) and
1/(N- + 2) instead of 1 and 0; temperature scaling had the same fault.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from acoustic_env.models.validation.calibration import Calibrator


def binary(positive: np.ndarray) -> np.ndarray:
    return np.stack([1 - positive, positive], axis=1)


def separable(each: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Positive clips at 0.60 to 0.90, negative ones at 0.10 to 0.40."""
    positive = np.linspace(0.60, 0.90, each)
    return np.repeat([1, 0], each), np.r_[positive, 1 - positive]


def test_fifty_separable_clips_do_not_make_a_raw_70_percent_a_certainty() -> None:
    y, raw = separable()
    calibration = Calibrator("binary").fit(binary(raw), y)
    found = calibration.predict_proba(binary(np.array([0.70])))[0, 1]
    assert 0.85 < found < 0.99


def test_the_mean_of_calibrated_probabilities_is_that_of_the_targets() -> None:
    y = np.repeat([1, 0], [12, 40])
    raw = np.r_[np.linspace(0.6, 0.9, 12), np.linspace(0.05, 0.4, 40)]
    calibrated = Calibrator("binary").fit(binary(raw), y).predict_proba(binary(raw))[:, 1]
    assert calibrated.mean() == pytest.approx((12 * 13 / 14 + 40 * 1 / 42) / 52, abs=0.01)  # shrunken


def test_swapping_the_classes_swaps_the_probabilities() -> None:
    random = np.random.default_rng(0)
    raw = random.random(60)
    y = (random.random(60) < raw).astype(np.int64)
    one = Calibrator("binary").fit(binary(raw), y).predict_proba(binary(raw))
    other = Calibrator("binary").fit(binary(1 - raw), 1 - y).predict_proba(binary(1 - raw))
    np.testing.assert_allclose(one, other[:, ::-1], atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_slope_and_shift_are_those_of_scikit_learn_which_has_the_targets(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(80, 1))
    y = (x[:, 0] + random.normal(scale=0.3, size=80) > 0).astype(np.int64)
    model = LogisticRegression().fit(x, y)
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="sigmoid").fit(x, y).predict_proba(x)
    raw = model.predict_proba(x)
    ours = Calibrator("binary").fit(raw, y).predict_proba(raw)
    np.testing.assert_allclose(ours, theirs, atol=0.03)  # ours are shrunken


def test_many_clips_leave_the_fit_as_it_was() -> None:
    random = np.random.default_rng(1)
    logit = random.normal(size=40_000)
    y = (random.random(40_000) < special.expit(logit)).astype(np.int64)
    calibration = Calibrator("binary").fit(binary(special.expit(3 * logit + 1)), y)
    assert calibration.slope_ == pytest.approx(1 / 3, abs=0.01)
    assert calibration.shift_ == pytest.approx(-1 / 3, abs=0.03)


def test_separable_clips_of_many_classes_have_a_finite_temperature() -> None:
    classes, each = 4, 12
    y = np.repeat(np.arange(classes), each)
    raw = np.full((classes * each, classes), 0.1)
    raw[np.arange(len(y)), y] = 0.7
    calibrated = Calibrator("multiclass").fit(raw, y).predict_proba(raw)
    # Each class has 12 clips, all called right: 13/14, as for two classes, shrunken.
    np.testing.assert_allclose(calibrated[np.arange(len(y)), y], 13 / 14, atol=0.02)


def test_a_temperature_of_two_classes_targets_what_platt_does() -> None:
    y, raw = separable(each=20)
    calibrated = Calibrator("multiclass").fit(binary(raw), y).predict_proba(binary(raw))
    assert calibrated[y == 1, 1].max() < 0.999
    assert calibrated[np.arange(len(y)), y].mean() == pytest.approx(21 / 22, abs=0.07)  # shrunken


def test_separable_labels_of_a_multilabel_study_stay_uncertain() -> None:
    y, raw = separable()
    calibration = Calibrator("multilabel").fit(binary(1 - raw), np.stack([y, 1 - y], axis=1).astype(bool))
    assert calibration.predict_proba(np.array([[0.70, 0.30]]))[0, 0] < 0.995
