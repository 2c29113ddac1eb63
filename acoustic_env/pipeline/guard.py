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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from acoustic_env.audio.fetch import any_remote
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
from acoustic_env.pipeline.task import MAX_MESSAGE, RowError, Task, Worked, unpack

MAX_CRASHES: Final = 2  # of a task's worker, on one node, before its clips are taken one by one
HANG_S: Final = 600.0  # without a step: a decoder, a download or a block that never ends; one death of it is enough


class Stage(Protocol):
    """A step of the graph that works on tasks; each of its methods changes the task that it gets and returns it."""

    def __call__(self, task: Task) -> Task:
        """Do the task."""
        ...

    def decode(self, task: Task) -> Task:
        """Do the part of the work in which the clips' bytes meet a decoder."""
        ...

    def parts(self, task: Task) -> list[Task]:
        """Return one clip as tasks that may fail on their own: one for each block and signal."""
        ...

    def skip(self, task: Task, error: RowError) -> Task:
        """Add this error in place of what one clip lacks."""
        ...

    def check(self) -> None:
        """Do the golden clip; raises whatever goes wrong."""
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
        self.suspects = frozenset(suspects)
        self.node = node_name()
        self.refusal: AcousticEnvError | None = None
        expect_answers()
        try:
            self.stage = _ready(stage, arguments)
        except AcousticEnvError as error:
            self.refusal = error

    def __call__(self, packed: pa.Table) -> pa.Table:
        """Return packed tasks after the stage.

        Raises:
            SickWorkerError: this worker cannot do the golden clip either, or read what other nodes can.
            AcousticEnvError: what the stage refused with.
        """
        if self.refusal is not None:
            raise self.refusal
        return pa.concat_tables([self._do(task).pack() for task in unpack(packed)], promote_options="default")

    def _do(self, task: Task) -> Task:
        started, before = time.perf_counter(), dict(task.seconds)
        done = self._done(task)
        spent = {stage: seconds - before.get(stage, 0.0) for stage, seconds in done.seconds.items()}
        metrics.record_stages({stage: seconds for stage, seconds in spent.items() if seconds}, len(task.clips))
        done.worked.append(Worked(self.pool, self.node, time.perf_counter() - started, peak_memory()))
        return done

    def _done(self, task: Task) -> Task:
        ids = task.clips["clip_id"].to_pylist()
        mark = self._mark(ids)
        deaths, age = (mark.stat().st_size, time.time() - mark.stat().st_mtime) if mark.exists() else (0, 0.0)
        metrics.RETRIES.record(int(deaths > 0), "task")
        try:
            if deaths >= MAX_CRASHES or age >= HANG_S or not self.suspects.isdisjoint(ids):
                return self._one_by_one(task)
            try:
                mark.write_bytes(b"x" * (deaths + 1))
            except OSError as error:
                reason = f"cannot write {mark}: {error.strerror}; free some space there, or set TMPDIR"
                raise sick(reason) from error
            earlier = len(task.errors)
            return self._read_by_all(_compute(self.stage, task), earlier)
        finally:
            mark.unlink(missing_ok=True)

    def _read_by_all(self, done: Task, earlier: int) -> Task:
        """The task done; files that could not be read must be unreadable on other nodes, too."""
        failed = [(i, error.code) for i, error in done.errors[earlier:] if error.code in UNREADABLE_CODES]
        uris = [uri for i, code in failed if unreadable_here(uri := done.clips["uri"][i].as_py(), code)]
        if uris and (readable := read_elsewhere(uris)) is not None:
            uri, node = readable
            raise sick(f"cannot read {uri}, which {node} can; mount its disk, or give this node the same settings")
        return done

    def _mark(self, ids: list[str]) -> Path:
        task = hashlib.sha256("\n".join([self.pool, *ids]).encode())
        return Path(tempfile.gettempdir()) / f"acoustic-env-{self.run_id}-{task.hexdigest()[:32]}"

    def _one_by_one(self, task: Task) -> Task:
        """Do each clip in another process, which the next clip gets anew where one ends or breaks it."""
        clips = [task.only(i) for i in range(len(task.clips))]
        task.groups = []
        with IsolatedProcess(_Alone(self.kind, self.arguments)) as process:
            for i, clip in enumerate(clips):
                task.take_in(i, self._alone(process, clip))
        return task

    def _alone(self, process: IsolatedProcess, clip: Task) -> Task:
        """Do one clip: decode it first, so that it is known whether the decoder or what follows ends the process.

        What follows is then done for each block and signal apart, so that those that go well have their rows.
        """
        for step in ("decode", "compute"):
            try:
                result = _answer(process, step, clip)
            except ProcessDiedError as death:
                _check(process)
                error = _death(step, death.exitcode, remote=any_remote(clip.clips["uri"]))
            else:
                if not isinstance(result, Exception):
                    continue
                if not isinstance(result, SickWorkerError) or result.clip_id is None:
                    raise _from_here(result)
                process.close()
                message = f"leaves the worker unable to go on: {result.reason}"[:MAX_MESSAGE]
                error = RowError(step, "compute_failed", message, permanent=True)
            parts = self.stage.parts(clip) if step == "compute" else [clip]
            if len(parts) == 1:
                return self.stage.skip(parts[0], error)
            done = Task(clip.clips)
            for part in parts:
                done.take_in(0, self._alone(process, part))
            return done
        return self._read_by_all(result, 0)


