"""The models behind one contract, and their out-of-fold probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from acoustic_env.config import ModelKind, ModelSettings, Task
from acoustic_env.errors import UsageError
from acoustic_env.models import logistic
from acoustic_env.models.classifier import Examples, fit_ensemble, make_classifier, restore_classifier
from acoustic_env.models.cross_val import out_of_fold
from acoustic_env.models.logistic import LogisticClassifier, fit_weights
from acoustic_env.models.mlp import MlpClassifier, build_network, forward

SMALL = ModelSettings(layers=(16,), dropout=0.1, learning_rate=1e-2, max_epochs=15, batch_size=64)
KINDS: list[ModelKind] = ["mlp", "xgboost", "logistic"]
TASKS: list[tuple[Task, int]] = [("binary", 2), ("multiclass", 3), ("multilabel", 3)]


def rows(task: Task, n: int = 240, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6)).astype(np.float32)
    scores = x[:, :3] * 2 + random.normal(size=(n, 3))
    y: Any = {"binary": (scores[:, 0] > 0).astype(int), "multiclass": scores.argmax(1), "multilabel": scores > 0}[task]
    return Examples(x, y, np.arange(n) // 2)


@pytest.mark.parametrize(("task", "classes"), TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_model_learns_every_task_and_survives_being_stored(kind: ModelKind, task: Task, classes: int) -> None:
    model = make_classifier(SMALL.replace(kind=kind), task, classes)
    model.fit(rows(task), rows(task, seed=2))
    new = rows(task, seed=1)
    found = model.predict_proba(new.x)
    assert found.shape == (len(new), classes)
    if task != "multilabel":
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)
    truth = new.y if task == "multilabel" else np.eye(classes, dtype=bool)[new.y]
    assert roc_auc_score(truth, found, average="macro") > 0.85
    np.testing.assert_array_equal(restore_classifier(model.state()).predict_proba(new.x), found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_probabilities(kind: ModelKind) -> None:
    data = rows("binary")
    settings = SMALL.replace(kind=kind)
    found = []
    for _ in range(2):
        model = make_classifier(settings, "binary", 2)
        model.fit(data, data)
        found.append(model.predict_proba(data.x))
    np.testing.assert_array_equal(found[0], found[1])


def test_an_ensemble_averages_models_of_successive_seeds_that_hold_out_successive_folds() -> None:
    data, new = rows("binary"), rows("binary", seed=1)
    folds = np.arange(len(data)) // 2 % 4
    members = []
    for member, fold in enumerate((3, 0, 1)):
        model = make_classifier(SMALL, "binary", 2, member)
        model.fit(data.take(folds != fold), data.take(folds == fold))
        members.append(model.predict_proba(new.x))
    ensemble = fit_ensemble(SMALL.replace(ensemble=3), "binary", 2, data, folds, (3,))
    np.testing.assert_allclose(ensemble.predict_proba(new.x), np.mean(members, axis=0))
    np.testing.assert_allclose(restore_classifier(ensemble.state()).predict_proba(new.x), np.mean(members, axis=0))


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_logistic_weights_are_scikit_learns(task: Task) -> None:
    data = rows(task)
    outcomes = np.eye(3, dtype=np.float32)[data.y] if task == "multiclass" else data.y[:, None].astype(np.float32)
    found = fit_weights(data.x, outcomes, task, penalty=0.01)
    expected = LogisticRegression(C=1 / (0.01 * len(data)), tol=1e-8, max_iter=1000).fit(data.x, data.y)
    np.testing.assert_allclose(found[:-1].T, expected.coef_, atol=2e-3)
    if task == "binary":  # the intercepts of a softmax are free up to a common shift
        np.testing.assert_allclose(found[-1], expected.intercept_, atol=2e-3)


def test_the_penalty_is_strong_for_noise_and_weak_for_clean_signal() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 30)).astype(np.float32)
    penalties = []
    for y in (random.integers(0, 2, 300), (x[:, 0] > 0).astype(np.int64)):
        model = LogisticClassifier(ModelSettings(kind="logistic"), "binary", 2)
        data = Examples(x, y, np.arange(300))
        model.fit(data, data)
        penalties.append(model.penalty_)
    assert penalties[0] > 100 * penalties[1]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_prediction_with_numpy_is_the_forward_pass_of_the_network(activation: Any) -> None:
    import torch

    settings = SMALL.replace(layers=(8, 5), activation=activation, max_epochs=2)
    model = MlpClassifier(settings, "multiclass", 3)
    data = rows("multiclass")
    model.fit(data, data)
    network = build_network(6, 3, settings)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.weights_.items()})
    np.testing.assert_allclose(model.logits(data.x), forward(network, data.x), atol=1e-5)


def test_out_of_fold_probabilities_come_from_models_that_never_saw_the_row_or_its_group() -> None:
    random = np.random.default_rng(0)
    groups = np.arange(200) // 4
    x = random.normal(size=(50, 3))[groups].astype(np.float32)  # a group's rows are copies with random labels
    y = random.integers(0, 2, 50)[groups]
    settings = ModelSettings(kind="xgboost")
    found = out_of_fold(x, y, groups, "xgboost", settings, 5, 1)
    assert found.shape == (200, 2)
    assert np.isfinite(found).all()
    assert roc_auc_score(y, found[:, 1]) < 0.75
    leaking = out_of_fold(x, y, np.arange(200), "xgboost", settings, 5, 1)
    assert roc_auc_score(y, leaking[:, 1]) > 0.9


def test_out_of_fold_honours_given_folds_and_refuses_folds_that_split_a_group() -> None:
    data = rows("binary")
    fold = np.arange(len(data)) // 2 % 3
    found = out_of_fold(data.x, data.y, data.groups, "logistic", SMALL, fold, 1)
    assert roc_auc_score(data.y, found[:, 1]) > 0.85
    with pytest.raises(UsageError, match="group 0 lies in more than one fold"):
        out_of_fold(data.x, data.y, data.groups, "logistic", SMALL, np.arange(len(data)) % 3, 1)


def test_out_of_fold_takes_missing_and_constant_columns() -> None:
    data = rows("binary")
    x = np.column_stack([data.x, np.full(len(data), 7.0), np.full(len(data), np.nan)]).astype(np.float32)
    x[::7, 1] = np.nan
    found = out_of_fold(x, data.y, data.groups, "logistic", SMALL, 4, 1)
    assert roc_auc_score(data.y, found[:, 1]) > 0.85


def test_out_of_fold_refuses_rows_of_one_class() -> None:
    data = rows("binary")
    with pytest.raises(UsageError, match="all rows are of one class"):
        out_of_fold(data.x, np.zeros(len(data), np.int64), data.groups, "logistic", SMALL, 4, 1)


def test_more_features_than_rows_are_searched_in_the_space_of_the_rows_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(5)
    y = np.arange(60) % 3
    x = (random.normal(size=(60, 200)) + 0.7 * y[:, None]).astype(np.float32)
    wide, plain = (LogisticClassifier(ModelSettings(kind="logistic"), "multiclass", 3) for _ in range(2))
    wide.fit(Examples(x, y, np.arange(60)), Examples(x[:1], y[:1], y[:1]))
    monkeypatch.setattr(logistic, "WIDE", 1000)
    plain.fit(Examples(x, y, np.arange(60)), Examples(x[:1], y[:1], y[:1]))
    assert wide.penalty_ == plain.penalty_
    np.testing.assert_allclose(wide.predict_proba(x), plain.predict_proba(x), atol=1e-3)
