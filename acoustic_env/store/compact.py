"""Compaction: the many parts of a block's version become few large ones, sorted by clip, beside readers.

Killed at any point, the next compaction of the same parts writes the same names again and takes those that are there
and read back. `store.snapshot` says what readers see meanwhile.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import Entry
from acoustic_env.io.retry import StoreError
from acoustic_env.store import layout
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.parts import UnreadablePart, part_bytes
from acoustic_env.store.ranges import clip_bounds, each_key_once, sorted_ranges
from acoustic_env.store.row_digest import MODULUS, row_digest
from acoustic_env.store.schema import DIGEST_DIGITS, ROW_KEYS, repeats
from acoustic_env.store.snapshot import Snapshot, change_snapshot, read_snapshot
from acoustic_env.store.verify import difference, unequal

PART_BYTES: Final = 64 * 2**20  # of a part's rows in memory; readers hold several parts at once


@dataclass(frozen=True)
class Compacted:
    """What a compaction did to one version of a block.

    Attributes:
        block, fingerprint: which.
        rows: each key once.
        duplicates: rows left out, whose key another row with equal values has.
        before, parts: parts before and after.
    """

    block: str
    fingerprint: str
    rows: int
    duplicates: int
    before: int
    parts: int


def compact(store_url: str, blocks: Sequence[str] = (), part_bytes: int = PART_BYTES) -> Iterator[Compacted]:
    """Replace the parts of blocks by few large ones, sorted by clip; those that are compacted already stay.

    Args:
        store_url: the store.
        blocks: which; all without any.
        part_bytes: size of a part's rows in memory.

    Yields:
        Each version whose parts were replaced.

    Raises:
        UsageError: no store, or no such block.
        LeaseHeld: another writer holds a block.
        StoreInconsistentError: a part cannot be read, or a key has two values; the block's parts are left as they are.
        StoreError: the store cannot be read or written.
    """
    there = FeatureStore.existing(store_url).blocks()
    unknown = [block for block in blocks if block not in there]
    if unknown:
        raise UsageError(f"{store_url}: holds no block {unknown[0]!r} (there: {', '.join(there) or 'none'})")
    for block in sorted(set(blocks)) or there:
        with acquire_blocks(store_url, [block], f"store compact --block {block}") as leases:
            for fingerprint in there[block]:
                done = _Compaction(FeatureStore(store_url), block, fingerprint, part_bytes, leases.check).run()
                if done is not None:
                    yield done


class _Compaction:
    """The compaction of one version; the counters prove that what was written is what was read."""

    def __init__(
        self, store: FeatureStore, block: str, fingerprint: str, part_bytes: int, check: Callable[[], None]
    ) -> None:
        self.store, self.block, self.fingerprint, self.part_bytes = store, block, fingerprint, part_bytes
        self.check = check
        self.folder = layout.block_folder(block, fingerprint)
        self.listed: dict[str, Entry] = {}
        self.sizes: dict[str, int] = {}
        self.read = self.written = self.duplicates = 0
        self.digest = 0  # of the rows read, less that of the rows written and left out

    def run(self) -> Compacted | None:
        self.listed = {_name(entry): entry for entry in self.store.filesystem.entries(self.folder)}
        snapshot = read_snapshot(self.store.filesystem, self.folder)
        inputs = [_name(entry) for entry in self.store.parts(self.block, self.fingerprint)]
        if len(inputs) < 2 or set(inputs) == set(snapshot.parts):
            return None
        schema = self._schema()
        bounds = clip_bounds(self.store, self.block, {"": self.fingerprint}, schema, self.part_bytes)
        outputs = [self._output(inputs, number) for number in range(len(bounds) + 1)]
        self.check()
        # A name that gc has removed stays until its next run: a reader may have listed it before.
        announced = replace(snapshot, pending=sorted({*outputs, *snapshot.pending}))
        snapshot = change_snapshot(self.store.filesystem, self.folder, snapshot, announced)
        with tempfile.TemporaryDirectory(prefix="acoustic-env-compact-") as work:
            ranges = sorted_ranges(self._read(schema), bounds, schema, Path(work))
            for name, table in zip(outputs, ranges, strict=True):
                self._write(name, table)
        self._commit(snapshot, inputs)
        return Compacted(
            self.block, self.fingerprint, self.written, self.duplicates, before=len(inputs), parts=len(outputs)
        )

    def _schema(self) -> pa.Schema:
        """The columns of all parts; of metadata in which parts differ (library versions) the values side by side."""
        first: ScannedPart | None = None
        metadata: dict[bytes, list[bytes]] = {}
        for part in self.store.scan(self.block, self.fingerprint, []):
            if isinstance(part, UnreadablePart):
                raise self._inconsistent(f"{part.entry.path}: {part.reason}")
            first = first or part
            reason = difference(first, part)
            if reason is not None:
                raise self._inconsistent(f"{part.entry.path}: {reason} as in {first.entry.path}")
            for key, value in (part.schema.metadata or {}).items():
                if value not in metadata.setdefault(key, []):
                    metadata[key].append(value)
        assert first is not None
        return first.schema.with_metadata({key: b", ".join(values) for key, values in metadata.items()})

    def _inconsistent(self, what: str) -> StoreInconsistentError:
        msg = (
            f"{self.store.url}: {what}; nothing was replaced. See acoustic-env store verify {self.store.url}; "
            "acoustic-env extract sets unreadable parts aside and computes their rows again"
        )
        return StoreInconsistentError(msg)

    def _output(self, inputs: Sequence[str], number: int) -> str:
        text = "\n".join([f"compacted {self.folder} {self.part_bytes} {number}", *inputs])
        return layout.part_path("", hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]).removeprefix("/")

    def _read(self, schema: pa.Schema) -> Iterator[pa.Table]:
        for part in self.store.scan(self.block, self.fingerprint, None, checksums=True):
            if isinstance(part, UnreadablePart):
                raise self._inconsistent(f"{part.entry.path}: {part.reason}")
            self.read += part.table.num_rows
            self.digest += row_digest(part.table)
            yield part.table.replace_schema_metadata(schema.metadata)

    def _write(self, name: str, table: pa.Table) -> None:
        """Write a part, each key once, unless it is there from a compaction that was killed; read it back."""
        table = self._each_key_once(table)
        path = f"{self.folder}/{name}"
        found = self._read_back(self.listed[name]) if name in self.listed else None
        if found is not None and found.equals(table, check_metadata=True):
            self.sizes[name] = self.listed[name].size
        else:
            data = part_bytes(table)
            self.check()
            self.store.filesystem.write(path, data)
            self.sizes[name] = len(data)
            found = self._read_back(Entry(path, len(data), 0.0))
        if found is None or not found.equals(table, check_metadata=True):
            msg = f"{self.store.filesystem.place(path)}: does not read back as it was written; nothing was replaced"
            raise StoreError(msg)
        self.written += found.num_rows
        self.digest -= row_digest(found)

    def _read_back(self, entry: Entry) -> pa.Table | None:
        part = self.store.scan_one(entry, None, checksums=True)
        return part.table if isinstance(part, ScannedPart) else None

    def _each_key_once(self, table: pa.Table) -> pa.Table:
        repeated = repeats(table).to_numpy(zero_copy_only=False)
        if not repeated.any():
            return table
        first = np.maximum.accumulate(np.where(repeated, 0, np.arange(table.num_rows)))
        dropped = table.filter(pa.array(repeated))
        kept = table.take(pa.array(first[repeated]))
        for column in table.column_names:
            if column not in ROW_KEYS and unequal(kept[column], dropped[column]).any():
                raise self._inconsistent(f"{self.folder}: a key has two values of {column}")
        self.duplicates += dropped.num_rows
        self.digest -= row_digest(dropped)
        return each_key_once(table)

    def _commit(self, snapshot: Snapshot, inputs: Sequence[str]) -> None:
        if self.read != self.written + self.duplicates or self.digest % MODULUS:
            msg = f"{self.store.filesystem.place(self.folder)}: the new parts are not the rows of the old ones; "
            raise StoreError(msg + "nothing was replaced, report this")
        self.check()
        now = self.store.filesystem.now()
        new = Snapshot(
            parts=self.sizes,
            replaced={**snapshot.replaced, **dict.fromkeys(inputs, now)},
            pending=[name for name in snapshot.pending if name not in self.sizes],
        )
        change_snapshot(self.store.filesystem, self.folder, snapshot, new)


def _name(entry: Entry) -> str:
    return entry.path.rpartition("/")[2]
