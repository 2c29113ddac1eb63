"""Gradient-boosted trees (XGBoost), seeded, stopped on held-out rows; stored as XGBoost's own UBJSON, never pickled."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.config import ModelSettings, Task
from acoustic_env.models.classifier import Examples, State
from acoustic_env.models.evaluate import Floats

# Small steps, shallow trees and sampled rows and columns: what holds up on hundreds and on tens of thousands of clips.
PARAMETERS: Final[dict[str, Any]] = {
    "eta": 0.05,
    "max_depth": 4,
    "subsample": 0.7,
    "colsample_bytree": 0.5,
    "min_child_weight": 2.0,
    "lambda": 2.0,
    "tree_method": "hist",
    "max_bin": 128,
}
ROUNDS: Final = 600
PATIENCE: Final = 40
# One tree a class and round up to here; above, one tree whose leaves are vectors.
MOST_SINGLE_OUTPUTS: Final = 32


class XGBoostClassifier:
    """XGBoost on the reduced features."""

    def __init__(self, settings: ModelSettings, task: Task, classes: int) -> None:
        self._settings, self._task, self._classes = settings, task, classes
        self._booster: Any = None
        self._rounds = 0

    def fit(self, train: Examples, validation: Examples) -> None:
        """Boost until the held-out log loss has not improved for 40 rounds; at most 600."""
        import xgboost

        parameters = PARAMETERS | self._objective() | {"seed": self._settings.seed}
        held = xgboost.DMatrix(validation.x, label=validation.y.astype(np.float32))
        self._booster = xgboost.train(
            parameters,
            xgboost.DMatrix(train.x, label=train.y.astype(np.float32)),
            ROUNDS,
            evals=[(held, "held_out")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
        )
        self._rounds = int(self._booster.best_iteration) + 1

    def _objective(self) -> dict[str, Any]:
        if self._task == "multiclass":
            return {"objective": "multi:softprob", "num_class": self._classes, "eval_metric": "mlogloss"}
        objective: dict[str, Any] = {"objective": "binary:logistic", "eval_metric": "logloss"}
        if self._task == "multilabel" and self._classes > MOST_SINGLE_OUTPUTS:
            objective["multi_strategy"] = "multi_output_tree"
        return objective

    def predict_proba(self, x: npt.NDArray[np.float32]) -> Floats:
        """Probabilities [n, classes]."""
        import xgboost

        found = self._booster.predict(xgboost.DMatrix(x), iteration_range=(0, self._rounds)).astype(np.float64)
        if self._task == "binary":
            return np.stack([1 - found, found], axis=1)
        return np.asarray(found.reshape(len(x), self._classes))

    def state(self) -> State:
        """The booster's UBJSON as bytes, and how many of its rounds count."""
        raw = np.frombuffer(bytes(self._booster.save_raw("ubj")), np.uint8)
        facts = {"kind": "xgboost", "task": self._task, "classes": self._classes, "rounds": self._rounds}
        return State({"ubj": raw}, facts)

    @classmethod
    def restore(cls, state: State) -> XGBoostClassifier:
        """The classifier whose state this is."""
        import xgboost

        facts: Any = state.facts
        made = cls(ModelSettings(kind="xgboost"), facts["task"], facts["classes"])
        made._booster = xgboost.Booster(model_file=bytearray(np.asarray(state.arrays["ubj"]).tobytes()))
        made._rounds = facts["rounds"]
        return made
