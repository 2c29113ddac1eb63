"""The kinds of classifiers behind one contract, and their out-of-fold probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import FunctionTransformer

from acoustic_env.config import CLASSIFIERS, ClassifierSettings, Recipe, Task, classifier_settings, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators import logistic
from acoustic_env.models.estimators.fitting import (
    fit,
    fit_ensemble,
    fit_model,
    make_estimator,
    predict_proba,
    stops_on_rows,
)
from acoustic_env.models.estimators.logistic import LogisticClassifier, fit_weights
from acoustic_env.models.estimators.mlp import MLPSettings
from acoustic_env.models.estimators.storage import dump_estimator, load_estimator
from acoustic_env.models.searched import SearchedClassifier
from acoustic_env.models.training.loop import forward
from acoustic_env.models.validation.cross_fitting import out_of_fold

SMALL = MLPSettings(layers=(16,), dropout=0.1, learning_rate=1e-2, max_epochs=15, batch_size=64)
KINDS = [kind for kind in CLASSIFIERS.names() if not CLASSIFIERS.load(kind).reads_sequences]
TASKS: list[tuple[Task, int]] = [("binary", 2), ("multiclass", 3), ("multilabel", 3)]


def settings(kind: str) -> ClassifierSettings:
    small = {"mlp": SMALL.as_json(), "random_forest": {"n_estimators": 40}, "gradient_boosting": {"max_iter": 40}}
    return classifier_settings({"kind": kind, **small.get(kind, {})})


def rows(task: Task, n: int = 240, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6)).astype(np.float32)
    scores = x[:, :3] * 2 + random.normal(size=(n, 3))
    y: Any = {"binary": (scores[:, 0] > 0).astype(int), "multiclass": scores.argmax(1), "multilabel": scores > 0}[task]
    return Examples(x, y, np.arange(n) // 2)


@pytest.mark.parametrize(("task", "classes"), TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_every_task_and_survives_being_stored(kind: str, task: Task, classes: int) -> None:
    made = settings(kind)
    model = fit(make_estimator(made, 23), rows(task), rows(task, seed=2))
    new = rows(task, seed=1)
    found = predict_proba(model, new.x, classes)
    assert found.shape == (len(new), classes)
    if task != "multilabel":
        np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)
    truth = new.y if task == "multilabel" else np.eye(classes, dtype=bool)[new.y]
    assert roc_auc_score(truth, found, average="macro") > 0.85
    suffix, data = dump_estimator(model)
    again = load_estimator(data, f"classifier-0.{suffix}", made.estimator(0))
    np.testing.assert_allclose(predict_proba(again, new.x, classes), found, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_probabilities(kind: str) -> None:
    data, new = rows("binary"), rows("binary", seed=1)
    found = [predict_proba(fit(make_estimator(settings(kind), 5), data, new), new.x, 2) for _ in range(2)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_without_a_training_row_have_probability_zero(kind: str) -> None:
    data = rows("multiclass")
    there = data.y != 1
    model = fit(make_estimator(settings(kind), 5), data.take(there), data)
    found = predict_proba(model, data.x, 4)
    assert found.shape == (len(data), 4)
    assert not found[:, [1, 3]].any()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)
    labels = rows("multilabel")
    labels.y[:, 2], labels.y[:, 0] = False, True
    found = predict_proba(fit(make_estimator(settings(kind), 5), labels, labels), labels.x, 3)
    assert (found[:, 2] < 0.1).all()
    assert (found[:, 0] > 0.9).all()


@pytest.mark.parametrize("kind", ["mlp", "xgboost", "logistic", "random_forest", "gradient_boosting", "svm"])
def test_rows_that_weigh_nothing_are_not_learned_from(kind: str) -> None:
    data, new = rows("binary", 400), rows("binary", seed=1)
    wrong = np.arange(400) % 2 == 0
    y = np.where(wrong, 1 - data.y, data.y)
    weights = np.where(wrong, 1e-6, 1.0)
    model = fit(make_estimator(settings(kind), 5), Examples(data.x, y, data.groups, weights))
    assert roc_auc_score(new.y, predict_proba(model, new.x, 2)[:, 1]) > 0.8


@pytest.mark.parametrize("kind", ["mlp", "xgboost", "gradient_boosting"])
def test_rows_to_stop_on_of_a_class_that_does_not_train_stop_nothing(kind: str) -> None:
    data, other = rows("binary"), rows("binary", 8, seed=1)
    unknown = Examples(other.x, np.full(len(other), 2), other.groups)
    found = predict_proba(fit(make_estimator(settings(kind), 5), data, unknown), data.x, 3)
    assert roc_auc_score(data.y, found[:, 1]) > 0.85


def test_an_ensemble_averages_models_of_successive_seeds_that_hold_out_successive_folds() -> None:
    data, new = rows("binary"), rows("binary", seed=1)
    folds = np.arange(len(data)) // 2 % 4
    members = []
    for member, fold in enumerate((3, 0, 1)):
        model = fit(make_estimator(SMALL, 23 + member), data.take(folds != fold), data.take(folds == fold))
        members.append(model.predict_proba(new.x))
    ensemble = fit_ensemble(SMALL, 2, data, folds, (3,), size=3, seed=23)
    np.testing.assert_allclose(ensemble.predict_proba(new.x), np.mean(members, axis=0))


def test_any_estimator_of_scikit_learn_is_a_classifier() -> None:
    data, new = rows("binary"), rows("binary", seed=1)
    found = out_of_fold(data, GaussianNB(), 4, 1).probabilities
    assert roc_auc_score(data.y, found[:, 1]) > 0.85
    model = fit(make_estimator(LogisticRegression(C=0.5), 5), data, new)
    assert (model.C, model.random_state) == (0.5, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"kind": "xgboost", "layers": [16]},
            "unknown setting 'model.layers'; expected one of: kind, ensemble, seed, per_class, eta",
        ),
        ({"kind": "svm", "C": 0}, r"model.C: 0.*greater than 0"),
        ({"layers": [16, 0]}, r"model.layers\[1\]: 0"),
        ({"kind": "perceptron"}, "model: no classifier named 'perceptron'; expected one of: mlp, xgboost"),
    ],
)
def test_settings_are_checked_by_the_kind_with_their_path(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_mapping(Recipe, {"name": "study", "model": values}, "study.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_every_kind_survive_a_recipe_as_json(kind: str) -> None:
    recipe = Recipe(name="study", model=settings(kind).replace(ensemble=3))
    again = from_mapping(Recipe, recipe.as_json(), "metadata.json")
    assert again == recipe
    assert again.model.as_json()["ensemble"] == 3


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
        penalties.append(LogisticClassifier(random_state=23).fit(x, y).penalty_)
    assert penalties[0] > 100 * penalties[1]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_prediction_is_the_forward_pass_of_the_network(activation: Any) -> None:
    import torch

    own = SMALL.replace(layers=(8, 5), activation=activation, max_epochs=2)
    data = rows("multiclass")
    model = fit(make_estimator(own, 23), data, data)
    network = own.network((6,), 3, "multiclass")
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.weights_.items()})
    np.testing.assert_allclose(model.logits(data.x), forward(network, data.x), atol=1e-5)


def test_out_of_fold_probabilities_come_from_models_that_never_saw_the_row_or_its_group() -> None:
    random = np.random.default_rng(0)
    groups = np.arange(200) // 4
    x = random.normal(size=(50, 3))[groups].astype(np.float32)  # a group's rows are copies with random labels
    y = random.integers(0, 2, 50)[groups]
    found = out_of_fold(Examples(x, y, groups), settings("xgboost"), 5, 1).probabilities
    assert found.shape == (200, 2)
    assert np.isfinite(found).all()
    assert roc_auc_score(y, found[:, 1]) < 0.75
    leaking = out_of_fold(Examples(x, y, np.arange(200)), settings("xgboost"), 5, 1).probabilities
    assert roc_auc_score(y, leaking[:, 1]) > 0.9


def test_out_of_fold_honours_given_folds_and_refuses_folds_that_split_a_group() -> None:
    data = rows("binary")
    fold = np.arange(len(data)) // 2 % 3
    found = out_of_fold(data, settings("logistic"), fold, 1).probabilities
    assert roc_auc_score(data.y, found[:, 1]) > 0.85
    with pytest.raises(UsageError, match="group 0 lies in more than one fold"):
        out_of_fold(data, settings("logistic"), np.arange(len(data)) % 3, 1)


def test_out_of_fold_takes_missing_and_constant_columns() -> None:
    data = rows("binary")
    x = np.column_stack([data.x, np.full(len(data), 7.0), np.full(len(data), np.nan)]).astype(np.float32)
    x[::7, 1] = np.nan
    found = out_of_fold(Examples(x, data.y, data.groups), settings("logistic"), 4, 1).probabilities
    assert roc_auc_score(data.y, found[:, 1]) > 0.85


def test_out_of_fold_refuses_rows_of_one_class() -> None:
    data = rows("binary")
    with pytest.raises(UsageError, match="all rows are of one class"):
        out_of_fold(Examples(data.x, np.zeros(len(data), np.int64), data.groups), settings("logistic"), 4, 1)


def test_more_features_than_rows_are_searched_in_the_space_of_the_rows_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(5)
    y = np.arange(60) % 3
    x = (random.normal(size=(60, 200)) + 0.7 * y[:, None]).astype(np.float32)
    wide = LogisticClassifier(random_state=23).fit(x, y)
    monkeypatch.setattr(logistic, "WIDE", 1000)
    plain = LogisticClassifier(random_state=23).fit(x, y)
    assert wide.penalty_ == plain.penalty_
    np.testing.assert_allclose(wide.predict_proba(x), plain.predict_proba(x), atol=1e-3)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_an_elastic_net_has_scikit_learns_weights_and_drops_the_same_features(task: Task) -> None:
    data = rows(task)
    ours = LogisticClassifier(0.1, l1_ratio=0.5).fit(data.x, data.y)
    c = 1 / (0.1 * len(data))
    theirs = LogisticRegression(C=c, l1_ratio=0.5, solver="saga", tol=1e-6, max_iter=3000).fit(data.x, data.y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-3)
    np.testing.assert_array_equal(ours.coef_ == 0, np.abs(theirs.coef_) < 1e-4)
    assert (ours.coef_ == 0).any()


def test_resampling_gives_every_class_so_many_training_rows() -> None:
    seen: list[Any] = []

    class Recording(GaussianNB):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            seen.append(np.bincount(y).tolist())
            return super().fit(X, y, sample_weight)

    class RecordingSettings(ClassifierSettings):
        kind: str = "recording"

        def estimator(self, random_state: int) -> Any:
            return Recording()

    data = rows("multiclass")
    y = np.where(np.arange(len(data)) < 150, 0, data.y)
    found = out_of_fold(Examples(data.x, y, data.groups), RecordingSettings(per_class=30), 4, 1, classes=3)
    assert seen == [[30, 30, 30]] * 4
    assert np.isfinite(found.probabilities).all()
    first, again = (fit_model(RecordingSettings(per_class=30), data, None, 1) for _ in range(2))
    np.testing.assert_array_equal(first.theta_, again.theta_)


def test_resampling_is_refused_for_clips_of_several_classes() -> None:
    recipe = {"name": "r", "task": "multilabel", "model": {"kind": "knn", "per_class": 5}}
    with pytest.raises(UsageError, match=r"model\.per_class draws rows of one class each"):
        from_mapping(Recipe, recipe, "r.yaml")


def test_of_ten_given_folds_the_next_one_stops_the_training() -> None:
    stops: list[list[int]] = []

    class Stopping(GaussianNB):
        def fit(self, X: Any, y: Any, *, X_val: Any = None, y_val: Any = None) -> Any:
            self.trained_ = sorted({int(fold) for fold in X[:, -1]})
            stops.append(sorted({int(fold) for fold in X_val[:, -1]}))
            return super().fit(X, y)

        def predict_proba(self, X: Any) -> Any:
            tested = {int(fold) for fold in X[:, -1]}
            assert sorted([*self.trained_, *stops[-1], *tested]) == list(range(1, 11))
            return super().predict_proba(X)

    data = rows("binary")
    fold = np.arange(len(data)) // 24 + 1
    x = np.column_stack([data.x, fold])
    out_of_fold(Examples(x, data.y, data.groups), Stopping(), fold, 1, preprocessor=FunctionTransformer())
    assert stops == [[2], [3], [4], [5], [6], [7], [8], [9], [10], [1]]


def test_a_searched_classifier_beats_bad_settings_and_is_the_same_again() -> None:
    data = rows("multiclass")
    bad = classifier_settings({"kind": "svm", "C": 0.01, "gamma": 10.0})
    found, again = (SearchedClassifier(bad, 6, 1).fit(data.x, data.y, groups=data.groups) for _ in range(2))
    np.testing.assert_array_equal(found.predict_proba(data.x), again.predict_proba(data.x))
    alone = SearchedClassifier(bad, 1, 1).fit(data.x, data.y, groups=data.groups)
    assert alone.settings_ == bad.replace(seed=1)
    assert found.score_ > alone.score_ + 0.1


class RecordingFit(GaussianNB):
    """Keeps what its `fit` was given; `groups` are those of inner folds."""

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None, groups: Any = None
    ) -> Any:
        self.given_ = (sample_weight, X_val, y_val, groups)
        return super().fit(X, y, sample_weight)


def test_label_by_label_each_copy_gets_weights_groups_and_its_labels_rows_to_stop_on() -> None:
    train, held = rows("multilabel"), rows("multilabel", 60, seed=2)
    weights = np.arange(len(train)) + 1.0
    model = fit(RecordingFit(), Examples(train.x, train.y, train.groups, weights), held)
    assert len(model.estimators_) == 3
    for label, copy in enumerate(model.estimators_):
        given = copy.given_
        for found, expected in zip(given, (weights, held.x, held.y[:, label], train.groups), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "knn"])
def test_labels_of_rows_that_weigh_nothing_are_not_learned_from(kind: str) -> None:
    data, new = rows("multilabel", 400), rows("multilabel", seed=1)
    wrong = np.arange(400) % 2 == 0
    y = np.where(wrong[:, None], ~data.y, data.y)
    weights = np.where(wrong, 1e-6, 1.0)
    model = fit(make_estimator(settings(kind), 5), Examples(data.x, y, data.groups, weights), new)
    assert roc_auc_score(new.y, predict_proba(model, new.x, 3), average="macro") > 0.8


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_gradient_boosting_stops_on_the_rows_held_out_and_on_none_of_its_own(task: Task) -> None:
    train, held = rows(task), rows(task, 60, seed=2)
    noise = Examples(held.x, np.random.default_rng(3).permutation(held.y), held.groups)
    made = settings("gradient_boosting").replace(max_iter=200)

    def trees(validation: Examples | None) -> list[int]:
        model = fit(make_estimator(made, 5), train, validation)
        return [own.n_iter_ for own in getattr(model, "estimators_", [model])]

    assert max(trees(noise)) < 40  # nothing to gain on rows of random classes
    assert trees(None) == [200] * (3 if task == "multilabel" else 1)


def test_an_estimator_told_not_to_stop_early_is_given_no_rows_to_stop_on() -> None:
    patient = HistGradientBoostingClassifier(max_iter=12, early_stopping=False)
    assert not stops_on_rows(patient)
    assert fit(patient, rows("binary"), rows("binary", seed=2)).n_iter_ == 12


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_all_rows_vote_where_there_are_fewer_than_neighbors(
    task: Task, weights: str, metric: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = classifier_settings({"kind": "knn", "weights": weights, "metric": metric})
    train, new = rows(task, 12), rows(task, seed=1)
    with caplog.at_level("WARNING"):
        model = fit(make_estimator(made, 5), train)
    assert caplog.messages == ["knn: 12 training rows for 25 neighbors: all of them vote"]
    assert model.n_neighbors == 25
    found = predict_proba(model, new.x, 2 if task == "binary" else 3)
    twelve = fit(make_estimator(made.replace(neighbors=12), 5), train)
    np.testing.assert_array_equal(found, predict_proba(twelve, new.x, found.shape[1]))
    np.testing.assert_array_equal(model.predict(new.x), twelve.predict(new.x))
    suffix, data = dump_estimator(model)
    np.testing.assert_array_equal(load_estimator(data, f"a.{suffix}").predict_proba(new.x), model.predict_proba(new.x))
