"""Decoding in a process with limits of memory and time.

The process gets the descriptor of an open file and sends samples back. It may not write files. Over its limits, or
after a crash, another takes its place. This bounds what a file can cost; it is not a sandbox.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, BinaryIO, Final, NamedTuple, Self

import numpy as np

from acoustic_env.audio.decode import Mono, decode
from acoustic_env.errors import ClipError

_GRACE_S: Final = 2.0
_CHECK_S: Final = 0.2
_LARGEST_MESSAGE: Final = 1 << 40


class _Worker(NamedTuple):
    process: ForkServerProcess
    connection: Connection


class LimitedDecoder:
    """`decode` in a process of its own, for one thread at a time.

    The process starts with the first call, or with `start`. A script that uses it needs `if __name__ == "__main__":`,
    as any that starts processes.

    Args:
        megabytes: of memory (10^6 bytes) that decoding may take.
        seconds: that a call may take, of processor time and of waiting.
    """

    def __init__(self, megabytes: int, seconds: float) -> None:
        self._megabytes, self._seconds = megabytes, seconds
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        forkserver.ensure_running()  # it imports while this process goes on
        self._worker: _Worker | None = None
        self._copied: tuple[BinaryIO, BinaryIO] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        worker = self.start()
        answered = False
        try:
            send_handle(worker.connection, self._with_descriptor(source).fileno(), worker.process.pid)
            left = self._seconds if seconds is None else seconds
            worker.connection.send_bytes(json.dumps([start_s, end_s, name, left]).encode())
            end = time.monotonic() + left
            while left <= 0 or not worker.connection.poll(min(_CHECK_S, left)):
                left = end - time.monotonic()
                if left <= 0 or (closing is not None and closing.is_set()):
                    raise ClipError("timed_out", f"{name}: not decoded within {self._seconds:g} s")
            head = json.loads(worker.connection.recv_bytes())
            answered = "code" in head
            if answered:
                raise ClipError(head["code"], head["message"])
            samples = np.frombuffer(worker.connection.recv_bytes(_LARGEST_MESSAGE), np.float32)
            answered = True
            return samples, head["rate"]
        except (EOFError, ConnectionError) as error:
            raise self._death(worker.process, name) from error
        finally:
            if not answered:
                self.close()

    def close(self) -> None:
        """End the process; a later call of `decode` starts another."""
        if self._worker is not None:
            self._worker.process.kill()
            self._worker.process.join(_GRACE_S)
            self._worker.connection.close()
        self._worker = None

    def start(self) -> _Worker:
        """Start the process if it does not run; wait until it does."""
        if self._worker is None:
            own, other = multiprocessing.Pipe()
            process = self._context.Process(target=_work, args=(other, self._megabytes), daemon=True)
            process.start()
            other.close()
            self._worker = _Worker(process, own)
        return self._worker

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

    def _death(self, process: ForkServerProcess, name: str) -> ClipError:
        process.join(_GRACE_S)
        if process.exitcode == -signal.SIGXCPU:
            return ClipError("timed_out", f"{name}: not decoded within {self._seconds:g} s of processor time")
        return ClipError("worker_died", f"{name}: the decoder crashed on it")


# ---- in the process


def _work(connection: Connection, megabytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _limit(resource.RLIMIT_AS, _address_space() + megabytes * 10**6)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    while True:
        try:
            descriptor = recv_handle(connection)
            start_s, end_s, name, seconds = json.loads(connection.recv_bytes())
        except (EOFError, RuntimeError):  # the parent is gone
            return
        _allow_seconds(seconds)
        with os.fdopen(descriptor, "rb") as file:
            head, samples = _decode(file, start_s, end_s, name)
        connection.send_bytes(json.dumps(head).encode())
        if samples is not None:
            connection.send_bytes(samples.data)


def _decode(
    file: BinaryIO, start_s: float | None, end_s: float | None, name: str
) -> tuple[dict[str, Any], Mono | None]:
    """Return the rate and the samples, or an error and None."""
    try:
        samples, rate = decode(file, start_s, end_s, name)
        return {"rate": rate}, np.ascontiguousarray(samples)
    except ClipError as error:
        return {"code": error.code, "message": error.message}, None
    except MemoryError:
        return {"code": "out_of_memory", "message": f"{name}: decoding needs more memory than the limit"}, None
    except Exception as error:  # noqa: BLE001  whatever a decoder raises on a crafted file is the file's error
        return {"code": "decode_failed", "message": f"{name}: {type(error).__name__}"}, None


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
