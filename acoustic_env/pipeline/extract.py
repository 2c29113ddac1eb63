"""The extraction job: compute the missing rows of a clip list and account for every clip."""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env import __version__
from acoustic_env.audio.fetch import any_remote
from acoustic_env.audio.signals import in_order
from acoustic_env.clips.table import read_clips
from acoustic_env.config import ExtractSettings, Recipe
from acoustic_env.errors import RESOLVED, TooManyFailures, UsageError
from acoustic_env.features.block import Json
from acoustic_env.io.documents import load_recipe
from acoustic_env.pipeline import graph
from acoustic_env.pipeline.adopt import adopt, older_versions
from acoustic_env.pipeline.cluster import (
    cluster,
    cluster_resources,
    joins,
    local_resources,
    working_nodes,
)
from acoustic_env.pipeline.health import Health, NoHealthyWorkerError, SickWorkerError
from acoustic_env.pipeline.plan import describe, make_plan
from acoustic_env.pipeline.progress import Progress
from acoustic_env.pipeline.rows import MEMORY, SECONDS, WORK_SCHEMA, rows_column
from acoustic_env.pipeline.watch import FailureWatch, allowed_of_pending
from acoustic_env.pipeline.work import MAX_PAIRS, BlockSpec, BlockWork, block_work
from acoustic_env.store import sources
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_lease

LIBRARIES: Final = (
    "ray",
    "numpy",
    "scipy",
    "pyarrow",
    "soundfile",
    "soxr",
    "av",
    "noisereduce",
    "scikit-maad",
    "soundsig",
    "torch",
)

Log = Callable[[str], None]


@dataclass
class RunRecord:
    """What a run did; stored as STORE/runs/<run_id>.json.

    Attributes:
        run_id: unique, sortable by start.
        settings: as given.
        fingerprints: block -> signal -> fingerprint.
        clips: on the list (after --limit).
        pending: clips with something missing at the start.
        finished: clips that went through, failed ones included.
        failed: clips of this run with an error.
        failed_on_list: clips of the list that lack rows because of an error, of this run or an earlier one.
        left: clips still with something missing that a run without --retry-errors would do.
        stopped: why the run stopped before its end; empty for one that did not.
        faults: workers that were at fault, with node, reason and whether the node was left out (`health.Fault`).
        rows: block -> rows written; after a fault without those whose writer was stopped before it reported them.
        seconds: stage -> worker seconds; `wall` is the whole streaming part.
        clips_per_second: finished / wall.
        throughput: stage -> clips per worker-second.
        relocated: prefixes `old` and `new` of --relocated, and of how many `clips` the recorded source changed by it.
        memory: pool -> peak memory of a worker in bytes, pages shared with other processes included.
        versions: of this package, Python and the libraries.
    """

    run_id: str
    settings: dict[str, Any]
    fingerprints: dict[str, dict[str, str]]
    clips: int
    pending: int
    finished: int = 0
    failed: int = 0
    failed_on_list: int = 0
    left: int = 0
    stopped: str = ""
    faults: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    clips_per_second: float = 0.0
    throughput: dict[str, float] = field(default_factory=dict)
    relocated: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def _silent(_: str) -> None:
    pass


def extract(
    settings: ExtractSettings, log: Log = _silent, clips: pa.Table | None = None, recipe: Recipe | None = None
) -> RunRecord:
    """Compute what is missing of the wanted blocks for every clip of the list.

    Args:
        settings: of the run.
        log: receives each human-readable line.
        clips: the clip list, where the caller has it at hand; else it is read from `settings.clips`.
        recipe: in place of `settings.recipe`, where the caller has it at hand (a bundle's).

    Returns:
        The record of the run (for a dry run: of what would be done).

    Raises:
        UsageError: settings, list or machines are wrong, or an id of the list has rows of other audio; nothing was
            started.
        LeaseHeld: another run writes to the store.
        NoHealthyWorkerError: every node is at fault; what is done is kept.
        TooManyFailures: the share of failed clips is above `max_error_rate`; its `record` is the run's.
    """
    works = resolve_blocks(settings, recipe)
    table = read_clips(settings.clips) if clips is None else clips
    table = table if settings.limit is None else table.slice(0, settings.limit)
    store = FeatureStore(settings.store)
    record = RunRecord(
        run_id=f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}",
        settings=settings.as_json(),
        fingerprints={work.spec.name: work.fingerprints for work in works},
        clips=table.num_rows,
        pending=0,
        versions=_versions(),
    )
    if settings.dry_run:
        _admit(settings, table, store, record, log)
        for work, versions in older_versions(store, works):
            log(f"store     {work.spec.name}: {len(versions)} older fingerprints of the same numbers; a run moves them")
        pending = _plan_work(settings, works, table, store, record, log)
        if pending.num_rows:
            _show_plan(settings, works, pending, log)
        return record
    with acquire_lease(settings.store, f"extract {record.run_id}") as lease:
        admission = _admit(settings, table, store, record, log)
        if record.relocated:
            store.write_run(record.run_id, dataclasses.asdict(record))  # first, so that a killed run leaves the reason
        sources.record(store, admission, record.run_id, lease.check)
        adopt(store, works, log, lease.check)
        pending = _plan_work(settings, works, table, store, record, log)
        for line in store.clean_up():
            log(line)
        if pending.num_rows or record.relocated:
            store.write_run(record.run_id, dataclasses.asdict(record))  # so that errors of a killed run have a version
        if pending.num_rows:
            try:
                _Run(settings, works, table, store, record, lease.token, log).all(pending)
            except NoHealthyWorkerError as error:
                record.stopped = str(error)
                _finish(record, table, works, store)
                raise
            _finish(record, table, works, store)
    _check_failures(settings, record, store)
    return record


