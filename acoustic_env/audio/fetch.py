"""A clip's audio file from wherever it is.

The forms of a clip's `uri`:

    /data/a b#1.wav, file:///data/a.wav       a local file, the path taken literally
    s3://bucket/a.wav, https://..., gs://...  any URL fsspec opens
    tar://MEMBER::URL                         a member of an uncompressed tar file (WebDataset shard) at such a URL
    parquet://COLUMN/ROW::URL                 row ROW (from 0) of a Parquet column of bytes or struct<bytes, path>
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio.transport import open_url
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.io.location import local_path, split_shard


def open_source(uri: str) -> BinaryIO:
    """Open a clip's audio file for reading.

    Returns:
        A seekable binary file, to be closed by the caller. A remote file of up to 8 MiB is in memory already; a longer
        one is read as it is needed, and a read that fails raises ClipError.

    Raises:
        ClipError: not_found, unreachable, access_denied, download_failed (after the tries of io.retry), or
            decode_failed when the tar or Parquet file around the clip is damaged.
    """
    from acoustic_env.audio.shards import TAR_FORM, member_bytes, row_bytes, split_row, split_uri

    if uri.startswith("tar://"):
        return io.BytesIO(member_bytes(*split_uri(uri, TAR_FORM)))
    if uri.startswith("parquet://"):
        return io.BytesIO(row_bytes(*split_row(uri)))
    return open_url(uri)


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