class _Alone:
    """A stage for another process: built there, and its golden clip done, before the first clip.

    It answers with the clip done or with an error that ends the work, pickled: what runs there is no stranger than
    what runs here.
    """

    def __init__(self, kind: type[Stage], arguments: tuple[Any, ...]) -> None:
        self.kind, self.arguments = kind, arguments
        self.stage: Stage | None = None

    def __call__(self, request: tuple[str, Task] | None) -> tuple[bytes, bytes]:
        result: object = None
        try:
            self.stage = self.stage or _ready(self.kind, self.arguments)
            if request is not None:
                step, clip = request
                result = self.stage.decode(clip) if step == "decode" else _compute(self.stage, clip)
        except Exception as error:  # noqa: BLE001  raised again by the parent
            result = error
        return b"", pickle.dumps(result)


def _answer(process: IsolatedProcess, *request: Any) -> Any:
    return pickle.loads(process.call(request or None)[1])  # noqa: S301


def _check(process: IsolatedProcess) -> None:
    """Build the stage and do the golden clip in a new process; raises SickWorkerError where that ends it, too."""
    try:
        result = _answer(process)
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


def _compute(stage: Stage, task: Task) -> Task:
    """The task after the stage; raises SickWorkerError where a clip fails and then the golden clip does."""
    earlier = len(task.errors)
    done = stage(task)
    for i, failed in done.errors[earlier:]:
        if failed.code in SUSPICIOUS_CODES:
            try:
                stage.check()
            except Exception as error:
                reason = f"{failed.message}; then the golden clip: {describe(error)}"
                raise sick(reason, done.clips["clip_id"][i].as_py()) from error
            break
    return done


@contextmanager
def alarm(seconds: float) -> Iterator[Callable[[float], object]]:
    """Yield what is to be called before each step; a step of more than so many seconds ends this process by SIGALRM.

    It takes the seconds that the step may take longer. The system sends the signal, so that code of another language
    that never gives control back cannot prevent it.
    """
    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield lambda longer: signal.setitimer(signal.ITIMER_REAL, seconds + longer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, before)


def _death(step: str, exitcode: int, *, remote: bool) -> RowError:
    """The error of a clip that ended its process: of its source while it was decoded, else of what it lacked."""
    if exitcode == -signal.SIGALRM:
        what = "decoding this clip" if step == "decode" else "computing on this clip"
        slow = remote and step == "decode"  # its network may have been
        return RowError(step, "timed_out", f"{what} does not end", permanent=not slow)
    code: ErrorCode = "out_of_memory" if exitcode == -signal.SIGKILL else "worker_died"
    how = f"by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"with exit code {exitcode}"
    why = ", as the system does when memory is short" if code == "out_of_memory" else ""
    message = f"the worker process ended {how} on this clip, in a batch and alone{why}"
    return RowError(step, code, message, code not in TRANSIENT_CODES)
