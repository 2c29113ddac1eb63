"""SHAP values held against shap itself, closed forms and their own additivity."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from acoustic_env.config import CLASSIFIERS, Task, classifier_settings
from acoustic_env.explain.attribution import attribute, draw_backgrounds, expected_gradients, permutation_values
from acoustic_env.explain.gradients import LogOdds
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.fitting import Ensemble, fit, make_estimator
from acoustic_env.models.estimators.mlp import MLPSettings
from acoustic_env.models.estimators.network_classifier import NetworkClassifier

N, D = 120, 6


KINDS = [kind for kind in CLASSIFIERS.names() if not CLASSIFIERS.load(kind).reads_sequences]


def data(classes: int = 2, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(N, D)).astype(np.float32)
    y = np.digitize(x[:, 0] + 0.5 * x[:, 1] * x[:, 2], np.linspace(-0.8, 0.8, classes + 1)[1:-1])
    return Examples(x, y.astype(np.int64), np.arange(N))


SMALL = {"mlp": {"layers": [16], "max_epochs": 60, "learning_rate": 0.01}, "random_forest": {"n_estimators": 20}}


def fitted(kind: str, classes: int = 2) -> Ensemble:
    examples = data(classes)
    made = make_estimator(classifier_settings({"kind": kind, **SMALL.get(kind, {})}), 23)
    model = fit(made, examples.take(np.arange(80)), examples.take(np.arange(80, N)))
    return Ensemble([model], classes)


def random_mlp(task: Task, outputs: int, activation: str, seed: int = 1) -> NetworkClassifier:
    random = np.random.default_rng(seed)
    arrays = {
        "1.weight": random.normal(size=(9, D)),
        "1.bias": random.normal(size=9),
        "4.weight": random.normal(size=(outputs, 9)),
        "4.bias": random.normal(size=outputs),
    }
    made = NetworkClassifier(MLPSettings(layers=(9,), activation=activation))
    made.weights_ = {name: array.astype(np.float32) for name, array in arrays.items()}
    made.task_, made.classes_, made.n_features_in_ = task, np.arange(max(outputs, 2)), D
    made.shape_, made.cut_ = (D,), None
    return made


CASES: list[tuple[Task, int]] = [("binary", 1), ("multiclass", 3), ("multilabel", 4)]


@pytest.mark.parametrize(("task", "outputs"), CASES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_log_odds_are_those_of_the_classifier_and_their_gradient_is_the_slope(
    task: Task, outputs: int, activation: str
) -> None:
    model = Ensemble([random_mlp(task, outputs, activation, seed) for seed in (1, 2)], max(outputs, 2))
    x = data().x[:20]
    for chosen in range(2):
        function = LogOdds(model.members, chosen)
        p = model.predict_proba(x)[:, chosen]
        np.testing.assert_allclose(function.value(x), np.log(p / (1 - p)), rtol=1e-3, atol=1e-4)
        exact, step = function.gradient(x), 1e-6
        for column in range(D):
            moved = x.astype(np.float64)
            moved[:, column] += step
            slope = (function.value(moved) - function.value(x.astype(np.float64))) / step
            np.testing.assert_allclose(exact[:, column], slope, rtol=1e-3, atol=1e-3)


def test_a_logistic_model_has_the_values_of_shaps_linear_explainer() -> None:
    import shap

    model = fitted("logistic")
    x = data().x
    (member,) = model.members
    background = x[:50].astype(np.float64)
    linear = (member.coef_[0], member.intercept_[0])
    expected = shap.LinearExplainer(linear, background).shap_values(x[50:60].astype(float))
    pairs, _, _ = expected_gradients(LogOdds(model.members, 1), x[50:60], x[:50])
    np.testing.assert_allclose(pairs.mean(axis=1), expected, atol=1e-6)


@pytest.mark.slow
def test_an_mlp_has_the_values_that_shaps_gradient_explainer_estimates() -> None:
    import shap
    import torch

    model = random_mlp("binary", 1, "tanh")
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in model.weights_.items()}
    network = torch.nn.Sequential(torch.nn.Linear(D, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))
    network.load_state_dict(
        {f"{new}.{part}": arrays[f"{old}.{part}"] for new, old in ((0, 1), (2, 4)) for part in ("weight", "bias")}
    )
    x = data().x
    background, rows = torch.from_numpy(x[:40]), torch.from_numpy(x[40:52])
    estimated = shap.GradientExplainer(network, background, local_smoothing=0).shap_values(rows, nsamples=3000, rseed=1)
    pairs, _, _ = expected_gradients(LogOdds([model], 1), x[40:52], x[:40])
    found = pairs.mean(axis=1)
    assert np.corrcoef(found.ravel(), np.asarray(estimated).ravel())[0, 1] > 0.995


@pytest.mark.slow
def test_trees_have_the_values_of_shaps_tree_explainer() -> None:
    import shap

    model = fitted("xgboost")
    examples = data()
    found = attribute(model, 1, examples.x, examples.y, np.arange(20), count=2)
    grounds = draw_backgrounds(examples.x, examples.y, 2)
    booster = model.members[0].booster_
    values = []
    for draw in grounds.draws:
        rows = [
            shap.TreeExplainer(booster, examples.x[[grounds.pool[p]]], feature_perturbation="interventional")
            for p in draw
        ]
        values.append(
            sum(w * t.shap_values(examples.x[found.rows]) for w, t in zip(grounds.weights, rows, strict=True))
        )
    np.testing.assert_allclose(found.phi, np.mean(values, axis=0), atol=1e-5)
    assert np.abs(found.residual).max() < 1e-4


@pytest.mark.parametrize("kind", ["mlp", "logistic"])
def test_values_add_up_to_the_difference_from_the_background(kind: str) -> None:
    examples = data()
    found = attribute(fitted(kind), 1, examples.x, examples.y, np.arange(N))
    assert len(found.ranks) >= 20
    assert np.abs(found.residual).mean() < 0.01 * found.std
    assert np.abs(found.residual).max() < 0.1 * found.std


def test_the_feature_that_decides_ranks_first_over_every_background_and_pushes_the_right_way() -> None:
    examples = data()
    found = attribute(fitted("logistic"), 1, examples.x, examples.y, np.arange(N))
    middle, low, high = found.rank_interval()
    assert (middle[0], low[0], high[0]) == (1, 1, 1)
    assert found.direction()[0] > 0.9
    against = attribute(fitted("logistic"), 0, examples.x, examples.y, np.arange(N))
    assert against.direction()[0] < -0.9
    np.testing.assert_allclose(np.sort(found.ranks, axis=1), np.tile(np.arange(1, D + 1), (len(found.ranks), 1)))


def test_backgrounds_hold_every_class_with_its_share_and_differ_from_each_other() -> None:
    examples = data(seed=3)
    label = (np.arange(N) < 30).astype(np.int64)
    grounds = draw_backgrounds(examples.x, label)
    for draw in grounds.draws:
        of_class = label[grounds.pool[draw]]
        assert grounds.weights[of_class == 1].sum() == pytest.approx(0.25)
    assert grounds.weights.sum() == pytest.approx(1)
    assert len({tuple(draw) for draw in grounds.draws}) > 20
    again = draw_backgrounds(examples.x, label)
    np.testing.assert_array_equal(grounds.draws, again.draws)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "kind", ["mlp", "own", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "mlp")]
)
def test_every_kind_and_any_estimator_is_explained_and_the_feature_that_decides_ranks_first(
    kind: str, classes: int
) -> None:
    examples = data(classes)
    model = fitted(kind, classes) if kind != "own" else Ensemble([GaussianNB().fit(examples.x, examples.y)], classes)
    last = classes - 1
    found = attribute(model, last, examples.x, examples.y, np.arange(N), count=10)
    middle, _, _ = found.rank_interval()
    assert middle[0] == 1
    assert found.direction()[0] > 0.5
    assert np.abs(found.residual).mean() < 0.05 * found.std + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svm", "random_forest", "gradient_boosting", "knn"])
def test_every_kind_of_a_multilabel_study_is_explained(kind: str) -> None:
    examples = data()
    y = np.stack([examples.y == 1, examples.x[:, 3] > 0], axis=1)
    made = make_estimator(classifier_settings({"kind": kind, **SMALL.get(kind, {})}), 23)
    model = Ensemble([fit(made, Examples(examples.x, y, np.arange(N)))], 2)
    found = attribute(model, 1, examples.x, y[:, 1].astype(np.int64), np.arange(10), count=5)
    assert np.abs(found.phi).mean(axis=0).argmax() == 3


def test_permutation_values_of_a_sum_are_its_terms() -> None:
    random = np.random.default_rng(0)
    explained, pool = random.normal(size=(2, 4, 5)).astype(np.float32)
    weights = np.arange(5.0)
    pairs, values, base = permutation_values(lambda x: x @ weights, explained, pool)
    np.testing.assert_allclose(pairs, (explained[:, None] - pool) * weights, atol=1e-5)
    np.testing.assert_allclose(pairs.sum(axis=2), values[:, None] - base, atol=1e-5)
