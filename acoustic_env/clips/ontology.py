"""The AudioSet ontology: which sounds are kinds of which."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
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

    def descendants(self, label: str) -> frozenset[str]:
        """Return the ids of the label (an id or a display name) and of everything below it.

        Raises:
            UsageError: the ontology does not know the label.
        """
        found: set[str] = set()
        waiting = [self.id_of(label)]
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting.extend(self.children[current])
        return frozenset(found)

    def id_of(self, label: str) -> str:
        """Return the id of an id or a display name."""
        if label in self.names:
            return label
        for identifier, name in self.names.items():
            if name == label:
                return identifier
        raise UsageError(f"the ontology has no label {label!r}")

    def __contains__(self, label: str) -> bool:
        return label in self.names or label in self.names.values()

    def spellings(self, labels: Iterable[str]) -> frozenset[str]:
        """Return the labels, and for known ones both id and display name: clip lists use either."""
        spelled = set(labels)
        for label in list(spelled):
            if label in self:
                identifier = self.id_of(label)
                spelled |= {identifier, self.names[identifier]}
        return frozenset(spelled)


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
