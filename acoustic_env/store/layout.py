"""Where things are in a store, relative to its root.

features/<block>/<fingerprint>/part-<name>.parquet   rows of one block under one fingerprint
features/<block>/<fingerprint>/manifest-*.json       which parts there are (`store.manifest`)
clips/part-<name>.parquet                            which audio each clip id means
errors/part-<name>.parquet                           what went wrong with which clip
runs/<run_id>/record.json                            what each run did
leases/<block>/<fencing id>.json                     who may write rows of the block
.tmp/                                                files on their way to their names (local stores)
.lock                                                held while a manifest or a lease is created (local stores)
"""

from __future__ import annotations

import re
from typing import Final

from acoustic_env.errors import UsageError

FEATURES: Final = "features"
CLIPS: Final = "clips"
ERRORS: Final = "errors"
RUNS: Final = "runs"
FOLDERS: Final = frozenset({FEATURES, CLIPS, ERRORS, RUNS})
LEASE: Final = "lease"
LEASES: Final = "leases"

_PART = re.compile(r"part-[A-Za-z0-9_.-]+\.parquet")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def block_folder(block: str, fingerprint: str | None = None) -> str:
    """Return the folder of a block, or of one fingerprint of it.

    >>> block_folder("mps", "0f1a")
    'features/mps/0f1a'

    Raises:
        UsageError: a name that is not one path component.
    """
    for name in (block, fingerprint):
        if name is not None and not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a block or fingerprint: letters, digits, '_', '.' and '-' only")
    return f"{FEATURES}/{block}" if fingerprint is None else f"{FEATURES}/{block}/{fingerprint}"


def part_path(folder: str, name: str) -> str:
    """Return the path of a part."""
    return f"{folder}/part-{name}.parquet"


def is_part(path: str) -> bool:
    """Return whether a path has a part's name."""
    return _PART.fullmatch(path.rpartition("/")[2]) is not None


def is_name(name: str) -> bool:
    """Return whether a name is one of a block or a fingerprint."""
    return _NAME.fullmatch(name) is not None


def lease_path(block: str) -> str:
    """Return the folder of a block's lease.

    Raises:
        UsageError: a name that is not one path component.
    """
    block_folder(block)
    return f"{LEASES}/{block}"


def run_path(run_id: str) -> str:
    """Return the path of a run's record."""
    if not _NAME.fullmatch(run_id):
        raise UsageError(f"{run_id!r} is not a run id: letters, digits, '_', '.' and '-' only")
    return f"{RUNS}/{run_id}/record.json"


def pending_path(run_id: str, number: int) -> str:
    """Return the path of a file of a run's pending list."""
    return f"{RUNS}/{run_id}/pending/part-{number:05d}.parquet"
