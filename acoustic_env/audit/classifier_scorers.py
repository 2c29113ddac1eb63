"""Classifiers as scorers: quick, strongly regularized, so hard to convince by a single label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from acoustic_env.audit.intervals import Floats

if TYPE_CHECKING:
    from acoustic_env.audit.scorers import Bools, LabeledClips

# Settings that make the kinds quick and hard to convince; other kinds have their own defaults.
QUICK: Final[dict[str, dict[str, Any]]] = {
    "mlp": {"layers": (128,), "weight_decay": 1e-3},
    "xgboost": {
        "eta": 0.06,
        "colsample_bytree": 0.3,
        "min_child_weight": 5.0,
        "reg_lambda": 5.0,
        "max_bin": 64,
        "rounds": 150,
    },
    "logistic": {"penalty": 0.03},
}
# Up to so many rows: MLPs averaged, passes over the rows, rows of a step. More rows need fewer passes.
MLP_EFFORT: Final = ((5_000, 2, 25, 128), (20_000, 1, 12, 256), (2**62, 1, 4, 512))
TREE_ROWS: Final = 25_000  # a tree learns from a share of more rows


def score_by_classifier(kind: str, clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
    """Return probabilities [held out, classes] of a registered kind of classifier.

    Args:
        kind: name in the registry of classifiers.
        clips: all clips.
        train: [clips] to learn from.
        held_out: [clips] to predict.
    """
    from sklearn.multiclass import OneVsRestClassifier

    from acoustic_env.config import classifier_settings
    from acoustic_env.models.classifier import Ensemble, Examples, fit, make_estimator

    rows, settings = int(train.sum()), {"kind": kind, **QUICK.get(kind, {})}
    if kind == "mlp":
        settings |= next(
            {"ensemble": members, "max_epochs": passes, "batch_size": batch}
            for most, members, passes, batch in MLP_EFFORT
            if rows <= most
        )
    if kind == "xgboost":
        settings["subsample"] = 0.7 * min(1.0, TREE_ROWS / rows)
    target = clips.target[train]
    y = target.argmax(axis=1) if clips.exclusive else target > 0
    examples = Examples(clips.features[train], y, clips.folds[train])
    classifier = classifier_settings(settings)
    members = []
    for member in range(classifier.ensemble):
        estimator = make_estimator(classifier, clips.seed * 100 + member)
        if kind == "xgboost" and not clips.exclusive:  # trees of many labels together would share their splits
            estimator = OneVsRestClassifier(estimator)
        members.append(fit(estimator, examples))
    return Ensemble(members, target.shape[1]).predict_proba(clips.features[held_out])
