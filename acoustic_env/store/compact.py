"""Compaction: small parts of a block's version become few large ones, sorted by clip, beside readers.

Only parts that are small beside what they are merged with are read and written again, so that adding a little to a
large table costs little: a row is rewritten a number of times that grows with the logarithm of the table.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa

from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import Entry
from acoustic_env.io.retry import StoreError
from acoustic_env.store import layout
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.feature_store import FeatureStore, new_part, put_part
from acoustic_env.store.lease import BlockLeases, acquire_blocks
from acoustic_env.store.manifest import Part
from acoustic_env.store.parts import UnreadablePart, in_threads, read_rows
from acoustic_env.store.ranges import clip_bounds, each_key_once, sorted_ranges
from acoustic_env.store.schema import DIGEST_DIGITS, ERROR_SCHEMA
from acoustic_env.store.verify import contradictions, difference

PART_BYTES: Final = 96 * 2**20  # of a part's rows in memory, about 64 MB as a file; readers hold several parts at once
ERRORS_BYTES: Final = 4 * 2**20  # of a file of errors, some 200,000 rows
RATIO: Final = 3  # a part is merged with smaller ones that have together at least this fraction of its bytes


AnyPart = TypeVar("AnyPart", bound=Entry)
log = logging.getLogger("acoustic_env.store")


@dataclass(frozen=True)
class Compacted:
    """What a compaction did to one version of a block.

    Attributes:
        block, fingerprint: which.
        rows: in the new parts, each key once.
        duplicates: rows left out, whose key another row with equal values has.
        before, parts: parts of the version before and after.
        read: bytes of the parts that were replaced.
    """

    block: str
    fingerprint: str
    rows: int
    duplicates: int
    before: int
    parts: int
    read: int


def compact(store_url: str, blocks: Sequence[str] = (), part_bytes: int = PART_BYTES) -> Iterator[Compacted]:
    """Merge the small parts of blocks into large ones, sorted by clip, and those of the errors table.

    Args:
        store_url: the store.
        blocks: which; all without any.
        part_bytes: size of a part's rows in memory.

    Yields:
        Each version whose parts were merged.

    Raises:
        UsageError: no store, or no such block.
        LeaseHeld: another writer holds a block.
        StoreInconsistentError: a part cannot be read, or a key has two values; the block's parts are left as they are.
        StoreError: the store cannot be read or written.
    """
    store = FeatureStore.existing(store_url)
    there = store.versions()
    unknown = [block for block in blocks if block not in there]
    if unknown:
        raise UsageError(f"{store_url}: holds no block {unknown[0]!r} (there: {', '.join(there) or 'none'})")
    for block in sorted(set(blocks)) or there:
        holder = f"store compact --blocks {block}"
        fingerprints = there[block]
        with acquire_blocks(store_url, [block], holder) as leases:
            for fingerprint in fingerprints:
                _take_over(store, block, fingerprint, leases)
        with acquire_blocks(store_url, [block], holder) as leases:
            for fingerprint in fingerprints:
                done = _compact(store, block, fingerprint, part_bytes, leases)
                if done is not None:
                    yield done
    _merge_errors(store)


def mergeable(parts: Sequence[AnyPart], largest: int) -> list[AnyPart]:
    """Return the parts to merge: the smallest ones, each at most `RATIO` times those before it together.

    Args:
        parts: of a version.
        largest: bytes of a file from which on a part stays as it is.

    >>> sizes = [30, 28, 31, 4800]
    >>> [part.size for part in mergeable([Part("", size, 0.0, 1, "", "") for size in sizes], 9000)]
    [28, 30, 31]
    """
    chosen: list[AnyPart] = []
    together = 0
    for part in sorted(parts, key=lambda part: (part.size, part.path)):
        if part.size >= largest or (chosen and part.size > RATIO * together):
            break
        chosen.append(part)
        together += part.size
    return chosen if len(chosen) > 1 else []


def _compact(
    store: FeatureStore, block: str, fingerprint: str, part_bytes: int, leases: BlockLeases
) -> Compacted | None:
    """Compact one version; nothing is replaced unless what was written is what was read."""
    version, token = store.version(block, fingerprint), leases.tokens[layout.lease_path(block)]
    parts = version.parts()
    inputs = mergeable(parts, part_bytes // 2)
    if not inputs:
        return None
    schema = _joint_schema(store, parts)
    bounds = clip_bounds(store, inputs, schema, part_bytes)
    names = "\n".join(sorted(part.path for part in inputs))
    name = f"compacted-{token:08d}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
    pieces = (store.read_one(part, None).table.replace_schema_metadata(schema.metadata) for part in inputs)
    read, outputs = 0, []
    with tempfile.TemporaryDirectory(prefix="acoustic-env-compact-") as work:
        for number, table in enumerate(sorted_ranges(pieces, bounds, schema, Path(work))):
            read += table.num_rows
            outputs.append(_write(store, layout.part_path(version.folder, f"{name}-{number:06d}"), table))
    if read != sum(part.rows for part in inputs):
        msg = f"{store.filesystem.place(version.folder)}: the new parts have not the rows of the old ones"
        raise StoreError(f"{msg}; nothing was replaced, report this")
    leases.check()
    replaced = set(inputs)
    after = [*(part for part in parts if part not in replaced), *outputs]
    version.begin(token, after)
    rows, size = sum(part.rows for part in outputs), sum(part.size for part in inputs)
    return Compacted(block, fingerprint, rows, read - rows, len(parts), len(after), size)


def _joint_schema(store: FeatureStore, parts: Sequence[Part]) -> pa.Schema:
    """The columns of all parts; of metadata in which parts differ (library versions) the values side by side."""
    first: ScannedPart | None = None
    metadata: dict[bytes, list[bytes]] = {}
    for part in in_threads(store.filesystem, parts, lambda part: store.read_one(part, [])):
        first = first or part
        if reason := difference(first, part):
            raise _inconsistent(store, f"{part.entry.path}: {reason} as in {first.entry.path}")
        for key, value in (part.schema.metadata or {}).items():
            known = metadata.setdefault(key, [])
            known += [one for one in ([value] if b"{" in value else value.split(b", ")) if one not in known]
    assert first is not None
    return first.schema.with_metadata({key: b", ".join(values) for key, values in metadata.items()})


def _inconsistent(store: FeatureStore, what: str) -> StoreInconsistentError:
    return StoreInconsistentError(
        f"{store.url}: {what}; nothing was replaced. See acoustic-env store verify {store.url}"
    )


def _write(store: FeatureStore, path: str, table: pa.Table) -> Part:
    """Write rows sorted by key as a part, each key once, and read it back."""
    differing = contradictions(table)
    if differing.num_rows:
        key = differing.slice(0, 1).to_pylist()[0]
        raise _inconsistent(store, f"{path.rpartition('/')[0]}: the key {key} has two values")
    kept = each_key_once(table)
    part = put_part(store.filesystem, path, kept)
    found = store.scan_one(part, None)
    if isinstance(found, UnreadablePart) or not found.table.equals(kept, check_metadata=True):
        raise StoreError(f"{store.filesystem.place(path)}: does not read back as it was written; nothing was replaced")
    return part


def _take_over(store: FeatureStore, block: str, fingerprint: str, leases: BlockLeases) -> None:
    """Name the whole parts that are there, where manifests are lost, damaged, or were not written yet.

    A part that was replaced and is still there counts again: its rows have equal values in another one.
    """
    try:
        store.parts(block, fingerprint)
        return
    except (UsageError, StoreInconsistentError) as error:
        log.warning("%s", error)
    folder = layout.block_folder(block, fingerprint)
    parts = []
    for entry in store.filesystem.entries(folder, "part-"):
        found = store.scan_one(entry, ["clip_id"])
        if isinstance(found, UnreadablePart):
            log.warning("%s: %s, left out", store.filesystem.place(entry.path), found.reason)
        else:
            parts.append(new_part(entry.path, found.table, entry.size))
    leases.check()
    store.version(block, fingerprint).begin(leases.tokens[layout.lease_path(block)], parts)


def _merge_errors(store: FeatureStore) -> None:
    """Merge small parts of the errors table into one; a reader between sees rows twice, and counts them once."""
    chosen = mergeable(store.side_entries(layout.ERRORS), ERRORS_BYTES)
    read = [(entry, read_rows(store.filesystem, entry, ERROR_SCHEMA)) for entry in chosen]
    whole = [(entry, table) for entry, table in read if not isinstance(table, UnreadablePart)]
    if len(whole) < 2:
        return
    names = "\n".join(sorted(entry.path for entry, _ in whole))
    name = f"compacted-{hashlib.sha256(names.encode()).hexdigest()[:DIGEST_DIGITS]}"
    rows = pa.concat_tables([table for _, table in whole]).group_by(ERROR_SCHEMA.names).aggregate([])
    kept = store.write_errors(rows, name)
    for entry, _ in whole:
        if entry.path != kept:
            store.filesystem.remove(entry.path)
