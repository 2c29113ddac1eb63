"""Garbage: files of a store that no reader sees any more, removed after a time of grace."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from acoustic_env.errors import LeaseHeld, StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import TMP
from acoustic_env.store import layout
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from acoustic_env.store.manifest import Manifest, Version, current

STALE_S: Final = 24 * 3600.0


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
        skipped: blocks that were left as they are and why, a line each.
    """

    files: list[Garbage] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def collect_garbage(store_url: str, older_than_s: float, *, dry_run: bool = False) -> Collected:
    """Remove parts and manifests that were replaced, parts that no manifest names, and stale temporary files.

    Ages are told by the store's clock (`Filesystem.now`), in a dry run, which writes nothing, by this machine's.

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
    now = time.time() if dry_run else store.filesystem.now()
    limit = now - older_than_s
    for block, fingerprints in store.versions().items():
        with ExitStack() as stack:
            try:
                leases = None if dry_run else stack.enter_context(acquire_blocks(store_url, [block], "store gc"))
                for version in (store.version(block, fingerprint) for fingerprint in fingerprints):
                    files = list(_garbage(version, limit))
                    parts = any(layout.is_part(file.path) for file in files)
                    if parts and leases is not None:  # a writer that lost its lease names none of these any more
                        version.begin(leases.tokens[layout.lease_path(block)])
                    _remove(store, files, found, dry_run=dry_run)
            except (LeaseHeld, UsageError, StoreInconsistentError) as error:
                found.skipped.append(f"{block}: {error}")
    stale = [entry for entry in store.filesystem.entries(TMP) if entry.modified <= min(limit, now - STALE_S)]
    temporary = [Garbage(entry.path, entry.size, "temporary file") for entry in stale]
    _remove(store, temporary, found, dry_run=dry_run)
    return found


def _remove(store: FeatureStore, files: list[Garbage], found: Collected, *, dry_run: bool) -> None:
    for file in files if not dry_run else ():
        store.filesystem.remove(file.path)
    found.files += files


def _garbage(version: Version, limit: float) -> Iterator[Garbage]:
    """What a reader that began after the limit cannot see: it is not in the table, nor was it at the limit."""
    manifests = version.manifests()
    newest = max((one.fencing_id for one in current(manifests)), default=0)

    def replaced(manifest: Manifest) -> float:
        later = [one for one in manifests if one.names_all and one.fencing_id > manifest.fencing_id]
        return min((one.entry.modified for one in later), default=math.inf)

    kept = [one for one in manifests if one.fencing_id >= newest or replaced(one) > limit]
    seen = {part.path for part in version.named(kept)}
    for one in manifests:
        if one not in kept:
            yield Garbage(one.entry.path, one.entry.size, "replaced manifest")
    for entry in version.filesystem.entries(version.folder, "part-"):
        if entry.path not in seen and entry.modified <= limit:
            yield Garbage(entry.path, entry.size, "no manifest names it")
