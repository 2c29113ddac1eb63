"""The record of a search: the data and settings of its scores, and its trials. Free of Ray.

A score belongs to the clips, folds, features, settings and search space it was reached with. The record names them, so
that a search goes on only with its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_if_there, write_bytes
from acoustic_env.io.location import join

FILE: Final = "search.json"


@dataclass
class SearchState:
    """A search in a folder.

    Attributes:
        folder: of the search, a path or an fsspec URL.
        identity: name -> value of everything that determines a score.
        trials: how many were asked for.
        ended: the trials that ended without an error, as plain data.
    """

    folder: str
    identity: dict[str, str]
    trials: int = 0
    ended: list[dict[str, Any]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Trials left to run."""
        return self.trials - len(self.ended)

    @classmethod
    def open(cls, folder: str, identity: Mapping[str, str], trials: int) -> SearchState:
        """Start a search in a folder, or go on with the one that is there, until it has `trials` trials.

        Args:
            folder: of the search; need not exist.
            identity: name -> value of everything that determines a score.
            trials: how many in all.

        Raises:
            UsageError: `trials` is not positive or fewer than were asked for before, or the folder holds a search of
                other data or settings (the message names what differs, then and now).
        """
        if trials < 1:
            raise UsageError(f"--trials {trials}: at least one trial is needed")
        written = read_if_there(join(folder, FILE))
        state = cls(folder, dict(identity)) if written is None else cls._read(folder, written)
        state._refuse_other(identity)
        if trials < state.trials:
            raise UsageError(
                f"--trials {trials}: the search in {folder} has {state.trials} trials; "
                f"give --trials {state.trials} or more, or another --out"
            )
        state.trials = trials
        return state

    def _refuse_other(self, identity: Mapping[str, str]) -> None:
        names = list(dict.fromkeys([*self.identity, *identity]))
        differences = [
            f"{name}: {self.identity.get(name, 'none')} there, {identity.get(name, 'none')} now"
            for name in names
            if self.identity.get(name) != identity.get(name)
        ]
        if differences:
            raise UsageError(
                f"{self.folder}: holds a search of other data or settings, whose scores are not of these "
                f"({'; '.join(differences)}); give another --out"
            )

    @classmethod
    def _read(cls, folder: str, written: bytes) -> SearchState:
        try:
            found = json.loads(written)
            return cls(folder, dict(found["identity"]), int(found["trials"]), list(found["ended"]))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{join(folder, FILE)}: not readable: {error}; give another --out") from error

    def write(self) -> None:
        """Write the record, whole or not at all."""
        content = {"identity": self.identity, "trials": self.trials, "ended": self.ended}
        write_bytes(join(self.folder, FILE), json.dumps(content, indent=1).encode())
