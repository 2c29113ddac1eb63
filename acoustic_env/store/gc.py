"""Garbage: files of a store that no reader sees any more, removed after a time of grace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from acoustic_env.errors import LeaseHeld, UsageError
from acoustic_env.io.filesystem import TMP, Entry
from acoustic_env.store import layout
from acoustic_env.store.feature_store import STALE_S, FeatureStore
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.snapshot import Snapshot, change_snapshot, read_snapshot


@dataclass(frozen=True)
class Garbage:
    """A file that was removed, or would be.

    Attributes:
        path: in the store.
        size: bytes.
        reason: why, as text.
    """

    path: str
    size: int
    reason: str


@dataclass
class Collected:
    """What `collect_garbage` found.

    Attributes:
        files: removed, or in a dry run to be removed.
        skipped: versions of blocks that were left as they are and why, a line each.
    """

    files: list[Garbage] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def collect_garbage(store_url: str, older_than_s: float, *, dry_run: bool = False) -> Collected:
    """Remove replaced parts, remains of killed compactions, files set aside and stale temporary files.

    Ages are told by the store's clock (`Filesystem.now`), for which a small file is written, in a dry run, too.

    Args:
        store_url: the store.
        older_than_s: only files replaced or written so long ago; temporary files after a day at least.
        dry_run: remove nothing.

    Raises:
        UsageError: no store, or a negative age.
        StoreError: the store cannot be read or written.
    """
    if not older_than_s >= 0:
        raise UsageError(f"--older-than {older_than_s / 3600:g}: expected 0 or more hours")
    store = FeatureStore.existing(store_url)
    found = Collected()
    now = store.filesystem.now()
    limit = now - older_than_s
    for block, fingerprints in store.blocks().items():
        with ExitStack() as stack:
            try:
                if not dry_run:
                    stack.enter_context(acquire_blocks(store_url, [block], f"store gc {block}"))
            except LeaseHeld as error:
                found.skipped.append(f"{block}: {error}")
                continue
            for fingerprint in fingerprints:
                _collect_version(store, layout.block_folder(block, fingerprint), limit, found, dry_run=dry_run)
    for folder, reason, before in (
        (layout.SET_ASIDE, "set aside as unreadable", limit),
        (TMP, "temporary file", min(limit, now - STALE_S)),
    ):
        for entry in store.filesystem.entries(folder):
            if entry.modified <= before:
                _remove(store, entry, reason, found, dry_run=dry_run)
    return found


def _collect_version(store: FeatureStore, folder: str, limit: float, found: Collected, *, dry_run: bool) -> None:
    listed = {entry.path.rpartition("/")[2]: entry for entry in store.filesystem.entries(folder)}
    snapshot = read_snapshot(store.filesystem, folder)
    absent = [name for name, size in snapshot.parts.items() if name not in listed or listed[name].size != size]
    if absent:
        found.skipped.append(f"{folder}: {absent[0]} is not as it was written; acoustic-env store verify {store.url}")
        return
    for entry, reason in _garbage(listed, snapshot, limit):
        _remove(store, entry, reason, found, dry_run=dry_run)
    # Names removed just now stay: a reader may have listed them before, and read the snapshot after.
    new = replace(
        snapshot,
        replaced={name: since for name, since in snapshot.replaced.items() if name in listed},
        pending=[name for name in snapshot.pending if name in listed],
    )
    if new != snapshot and not dry_run:
        change_snapshot(store.filesystem, folder, snapshot, new)


def _remove(store: FeatureStore, entry: Entry, reason: str, found: Collected, *, dry_run: bool) -> None:
    if not dry_run:
        store.filesystem.remove(entry.path)
    found.files.append(Garbage(entry.path, entry.size, reason))


def _garbage(listed: dict[str, Entry], snapshot: Snapshot, limit: float) -> Iterator[tuple[Entry, str]]:
    for name, since in snapshot.replaced.items():
        if name in listed and since <= limit and name not in snapshot.parts:
            yield listed[name], "replaced by a compaction"
    for name in snapshot.pending:
        if name in listed and listed[name].modified <= limit:
            yield listed[name], "left by a compaction that was killed"
