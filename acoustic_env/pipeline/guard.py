"""A stage that outlives the clips that kill its process: a decoder that crashes or never ends is a row of errors, too.

Ray starts a dead worker anew and gives it the same task, without end where the task itself is what kills. So a task
leaves a mark on the node's disk while it runs. One that finds the marks of earlier deaths is done clip by clip in a
process of its own, and the clip that ends that process too is known.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from acoustic_env.errors import TRANSIENT_CODES, ErrorCode
from acoustic_env.memory import peak_memory
from acoustic_env.pipeline.rows import RowError, memory_column

T = TypeVar("T")

DEATHS: Final = 2  # of a task's worker, on one node, before its clips are taken one by one


class Stage(Protocol):
    """A step of the graph that works on clips."""

    def __call__(self, clips: pa.Table) -> pa.Table:
        """The clips after this step, in their order."""
        ...

    def skip(self, clips: pa.Table, error: RowError) -> pa.Table:
        """The clips as they leave this step without having been worked on, with this error."""
        ...


class Guarded:
    """A stage under guard.

    Args:
        stage: its class.
        arguments: of the class.
        run_id: of the run, so that the marks of other runs do not count.
        pool: whose worker this is; each task says how much memory it has needed by then.
    """

    def __init__(self, stage: type[Stage], arguments: tuple[Any, ...], run_id: str, pool: str) -> None:
        self.arguments = arguments
        self.run_id = run_id
        self.pool = pool
        self.stage = stage(*arguments)

    def __call__(self, clips: pa.Table) -> pa.Table:
        done = self._done(clips)
        peak = np.full(done.num_rows, peak_memory(), np.int64)
        return done.append_column(memory_column(self.pool), pa.array(peak))

    def _done(self, clips: pa.Table) -> pa.Table:
        mark = self._mark(clips)
        deaths = mark.stat().st_size if mark.exists() else 0
        try:
            if deaths >= DEATHS:
                return pa.concat_tables(list(self._one_by_one(clips)))
            mark.write_bytes(b"x" * (deaths + 1))
            return self.stage(clips)
        finally:
            mark.unlink(missing_ok=True)

    def _mark(self, clips: pa.Table) -> Path:
        task = hashlib.sha256("\n".join([type(self.stage).__name__, *clips["clip_id"].to_pylist()]).encode())
        return Path(tempfile.gettempdir()) / f"acoustic-env-{self.run_id}-{task.hexdigest()[:32]}"

    def _one_by_one(self, clips: pa.Table) -> Iterator[pa.Table]:
        context = multiprocessing.get_context("spawn")
        done = 0
        while done < clips.num_rows:
            ours, theirs = context.Pipe()
            rest = (type(self.stage), self.arguments, clips.slice(done), theirs)
            child = context.Process(target=_work, args=rest, daemon=True)
            child.start()
            theirs.close()
            try:
                while done < clips.num_rows:
                    result = ours.recv()
                    if isinstance(result, Exception):
                        raise result
                    yield result
                    done += 1
            except EOFError:
                child.join()
                error = _death(type(self.stage).__name__.lower(), child.exitcode or 0)
                yield self.stage.skip(clips.slice(done, 1), error)
                done += 1
            finally:
                ours.close()
                child.join()


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[Callable[[T], T]]:
    """End this process by SIGALRM after so many seconds, unless it is put off or the block ends.

    The system does it, so that code of another language that never gives control back cannot prevent it.

    Yields:
        A function that puts the alarm off by the same time again, and returns its argument.
    """

    def put_off(result: T) -> T:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return result

    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield put_off
    finally:
        signal.setitimer(signal.ITIMER_REAL, before)


def _work(stage: type[Stage], arguments: tuple[Any, ...], clips: pa.Table, results: Connection) -> None:
    """In the child: each clip's result, or the error that ends the run."""
    try:
        ready = stage(*arguments)
        for i in range(clips.num_rows):
            results.send(ready(clips.slice(i, 1)))
    except Exception as error:  # noqa: BLE001  raised again by the parent
        results.send(error)


def _death(stage: str, exitcode: int) -> RowError:
    if exitcode == -signal.SIGALRM:
        return RowError("decode", "timed_out", "decoding this clip does not end", permanent=True)
    code: ErrorCode = "out_of_memory" if exitcode == -signal.SIGKILL else "worker_died"
    how = f"by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"with exit code {exitcode}"
    why = ", as the system does when memory is short" if code == "out_of_memory" else ""
    message = f"the worker process ended {how} on this clip, in a batch and alone{why}"
    return RowError(stage, code, message, code not in TRANSIENT_CODES)
