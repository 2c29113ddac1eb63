"""Calls in a process of their own, which may crash, hang or exhaust its memory without harm to this one.

The process starts with the first call, or with `start`. Where it dies, or a call takes too long, another takes its
place at the next call. This bounds what a file can cost; it is not a sandbox. A script that uses it needs
`if __name__ == "__main__":`, as any that starts processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, BinaryIO, Final, NamedTuple, Self

import numpy as np

from acoustic_env.audio.decode import Mono, decode
from acoustic_env.errors import ClipError

_GRACE_S: Final = 2.0
_CHECK_S: Final = 0.2

Buffer = bytes | memoryview
Answering = Callable[[Any], tuple[bytes, Buffer]]


class ProcessDiedError(Exception):
    """The process ended during a call, with this exit code: a negative one is the signal's."""

    def __init__(self, exitcode: int) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode


class _Worker(NamedTuple):
    process: ForkServerProcess
    connection: Connection


class IsolatedProcess:
    """A function in a process of its own, for one thread at a time.

    Args:
        function: takes a request, returns two strings of bytes. Nothing else comes back, for what a crafted file has
            made of the process may answer.
        megabytes: of memory (10^6 bytes) that the function may take. With a limit it may not write files either.
    """

    def __init__(self, function: Answering, megabytes: int | None = None) -> None:
        self._function, self._megabytes = function, megabytes
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        forkserver.ensure_running()  # it imports while this process goes on
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> _Worker:
        """Start the process if it does not run."""
        if self._worker is None:
            own, other = multiprocessing.Pipe()
            process = self._context.Process(target=_serve, args=(other, self._function, self._megabytes), daemon=True)
            process.start()
            other.close()
            self._worker = _Worker(process, own)
        return self._worker

    def call(
        self, request: Any, seconds: float | None = None, closing: threading.Event | None = None
    ) -> tuple[bytes, bytes]:
        """Return the answer to a request.

        Args:
            request: pickled.
            seconds: that it may take; None for any time.
            closing: set to give up.

        Raises:
            ProcessDiedError: the process ended.
            TimeoutError: no answer in time, or `closing` is set.
        """
        process, connection = self.start()
        end, answer = time.monotonic() + (float("inf") if seconds is None else seconds), None
        try:
            connection.send((request, seconds))
            while not connection.poll(max(0.0, min(_CHECK_S, end - time.monotonic()))):
                if time.monotonic() >= end or (closing is not None and closing.is_set()):
                    raise TimeoutError
            answer = connection.recv_bytes(), connection.recv_bytes()
        except (EOFError, ConnectionError) as error:
            process.join(_GRACE_S)
            raise ProcessDiedError(process.exitcode or 0) from error
        finally:
            if answer is None:
                self.close()
        return answer

    def close(self) -> None:
        """End the process; a later call starts another."""
        if self._worker is not None:
            self._worker.process.kill()
            self._worker.process.join(_GRACE_S)
            self._worker.connection.close()
        self._worker = None


class LimitedDecoder(IsolatedProcess):
    """`decode` in a process with limits of memory and time, for one thread at a time.

    Args:
        megabytes: of memory (10^6 bytes) that decoding may take.
        seconds: that a call may take.
    """

    def __init__(self, megabytes: int, seconds: float) -> None:
        super().__init__(_decode, megabytes)
        self._seconds = seconds
        self._copied: tuple[BinaryIO, BinaryIO] | None = None

    def decode(
        self,
        source: BinaryIO,
        start_s: float | None,
        end_s: float | None,
        name: str,
        *,
        seconds: float | None = None,
        closing: threading.Event | None = None,
    ) -> tuple[Mono, int]:
        """Decode the wanted segment of a recording, as `acoustic_env.audio.decode.decode`.

        Args:
            source, start_s, end_s, name: as there.
            seconds: left of those that decoding may take; None for all.
            closing: set to give up.

        Raises:
            ClipError: as there; out_of_memory, timed_out or worker_died beyond the limits.
        """
        path = f"/proc/{os.getpid()}/fd/{self._with_descriptor(source).fileno()}"
        left = self._seconds if seconds is None else max(0.0, seconds)
        try:
            about, samples = self.call((path, start_s, end_s, name), left, closing)
        except TimeoutError as error:
            raise ClipError("timed_out", f"{name}: not decoded within {self._seconds:g} s") from error
        except ProcessDiedError as error:
            raise ClipError("worker_died", f"{name}: the decoder crashed on it") from error
        head = json.loads(about)
        if "code" in head:
            raise ClipError(head["code"], head["message"])
        return np.frombuffer(samples, np.float32), head["rate"]

    def _with_descriptor(self, source: BinaryIO) -> BinaryIO:
        """Return the file, or a copy on disk of one in memory or behind a network."""
        try:
            source.fileno()
        except OSError:
            if self._copied is None or self._copied[0] is not source:
                self._copied = source, tempfile.TemporaryFile()  # noqa: SIM115  closed with the last reference
                source.seek(0)
                shutil.copyfileobj(source, self._copied[1])
                self._copied[1].flush()
            return self._copied[1]
        return source


def failure_of(error: Exception, name: str) -> ClipError:
    """Return the error of a clip for what decoding in a limited process raised."""
    if isinstance(error, ClipError):
        return error
    if isinstance(error, MemoryError):
        return ClipError("out_of_memory", f"{name}: decoding needs more memory than the limit")
    return ClipError("decode_failed", f"{name}: {type(error).__name__}")


# ---- in the process


def _serve(connection: Connection, function: Answering, megabytes: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    if megabytes is not None:
        _limit(resource.RLIMIT_AS, _address_space() + megabytes * 10**6)
        _limit(resource.RLIMIT_FSIZE, 0)
        _limit(resource.RLIMIT_CORE, 0)
    while True:
        try:
            request, seconds = connection.recv()
        except EOFError:  # the parent is gone
            return
        if seconds is not None:  # should the parent be gone, who would end it then
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_S)
        answer = function(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for part in answer:
            connection.send_bytes(part)


def _decode(request: tuple[str, float | None, float | None, str]) -> tuple[bytes, Buffer]:
    """Return the rate and the samples, or an error and nothing."""
    path, start_s, end_s, name = request
    try:
        with open(path, "rb") as file:  # noqa: PTH123  no path to build
            samples, rate = decode(file, start_s, end_s, name)
        return json.dumps({"rate": rate}).encode(), np.ascontiguousarray(samples).data
    except Exception as error:  # noqa: BLE001  whatever a decoder raises on a crafted file is the file's error
        failure = failure_of(error, name)
        return json.dumps({"code": failure.code, "message": failure.message}).encode(), b""


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  no path to build
        return int(file.read().split()[0]) * resource.getpagesize()
