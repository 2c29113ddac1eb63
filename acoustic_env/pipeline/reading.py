"""Clips of a task to waveforms: fetched, decoded once, resampled to each wanted rate."""

from __future__ import annotations

import io
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.fetch import any_remote, open_source
from acoustic_env.audio.shards import Place, fetch_together, neighbors
from acoustic_env.errors import ClipError
from acoustic_env.io.location import split_shard
from acoustic_env.pipeline.task import ASSUMED_S, RowError, row_error

# Remote reads wait on the network, so clips are fetched ahead; local ones wait on the decoder.
REMOTE_READERS: Final = 8
AHEAD_S: Final = REMOTE_READERS * ASSUMED_S  # of audio that is fetched ahead, or one clip

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
    if not any_remote(clips["uri"]):
        for batch in batches:
            yield from _decode_together(batch, rates, longest_s)
        return
    ahead: deque[tuple[float, Future[list[Decoded]]]] = deque()
    with ThreadPoolExecutor(REMOTE_READERS) as readers:
        for batch in batches:
            seconds = sum(ASSUMED_S if source.seconds is None else source.seconds for source in batch)
            while ahead and seconds + sum(waiting for waiting, _ in ahead) > AHEAD_S:
                yield from ahead.popleft()[1].result()
            ahead.append((seconds, readers.submit(_decode_together, batch, rates, longest_s)))
        for _, result in ahead:
            yield from result.result()


def _decode_together(batch: Sequence[Source], rates: Sequence[int], longest_s: float) -> list[Decoded]:
    """Decode clips whose bytes one request brings, or a single one without a place in a shard."""
    first = batch[0]
    if first.byte_offset is None or first.byte_size is None or not split_shard(first.uri)[0]:
        return [_decode(source, rates, longest_s) for source in batch]
    started = time.perf_counter()
    places = [Place(one.uri, one.byte_offset or 0, (one.byte_offset or 0) + (one.byte_size or 0)) for one in batch]
    fetched = fetch_together(places)
    each = (time.perf_counter() - started) / len(batch)
    decoded = [_decode(source, rates, longest_s, data) for source, data in zip(batch, fetched, strict=True)]
    return [clip._replace(spent_s=clip.spent_s + each) for clip in decoded]


def _decode(
    source: Source, rates: Sequence[int], longest_s: float, fetched: bytes | ClipError | None = None
) -> Decoded:
    started = time.perf_counter()
    waves: dict[int, Wave] = {}
    error: RowError | None = None
    try:
        if (source.seconds or 0.0) > longest_s:
            raise _too_long(source.uri, source.seconds or 0.0, longest_s)
        if isinstance(fetched, ClipError):
            raise fetched
        with open_source(source.uri) if fetched is None else io.BytesIO(fetched) as file:
            waves = prepare.decode_and_resample(file, source.start_s, source.end_s, source.uri, rates)
        seconds = len(waves[rates[0]]) / rates[0]
        if seconds > longest_s:
            raise _too_long(source.uri, seconds, longest_s)
    except Exception as failure:  # noqa: BLE001  whatever a decoder does to one clip stays with that clip
        waves, error = {}, row_error("decode", failure)
    return Decoded(source.position, waves, error, time.perf_counter() - started)


def _too_long(uri: str, seconds: float, longest_s: float) -> ClipError:
    return ClipError(
        "out_of_memory",
        f"{uri}: {seconds:,.0f} s of audio, a worker of this run has memory for {longest_s:,.0f} s; list it in pieces "
        "(clips from-folder --window S), or give each worker more memory with --max-workers",
    )
