"""One small file that several processes change without losing each other's change: compare and swap.

| store                   | how                                                                            |
|-------------------------|--------------------------------------------------------------------------------|
| local folder            | a kernel file lock (flock; over NFS a byte-range lock) around read and rename   |
| S3                      | conditional PUT: If-None-Match: * for the first, If-Match: etag for later ones  |
| Google Cloud Storage    | ifGenerationMatch: 0 for the first, the generation that was read for later ones |
| Azure Blobs             | If-None-Match: * for the first, If-Match: etag for later ones                   |
| memory of this process  | a lock of its threads                                                          |
| any other               | refused: two writers cannot be kept apart there                                |
"""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from acoustic_env.io.filesystem import Filesystem, LocalFilesystem
from acoustic_env.io.retry import retrying, s3_code, store_error

_IN_PROCESS: Final = threading.Lock()


class Seen(NamedTuple):
    """The file as it was read.

    Attributes:
        data: its bytes.
        version: what changes with every write; an etag, a generation or a digest.
    """

    data: bytes
    version: str


class ExclusiveFile:
    """A file changed only by those who saw its present content, under a lock; its version is a digest of its bytes."""

    def __init__(self, filesystem: Filesystem, path: str) -> None:
        self.filesystem, self.path = filesystem, path

    def load(self) -> Seen | None:
        """Return the file as it is now, None when there is none.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return self._get()
        except FileNotFoundError as error:
            if s3_code(error) == "NoSuchBucket":
                raise store_error(self.filesystem.place(self.path), "read", error) from error
            return None

    def swap(self, seen: Seen | None, data: bytes) -> bool:
        """Write `data` if the file is still as seen (None: not there); return whether it was.

        Raises:
            StoreError: it cannot be written.
        """
        with self.filesystem.lock() if isinstance(self.filesystem, LocalFilesystem) else _IN_PROCESS:
            if self.load() != seen:
                return False
            self.filesystem.write(self.path, data)
            return True

    def _get(self) -> Seen:
        data = self.filesystem.read(self.path)
        return Seen(data, hashlib.sha256(data).hexdigest())


class _ConditionalFile(ExclusiveFile):
    """A file in an object store, which keeps to conditions; `_read` and `_put` may be called again after a failure."""

    def __init__(self, filesystem: Filesystem, path: str) -> None:
        super().__init__(filesystem, path)
        self.client: Any = filesystem.filesystem
        self.full = filesystem.full(path)
        self.bucket, _, self.key = self.full.partition("/")

    def swap(self, seen: Seen | None, data: bytes) -> bool:
        if seen is None:
            return self.filesystem.create(self.path, data)
        try:
            if self.filesystem.conditional(self.path, partial(self._put, seen.version, data)):
                return True
        except FileNotFoundError:
            return False  # somebody removed the file we had seen
        now = self.load()  # our own put may have come through and only its answer been lost
        return now is not None and now.data == data

    def _get(self) -> Seen:
        return retrying(self._read, self.filesystem.place(self.path), "read")

    def _read(self) -> Seen:
        raise NotImplementedError

    def _put(self, version: str, data: bytes) -> None:
        raise NotImplementedError


class _S3File(_ConditionalFile):
    def _read(self) -> Seen:
        from fsspec.asyn import sync

        answer = self.client.call_s3("get_object", Bucket=self.bucket, Key=self.key)
        return Seen(sync(self.client.loop, answer["Body"].read), answer["ETag"])

    def _put(self, version: str, data: bytes) -> None:
        self.client.call_s3("put_object", Bucket=self.bucket, Key=self.key, Body=data, IfMatch=version)


class _GoogleFile(_ConditionalFile):
    def _read(self) -> Seen:
        version = str(self.client.info(self.full)["generation"])  # first: a newer content then fails to be swapped
        return Seen(self.client.cat_file(self.full), version)

    def _put(self, version: str, data: bytes) -> None:
        path = f"{self.client._location}/upload/storage/v1/b/{quote(self.bucket)}/o"
        condition = {"uploadType": "media", "name": self.key, "ifGenerationMatch": version}
        self.client.call("POST", path, data=data, **condition)  # gcsfs's own upload can only create


class _AzureFile(_ConditionalFile):
    def _read(self) -> Seen:
        version = self.client.info(self.full)["etag"]
        return Seen(self.client.cat_file(self.full), version)

    def _put(self, version: str, data: bytes) -> None:
        from azure.core import MatchConditions

        self.client.pipe_file(self.full, data, etag=version, match_condition=MatchConditions.IfNotModified)


KINDS: Final = {"s3": _S3File, "gs": _GoogleFile, "abfs": _AzureFile, "memory": ExclusiveFile}


def exclusive_file(filesystem: Filesystem, path: str) -> ExclusiveFile:
    """Return the file at a path of the store, by what the store can do.

    Raises:
        UsageError: the store cannot keep two writers apart; the message says which can.
    """
    local = isinstance(filesystem, LocalFilesystem)
    return (ExclusiveFile if local else KINDS[filesystem.conditions()])(filesystem, path)
