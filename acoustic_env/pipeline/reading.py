"""Clips of a task to waveforms: fetched, decoded once, resampled to each wanted rate."""

from __future__ import annotations

import io
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.decode import duration_s
from acoustic_env.audio.fetch import any_remote, open_source
from acoustic_env.audio.shards import Place, fetch_together, neighbors
from acoustic_env.errors import ClipError
from acoustic_env.io.location import split_shard
from acoustic_env.pipeline.task import ASSUMED_S, RowError, row_error

# Remote reads wait on the network, so clips are fetched ahead; local ones wait on the decoder.
REMOTE_READERS: Final = 8
AHEAD_S: Final = REMOTE_READERS * ASSUMED_S  # of audio that is fetched ahead, or one clip
LEAST_BYTES_PER_S: Final = 500  # of speech at the lowest rates; smaller files are decoded without another look

Wave = npt.NDArray[np.float32]  # [samples]


class Source(NamedTuple):
    """Where a clip of a task is, as in `WORK_SCHEMA`."""

    position: int
    uri: str
    start_s: float | None
    end_s: float | None
    byte_offset: int | None
    byte_size: int | None
    seconds: float | None


Fetched: TypeAlias = tuple[Source, BinaryIO | Exception, float]  # a clip, its file or what was wrong, seconds spent


class Decoded(NamedTuple):
    """A clip at each rate, or what was wrong with it, and the seconds that it took."""

    position: int
    waves: dict[int, Wave]
    error: RowError | None
    spent_s: float


def decode_clips(clips: pa.Table, rates: Sequence[int], longest_s: float = float("inf")) -> Iterator[Decoded]:
    """Yield each clip decoded; neighbors in a shard follow one another.

    Args:
        clips: `task.WORK_SCHEMA`.
        rates: wanted sample rates, Hz.
        longest_s: a longer clip is an error.
    """
    columns = [clips[name].to_pylist() for name in Source._fields[1:]]
    sources = list(map(Source, itertools.count(), *columns))
    batches = [[sources[i] for i in batch] for batch in neighbors(columns[0], *columns[3:5])]
    fetched = _fetched_ahead(batches) if any_remote(clips["uri"]) else map(_fetch_together, batches)
    for batch in fetched:
        for source, file, spent_s in batch:
            yield _decode(source, file, spent_s, rates, longest_s)


def _fetched_ahead(batches: Iterable[Sequence[Source]]) -> Iterator[list[Fetched]]:
    """Fetch by threads; decoding stays with the worker's own thread, so that waveforms do not wait in memory."""
    ahead: deque[tuple[float, Future[list[Fetched]]]] = deque()
    with ThreadPoolExecutor(REMOTE_READERS) as readers:
        for batch in batches:
            seconds = sum(ASSUMED_S if source.seconds is None else source.seconds for source in batch)
            while ahead and seconds + sum(waiting for waiting, _ in ahead) > AHEAD_S:
                yield ahead.popleft()[1].result()
            ahead.append((seconds, readers.submit(_fetch_together, batch)))
        while ahead:
            yield ahead.popleft()[1].result()


def _fetch_together(batch: Sequence[Source]) -> list[Fetched]:
    """Open clips whose bytes one request brings, or a single one without a place in a shard."""
    started, first = time.perf_counter(), batch[0]
    files: list[BinaryIO | Exception]
    if first.byte_offset is None or first.byte_size is None or not split_shard(first.uri)[0]:
        files = [_opened(source.uri) for source in batch]
    else:
        places = [Place(one.uri, one.byte_offset or 0, (one.byte_offset or 0) + (one.byte_size or 0)) for one in batch]
        files = [io.BytesIO(data) if isinstance(data, bytes) else data for data in fetch_together(places)]
    each = (time.perf_counter() - started) / len(batch)
    return [(source, file, each) for source, file in zip(batch, files, strict=True)]


def _opened(uri: str) -> BinaryIO | Exception:
    try:
        return open_source(uri)
    except Exception as failure:  # noqa: BLE001  whatever a filesystem does to one clip stays with that clip
        return failure


def _decode(
    source: Source, file: BinaryIO | Exception, spent_s: float, rates: Sequence[int], longest_s: float
) -> Decoded:
    started = time.perf_counter()
    waves: dict[int, Wave] = {}
    error: RowError | None = None
    try:
        if isinstance(file, Exception):
            raise file
        with file:
            _check_length(source, file, longest_s)
            waves = prepare.decode_and_resample(file, source.start_s, source.end_s, source.uri, rates)
        if (seconds := len(waves[rates[0]]) / rates[0]) > longest_s:
            raise _too_long(source.uri, seconds, longest_s)
    except Exception as failure:  # noqa: BLE001  whatever a decoder does to one clip stays with that clip
        waves, error = {}, row_error("decode", failure)
    return Decoded(source.position, waves, error, spent_s + time.perf_counter() - started)


def _check_length(source: Source, file: BinaryIO, longest_s: float) -> None:
    """Refuse a recording too long for the memory before it is decoded; the list may not know how long it is."""
    start_s, end_s = source.start_s or 0.0, float("inf") if source.end_s is None else source.end_s
    if end_s - start_s <= longest_s or file.seek(0, io.SEEK_END) <= longest_s * LEAST_BYTES_PER_S:
        return
    file.seek(0)
    seconds = min(duration_s(file, source.uri), end_s) - start_s
    if seconds > longest_s:
        raise _too_long(source.uri, seconds, longest_s)


def _too_long(uri: str, seconds: float, longest_s: float) -> ClipError:
    return ClipError(
        "out_of_memory",
        f"{uri}: {seconds:,.0f} s of audio, a worker of this run has memory for {longest_s:,.0f} s; list it in pieces "
        "(clips from-folder --window S), or give each worker more memory with --max-workers",
    )
