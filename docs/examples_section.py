"""Griffe extension: a docstring's `>>>` lines become its Examples section, so that they are shown as code."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


class ExamplesSection(Extension):
    """Put a heading before the first example of every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of a loaded object."""
        if obj.docstring is None or "Examples:" in obj.docstring.value:
            return
        lines = obj.docstring.value.splitlines()
        first = next((n for n, line in enumerate(lines) if line.startswith(">>>")), None)
        if first is not None:
            examples = [f"    {line}".rstrip() for line in lines[first:]]
            obj.docstring.value = "\n".join([*lines[:first], "Examples:", *examples])
