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
from collections.abc import Callable, Collection, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import TRANSIENT_CODES, AcousticEnvError, ErrorCode
from acoustic_env.memory import peak_memory
from acoustic_env.pipeline.health import SUSPICIOUS_CODES, describe, read_elsewhere, sick, unreadable_here
from acoustic_env.pipeline.rows import MAX_MESSAGE, RowError, memory_column

T = TypeVar("T")

MAX_CRASHES: Final = 2  # of a task's worker, on one node, before its clips are taken one by one


class Stage(Protocol):
    """A step of the graph that works on clips."""

    def __call__(self, clips: pa.Table) -> pa.Table:
        """The clips after this step, in their order."""
        ...

    def check(self) -> None:
        """Do the golden clip; raises whatever goes wrong."""
        ...

    def skip(self, clips: pa.Table, error: RowError) -> pa.Table:
        """The clips as they leave this step without having been worked on, with this error."""
        ...


class CrashIsolatedStage:
    """A stage under guard.

    Args:
        stage: its class.
        arguments: of the class.
        run_id: of the run, so that the marks of other runs do not count.
        pool: whose worker this is; each task reports the worker's peak memory so far.
        suspects: clips to do in a process of their own, since a worker fell sick at them (`health`).

    What stops the worker from being built (weights absent, a golden clip that differs) is raised by the first call:
    of an error in a constructor Ray passes on nothing but the text.
    """

    def __init__(
        self,
        stage: type[Stage],
        arguments: tuple[Any, ...],
        run_id: str,
        pool: str,
        suspects: Collection[str] = (),
    ) -> None:
        self.kind = stage
        self.arguments = arguments
        self.run_id = run_id
        self.pool = pool
        self.suspects = pa.array(sorted(suspects), pa.string())
        self.refusal: AcousticEnvError | None = None
        try:
            self.stage = _ready(stage, arguments)
        except AcousticEnvError as error:
            self.refusal = error

    def __call__(self, clips: pa.Table) -> pa.Table:
        """Return the clips after the stage.

        Raises:
            SickWorkerError: this worker cannot do the golden clip either, or read what other nodes can.
            AcousticEnvError: what the stage refused with.
        """
        if self.refusal is not None:
            raise self.refusal
        done = self._done(clips)
        peak = np.full(done.num_rows, peak_memory(), np.int64)
        return done.append_column(memory_column(self.pool), pa.array(peak))

    def _done(self, clips: pa.Table) -> pa.Table:
        mark = self._mark(clips)
        deaths = mark.stat().st_size if mark.exists() else 0
        try:
            suspect = pc.any(pc.is_in(clips["clip_id"], value_set=self.suspects)).as_py()
            if deaths >= MAX_CRASHES or suspect:
                return pa.concat_tables(list(self._one_by_one(clips)))
            mark.write_bytes(b"x" * (deaths + 1))
            done = self.stage(clips)
            suspicious = _suspicious(clips, done)
            if suspicious is not None:
                position, message = suspicious
                try:
                    self.stage.check()
                except Exception as error:
                    reason = f"{message}; then the golden clip: {describe(error)}"
                    raise sick(reason, clips["clip_id"][position].as_py()) from error
            return self._read_by_all(clips, done)
        finally:
            mark.unlink(missing_ok=True)

    def _read_by_all(self, clips: pa.Table, done: pa.Table) -> pa.Table:
        """The clips done; files that could not be read must be unreadable on other nodes, too."""
        errors = _errors(done)
        here = unreadable_here(clips["uri"].to_pylist(), errors) if "uri" in clips.column_names else {}
        new = {i: uri for i, uri in here.items() if len(errors[i]) > len(_errors(clips)[i])}
        readable = read_elsewhere(list(new.values())) if new else None
        if readable:
            uri, node = next(iter(readable.items()))
            raise sick(f"cannot read {uri}, which {node} can; mount its disk, or give this node the same settings")
        return done

    def _mark(self, clips: pa.Table) -> Path:
        task = hashlib.sha256("\n".join([self.kind.__name__, *clips["clip_id"].to_pylist()]).encode())
        return Path(tempfile.gettempdir()) / f"acoustic-env-{self.run_id}-{task.hexdigest()[:32]}"

    def _one_by_one(self, clips: pa.Table) -> Iterator[pa.Table]:
        done = 0
        while done < clips.num_rows:
            ours, child = self._start_child(clips.slice(done))
            try:
                while done < clips.num_rows:
                    result = ours.recv()
                    if isinstance(result, Exception):
                        raise result
                    if isinstance(result, str):  # the clip has broken the child
                        message = f"leaves the worker unable to do the golden clip: {result}"[:MAX_MESSAGE]
                        broken = RowError(self.kind.__name__.lower(), "compute_failed", message, permanent=True)
                        yield self.stage.skip(clips.slice(done, 1), broken)
                        done += 1
                        break
                    yield self._read_by_all(clips.slice(done, 1), result)
                    done += 1
            except EOFError:
                child.join()
                self._check_in_child()
                error = _death(self.kind.__name__.lower(), child.exitcode or 0)
                yield self.stage.skip(clips.slice(done, 1), error)
                done += 1
            finally:
                ours.close()
                child.join()

    def _start_child(self, clips: pa.Table | None) -> tuple[Connection, SpawnProcess]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        child = context.Process(target=_work, args=(self.kind, self.arguments, clips, theirs), daemon=True)
        child.start()
        theirs.close()
        return ours, child

    def _check_in_child(self) -> None:
        """Build the stage and do the golden clip in a process of its own; raises SickWorkerError where that dies."""
        ours, child = self._start_child(None)
        try:
            raise ours.recv()
        except EOFError:
            child.join()
            if child.exitcode:
                raise sick(f"a process that does the golden clip ends with exit code {child.exitcode}") from None
        finally:
            ours.close()


def _ready(stage: type[Stage], arguments: tuple[Any, ...]) -> Stage:
    """The stage, after it has done the golden clip.

    Raises:
        SickWorkerError: it cannot.
        AcousticEnvError: what the stage's construction refused with.
    """
    try:
        ready = stage(*arguments)
    except AcousticEnvError:
        raise
    except Exception as error:
        raise sick(describe(error)) from error
    try:
        ready.check()
    except Exception as error:
        raise sick(f"the golden clip: {describe(error)}") from error
    return ready


def _errors(clips: pa.Table) -> list[list[RowError]]:
    """Errors of each clip so far."""
    if "errors" not in clips.column_names:
        return [[] for _ in range(clips.num_rows)]
    return [[RowError(**error) for error in errors] for errors in clips["errors"].to_pylist()]


def _suspicious(before: pa.Table, after: pa.Table) -> tuple[int, str] | None:
    """Position and message of the first clip that this stage gave an error a sick worker might give."""
    for i, (earlier, errors) in enumerate(zip(_errors(before), _errors(after), strict=True)):
        for error in errors[len(earlier) :]:
            if error.code in SUSPICIOUS_CODES:
                return i, error.message
    return None


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


def _work(stage: type[Stage], arguments: tuple[Any, ...], clips: pa.Table | None, results: Connection) -> None:
    """In the child: each clip's result, why it has broken the stage, or the error that ends the run."""
    try:
        ready = _ready(stage, arguments)
        for clip in [clips.slice(i, 1) for i in range(clips.num_rows)] if clips is not None else []:
            result = ready(clip)
            if _suspicious(clip, result) is not None:
                try:
                    ready.check()
                except Exception as error:  # noqa: BLE001  whatever the clip has broken
                    results.send(describe(error))
                    return
            results.send(result)
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
