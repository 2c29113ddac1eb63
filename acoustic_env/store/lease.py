"""One writer at a time: a lease with a holder, an expiry that a heartbeat moves on, and a fencing id that only grows.

Each block of a store has leases of its own, so that two jobs can write rows of different blocks side by side
(`acquire_blocks`). A lease is a file `leases/<block>/<fencing id>.json`; other folders have `lease/<fencing id>.json`.
The one with the largest fencing id counts. A new holder creates the next one, under the condition that it is not there
(`io.filesystem.Filesystem.create`): of two that want it at once one gets it, and a store that knows no conditions is
refused. From then on its holder alone writes that file: at each heartbeat, and when it releases it. Files of earlier
holders are removed.

A lease may be taken over

- at once, when it was released, or when its holder ran on this machine (same host, boot and process namespace) and
  its process is gone;
- `SKEW_S` after its expiry otherwise, once it was watched for `WATCH_S` and not renewed. A lease that expires later
  than any can is watched, too: its holder's clock is ahead. So clocks that differ by hours neither take a lease from a
  living holder nor keep it for a dead one.

What a writer that lost its lease had already sent may still arrive. That does no harm: `store.manifest` has the reason.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from acoustic_env.errors import AcousticEnvError, LeaseHeld
from acoustic_env.io.filesystem import Filesystem, open_filesystem
from acoustic_env.io.retry import StoreError
from acoustic_env.store.layout import CLIPS, LEASE, LEASES, is_name, lease_path
from acoustic_env.store.manifest import newest_fencing_id

TTL_S: Final = 60.0
SKEW_S: Final = 10.0
HEARTBEATS: Final = 4  # in one time to live
WATCH_S: Final = 2 * TTL_S / HEARTBEATS  # for a heartbeat, where the clocks say that there should be none
SOURCES_WAIT_S: Final = 600.0
WAIT_STEP_S: Final = 0.5

log = logging.getLogger("acoustic_env.store")


class LeaseLost(AcousticEnvError):  # noqa: N818
    """This writer's lease is another's now; it must not write on."""

    exit_code = 4


@dataclass(frozen=True)
class LeaseRecord:
    """The content of a lease file.

    Attributes:
        fencing_id: grows by one with every holder.
        nonce: unique to the holder.
        holder: what it is doing (command and run).
        user, host, pid: who and where.
        process_started: clock ticks since the boot, tells the process from a later one with its pid.
        machine: boot id and process namespace: where `pid` means something.
        since: Unix time of the acquisition.
        expires: Unix time after which others may take it.
        released: whether its holder released it.
    """

    fencing_id: int
    nonce: str
    holder: str
    user: str
    host: str
    pid: int
    process_started: int
    machine: str
    since: float
    expires: float
    released: bool = False

    def describe(self) -> str:
        """Return who holds it as text."""
        return (
            f"'{self.holder}' (user {self.user}, host {self.host}, process {self.pid}), since {_time(self.since)}, "
            f"until {_time(self.expires)} unless renewed"
        )


class Lease:
    """A lease held; made by `acquire_lease`.

    Attributes:
        token: its fencing id.
        lost: to whom, where a heartbeat found that another holds the lease now.
    """

    def __init__(self, store_url: str, path: str, record: LeaseRecord, ttl_s: float) -> None:
        self.token = record.fencing_id
        self._url, self._path, self._record, self._ttl = store_url, path, record, ttl_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.lost = ""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost if the lease is another's now; asks the store."""
        check(self._url, {self._path: self.token})

    def release(self) -> None:
        """Release the lease; does nothing where it is released already, or another's."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            if self._record.released or self.lost:
                return
            self._renew(replace(self._record, expires=time.time(), released=True))

    def _beat(self) -> None:
        while not self._stop.wait(self._ttl / HEARTBEATS):
            try:
                with self._lock:
                    self._renew(replace(self._record, expires=time.time() + self._ttl))
            except StoreError as error:
                log.warning("the lease could not be renewed, trying again: %s", error)
            if self.lost:
                log.warning("%s", self.lost)
                return

    def _renew(self, record: LeaseRecord) -> None:
        filesystem = open_filesystem(self._url)
        now = _newest(filesystem, self._path)
        if now is None or now.nonce == record.nonce:
            filesystem.write(_file(self._path, self.token), _bytes(record))
            self._record = record
        else:
            self.lost = f"{self._url}: the lease was lost to {now.describe()}"


class BlockLeases:
    """The leases of the blocks that a run writes; made by `acquire_blocks`.

    Attributes:
        tokens: path of each lease -> its fencing id.
    """

    def __init__(self, store_url: str, tokens: Mapping[str, int]) -> None:
        self.tokens = dict(tokens)
        self._url = store_url

    def check(self) -> None:
        """Raise LeaseLost if one of the leases is another's now; asks the store."""
        check(self._url, self.tokens)

    def others(self) -> list[str]:
        """Return who holds leases of other blocks now, as text."""
        return [
            record.describe()
            for block, record in held_leases(self._url).items()
            if (path := lease_path(block)) not in self.tokens
            if _is_held(open_filesystem(self._url), path, record)
        ]


