"""A classifier that searches its own settings: the inner part of nested cross-validation.

The search sees only the rows that the classifier is fitted on. Each candidate is scored by predictions out of grouped
inner folds of these rows, so a fold that is held out from `fit` has no part in the choice.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
from sklearn.utils.validation import check_is_fitted

from acoustic_env.config import ClassifierSettings
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.folds import grouped_folds
from acoustic_env.models.estimators.contract import TaskClassifier
from acoustic_env.models.estimators.fitting import fit_ensemble
from acoustic_env.models.training.loop import Diverged
from acoustic_env.models.tune import optuna_study, sampler, score_settings, search_settings
from acoustic_env.models.validation.cross_fitting import INNER_FOLDS
from acoustic_env.stats.intervals import Floats

log = logging.getLogger("acoustic_env.models.searched")

FOLDS: Final = 5


class SearchedClassifier(TaskClassifier):
    """A kind of classifier with settings chosen on inner folds, then fitted on all rows.

    Args:
        settings: the first candidate, and what the kind's search space does not name.
        trials: candidates in all.
        random_state: seed of the search, of the folds and of the classifier.

    Attributes:
        settings_: the best candidate.
        score_: its validation score.
    """

    def __init__(self, settings: ClassifierSettings, trials: int = 20, random_state: Any = None) -> None:
        self.settings = settings
        self.trials = trials
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, groups: Any = None) -> SearchedClassifier:
        """Search, then fit.

        Args:
            X: [n, features], or `Sequences`.
            y: [n] class indices, or bool [n, classes] for multilabel.
            groups: [n], rows that stay in one inner fold.

        Raises:
            UsageError: fewer groups than inner folds.
        """
        rows = Examples(X, np.asarray(y), np.arange(len(X)) if groups is None else np.asarray(groups))
        self.classes_ = np.arange(rows.y.shape[1] if rows.y.ndim == 2 else int(rows.y.max()) + 1)
        classes = len(self.classes_)
        self.task_ = "multilabel" if rows.y.ndim == 2 else "binary" if classes == 2 else "multiclass"
        settings = self.settings.replace(seed=self.settings.seed if self.random_state is None else self.random_state)
        self.settings_, self.score_ = search_in_process(settings, rows, classes, self.trials)
        inner = grouped_folds(rows.y, rows.groups, INNER_FOLDS, settings.seed)
        self.ensemble_ = fit_ensemble(self.settings_, classes, rows, inner, (0,), seed=settings.seed)
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Return probabilities [n, classes]."""
        check_is_fitted(self, "ensemble_")
        return self.ensemble_.predict_proba(X)


def search_in_process(
    base: ClassifierSettings, rows: Examples, classes: int, trials: int
) -> tuple[ClassifierSettings, float]:
    """Return the best of the settings as they are and of `trials - 1` suggestions of Optuna, and its score.

    Args:
        base: settings; what the kind's search space does not name stays.
        rows: to search on.
        classes: how many.
        trials: candidates in all.
    """
    import optuna

    start = search_settings(base)
    found: list[tuple[float, dict[str, Any]]] = [(score_settings(start, rows, FOLDS, classes), {})]

    def objective(trial: Any) -> float:
        start.search_space(trial, rows.x.shape[1])
        try:
            score = score_settings(start.at(trial.params), rows, FOLDS, classes)
        except Diverged as error:
            raise optuna.TrialPruned from error
        found.append((score, trial.params))
        return score

    optuna_study(sampler(base.seed, trials)).optimize(objective, n_trials=trials - 1)
    score, point = max(found, key=lambda one: one[0])
    log.info("%s: best of %d on %d inner folds: %s, score %.4f", base.kind, trials, FOLDS, point or "as it was", score)
    return (base.at(point) if point else base), score
