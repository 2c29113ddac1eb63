"""Fitted estimators as bytes without pickle: safetensors, XGBoost's UBJSON, skops with a list of trusted types.

skops imports all of scikit-learn, which takes a second: what most bundles hold has a format of its own.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import Any, Final

from acoustic_env.errors import UsageError

# What bundles hold beside the types that skops trusts by itself (public scikit-learn and NumPy).
TRUSTED: Final = (
    "acoustic_env.models.estimators.logistic.LogisticClassifier",
    "acoustic_env.models.estimators.knn.KNNClassifier",
    "acoustic_env.models.estimators.svm.SVMClassifier",
    "acoustic_env.models.estimators.per_label.PerLabelClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)


def dump_estimator(estimator: Any, *, own: bool = False) -> tuple[str, bytes]:
    """Return the suffix of the file and its content: the estimator's own format where it has one, else skops.

    Args:
        estimator: fitted.
        own: whether it is a user's, whose settings no recipe holds: skops stores them, too.

    >>> from sklearn.linear_model import LogisticRegression
    >>> suffix, data = dump_estimator(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    >>> suffix, load_estimator(data, "model.skops").classes_.tolist()
    ('skops', [0, 1])
    """
    if hasattr(estimator, "dump_fitted") and not own:
        return estimator.file_suffix, estimator.dump_fitted()
    import skops.io

    return "skops", skops.io.dumps(estimator, compression=zipfile.ZIP_DEFLATED)


def load_estimator(data: bytes, where: str, unfitted: Any = None, trusted: Sequence[str] = ()) -> Any:
    """Return the estimator that `dump_estimator` stored.

    Args:
        data: content of the file.
        where: its place, for the message; the suffix says which format it has.
        unfitted: an estimator of the same kind, for formats of its own.
        trusted: types to load beside `TRUSTED`, as "package.module.Type".

    Raises:
        UsageError: the file is damaged, or holds a type that is not trusted.
    """
    if not where.endswith(".skops"):
        return unfitted.load_fitted(data)
    import skops.io

    allowed = {*TRUSTED, *trusted}
    try:
        unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - allowed)
        if not unknown:
            return skops.io.loads(data, trusted=sorted(allowed))
    except Exception as error:  # skops has no type for a damaged file
        msg = f"{where}: not a readable skops file: {type(error).__name__}: {error}; train the bundle again"
        raise UsageError(msg) from error
    raise UsageError(
        f"{where}: holds types that are not trusted: {', '.join(unknown)}. Loading a type runs its code; if you trust "
        "its origin, load it in Python with Bundle.load(PLACE, trusted=[...]), else train the bundle again"
    )
