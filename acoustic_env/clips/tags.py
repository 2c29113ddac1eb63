"""Rules that give a clip one class by its tags: the first class in order with any of the tags, else a catch-all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from acoustic_env.config import Settings, from_mapping
from acoustic_env.io.documents import read_mapping

BUILT_IN: Final = Path(__file__).parents[1] / "recipes" / "tags"


class TagRules(Settings):
    """Classes in the order they are tried."""

    classes: Mapping[str, tuple[str, ...]]
    """Class -> its tags; a tag matches whole and in lower case."""

    other: str
    """Class of a clip without any of the tags."""

    def label(self, tags: Collection[str]) -> str:
        """Return the class of a clip.

        >>> rules = TagRules(classes={"animal": ("dog",), "music": ("guitar",)}, other="other")
        >>> rules.label(["Guitar", "dog"]), rules.label(["hotdog"])
        ('animal', 'other')
        """
        own = {tag.lower() for tag in tags}
        return next((name for name, words in self.classes.items() if own & set(words)), self.other)


def load_tag_rules(name: str) -> TagRules:
    """Read rules by the name of a built-in set or from a YAML file.

    Raises:
        UsageError: no such file, not YAML, or not rules.
    """
    built_in = BUILT_IN / f"{name}.yaml"
    place = str(built_in) if built_in.is_file() else name
    return from_mapping(TagRules, read_mapping(place, "a set of rules"), place)
