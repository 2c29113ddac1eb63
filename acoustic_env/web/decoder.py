"""Decoding of uploads in processes with limits of memory and time, started before they are needed.

A process gets the descriptor of an open file and sends samples back piece by piece; it waits while a piece is not yet
taken. It may not write files. Over its limits, or after a crash, it is replaced; the server goes on. This bounds what a
file can cost; it is not a sandbox.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import queue
import resource
import signal
import threading
import time
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from acoustic_env.audio.decode import Mono, decode
from acoustic_env.errors import ClipError
from acoustic_env.options import ServeSettings

NAME: Final = "the recording"
HIGHEST_RATE: Final = 768_000  # Hz; a damaged header would make a second cost gigabytes
_FIRST_S: Final = 10.0  # the first piece, for an early answer
_LONGEST_S: Final = 300.0  # pieces double up to this, so that streams that cannot seek are not decoded too often
_SLACK_S: Final = 0.1
_GRACE_S: Final = 2.0
_CHECK_S: Final = 0.2
_LARGEST_MESSAGE: Final = 2 << 30


class TooLongError(Exception):
    """A recording is longer than allowed."""


class _Worker(NamedTuple):
    process: ForkServerProcess
    connection: Connection


class Decoder:
    """A fixed number of decoding processes; safe for as many threads.

    Args:
        settings: limits, and the number of processes.
        window_s: seconds; all pieces but the last are whole windows.
    """

    def __init__(self, settings: ServeSettings, window_s: float) -> None:
        self._settings, self._window_s = settings, window_s
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._idle: queue.Queue[_Worker] = queue.Queue()
        for _ in range(settings.concurrency):
            self._idle.put(self._start())

    def pieces(self, file: BinaryIO, closing: threading.Event) -> Generator[tuple[Mono, int], None, None]:
        """Yield the recording in pieces: float32 [samples], and the rate in Hz.

        Args:
            file: with a descriptor, from its start.
            closing: set to give up.

        Raises:
            ClipError: the recording cannot be decoded within the limits.
            TooLongError: it is longer than allowed.
        """
        worker = self._idle.get()
        ended = False
        try:
            file.seek(0)
            send_handle(worker.connection, file.fileno(), worker.process.pid)
            left = self._settings.decode_seconds
            while True:
                begun = time.monotonic()
                while left <= 0 or not worker.connection.poll(_CHECK_S):
                    if closing.is_set() or time.monotonic() - begun >= left:
                        raise ClipError("timed_out", f"{NAME}: not decoded within {self._settings.decode_seconds:g} s")
                head = json.loads(worker.connection.recv_bytes(_LARGEST_MESSAGE))
                if "rate" not in head:
                    ended = True
                    _raise(head)
                    return
                samples = np.frombuffer(worker.connection.recv_bytes(_LARGEST_MESSAGE), np.float32)
                left -= time.monotonic() - begun
                yield samples, head["rate"]
        except (EOFError, ConnectionError) as error:
            raise _death(worker.process, self._settings) from error
        finally:
            self._idle.put(worker if ended else self._replace(worker))

    def close(self) -> None:
        """End the processes; call it when no thread decodes."""
        with contextlib.suppress(queue.Empty):
            while True:
                _end(self._idle.get_nowait())

    def _start(self) -> _Worker:
        own, other = multiprocessing.Pipe()
        process = self._context.Process(target=_work, args=(other, self._settings, self._window_s), daemon=True)
        process.start()
        other.close()
        return _Worker(process, own)

    def _replace(self, worker: _Worker) -> _Worker:
        _end(worker)
        return self._start()


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join(_GRACE_S)
    worker.connection.close()


def _raise(head: dict[str, Any]) -> None:
    if head.get("too_long"):
        raise TooLongError
    if "code" in head:
        raise ClipError(head["code"], head["message"])


def _death(process: ForkServerProcess, settings: ServeSettings) -> ClipError:
    process.join(_GRACE_S)
    if process.exitcode == -signal.SIGXCPU:
        return ClipError("timed_out", f"{NAME}: not decoded within {settings.decode_seconds:g} s of processor time")
    return ClipError("worker_died", f"{NAME}: the decoder crashed on it")


# ---- in the process


def _work(connection: Connection, settings: ServeSettings, window_s: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    _limit(resource.RLIMIT_AS, _address_space() + settings.decode_megabytes * 10**6)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    while True:
        try:
            descriptor = recv_handle(connection)
        except (EOFError, RuntimeError):  # the server is gone
            return
        _allow_seconds(settings.decode_seconds)
        with os.fdopen(descriptor, "rb") as file:
            answer = _decode(file, connection, settings.max_seconds, window_s)
        connection.send_bytes(json.dumps(answer).encode())


def _decode(file: BinaryIO, connection: Connection, max_s: float, window_s: float) -> dict[str, Any]:
    """Send the pieces of a file; return how it ended."""
    try:
        if _reaches(file, max_s):
            return {"too_long": True}
        for waveform, rate in _pieces(file, max_s, window_s):
            connection.send_bytes(json.dumps({"rate": rate}).encode())
            connection.send_bytes(waveform.tobytes())
    except ClipError as error:
        return {"code": error.code, "message": error.message}
    except MemoryError:
        return {"code": "out_of_memory", "message": f"{NAME}: decoding needs more memory than allowed"}
    except Exception as error:  # noqa: BLE001  whatever a decoder raises on a crafted file is the file's error
        return {"code": "decode_failed", "message": f"{NAME}: {type(error).__name__}"}
    return {}


def _pieces(file: BinaryIO, max_s: float, window_s: float) -> Iterator[tuple[Mono, int]]:
    start, seconds = 0.0, _whole(_FIRST_S, window_s)
    while start < max_s:
        stop = start + seconds
        try:
            waveform, rate = decode(file, start or None, stop, NAME)
        except ClipError as error:
            if start and error.code in ("no_such_segment", "empty"):
                return
            raise
        if rate > HIGHEST_RATE:
            raise ClipError("decode_failed", f"{NAME}: a sample rate of {rate} Hz")
        yield waveform, rate
        if len(waveform) / rate < seconds - _SLACK_S:
            return
        start, seconds = stop, min(2 * seconds, _whole(_LONGEST_S, window_s))


def _whole(seconds: float, window_s: float) -> float:
    return max(1, math.floor(seconds / window_s)) * window_s


def _reaches(file: BinaryIO, seconds: float) -> bool:
    """Whether there is sound after so many seconds; whatever else is wrong with the file, its pieces will tell."""
    try:
        decode(file, seconds, seconds + _SLACK_S, NAME)
    except ClipError:
        return False
    return True


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _allow_seconds(seconds: float) -> None:
    """Limit the processor time from now on: at the soft limit, the process is killed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime + seconds), hard))


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  no path to build
        return int(file.read().split()[0]) * resource.getpagesize()
