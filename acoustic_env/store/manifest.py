"""The manifests of one version of a block: which parts there are, with their rows, bytes and range of clips.

A row exists when a manifest names its part and the part reads. The files of a version's folder:

    part-<name>.parquet                  rows; of no account until a manifest names it
    manifest-<fencing id>-base.json      the parts there were when the holder of this fencing id began
    manifest-<fencing id>-<name>.json    what that holder committed since, one file a part
    manifest-<fencing id>-end.json       all parts once more, when it ended well: no single manifest is needed

Each holder of the block's lease has a larger fencing id than all before (`store.lease`). Before its first commit it
writes its base, which names every part that it sees; the manifests of the largest fencing id with a base (or an end)
are the table. So whatever a writer that lost its lease commits later is of no account: its fencing id is not the
largest any more. A commit above the largest base tells that a base is lost.
Compaction commits in the same way: its base names the new parts in place of the old ones.

Manifests are created, never changed: of two that create one name, one succeeds. Parts come before the manifest that
names them. What a crash leaves at any point is therefore a part that no manifest names, or a manifest that names whole
parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import Entry, Filesystem
from acoustic_env.io.retry import StoreError
from acoustic_env.store import layout
from acoustic_env.store.parts import in_threads

FORMAT: Final = 1
PREFIX: Final = "manifest-"
BASE: Final = "base"
END: Final = "end"
_NAME: Final = re.compile(r"manifest-(\d{8,})-([\w.-]+)\.json")


@dataclass(frozen=True)
class Part(Entry):
    """A part that a manifest names.

    Attributes:
        rows: how many.
        first, last: clip ids, the smallest and the largest.
    """

    rows: int
    first: str
    last: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Manifest:
    """A manifest file.

    Attributes:
        entry: the file.
        fencing_id: of its writer.
        name: `base`, `end`, or that of the commit.
    """

    entry: Entry
    fencing_id: int
    name: str

    @property
    def names_all(self) -> bool:
        """Whether it names all parts there were."""
        return self.name in (BASE, END)


class Version:
    """The manifests and parts of one version of a block.

    Args:
        filesystem: of the store.
        folder: of the version.
    """

    def __init__(self, filesystem: Filesystem, folder: str) -> None:
        self.filesystem, self.folder = filesystem, folder
        self._read: dict[str, list[Part]] = {}  # manifests never change

    def manifests(self) -> list[Manifest]:
        """List the manifests, by fencing id and name.

        Raises:
            UsageError: there are parts and no manifest: the store is of an earlier version.
            StoreInconsistentError: a base is lost.
        """
        found = self._listed()
        newest = max((one.fencing_id for one in found if one.names_all), default=-1)
        if any(one.fencing_id > newest for one in found):
            raise self._lost(f"{PREFIX}{found[-1].fencing_id:08d}-{BASE}.json", "it is gone")
        if not found and self.filesystem.entries(self.folder, "part-"):
            url = self.filesystem.place("")
            msg = (
                f"{self.filesystem.place(self.folder)}: written before parts were named in manifests; take them over "
                f"once: acoustic-env store compact {url}"
            )
            raise UsageError(msg)
        return found

    def _listed(self) -> list[Manifest]:
        return _manifests(self.filesystem.entries(self.folder, PREFIX))

    def parts(self) -> list[Part]:
        """Return the parts there are, by path.

        Raises:
            UsageError, StoreInconsistentError: as `manifests`; a manifest is damaged.
            StoreError: the store cannot be read.
        """
        try:
            return self.named(current(self.manifests()))
        except FileNotFoundError:  # `store gc` removed what was replaced meanwhile
            return self.named(current(self.manifests()))

    def fencing_id(self) -> int:
        """Return the fencing id of the holder that began last; 0 without one."""
        return max((one.fencing_id for one in current(self.manifests())), default=0)

    def named(self, manifests: Sequence[Manifest]) -> list[Part]:
        """Return the parts that some manifests name, by path; raises as `parts`."""
        unread = [one for one in manifests if one.entry.path not in self._read]
        for one, parts in zip(unread, in_threads(self.filesystem, unread, self._load), strict=True):
            self._read[one.entry.path] = parts
        found = {part.path: part for one in manifests for part in self._read[one.entry.path]}
        return [found[path] for path in sorted(found)]

    def begin(self, fencing_id: int, parts: Iterable[Part] | None = None) -> None:
        """Write the base of a holder, unless it is there; before its first commit.

        Args:
            fencing_id: of the block's lease.
            parts: what the table consists of from now on; None for all parts there are.

        Raises:
            StoreError: a later holder has begun, or the base cannot be written.
        """
        manifests = self._listed() if parts is not None else self.manifests()
        if any(one.fencing_id > fencing_id for one in manifests):
            msg = f"{self.filesystem.place(self.folder)}: a later writer has begun; nothing more is written by this run"
            raise StoreError(msg)
        if parts is None:
            if any((one.fencing_id, one.name) == (fencing_id, BASE) for one in manifests):
                return
            parts = self.named(current(manifests))
        self._create(fencing_id, BASE, parts)

    def end(self, fencing_id: int) -> None:
        """Name all parts once more, after the last commit of a holder; raises as `commit`."""
        table = current(self._listed())
        if table and table[0].fencing_id == fencing_id:
            self._create(fencing_id, END, self.named(table))

    def commit(self, fencing_id: int, name: str, part: Part) -> None:
        """Name a part that is whole; it is in the table from now on.

        Raises:
            StoreError: it cannot be written.
        """
        self._create(fencing_id, name, [part])

    def committed(self, fencing_id: int, name: str) -> Part | None:
        """Return the part of a commit that is there already: of a task that is done again."""
        try:
            found = self._load(Manifest(Entry(self._path(fencing_id, name), 0, 0.0), fencing_id, name))
        except FileNotFoundError:
            return None
        return found[0]

    def _create(self, fencing_id: int, name: str, parts: Iterable[Part]) -> None:
        rows = [{"name": p.name, "rows": p.rows, "bytes": p.size, "first": p.first, "last": p.last} for p in parts]
        document = {"format": FORMAT, "fencing_id": fencing_id, "parts": rows}
        path = self._path(fencing_id, name)
        data = json.dumps(document, indent=1).encode()
        if not self.filesystem.create(path, data):
            raise StoreError(f"{self.filesystem.place(path)}: another process wrote it; run the same command again")

    def _path(self, fencing_id: int, name: str) -> str:
        return f"{self.folder}/{PREFIX}{fencing_id:08d}-{name}.json"

    def _load(self, manifest: Manifest) -> list[Part]:
        path = manifest.entry.path
        try:
            document = json.loads(self.filesystem.read(path))
            if document["format"] != FORMAT:
                raise StoreError(f"{self.filesystem.place(path)}: of a newer version; upgrade acoustic-env")
            rows = document["parts"]
            if not all(layout.is_part(row["name"]) and "/" not in row["name"] for row in rows):
                raise ValueError("it names what is no part")
            return [
                Part(f"{self.folder}/{row['name']}", row["bytes"], 0.0, row["rows"], row["first"], row["last"])
                for row in rows
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise self._lost(path.rpartition("/")[2], "it is damaged") from error

    def _lost(self, name: str, how: str) -> StoreInconsistentError:
        return StoreInconsistentError(
            f"{self.filesystem.place(self.folder)}/{name}: {how}, so what the table consists of is not known. Restore "
            "the file, or let the whole parts that are there be the table: acoustic-env store compact "
            f"{self.filesystem.place('')}"
        )


def current(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Return the manifests that make up the table: those of the largest fencing id that has a base or an end.

    >>> some = [Manifest(Entry("", 0, 0.0), *key) for key in [(1, "base"), (1, "a"), (2, "base"), (1, "late")]]
    >>> [(one.fencing_id, one.name) for one in current(some)]
    [(2, 'base')]
    """
    newest = max((one.fencing_id for one in manifests if one.names_all), default=0)
    return [one for one in manifests if one.fencing_id == newest]


def newest_fencing_id(filesystem: Filesystem, block: str) -> int:
    """Return the largest fencing id of a block's manifests; 0 without any."""
    found = _manifests(filesystem.entries(layout.block_folder(block)))
    return max((one.fencing_id for one in found), default=0)


def _manifests(entries: Iterable[Entry]) -> list[Manifest]:
    """Those of some files that are manifests, by fencing id and name."""
    named = ((entry, _NAME.fullmatch(entry.path.rpartition("/")[2])) for entry in entries)
    found = [Manifest(entry, int(match[1]), match[2]) for entry, match in named if match]
    return sorted(found, key=lambda one: (one.fencing_id, one.name))
