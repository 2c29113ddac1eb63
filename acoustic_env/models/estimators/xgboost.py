"""Gradient-boosted trees (XGBoost), stored as XGBoost's own UBJSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field
from sklearn.utils.validation import check_is_fitted, validate_data

from acoustic_env.config import ClassifierSettings
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.estimators.contract import TaskClassifier
from acoustic_env.stats.intervals import Floats

# One tree a class and round up to here; above, one tree whose leaves are vectors.
MOST_SINGLE_OUTPUTS: Final = 32


@dataclass(eq=False, repr=False)
class XGBoostClassifier(TaskClassifier):
    """XGBoost on scikit-learn's contract.

    Args:
        eta, max_depth, subsample, colsample_bytree, min_child_weight, reg_lambda, max_bin, rounds, patience: see
            `XGBoostSettings`.
        random_state: seed of the samples.

    Attributes:
        booster_: `xgboost.Booster` of the rounds that count.

    >>> y = np.repeat([0, 1], 50)
    >>> X = np.random.default_rng(23).normal(size=(100, 3)) + 3 * y[:, None]
    >>> fitted = XGBoostClassifier(rounds=5).fit(X, y)
    >>> fitted.predict_proba(X).shape, bool((fitted.predict(X) == y).mean() > 0.9)
    ((100, 2), True)
    """

    file_suffix: ClassVar = "ubj"

    eta: float = 0.05
    max_depth: int = 4
    subsample: float = 0.7
    colsample_bytree: float = 0.5
    min_child_weight: float = 2.0
    reg_lambda: float = 2.0
    max_bin: int = 128
    rounds: int = 600
    patience: int = 40
    random_state: Any = None

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None
    ) -> XGBoostClassifier:
        """Boost `rounds` trees, or until the log loss of validation rows has not improved for `patience` rounds.

        Args:
            X: [n, features].
            y: [n] classes, or bool [n, classes] for multilabel.
            sample_weight: [n].
            X_val, y_val: validation rows.
        """
        import xgboost

        train, validation = self.check_rows(X, y, sample_weight, X_val, y_val)
        parameters = {**self.get_params(), **self._objective(), "tree_method": "hist"}
        rounds, patience = parameters.pop("rounds"), parameters.pop("patience")
        parameters["seed"] = self.seed()
        del parameters["random_state"]
        stopping: dict[str, Any] = {}
        if validation is not None:
            stopping = {"evals": [(_matrix(validation), "held_out")], "early_stopping_rounds": patience}
        found = xgboost.train(parameters, _matrix(train), rounds, verbose_eval=False, **stopping)
        self.booster_ = found[: found.best_iteration + 1] if stopping else found
        return self

    def _objective(self) -> dict[str, Any]:
        if self.task_ == "multiclass":
            return {"objective": "multi:softprob", "num_class": len(self.classes_), "eval_metric": "mlogloss"}
        objective: dict[str, Any] = {"objective": "binary:logistic", "eval_metric": "logloss"}
        if self.task_ == "multilabel" and len(self.classes_) > MOST_SINGLE_OUTPUTS:
            objective["multi_strategy"] = "multi_output_tree"
        return objective

    def predict_proba(self, X: Any) -> Floats:
        """Return probabilities [n, classes]."""
        import xgboost

        check_is_fitted(self, "booster_")
        x = validate_data(self, X, dtype=np.float32, reset=False)
        found = self.booster_.predict(xgboost.DMatrix(x)).astype(np.float64)
        if self.task_ == "binary":
            return np.stack([1 - found, found], axis=1)
        return np.asarray(found.reshape(len(x), len(self.classes_)))

    def dump_fitted(self) -> bytes:
        """Return what `fit` learned as UBJSON."""
        self.booster_.set_attr(learned=json.dumps({"task": self.task_, "classes": np.asarray(self.classes_).tolist()}))
        return bytes(self.booster_.save_raw("ubj"))

    def load_fitted(self, data: bytes) -> XGBoostClassifier:
        """Take over what `dump_fitted` returned."""
        import xgboost

        self.booster_ = xgboost.Booster(model_file=bytearray(data))
        learned = json.loads(self.booster_.attr("learned") or "{}")
        self.task_, self.classes_ = learned["task"], np.asarray(learned["classes"])
        self.n_features_in_ = self.booster_.num_features()
        return self


def _matrix(rows: Examples) -> Any:
    import xgboost

    return xgboost.DMatrix(rows.x, label=rows.y.astype(np.float32), weight=rows.weights)


class XGBoostSettings(ClassifierSettings):
    """Gradient-boosted trees: small steps, shallow trees and sampled rows and columns."""

    kind: Literal["xgboost"] = "xgboost"

    eta: float = Field(0.05, gt=0, le=1)
    """Shrinkage of each tree."""

    max_depth: int = Field(4, ge=1)
    """Depth of a tree."""

    subsample: float = Field(0.7, gt=0, le=1)
    """Share of the rows drawn for each tree."""

    colsample_bytree: float = Field(0.5, gt=0, le=1)
    """Share of the features drawn for each tree."""

    min_child_weight: float = Field(2.0, ge=0)
    """Weight (Hessian) in a leaf, at least."""

    reg_lambda: float = Field(2.0, ge=0)
    """L2 penalty of the leaves."""

    max_bin: int = Field(128, ge=2)
    """Bins of a feature."""

    rounds: int = Field(600, ge=1)
    """Upper bound of boosting rounds."""

    patience: int = Field(40, ge=1)
    """Rounds without a better validation loss after which boosting stops."""

    def estimator(self, random_state: int) -> Any:
        """Return an unfitted `XGBoostClassifier`."""
        return XGBoostClassifier(**self.own(), random_state=random_state)

    @classmethod
    def search_space(cls, trial: Any, features: int) -> None:
        """Suggest step size, depth, samples and penalties."""
        trial.suggest_float("eta", 0.01, 0.3, log=True)
        trial.suggest_int("max_depth", 2, 8)
        trial.suggest_float("subsample", 0.4, 1.0)
        trial.suggest_float("colsample_bytree", 0.1, 1.0)
        trial.suggest_float("min_child_weight", 0.5, 20.0, log=True)
        trial.suggest_float("reg_lambda", 0.1, 50.0, log=True)
