"""The package's own estimators pass scikit-learn's checks; what does not apply is listed with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from acoustic_env.models.data.preprocessing import MeanImputer, PrincipalComponents
from acoustic_env.models.estimators.knn import KNNClassifier
from acoustic_env.models.estimators.logistic import LogisticClassifier
from acoustic_env.models.estimators.mlp import MLPSettings
from acoustic_env.models.estimators.network_classifier import NetworkClassifier
from acoustic_env.models.estimators.svm import SVMClassifier
from acoustic_env.models.estimators.xgboost import XGBoostClassifier

KINDS = ("dense", "sparse")
SAMPLED = "rows of weight 0 still take part in random batches or samples"
EXPECTED: dict[str, dict[str, str]] = {
    "NetworkClassifier": {"check_sample_weight_equivalence_on_dense_data": SAMPLED},
    "XGBoostClassifier": {"check_sample_weight_equivalence_on_dense_data": SAMPLED},
    "SVMClassifier": {
        f"check_sample_weight_equivalence_on_{kind}_data": "scikit-learn's SVC has the same limit" for kind in KINDS
    },
    "LogisticClassifier": {
        "check_sample_weight_equivalence_on_dense_data": "rows of weight 0 still take part in the inner folds"
    },
}


def expected_failures(estimator: Any) -> dict[str, str]:
    return EXPECTED.get(type(estimator).__name__, {})


@pytest.mark.slow
@parametrize_with_checks(
    [
        NetworkClassifier(MLPSettings(layers=(16,), dropout=0.0, learning_rate=0.02, max_epochs=40)),
        XGBoostClassifier(rounds=30, min_child_weight=0.1, subsample=1.0),
        LogisticClassifier(),
        LogisticClassifier(penalty=0.01),
        SVMClassifier(),
        KNNClassifier(n_neighbors=30, metric="euclidean"),
        MeanImputer(),
        PrincipalComponents(2),
    ],
    expected_failed_checks=expected_failures,
)
def test_the_estimator_passes_scikit_learns_check(estimator: Any, check: Any) -> None:
    check(estimator)
