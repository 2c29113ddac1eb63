"""The snapshot of one version of a block: which of its parts are another's copy, and so not seen by readers.

A part of a writer is visible as soon as it is in the folder. `store compact` replaces many parts by few in three steps,
each a compare and swap of `snapshot.json`: it announces the names it is about to write (`pending`: not visible), writes
and verifies them, then makes them visible (`parts`) and the old ones invisible (`replaced`) at once. The old files stay
until `store gc` removes them, so that readers which began before can end.

Readers list the folder first and read the snapshot after (`visible`). A compacted part that is in the listing was
announced before, so the snapshot, which is newer, hides it or the parts it replaces; one that is not in the listing yet
is known from the snapshot. So each reader sees one state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from acoustic_env.io.filesystem import Entry, Filesystem
from acoustic_env.io.retry import StoreError
from acoustic_env.store import layout
from acoustic_env.store.exclusive import exclusive_file

FORMAT: Final = 1


@dataclass(frozen=True)
class Snapshot:
    """The content of `snapshot.json`.

    Attributes:
        generation: grows by one with every change.
        parts: name -> size in bytes, of the parts that compaction wrote and readers see.
        replaced: name -> Unix time by the store's clock, of the parts whose rows are in `parts` since then.
        pending: names that a compaction writes, or wrote when it was killed.
    """

    generation: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    replaced: Mapping[str, float] = field(default_factory=dict)
    pending: Sequence[str] = field(default_factory=list)

    def visible(self, listed: Iterable[Entry], folder: str) -> list[Entry]:
        """Return the parts that a reader sees, by path.

        Args:
            listed: the files of the folder, listed before the snapshot was read.
            folder: of the version.

        >>> snapshot = Snapshot(parts={"part-c.parquet": 9}, replaced={"part-a.parquet": 0.0})
        >>> [entry.path for entry in snapshot.visible([Entry("f/part-a.parquet", 5, 0.0)], "f")]
        ['f/part-c.parquet']
        """
        hidden = {f"{folder}/{name}" for name in (*self.replaced, *self.pending)}
        found = {f"{folder}/{name}": Entry(f"{folder}/{name}", size, 0.0) for name, size in self.parts.items()}
        found |= {e.path: e for e in listed if layout.is_part(e.path) and (e.path not in hidden or e.path in found)}
        return [found[path] for path in sorted(found)]


def read_snapshot(filesystem: Filesystem, folder: str) -> Snapshot:
    """Return the snapshot of a version as it is now; an empty one where there is none.

    Raises:
        StoreError: it cannot be read, or is no snapshot.
    """
    try:
        return _parse(filesystem.read(f"{folder}/{layout.SNAPSHOT}"), filesystem.place(folder))
    except FileNotFoundError:
        return Snapshot()


def change_snapshot(filesystem: Filesystem, folder: str, old: Snapshot, new: Snapshot) -> Snapshot:
    """Replace a snapshot by another if it is still the old one; return the new one, as it is stored.

    Raises:
        StoreError: another process changed it meanwhile, or it cannot be written.
    """
    file = exclusive_file(filesystem, f"{folder}/{layout.SNAPSHOT}")
    seen = file.load()
    now = Snapshot() if seen is None else _parse(seen.data, filesystem.place(folder))
    new = replace(new, generation=old.generation + 1)
    text = json.dumps({"format": FORMAT, **asdict(new)}, indent=1, sort_keys=True)
    if now.generation != old.generation or not file.swap(seen, text.encode()):
        msg = f"{filesystem.place(folder)}: another process changed {layout.SNAPSHOT} meanwhile; run the command again"
        raise StoreError(msg)
    return new


def _parse(data: bytes, place: str) -> Snapshot:
    try:
        document = json.loads(data)
        if document.pop("format") != FORMAT:
            raise StoreError(f"{place}/{layout.SNAPSHOT}: written by a newer version; upgrade acoustic-env")
        return Snapshot(**document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{place}/{layout.SNAPSHOT}: not a snapshot ({error!r}); remove the file: readers then see replaced parts, "
            "too, and return each key once, and acoustic-env store compact makes it again"
        ) from error
