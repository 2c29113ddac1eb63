"""Fitted estimators as bytes without pickle: safetensors, XGBoost's UBJSON, skops with a list of trusted types."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import Any, Final

from acoustic_env.errors import UsageError

# What bundles hold beside the types that skops trusts by itself (public scikit-learn and NumPy).
TRUSTED: Final = (
    "acoustic_env.models.classifiers.logistic.LogisticClassifier",
    "acoustic_env.models.classifiers.svm.SVMClassifier",
    "acoustic_env.models.preprocess.KeepFrames",
    "acoustic_env.models.preprocess.MeanImputer",
    "acoustic_env.models.preprocess.Preprocessor",
    "acoustic_env.models.preprocess.PrincipalComponents",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.tree._tree.Tree",
)


def dump_estimator(estimator: Any) -> tuple[str, bytes]:
    """Return the suffix of the file and its content: the estimator's own format where it has one, else skops."""
    if hasattr(estimator, "dump_fitted"):
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
    msg = (
        f"{where}: holds types that are not trusted: {', '.join(unknown)}. Loading a type runs its code; if you trust "
        "its origin, load it in Python with Bundle.load(PLACE, trusted=[...]), else train the bundle again"
    )
    raise UsageError(msg)