def _admit(
    settings: ExtractSettings, clips: pa.Table, store: FeatureStore, record: RunRecord, log: Log
) -> sources.Admission:
    """Compare the list with the sources that the store has recorded, before anything runs."""
    admission = sources.admit(store, clips, settings.relocated, settings.clips)
    record.relocated = admission.relocations
    for line in admission.lines:
        log(f"sources   {line}")
    return admission


def resolve_blocks(settings: ExtractSettings, recipe: Recipe | None = None) -> list[BlockWork]:
    """The blocks of a run with their fingerprints: those named, else the recipe's, else indices and mps.

    Raises:
        UsageError: unknown block or signal, or options a block does not know.
    """
    if recipe is None:
        recipe = load_recipe(settings.recipe) if settings.recipe else Recipe(name="default")
    signals = in_order(settings.signals or recipe.signals)
    names = settings.blocks or tuple(recipe.blocks)
    chosen: dict[str, Mapping[str, Json]] = {}
    for name in names:
        options = recipe.blocks.get(name, {})
        chosen[name] = options
        if options.get("frames"):
            chosen[f"{name}_frames"] = options
    if not 1 <= len(chosen) * len(signals) <= MAX_PAIRS:
        msg = (
            f"--blocks, --signals: {len(chosen)} feature blocks (per-frame ones included) of {len(signals)} signals; "
            f"one run computes 1 to {MAX_PAIRS} pairs of a block and a signal"
        )
        raise UsageError(msg)
    return [
        block_work(BlockSpec(name, settings.engine, position, signals, options))
        for position, (name, options) in enumerate(chosen.items())
    ]


@dataclass(frozen=True)
class MissingWork:
    """What the store has and has not of a clip list, per clip as bits of `need` (`pipeline.work`).

    Attributes:
        missing: int64[clips], (block, signal) without a row.
        excluded: int64[clips], those of `missing` that a permanent error excludes.
    """

    missing: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.int64]

    @property
    def pending(self) -> npt.NDArray[np.int64]:
        """int64[clips], what a run without --retry-errors does."""
        return self.missing & ~self.excluded


def find_missing(clips: pa.Table, works: Sequence[BlockWork], store: FeatureStore, errors: pa.Table) -> MissingWork:
    """Clip list minus committed keys, taken before any audio is fetched.

    Args:
        clips: the clip list.
        works: the blocks.
        store: the store.
        errors: of the store.
    """
    ids = clips["clip_id"].combine_chunks()
    failures = Failures(store, errors)
    missing, excluded = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for work in works:
        for fingerprint, signals in work.versions().items():
            rows = store.missing(ids, signals, work.spec.name, fingerprint, retry_errors=True)
            for signal in signals:
                without = rows.filter(pc.equal(rows["signal"], signal))["clip_id"].combine_chunks()
                missing[pc.is_in(ids, value_set=without).to_numpy(zero_copy_only=False)] |= work.spec.bit(signal)
                failed = pc.is_in(ids, value_set=failures.excluded(work.spec.name, fingerprint, signal))
                excluded[failed.to_numpy(zero_copy_only=False)] |= work.spec.bit(signal)
    return MissingWork(missing, missing & excluded)


def pending_rows(clips: pa.Table, need: npt.NDArray[np.int64], errors: pa.Table) -> pa.Table:
    """Rows of `rows.WORK_SCHEMA` for the clips that lack something, in the order of the list.

    Args:
        clips: a clip list.
        need: int64[clips], a bit for each block and signal missing (`pipeline.work`).
        errors: of the store, for the number of attempts before.
    """
    rows = clips.select(["clip_id", "uri", "start_s", "end_s"]).filter(pa.array(need != 0)).combine_chunks()
    rows = rows.append_column("need", pa.array(need[need != 0]))
    return rows.append_column("attempt", _attempts(rows["clip_id"], errors)).cast(WORK_SCHEMA)


