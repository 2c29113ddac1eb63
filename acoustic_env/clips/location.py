"""Where a file is: plain paths taken literally, everything else an fsspec URL."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast
from urllib.parse import unquote

from acoustic_env.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

FILE_SCHEME: Final = "file://"


def local_path(url: str) -> Path | None:
    """The path of a local location, None for one behind a protocol.

    A plain path is literal: `#`, `?`, `%`, spaces and `::` in it mean themselves. The path of a `file://` URL is taken
    literally when such a file exists, else percent-decoded.
    """
    if "://" not in url:
        return Path(url)
    if not url.startswith(FILE_SCHEME) or "::" in url:
        return None
    literal = url.removeprefix(FILE_SCHEME)
    with suppress(OSError, ValueError):
        if not Path(literal).exists() and Path(unquote(literal)).exists():
            return Path(unquote(literal))
    return Path(literal)


def read_bytes(url: str) -> bytes:
    """The whole file.

    Raises:
        UsageError: it is not there or may not be read.
    """
    import fsspec

    try:
        path = local_path(url)
        if path is not None:
            return path.read_bytes()
        with fsspec.open(url, "rb") as file:
            return cast(bytes, file.read())
    except FileNotFoundError as error:
        msg = f"{url}: no such file"
        raise UsageError(msg) from error
    except Exception as error:  # every filesystem has its own exceptions
        msg = f"{url}: cannot be read: {type(error).__name__}: {error}"
        raise UsageError(msg) from error


def for_arrow(data: bytes) -> pa.BufferReader:
    """The bytes as a file that Arrow's threads may read.

    They are copied into Arrow's own memory: its threads let go of what they read a little late, and one that holds a
    Python object while the interpreter ends aborts the process or hangs it (apache/arrow#50482).
    """
    import pyarrow as pa

    copy = pa.BufferOutputStream()
    copy.write(data)
    return pa.BufferReader(copy.getvalue())


def write_bytes(url: str, data: bytes) -> None:
    """Write a file whole or not at all: locally by renaming, elsewhere as one upload.

    Raises:
        UsageError: the place does not exist or may not be written.
    """
    import fsspec

    try:
        path = local_path(url)
        if path is None:
            with fsspec.open(url, "wb") as file:
                cast(BinaryIO, file).write(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except Exception as error:
        msg = f"{url}: cannot be written: {type(error).__name__}: {error}"
        raise UsageError(msg) from error
