"""The record of a search: the data and settings of its scores, and its batches of trials. Free of Ray.

A score belongs to the clips, folds, features, settings and search space it was reached with. The record names them, so
that a search goes on only with its own. Asking for more trials adds a batch; finished batches are read from the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, read_if_there, write_bytes
from acoustic_env.io.location import join

FILE: Final = "search.json"
# Where Ray Tune keeps the first batch; an earlier version kept it there without a record.
FIRST: Final = "tune"


@dataclass
class Batch:
    """Trials that were asked for together.

    Attributes:
        first: number of the first trial.
        trials: how many.
        done: the finished trials as plain data, None until none is left to run.
    """

    first: int
    trials: int
    done: list[dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        """Folder of the batch's state."""
        return FIRST if not self.first else f"{FIRST}-{self.first}"


@dataclass
class SearchState:
    """A search in a folder.

    Attributes:
        folder: of the search, a path or an fsspec URL.
        identity: name -> value of everything that determines a score.
        batches: in order.
    """

    folder: str
    identity: dict[str, str]
    batches: list[Batch] = field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        """Whether trials are left to run."""
        return any(batch.done is None for batch in self.batches)

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
            msg = f"--trials {trials}: at least one trial is needed"
            raise UsageError(msg)
        written = read_if_there(join(folder, FILE))
        state = cls(folder, dict(identity)) if written is None else cls._read(folder, written)
        if written is None and files_below(join(folder, FIRST)):
            msg = f"{folder}: holds a search of an earlier version, without a record of its data; give another --out"
            raise UsageError(msg)
        state._refuse_other(identity)
        planned = sum(batch.trials for batch in state.batches)
        if trials < planned:
            msg = (
                f"--trials {trials}: the search in {folder} has {planned} trials; "
                f"give --trials {planned} or more, or another --out"
            )
            raise UsageError(msg)
        if trials > planned:
            state.batches.append(Batch(planned, trials - planned))
        return state

    def _refuse_other(self, identity: Mapping[str, str]) -> None:
        names = list(dict.fromkeys([*self.identity, *identity]))
        differences = [
            f"{name}: {self.identity.get(name, 'none')} there, {identity.get(name, 'none')} now"
            for name in names
            if self.identity.get(name) != identity.get(name)
        ]
        if differences:
            msg = (
                f"{self.folder}: holds a search of other data or settings, whose scores are not of these "
                f"({'; '.join(differences)}); give another --out"
            )
            raise UsageError(msg)

    @classmethod
    def _read(cls, folder: str, written: bytes) -> SearchState:
        try:
            found = json.loads(written)
            return cls(folder, dict(found["identity"]), [Batch(**batch) for batch in found["batches"]])
        except (ValueError, TypeError, KeyError) as error:
            msg = f"{join(folder, FILE)}: not readable: {error}; give another --out"
            raise UsageError(msg) from error

    def write(self) -> None:
        """Write the record, whole or not at all."""
        content = {"identity": self.identity, "batches": [vars(batch) for batch in self.batches]}
        write_bytes(join(self.folder, FILE), json.dumps(content, indent=1).encode())
