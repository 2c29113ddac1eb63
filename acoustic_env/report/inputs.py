"""What a report can be made of: the options of `acoustic-env report`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Inputs:
    """Files and folders to report on, by the names of the options; None for what is not given.

    Without a `recipe` that of the bundle counts; `sample` and `annotations` belong together.
    """

    store: str | None = None
    clips: str | None = None
    recipe: str | None = None
    bundle: str | None = None
    explain: str | None = None
    compare: str | None = None
    tune: str | None = None
    ranked: str | None = None
    sample: str | None = None
    annotations: str | None = None
    versions: str | None = None
    truth: str | None = None

    def given(self) -> dict[str, str]:
        """Return option -> value of what is given."""
        return {name: value for name, value in vars(self).items() if value is not None}
