"""A clip's audio file from wherever it is.

The forms of a clip's `uri`:

    /data/a b#1.wav, file:///data/a.wav       a local file, the path taken literally
    s3://bucket/a.wav, https://..., gs://...  any URL fsspec opens
    tar://MEMBER::URL                         a member of an uncompressed tar file (WebDataset shard) at such a URL
    parquet://COLUMN/ROW::URL                 row ROW (from 0) of a Parquet column of bytes or struct<bytes, path>

What fails is told apart: gone, forbidden or transient.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import ClipError, ErrorCode, UsageError
from acoustic_env.io.filesystem import BLOCK_BYTES, LocalFilesystem, open_filesystem
from acoustic_env.io.location import local_path, scrub, split_shard
from acoustic_env.io.ranged import RangedFile
from acoustic_env.io.retry import StoreError

TAIL_BYTES: Final = 64 * 2**10  # with the footer of a Parquet file
# Wrong settings of this machine, by name (botocore's classes); `InvalidURL` (aiohttp) is a fault of the clip's URL.
SETTINGS_CLASSES: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError", "ConfigParseError"}
)


def open_source(uri: str) -> BinaryIO:
    """Open a clip's audio file for reading.

    Returns:
        A seekable binary file, to be closed by the caller. A remote file of up to 8 MiB is in memory already; a longer
        one is read as it is needed, and a read that fails raises ClipError.

    Raises:
        ClipError: not_found, unreachable, access_denied, download_failed (after the tries of io.retry), or
            decode_failed when the tar or Parquet file around the clip is damaged.
    """
    from acoustic_env.audio.shards import member_bytes, row_bytes

    if uri.startswith("tar://"):
        return io.BytesIO(member_bytes(uri))
    if uri.startswith("parquet://"):
        return io.BytesIO(row_bytes(uri))
    return open_url(uri)


def open_url(url: str) -> BinaryIO:
    """Open a local path or any fsspec URL for reading, seekable.

    A remote file of fewer than `BLOCK_BYTES` is fetched by one request; a longer one is read in such blocks.

    Raises:
        ClipError: not_found, unreachable, access_denied, or download_failed after the tries of io.retry.
    """
    with _as_clip_error(url):
        filesystem = open_filesystem(url)
        if isinstance(filesystem, LocalFilesystem):
            return filesystem.open("")
        first = filesystem.read_first("", BLOCK_BYTES)
        if len(first) != BLOCK_BYTES:
            return io.BytesIO(first)
        size = filesystem.size("")
        return cast(BinaryIO, RangedFile(partial(read_range, url), size, known=first, block_bytes=BLOCK_BYTES))


def open_within(url: str, size: int | None = None) -> BinaryIO:
    """Open a file of which only some ranges are read, each by one request.

    Args:
        url: a local path or any fsspec URL.
        size: bytes of the file, where known; else it is asked for, and the end is fetched with it.

    Raises:
        ClipError: as `open_url`.
    """
    with _as_clip_error(url):
        filesystem = open_filesystem(url)
        if isinstance(filesystem, LocalFilesystem):
            return filesystem.open("")
        end = filesystem.size("") if size is None else size
        start = max(0, end - TAIL_BYTES)
        tail = filesystem.read_range("", start, end) if size is None and end else b""
        return cast(BinaryIO, RangedFile(partial(read_range, url), end, tail, start))


def read_range(url: str, start: int, end: int) -> bytes:
    """Read bytes [start, end) of a file; fewer when it ends before.

    Raises:
        ClipError: as `open_url`.
    """
    with _as_clip_error(url):
        return open_filesystem(url).read_range("", start, end)


@contextmanager
def _as_clip_error(where: str) -> Iterator[None]:
    try:
        yield
    except ClipError:
        raise
    except Exception as error:  # every filesystem raises its own kinds; each becomes a code
        path = local_path(where)
        if path is not None and "\0" in where:
            raise ClipError("not_found", f"{where!r}: no file has such a name") from error
        if isinstance(error, FileNotFoundError) and path is not None and not path.parent.is_dir():
            msg = f"{path}: there is no folder {path.parent} on this machine; is its disk mounted?"
            raise ClipError("unreachable", msg) from error
        cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
        named = str(error) if isinstance(error, StoreError) else f"{where}: {type(error).__name__}: {error}"
        raise ClipError(failure_code(cause), scrub(named).removesuffix(": ")) from error


def failure_code(error: BaseException) -> ErrorCode:
    """Return what a filesystem's exception means for the clip; what is not clearly final is a failed transfer.

    >>> failure_code(FileNotFoundError()), failure_code(TimeoutError())
    ('not_found', 'download_failed')
    """
    status = getattr(error, "status", None)  # aiohttp
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or status in (404, 410):
        return "not_found"
    if "InvalidURL" in names:
        return "not_found"
    # A bad endpoint is a ValueError. It, a missing driver (`pip install gcsfs`) and missing credentials can be mended.
    if isinstance(error, ValueError | ImportError) or names & SETTINGS_CLASSES:
        return "unreachable"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access_denied"
    return "download_failed"


def open_audio(audio: str | Path | npt.NDArray[Any], sample_rate: int | None = None) -> tuple[BinaryIO, str]:
    """Open a file, or a waveform as a file of 32-bit floats, so that both meet the same checks.

    Args:
        audio: of the forms above, or a waveform [samples] or [samples, channels].
        sample_rate: Hz; of a waveform only.

    Returns:
        A seekable binary file, to be closed by the caller, and what to call it in messages.

    Raises:
        UsageError: `sample_rate` missing or too much.
        ClipError: as `open_source`.

    >>> import numpy as np
    >>> open_audio(np.zeros(16_000), 16_000)[1]
    'waveform'
    """
    if isinstance(audio, np.ndarray) != (sample_rate is not None):
        raise UsageError("sample_rate (Hz) is needed with a waveform, and only there")
    if not isinstance(audio, np.ndarray):
        return open_source(str(audio)), str(audio)
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, audio.astype(np.float32), sample_rate, format="WAV", subtype="FLOAT")
    file.seek(0)
    return file, "waveform"


def duration_of(uri: str) -> float | None:
    """Return the seconds of a clip's audio file, as `decode.duration_s` counts them; None where it cannot be read."""
    from acoustic_env.audio.decode import duration_s

    with suppress(ClipError), open_source(uri) as source:
        return duration_s(source, uri)
    return None


def local_file(uri: str) -> Path | None:
    """Return the local file that a clip's audio is in, or None where it is behind a protocol.

    >>> local_file("tar://a.wav::/data/shard.tar")
    PosixPath('/data/shard.tar')
    >>> local_file("s3://bucket/a.wav")
    """
    return local_path(split_shard(uri)[1])


def any_remote(uris: pa.ChunkedArray) -> bool:
    """Return whether any of the clips' audio, string[clips], comes over a network.

    >>> any_remote(["/data/a.wav", "s3://bucket/b.wav"])
    True
    """
    places = pc.replace_substring_regex(uris, "^(tar|parquet)://.*?::", "")
    distant = pc.and_not(pc.match_substring(places, "://"), pc.starts_with(places, "file://"))
    return bool(pc.any(distant).as_py())
