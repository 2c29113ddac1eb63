"""Decoding of uploads, piece by piece, by processes with limits of memory and time."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO, Final

from acoustic_env.audio.decode import Mono
from acoustic_env.audio.limited import LimitedDecoder
from acoustic_env.errors import ClipError
from acoustic_env.options import ServeSettings

NAME: Final = "the recording"
HIGHEST_RATE: Final = 768_000  # Hz; a damaged header would make a second cost gigabytes
_FIRST_S: Final = 10.0  # the first piece, for an early answer
_LONGEST_S: Final = 300.0  # pieces double up to this, so that streams that cannot seek are not decoded too often
_SLACK_S: Final = 0.1

Decode = Callable[[float, float], tuple[Mono, int]]  # start and end in s


class TooLongError(Exception):
    """A recording is longer than allowed."""


class Decoder:
    """A fixed number of decoding processes; safe for as many threads.

    Args:
        settings: limits, and the number of processes.
        window_s: seconds; all pieces but the last are whole windows.
    """

    def __init__(self, settings: ServeSettings, window_s: float) -> None:
        self._settings, self._window_s = settings, window_s
        self._idle: queue.Queue[LimitedDecoder] = queue.Queue()
        for _ in range(settings.concurrency):
            worker = LimitedDecoder(settings.decode_megabytes, settings.decode_seconds)
            worker.start()
            self._idle.put(worker)

    def pieces(self, file: BinaryIO, closing: threading.Event) -> Generator[tuple[Mono, int], None, None]:
        """Yield the recording in pieces: float32 [samples], and the rate in Hz; `closing` is set to give up.

        Raises:
            ClipError: the recording cannot be decoded within the limits.
            TooLongError: it is longer than allowed.
        """
        worker, left = self._idle.get(), self._settings.decode_seconds

        def decode(start_s: float, end_s: float) -> tuple[Mono, int]:
            nonlocal left
            begun = time.monotonic()
            try:
                return worker.decode(file, start_s or None, end_s, NAME, seconds=left, closing=closing)
            finally:
                left -= time.monotonic() - begun

        try:
            if _reaches(decode, self._settings.max_seconds):
                raise TooLongError
            yield from _pieces(decode, self._settings.max_seconds, self._window_s)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes; call it when no thread decodes."""
        while not self._idle.empty():
            self._idle.get().close()


def _pieces(decode: Decode, max_s: float, window_s: float) -> Iterator[tuple[Mono, int]]:
    start, seconds = 0.0, _whole(_FIRST_S, window_s)
    while start < max_s:
        try:
            waveform, rate = decode(start, start + seconds)
        except ClipError as error:
            if start and error.code in ("no_such_segment", "empty"):
                return
            raise
        if rate > HIGHEST_RATE:
            raise ClipError("decode_failed", f"{NAME}: a sample rate of {rate} Hz")
        yield waveform, rate
        if len(waveform) / rate < seconds - _SLACK_S:
            return
        start, seconds = start + seconds, min(2 * seconds, _whole(_LONGEST_S, window_s))


def _whole(seconds: float, window_s: float) -> float:
    return max(1, math.floor(seconds / window_s)) * window_s


def _reaches(decode: Decode, seconds: float) -> bool:
    """Whether there is sound after so many seconds; whatever else is wrong with the file, its pieces will tell."""
    try:
        decode(seconds, seconds + _SLACK_S)
    except ClipError as error:
        if error.code in ("out_of_memory", "timed_out", "worker_died"):
            raise
        return False
    return True
