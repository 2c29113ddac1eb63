"""Feature tables and labels people can trust, from large lists of audio clips, on Ray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acoustic_env.api import (
        Classifier,
        Predictor,
        Store,
        compute,
        estimate,
        load_bundle,
        open_store,
        rank_labels,
        read_clips,
        train,
    )
    from acoustic_env.study import Study

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Predictor",
    "Store",
    "Study",
    "compute",
    "estimate",
    "load_bundle",
    "open_store",
    "rank_labels",
    "read_clips",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a name of the Python API at its first use, so that importing the package stays cheap."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Study":
        from acoustic_env.study import Study

        return Study
    from acoustic_env import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
