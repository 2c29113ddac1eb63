"""A stage that outlives the clips that kill its process: a decoder that crashes or never ends is a row of errors, too.

Ray starts a dead worker anew and gives it the same task, without end where the task itself is what kills. So a task
leaves a mark on the node's disk while it runs. One that finds the marks of earlier deaths is done clip by clip in a
process of its own, and the clip that ends that process too is known.
"""

from __future__ import annotations

import hashlib
import pickle
import signal
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio.limited import IsolatedProcess, ProcessDiedError
from acoustic_env.errors import TRANSIENT_CODES, AcousticEnvError, ErrorCode
from acoustic_env.io.retry import expect_answers
from acoustic_env.memory import peak_memory
from acoustic_env.pipeline import metrics
from acoustic_env.pipeline.health import (
    SUSPICIOUS_CODES,
    UNREADABLE_CODES,
    SickWorkerError,
    describe,
    node_name,
    read_elsewhere,
    sick,
    unreadable_here,
)
from acoustic_env.pipeline.rows import BUSY, MAX_MESSAGE, MEMORY, NODE, SECONDS, RowError, unpack_errors

T = TypeVar("T")

MAX_CRASHES: Final = 2  # of a task's worker, on one node, before its clips are taken one by one
HANG_S: Final = 600.0  # without one clip decoded: a decoder or a download that never ends; one death of it is enough


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
        pool: whose worker this is; each task reports the worker's node, time and peak memory so far.
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
        self.node = node_name()
        self.refusal: AcousticEnvError | None = None
        expect_answers()
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
        started = time.perf_counter()
        done = self._done(clips)
        stages = [name for name in done.column_names if name.startswith(SECONDS) and name not in clips.column_names]
        seconds = {name.removeprefix(SECONDS): pc.sum(done[name]).as_py() or 0.0 for name in stages}
        metrics.record_stages(seconds, clips.num_rows)
        each = (time.perf_counter() - started) / max(1, done.num_rows)
        for kind, value in ((MEMORY, peak_memory()), (NODE, self.node), (BUSY, each)):
            done = done.append_column(f"{kind}{self.pool}", pa.repeat(value, done.num_rows))
        return done

    def _done(self, clips: pa.Table) -> pa.Table:
        mark = self._mark(clips)
        deaths, age = (mark.stat().st_size, time.time() - mark.stat().st_mtime) if mark.exists() else (0, 0.0)
        metrics.RETRIES.record(int(deaths > 0), "task")
        try:
            suspect = pc.any(pc.is_in(clips["clip_id"], value_set=self.suspects)).as_py()
            if deaths >= MAX_CRASHES or age >= HANG_S or suspect:
                return pa.concat_tables(list(self._one_by_one(clips)))
            try:
                mark.write_bytes(b"x" * (deaths + 1))
            except OSError as error:
                reason = f"cannot write {mark}: {error.strerror}; free some space there, or set TMPDIR"
                raise sick(reason) from error
            return self._read_by_all(clips, _compute(self.stage, clips))
        finally:
            mark.unlink(missing_ok=True)

    def _read_by_all(self, clips: pa.Table, done: pa.Table) -> pa.Table:
        """The clips done; files that could not be read must be unreadable on other nodes, too."""
        failed = [(i, error.code) for i, error in _new_errors(clips, done) if error.code in UNREADABLE_CODES]
        uris = [uri for i, code in failed if unreadable_here(uri := clips["uri"][i].as_py(), code)]
        if uris and (readable := read_elsewhere(uris)) is not None:
            uri, node = readable
            raise sick(f"cannot read {uri}, which {node} can; mount its disk, or give this node the same settings")
        return done

    def _mark(self, clips: pa.Table) -> Path:
        task = hashlib.sha256("\n".join([self.kind.__name__, *clips["clip_id"].to_pylist()]).encode())
        return Path(tempfile.gettempdir()) / f"acoustic-env-{self.run_id}-{task.hexdigest()[:32]}"

    def _one_by_one(self, clips: pa.Table) -> Iterator[pa.Table]:
        """Do each clip in another process, which the next clip gets anew where one ends or breaks it."""
        stage = self.kind.__name__.lower()
        with IsolatedProcess(_Alone(self.kind, self.arguments)) as process:
            for i in range(clips.num_rows):
                clip = clips.slice(i, 1)
                try:
                    result = _answer(process, clip)
                except ProcessDiedError as death:
                    _check(process)
                    result = _death(stage, death.exitcode)
                if isinstance(result, SickWorkerError) and result.clip_id is not None:
                    process.close()
                    message = f"leaves the worker unable to go on: {result.reason}"[:MAX_MESSAGE]
                    result = RowError(stage, "compute_failed", message, permanent=True)
                if isinstance(result, Exception):
                    raise _from_here(result)
                skipped = isinstance(result, RowError)
                yield self.stage.skip(clip, result) if skipped else self._read_by_all(clip, result)