def _attempts(clip_ids: pa.ChunkedArray, errors: pa.Table) -> pa.ChunkedArray:
    """int32[clips]: one more than the attempts that failed before."""
    before = errors.group_by("clip_id").aggregate([("attempt", "max")])
    position = pc.index_in(clip_ids, value_set=before["clip_id"].combine_chunks())
    attempts = pc.fill_null(before["attempt_max"].combine_chunks().take(position), 0)
    return pc.cast(pc.add(attempts, 1), pa.int32())


@dataclass
class _Run:
    """A run that streams clips, and goes on with those that are left when a worker is at fault."""

    settings: ExtractSettings
    works: Sequence[BlockWork]
    clips: pa.Table
    store: FeatureStore
    record: RunRecord
    token: int
    log: Log
    health: Health = field(default_factory=Health)

    def all(self, pending: pa.Table) -> None:
        """Do the pending clips.

        Raises:
            NoHealthyWorkerError: no worker can do them.
        """
        active = _active(self.works, pending)
        failed_before = 0 if self.settings.retry_errors else self.record.failed_on_list
        allowed = allowed_of_pending(self.settings.max_error_rate, self.record.clips, pending.num_rows, failed_before)
        watch = FailureWatch(allowed)
        with cluster(self.settings.address) as offered, Progress(pending.num_rows, sys.stderr) as progress:
            started, rest = time.perf_counter(), pending
            try:
                while rest.num_rows:
                    try:
                        self._stream(rest, active, watch, progress, offered.memory)
                        break
                    except SickWorkerError as error:
                        rest = self._left(error, pending, progress)
            finally:
                self._time(time.perf_counter() - started)

    def _stream(
        self, pending: pa.Table, works: Sequence[BlockWork], watch: FailureWatch, progress: Progress, memory: int
    ) -> None:
        record, resources = self.record, cluster_resources(self.health.left_out)
        resources = dataclasses.replace(resources, memory=min(resources.memory, memory))
        remote = any_remote(pending["uri"])
        plan = make_plan(works, pending.num_rows, resources, self.settings.device, remote=remote)
        for line in describe(plan, resources):
            self.log(line)
        watch.in_work = plan.in_work
        summaries = graph.run(pending, plan, works, self.settings.store, self.token, record.run_id, self.health)
        with closing(summaries):
            for summary in summaries:
                done = (int(pc.sum(summary["clips"]).as_py()), int(pc.sum(summary["failed"]).as_py()))
                _count(record, summary, works)
                progress.add(*done)
                watch.add(*done)
                if watch.exceeded and record.finished < record.pending:
                    record.stopped = _stopped_early(self.settings, record, watch.share)
                    break

    def _left(self, error: SickWorkerError, pending: pa.Table, progress: Progress) -> pa.Table:
        """The clips that still are to do after a worker was at fault; what is in the store decides."""
        errors = self.store.errors()
        ours = pc.and_(pc.equal(errors["run_id"], self.record.run_id), pc.not_equal(errors["code"], RESOLVED))
        failed = pc.unique(errors["clip_id"].filter(ours))
        found = find_missing(self.clips, self.works, self.store, errors)
        need = (found.missing if self.settings.retry_errors else found.pending).copy()
        need[pc.is_in(self.clips["clip_id"], value_set=failed).to_numpy()] = 0
        rest = pending_rows(self.clips, need, errors)
        finished = pending.num_rows - rest.num_rows
        progress.add(finished - self.record.finished, len(failed) - self.record.failed)
        self.record.finished, self.record.failed = finished, len(failed)
        try:
            fault = self.health.note(error, working_nodes(), failed.to_pylist())
        finally:
            self.record.faults = self.health.as_json()
        out = "the run goes on without this node" if fault.left_out else "new workers do its clips"
        self.log(f"node      {fault.host} {fault.node[:8]}: {error}; nothing of its task is recorded, {out}")
        return rest

    def _time(self, wall: float) -> None:
        record = self.record
        record.seconds["wall"] = wall
        record.clips_per_second = record.finished / wall
        record.throughput = {
            stage: record.finished / seconds
            for stage, seconds in record.seconds.items()
            if stage != "wall" and seconds > 0
        }


def _count(record: RunRecord, summary: pa.Table, works: Sequence[BlockWork]) -> None:
    total = {
        name: (pc.max if name.startswith(MEMORY) else pc.sum)(summary[name]).as_py() for name in summary.column_names
    }
    record.finished += int(total["clips"])
    record.failed += int(total["failed"])
    for work in works:
        name = work.spec.name
        record.rows[name] = record.rows.get(name, 0) + int(total[rows_column(name)])
    for name, value in total.items():
        if name.startswith(SECONDS):
            stage = name.removeprefix(SECONDS)
            record.seconds[stage] = record.seconds.get(stage, 0.0) + float(value)
        elif name.startswith(MEMORY):
            pool = name.removeprefix(MEMORY)
            record.memory[pool] = max(record.memory.get(pool, 0), int(value))


