"""The AudioSet ontology: which sounds are kinds of which."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from acoustic_env.errors import UsageError

AUDIOSET_FILE: Final = Path(__file__).with_name("audioset_ontology.json")


@dataclass(frozen=True)
class Ontology:
    """A directed acyclic graph of labels."""

    names: Mapping[str, str]  # id -> display name
    children: Mapping[str, tuple[str, ...]]  # id -> ids of its direct kinds
    class_order: tuple[str, ...] = ()  # ids in the order of a classifier's outputs (the 527 of AudioSet)

    @cached_property
    def _ids(self) -> dict[str, str]:
        """Id of each id and display name."""
        return {name: identifier for identifier, name in self.names.items()} | {label: label for label in self.names}

    def descendants(self, label: str) -> frozenset[str]:
        """Return the ids of the label (an id or a display name) and of everything below it.

        Raises:
            UsageError: the ontology does not know the label.
        """
        found = [self.id_of(label)]
        for current in found:
            found += [child for child in self.children[current] if child not in found]
        return frozenset(found)

    def id_of(self, label: str) -> str:
        """Return the id of an id or a display name."""
        if label not in self:
            raise UsageError(f"the ontology has no label {label!r}")
        return self._ids[label]

    def __contains__(self, label: str) -> bool:
        return label in self._ids

    def spellings(self, labels: Iterable[str]) -> frozenset[str]:
        """Return the labels, and for known ones both id and display name: clip lists use either."""
        wanted = set(labels)
        ids = {self._ids[label] for label in wanted if label in self}
        return frozenset(wanted | ids | {self.names[identifier] for identifier in ids})


@cache
def audioset() -> Ontology:
    """Load the AudioSet ontology (632 labels) with the order of its 527 classes.

    >>> audioset().id_of("Rain"), len(audioset().descendants("Rain"))
    ('/m/06mb1', 3)
    """
    document = json.loads(AUDIOSET_FILE.read_text(encoding="utf-8"))
    return Ontology(
        names={identifier: name for identifier, name, _ in document["nodes"]},
        children={identifier: tuple(children) for identifier, _, children in document["nodes"]},
        class_order=tuple(document["class_order"]),
    )