class _Alone:
    """A stage for another process: built there, and its golden clip done, before the first clip.

    It answers with the clips done or with an error that ends the work, pickled: what runs there is no stranger than
    what runs here.
    """

    def __init__(self, kind: type[Stage], arguments: tuple[Any, ...]) -> None:
        self.kind, self.arguments = kind, arguments
        self.stage: Stage | None = None

    def __call__(self, clips: pa.Table | None) -> tuple[bytes, bytes]:
        result: object = None
        try:
            self.stage = self.stage or _ready(self.kind, self.arguments)
            result = None if clips is None else _compute(self.stage, clips)
        except Exception as error:  # noqa: BLE001  raised again by the parent
            result = error
        return b"", pickle.dumps(result)


def _answer(process: IsolatedProcess, clips: pa.Table | None) -> Any:
    return pickle.loads(process.call(clips)[1])  # noqa: S301


def _check(process: IsolatedProcess) -> None:
    """Build the stage and do the golden clip in a new process; raises SickWorkerError where that ends it, too."""
    try:
        result = _answer(process, None)
    except ProcessDiedError as death:
        raise sick(f"a process that does the golden clip ends with exit code {death.exitcode}") from None
    if result is not None:
        raise _from_here(result)


def _from_here(error: Exception) -> Exception:
    """The error of a child, which does not know Ray's id of this node."""
    return sick(error.reason) if isinstance(error, SickWorkerError) else error


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


def _compute(stage: Stage, clips: pa.Table) -> pa.Table:
    """The clips after the stage; raises SickWorkerError where one fails and then the golden clip does."""
    done = stage(clips)
    for i, failed in _new_errors(clips, done):
        if failed.code in SUSPICIOUS_CODES:
            try:
                stage.check()
            except Exception as error:
                reason = f"{failed.message}; then the golden clip: {describe(error)}"
                raise sick(reason, clips["clip_id"][i].as_py()) from error
            break
    return done


def _new_errors(before: pa.Table, after: pa.Table) -> list[tuple[int, RowError]]:
    """Errors that a stage gave clips, each after the clip's position."""
    both = zip(unpack_errors(before), unpack_errors(after), strict=True)
    return [(i, error) for i, (earlier, errors) in enumerate(both) for error in errors[len(earlier) :]]


def alarmed(results: Iterable[T], seconds: float) -> Iterator[T]:
    """Yield the results; one that takes more than so many seconds ends this process by SIGALRM.

    The system does it, so that code of another language that never gives control back cannot prevent it.
    """
    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        for result in results:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield result
    finally:
        signal.setitimer(signal.ITIMER_REAL, before)


def _death(stage: str, exitcode: int) -> RowError:
    if exitcode == -signal.SIGALRM:
        return RowError("decode", "timed_out", "decoding this clip does not end", permanent=True)
    code: ErrorCode = "out_of_memory" if exitcode == -signal.SIGKILL else "worker_died"
    how = f"by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"with exit code {exitcode}"
    why = ", as the system does when memory is short" if code == "out_of_memory" else ""
    message = f"the worker process ended {how} on this clip, in a batch and alone{why}"
    return RowError(stage, code, message, code not in TRANSIENT_CODES)
