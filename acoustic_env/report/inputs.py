"""What a report can be made of: the options of `acoustic-env report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _option(metavar: str, help_text: str) -> Any:
    return field(default=None, metadata={"metavar": metavar, "help": help_text})


@dataclass(frozen=True)
class Inputs:
    """Files and folders to report on, None for what is not given; the help texts describe each."""

    store: str | None = _option("URL", "Feature store: runs, blocks, errors.")
    clips: str | None = _option("LIST", "Clip list or folder of audio: data, exclusions.")
    recipe: str | None = _option("R", "Recipe of the study; default: that of the bundle.")
    bundle: str | None = _option("BUNDLE", "Folder of the classifier.")
    explain: str | None = _option("DIR", "Folder of `acoustic-env explain`.")
    compare: str | None = _option("DIR", "Folder of `acoustic-env compare`.")
    tune: str | None = _option("DIR", "Folder of `acoustic-env tune`.")
    ranked: str | None = _option("FILE", "Table of `audit rank`.")
    sample: str | None = _option("FILE", "Table of `audit sample`; needs --annotations.")
    annotations: str | None = _option("FILE", "Answers of the annotators; needs --sample.")
    versions: str | None = _option("LABELS", "Folder of versions of the labels.")
    truth: str | None = _option("FILE", "Table of clip_id and label with the true labels, as of synthetic scenes.")

    def given(self) -> dict[str, str]:
        """Return option -> value of what is given."""
        return {name: value for name, value in vars(self).items() if value is not None}
