"""A cache of weights on any filesystem that fsspec knows, and a verified copy on each node (placed by pooch).

A file of the cache counts only together with its record `FILE.json` (sha256, size, origin), which is written last and
agrees with it. A file that was placed by hand gets its record on first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.weights_registry import WeightsSource
from acoustic_env.io.files import copy_to, put_file
from acoustic_env.io.filesystem import LocalFilesystem, open_filesystem
from acoustic_env.io.location import join
from acoustic_env.io.retry import StoreError

ENVIRONMENT: Final = "ACOUSTIC_ENV_WEIGHTS"

Trust = Literal["published", "given", "first fetch"]


@dataclass(frozen=True)
class Record:
    """What is known of a file in the cache."""

    sha256: str  # 64 hex digits
    size: int  # bytes
    origin: str  # where it came from
    trust: Trust  # published (the registry's checksum), given (--sha256), first fetch (nothing to compare with)
    fetched: str  # UTC time, ISO 8601
    details: dict[str, Any] = dataclasses.field(default_factory=dict)  # plain data kept with converted weights


def user_cache() -> Path:
    """Return the user's cache folder of this program."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acoustic-env"


class WeightsCache:
    """The cache of weights that `ACOUSTIC_ENV_WEIGHTS` names (any fsspec URL), or ~/.cache/acoustic-env/weights.

    Attributes:
        url: as named.
        node: local folder the verified files are in; the cache itself when it is local.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get(ENVIRONMENT) or str(user_cache() / "weights")
        try:
            self._files = open_filesystem(self.url)
        except StoreError as error:
            raise UsageError(f"{ENVIRONMENT}={self.url}: {error}") from error
        copies = user_cache() / "weights-node" / hashlib.sha256(self.url.encode()).hexdigest()[:12]
        self.node = self._files.folder if isinstance(self._files, LocalFilesystem) else copies

    def place(self, file_name: str) -> str:
        """Return the location of a file of the cache."""
        return join(self.url, file_name)

    def by_hand(self, source: WeightsSource) -> str:
        """Describe how to bring a file where there is no network."""
        return (
            f"Without a network: bring {source.url} from another machine as {source.file_name} and run acoustic-env "
            f"weights fetch {source.name} --from {source.file_name}, or place it as {self.place(source.file_name)}"
        )

    def record(self, source: WeightsSource) -> Record:
        """Return the record of weights that are in the cache; a file placed by hand gets it now.

        Raises:
            UsageError: they are not there; the message has the commands that bring them.
        """
        record = self.holds(source)
        if record is None:
            with self._lock(source.file_name):
                record = self.holds(source) or self._adopt(source)
        return record

    def holds(self, source: WeightsSource) -> Record | None:
        """Return the record, or None when the weights are not in the cache or not recorded yet."""
        return self._read_record(source.file_name)

    def local(self, source: WeightsSource) -> Path:
        """Return a verified local file, copied from a remote cache once per node.

        Raises:
            UsageError: absent or damaged, or no space for the copy.
        """
        record = self.record(source)
        with self._lock(source.file_name):
            return self._verified(source.file_name, record, f"acoustic-env weights fetch {source.name} --force")

    def verify(self, source: WeightsSource) -> None:
        """Read the cache's own file again, not only the node's copy of it.

        Raises:
            UsageError: absent, or not what its record says.
        """
        record = self.record(source)
        sha256, _ = self._digest(source.file_name)
        if sha256 != record.sha256:
            raise UsageError(
                f"{self.place(source.file_name)}: damaged since it was fetched: sha256 is {sha256}, its record says "
                f"{record.sha256}. Remedy: acoustic-env weights fetch {source.name} --force"
            )

    def derived(
        self, file_name: str, build: Callable[[Path], dict[str, Any]], *, again: bool = False
    ) -> tuple[Path, dict[str, Any]]:
        """Return a file made from weights, made once: here under the lock if the cache does not hold it, or `again`.

        The name must tell everything it is made from; `build` writes it and returns plain data to keep with it.
        """
        with self._lock(file_name):
            record = None if again else self._read_record(file_name)
            if record is None:
                with self.new_file() as made:
                    details = build(made)
                    record = Record(*digest(made), "converted", "given", _now(), details)
                    self._store(made, file_name, record)
            remedy = f"delete {self.place(file_name)} and {self.place(file_name)}.json"
            return self._verified(file_name, record, remedy), record.details

    def derived_details(self, file_name: str) -> dict[str, Any] | None:
        """Return what was kept with a derived file; None when there is none."""
        record = self._read_record(file_name)
        return None if record is None else record.details

    def put(self, source: WeightsSource, file: Path, origin: str, sha256: str | None = None) -> Record:
        """Verify a local file by `sha256`, or else the registry's, and place it in the cache, whole or not at all.

        Raises:
            UsageError: the file is not what it should be, or there is no space.
        """
        actual, size = digest(file)
        expected = sha256 or source.sha256
        if expected not in (None, actual) or (expected is None and source.size not in (None, size)):
            truncated = source.size is not None and size < source.size
            what = f"truncated ({size:,} of {source.size:,} bytes)" if truncated else "not the published file"
            raise UsageError(
                f"{origin}: {what}: sha256 is {actual}, expected {expected}. Nothing was placed in the cache. Fetch it "
                f"again; if the origin has a new edition that you trust, pass --sha256 {actual}"
            )
        trust: Trust = "first fetch" if expected is None else "published" if sha256 is None else "given"
        record = Record(actual, size, origin, trust, _now())
        with self._lock(source.file_name):
            self._store(file, source.file_name, record)
        return record

    @contextlib.contextmanager
    def new_file(self, needed: int | None = None) -> Iterator[Path]:
        """Yield a local file to write, gone afterwards; there must be space for the `needed` bytes."""
        with self._space(needed):
            self.node.mkdir(parents=True, exist_ok=True)
            if needed is not None and needed > shutil.disk_usage(self.node).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=self.node) as folder:
                yield Path(folder, "file")

    def _adopt(self, source: WeightsSource) -> Record:
        """Make the record of a file that was placed by hand."""
        try:
            sha256, size = self._digest(source.file_name)
        except FileNotFoundError:
            raise UsageError(
                f"weights {source.name!r} are not in the cache {self.url}. With a network: acoustic-env weights fetch "
                f"{source.name}. {self.by_hand(source)}"
            ) from None
        if source.sha256 not in (None, sha256):
            raise UsageError(
                f"{self.place(source.file_name)}: truncated or not the published file: sha256 is {sha256}, expected "
                f"{source.sha256}. Fetch it: acoustic-env weights fetch {source.name}"
            )
        trust: Trust = "first fetch" if source.sha256 is None else "published"
        record = Record(sha256, size, "placed by hand", trust, _now())
        self._write_record(source.file_name, record)
        return record

    def _verified(self, file_name: str, record: Record, remedy: str) -> Path:
        """Return the local file, its bytes agreeing with the record; a stale copy of a remote file is made again."""

        def copy(target: Path) -> None:
            if isinstance(self._files, LocalFilesystem):
                state = (
                    "damaged since it was fetched" if (self.node / file_name).is_file() else "gone, its record is left"
                )
                raise UsageError(f"{self.place(file_name)}: {state}. Remedy: {remedy}")
            copy_to(self.place(file_name), target)

        return self._local_file(file_name, record, copy, remedy)

    def _local_file(self, file_name: str, record: Record, get: Callable[[Path], object], remedy: str) -> Path:
        """Return the file of the node's folder; `get` writes it where it is absent or has another checksum."""
        import pooch

        def download(_url: str, target: str, _pooch: object) -> None:
            get(Path(target))
            Path(target).chmod(0o644)  # a cache is shared

        pooch.get_logger().setLevel("ERROR")
        place = self.place(file_name)
        try:
            with self._space(record.size):
                return Path(pooch.retrieve(place, f"sha256:{record.sha256}", file_name, self.node, downloader=download))
        except ValueError as error:
            raise UsageError(f"{place}: sha256 is not what its record says ({error}). Remedy: {remedy}") from error

    def _store(self, file: Path, file_name: str, record: Record) -> None:
        if isinstance(self._files, LocalFilesystem):
            self._local_file(file_name, record, lambda target: shutil.copyfile(file, target), "fetch it again")
        else:
            put_file(file, self.place(file_name))
        self._write_record(file_name, record)

    def _write_record(self, file_name: str, record: Record) -> None:
        text = json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True)
        with self._reached():
            self._files.write(f"{file_name}.json", text.encode())

    def _read_record(self, file_name: str) -> Record | None:
        try:
            with self._reached():
                text = self._files.read(f"{file_name}.json")
            return Record(**json.loads(text))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            msg = f"{self.place(file_name)}.json: not a record of weights ({error}); delete it and fetch again"
            raise UsageError(msg) from error

    def _digest(self, file_name: str) -> tuple[str, int]:
        """Return sha256 and size of the cache's own file."""
        with self._reached(), self._files.open(file_name) as stream:
            return hashlib.file_digest(cast(Any, stream), "sha256").hexdigest(), stream.tell()

    @contextlib.contextmanager
    def _lock(self, file_name: str) -> Iterator[None]:
        """Let one process of the node at a time use a file; the operating system frees it when a process dies."""
        lock = self.node / f".lock-{hashlib.sha256(file_name.encode()).hexdigest()[:16]}"
        with contextlib.ExitStack() as held:
            try:
                with self._space(None):
                    self.node.mkdir(parents=True, exist_ok=True)
                    stream = held.enter_context(lock.open("w"))
            except UsageError:
                if not (isinstance(self._files, LocalFilesystem) and os.access(self.node, os.R_OK)):
                    raise
                # A cache mounted read-only can be read without a lock; whoever has to write in it fails there.
            else:
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            raise UsageError(f"{error}; check {ENVIRONMENT} and your credentials") from error

    @contextlib.contextmanager
    def _space(self, needed: int | None) -> Iterator[None]:
        """Turn a full disk, or a folder that cannot be written, into one clear error."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full and not isinstance(error, PermissionError) and error.errno != errno.EROFS:
                raise
            want = f" for {needed / 1e6:,.0f} MB" if needed else ""
            what = f"no space left{want}" if full else "not writable"
            msg = f"{self.node}: {what}; free some or name another place for weights with {ENVIRONMENT}"
            raise UsageError(msg) from error


def digest(file: Path) -> tuple[str, int]:
    """Return sha256 and size of a local file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