def _finish(record: RunRecord, clips: pa.Table, works: Sequence[BlockWork], store: FeatureStore) -> None:
    """Write the record with what the store answers after the run; not the run's own count."""
    found = find_missing(clips, works, store, store.errors())
    record.left = int(np.count_nonzero(found.pending))
    record.failed_on_list = int(np.count_nonzero(found.missing))
    store.write_run(record.run_id, dataclasses.asdict(record))


def _stopped_early(settings: ExtractSettings, record: RunRecord, share: float) -> str:
    return (
        f"stopped after {record.finished} of {record.pending} clips: {record.failed} of them failed, so more than "
        f"{share:.1%} of such clips fail (95 % confidence); --max-error-rate {settings.max_error_rate:g} allows fewer"
    )


def _check_failures(settings: ExtractSettings, record: RunRecord, store: FeatureStore) -> None:
    """Raise TooManyFailures where more of the list failed, or is certain enough to fail, than is allowed."""
    see = f"see: acoustic-env store errors {settings.store}"
    if record.stopped:
        msg = (
            f"{record.stopped}. {_most_frequent(store, record.run_id)}What is done is kept; fix the cause and run the "
            f"same command again, or raise --max-error-rate; {see}"
        )
        raise TooManyFailures(msg, record, early=True)
    rate = record.failed_on_list / max(1, record.clips)
    if rate > settings.max_error_rate:
        when = "" if record.pending else " since earlier runs"
        again = "" if record.pending else "; they are not tried again without --retry-errors"
        msg = (
            f"done, but {record.failed_on_list} of {record.clips} clips ({rate:.1%}) have no features{when}, more than "
            f"--max-error-rate {settings.max_error_rate:g} allows{again}; {see}"
        )
        raise TooManyFailures(msg, record)


def _most_frequent(store: FeatureStore, run_id: str) -> str:
    """Name the run's most frequent error, with one of its messages."""
    errors = store.errors()
    ours = pc.and_(pc.equal(errors["run_id"], run_id), pc.not_equal(errors["code"], RESOLVED))
    errors = errors.filter(ours)
    if not errors.num_rows:
        return ""
    code = max(errors["code"].value_counts().to_pylist(), key=lambda count: count["counts"])["values"]
    return f"Most often {code}: {errors.filter(pc.equal(errors['code'], code))['message'][0]}. "


def _plan_work(
    settings: ExtractSettings,
    works: Sequence[BlockWork],
    clips: pa.Table,
    store: FeatureStore,
    record: RunRecord,
    log: Log,
) -> pa.Table:
    """The rows to do, shown and noted in the record."""
    errors = store.errors()
    found = find_missing(clips, works, store, errors)
    need = found.missing if settings.retry_errors else found.pending
    record.left = int(np.count_nonzero(found.pending))
    record.failed_on_list = int(np.count_nonzero(found.excluded))
    pending = pending_rows(clips, need, errors)
    record.pending = pending.num_rows
    for line in _describe_work(pending, works, clips.num_rows):
        log(line)
    return pending


def _show_plan(settings: ExtractSettings, works: Sequence[BlockWork], pending: pa.Table, log: Log) -> None:
    with cluster(settings.address) if joins(settings.address) else nullcontext(local_resources()) as resources:
        active = _active(works, pending)
        plan = make_plan(active, pending.num_rows, resources, settings.device, remote=any_remote(pending["uri"]))
        for line in describe(plan, resources):
            log(line)


def _active(works: Sequence[BlockWork], pending: pa.Table) -> list[BlockWork]:
    """Return the blocks that any pending clip lacks."""
    missing = np.bitwise_or.reduce(pending["need"].to_numpy())
    return [work for work in works if missing & work.spec.mask]


def _describe_work(pending: pa.Table, works: Sequence[BlockWork], clips: int) -> list[str]:
    lines = [f"clips     {clips} on the list, {pending.num_rows} with something missing"]
    need = pending["need"].to_numpy()
    for work in works:
        for fingerprint, signals in work.versions().items():
            bits = [work.spec.bit(signal) for signal in signals]
            clips_missing = int(np.count_nonzero(need & sum(bits)))
            rows = sum(int(np.count_nonzero(need & bit)) for bit in bits)
            lines.append(
                f"block     {work.spec.name:<8} {fingerprint} ({work.spec.engine}) {','.join(signals)}: "
                f"{clips_missing} clips, {rows} rows pending"
            )
    return lines


def _versions() -> dict[str, str]:
    found = {"acoustic-env": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