@contextmanager
def acquire_blocks(store_url: str, blocks: Iterable[str], holder: str, ttl_s: float = TTL_S) -> Iterator[BlockLeases]:
    """Hold the leases of blocks of a store for the body of a `with`; taken in sorted order.

    Args:
        store_url: the store.
        blocks: whose rows are written.
        holder, ttl_s: as in `acquire_lease`.

    Raises:
        LeaseHeld: another writer has one of them.
        UsageError: such a store cannot keep two writers apart.
        StoreError: the store cannot be written.
    """
    with ExitStack() as stack:
        tokens = {}
        for block in sorted(set(blocks)):
            used = partial(newest_fencing_id, open_filesystem(store_url), block)
            lease = stack.enter_context(acquire_lease(store_url, holder, ttl_s, lease_path(block), used=used))
            tokens[lease_path(block)] = lease.token
        yield BlockLeases(store_url, tokens)


def acquire_sources(store_url: str, holder: str) -> AbstractContextManager[Lease]:
    """Hold the lease of the table of sources, for the moment between comparing a list with it and adding to it.

    A writer of other blocks that has it is waited for, `SOURCES_WAIT_S` at most.

    Raises:
        LeaseHeld: it is still held then.
        StoreError: the store cannot be written.
    """
    return acquire_lease(store_url, holder, path=f"{LEASES}/.{CLIPS}", wait_s=SOURCES_WAIT_S)


@contextmanager
def acquire_lease(
    store_url: str,
    holder: str,
    ttl_s: float = TTL_S,
    path: str = LEASE,
    wait_s: float = 0.0,
    used: Callable[[], int] = lambda: 0,
) -> Iterator[Lease]:
    """Hold a lease for the body of a `with`; renewed in the background, released at the end.

    Args:
        store_url: the store, or another folder with one writer.
        holder: what it is for, shown to a second writer.
        ttl_s: time after the last heartbeat when others may take it (plus `SKEW_S`).
        path: of the lease, below the URL.
        wait_s: how long to wait for another writer to release it.
        used: returns the largest fencing id that is known otherwise, where the lease file is gone.

    Raises:
        LeaseHeld: another writer has it; says who, since when and until when.
        UsageError: such a store cannot keep two writers apart.
        StoreError: the store cannot be written.
    """
    lease = Lease(store_url, path, _acquire(open_filesystem(store_url), path, holder, ttl_s, wait_s, used), ttl_s)
    try:
        yield lease
    finally:
        try:
            lease.release()
        except StoreError as error:  # it expires by itself; the body's own error matters more
            log.warning("the lease could not be released and ends by itself in %.0f s: %s", ttl_s + SKEW_S, error)


def check(store_url: str, tokens: Mapping[str, int]) -> None:
    """Raise unless every lease (path -> fencing id) still holds; called before a commit.

    Raises:
        LeaseLost: another writer has taken one, or it was released.
        StoreError: the store cannot be read.
    """
    for path, token in tokens.items():
        now = read_lease(store_url, path)
        if now is not None and now.fencing_id == token and not now.released:
            continue
        how = "was released" if now is not None and now.released else "is now held"
        raise LeaseLost(
            f"{store_url}: this writer's lease ({path}, {token}) is lost: it "
            f"{f'{how} by {now.describe()}' if now else 'has no file any more'}; nothing more is written by this run"
        )


def read_lease(store_url: str, path: str = LEASE) -> LeaseRecord | None:
    """Return a lease as it is now; None where there never was a writer."""
    return _newest(open_filesystem(store_url), path)


def held_leases(store_url: str) -> dict[str, LeaseRecord]:
    """Return block -> its lease, of those not released."""
    filesystem = open_filesystem(store_url)
    blocks = [name for name in filesystem.folders(LEASES) if is_name(name)]
    found = {block: _newest(filesystem, lease_path(block)) for block in blocks}
    return {block: record for block, record in found.items() if record is not None and not record.released}


def _acquire(
    filesystem: Filesystem, path: str, holder: str, ttl_s: float, wait_s: float, used: Callable[[], int]
) -> LeaseRecord:
    deadline = time.monotonic() + wait_s
    while True:
        now = _newest(filesystem, path)
        if now is not None and _is_held(filesystem, path, now):
            if time.monotonic() >= deadline:
                raise LeaseHeld(
                    f"{filesystem.place('')}: another writer holds the lease {path}: {now.describe()}. Wait for it to "
                    "end; if it was killed on another machine, the lease can be taken from "
                    f"{_time(now.expires + SKEW_S)} on"
                )
            time.sleep(WAIT_STEP_S)
            continue
        record = LeaseRecord(
            fencing_id=1 + (now.fencing_id if now else used()),
            nonce=uuid.uuid4().hex,
            holder=holder,
            user=_user(),
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=_started(os.getpid()) or 0,
            machine=_machine(),
            since=time.time(),
            expires=time.time() + ttl_s,
        )
        if filesystem.create(_file(path, record.fencing_id), _bytes(record)):
            there = _numbers(filesystem, path)
            if max(there, default=0) <= record.fencing_id:  # else `now` was old, and its followers' files were removed
                for number in there:
                    if number < record.fencing_id:
                        filesystem.remove(_file(path, number))
                return record
        time.sleep(0.05)  # another one was quicker: look again who


def _file(path: str, fencing_id: int) -> str:
    return f"{path}/{fencing_id:08d}.json"


def _numbers(filesystem: Filesystem, path: str) -> list[int]:
    """Fencing ids of a lease's files."""
    names = (entry.path.removeprefix(f"{path}/").removesuffix(".json") for entry in filesystem.entries(path))
    return [int(name) for name in names if name.isdecimal()]


def _newest(filesystem: Filesystem, path: str) -> LeaseRecord | None:
    """The lease that counts."""
    while number := max(_numbers(filesystem, path), default=0):
        file = _file(path, number)
        try:
            return LeaseRecord(**json.loads(filesystem.read(file)))
        except FileNotFoundError:
            time.sleep(0.05)  # removed by a later holder
        except (ValueError, TypeError) as error:
            msg = f"{filesystem.place(file)}: not a lease ({error}); if no writer runs, remove the file and run the "
            raise StoreError(f"{msg}same command again") from error
    return None


def _is_held(filesystem: Filesystem, path: str, record: LeaseRecord) -> bool:
    """Return whether the holder is at work; watches for a heartbeat where clocks and processes cannot tell."""
    if record.released:
        return False
    if (record.host, record.machine) == (socket.gethostname(), _machine()) and _has_ended(record):
        return False
    if -SKEW_S <= record.expires - time.time() <= TTL_S + SKEW_S:
        return True
    place = filesystem.place(path)
    log.warning("%s: this lease has expired, or clocks differ; watching it for %.0f s", place, WATCH_S)
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(WAIT_STEP_S)
        now = _newest(filesystem, path)
        if now != record:
            return now is not None and not now.released
    return False


def _has_ended(record: LeaseRecord) -> bool:
    """Return whether a holder on this machine is gone; its number may be another process's by now."""
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return _started(record.pid) not in (record.process_started, None)


def _started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot, 0 of a dead one; None where /proc hides it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])  # Z: dead, but its parent has not asked


@lru_cache(maxsize=1)
def _machine() -> str:
    """Return boot id and process namespace; two containers of one machine differ."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _bytes(record: LeaseRecord) -> bytes:
    return json.dumps(asdict(record), indent=1).encode()


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
