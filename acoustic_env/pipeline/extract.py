"""The extraction job: compute the missing rows of a clip list and account for every clip."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import read_clip_batches
from acoustic_env.config import Recipe
from acoustic_env.errors import RESOLVED, UsageError
from acoustic_env.io.location import join, scrub
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline import graph, metrics
from acoustic_env.pipeline import nodes as cluster_nodes
from acoustic_env.pipeline.cluster import cluster, joins, local_node, working_nodes
from acoustic_env.pipeline.estimate import describe_estimate, workers_of
from acoustic_env.pipeline.health import Health, NoHealthyWorkerError, SickWorkerError
from acoustic_env.pipeline.missing import MissingWork, describe_pending, find_missing, pending_pairs
from acoustic_env.pipeline.pending import Need, Pending, cut_tasks, measure, pending_rows, write_pending
from acoustic_env.pipeline.plan import make_plan
from acoustic_env.pipeline.pools import Audio, Node, Plan, describe
from acoustic_env.pipeline.progress import Progress
from acoustic_env.pipeline.record import RunRecord
from acoustic_env.pipeline.watch import FailureWatch, allowed_of_pending, check_failures
from acoustic_env.pipeline.work import BlockWork, resolve_blocks
from acoustic_env.store import sources
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path, run_path
from acoustic_env.store.lease import BlockLeases, LeaseLost, acquire_blocks, acquire_sources

Log = Callable[[str], None]


def extract(
    settings: ExtractSettings, log: Log = lambda _: None, clips: pa.Table | None = None, recipe: Recipe | None = None
) -> RunRecord:
    """Compute the missing rows of the wanted blocks for every clip of the list.

    Args:
        settings: of the run.
        log: receives each human-readable line.
        clips: the clip list; None reads it from `settings.clips`.
        recipe: None reads `settings.recipe`.

    Returns:
        The record of the run (for a dry run: of what would be done).

    Raises:
        UsageError: settings, list or machines are wrong, or an id of the list has rows of other audio; nothing was
            started.
        LeaseHeld: another run writes rows of one of the blocks.
        NoHealthyWorkerError: every node is at fault; what is done is kept.
        TooManyFailures: the share of failed clips is above `max_error_rate`; its `record` is the run's.
    """
    if settings.wait_for_nodes is not None and not joins(settings.address):
        raise UsageError(f"--wait-for-nodes {settings.wait_for_nodes}: no cluster is joined; name one with --address")
    works = resolve_blocks(settings, recipe)
    batches = read_clip_batches(settings.clips) if clips is None else iter([clips])
    run = _Run(settings, works, Listed(batches, settings.clips, settings.limit), log)
    if settings.dry_run:
        run.preview()
        return run.record
    blocks = [work.spec.name for work in works]
    with acquire_blocks(settings.store, blocks, f"extract {run.record.run_id}") as leases:
        run.all(leases)
    check_failures(run.record, run.own_errors(), settings)
    return run.record


class _Run:
    """One run; it continues with the clips that are left when a worker is at fault."""

    def __init__(self, settings: ExtractSettings, works: list[BlockWork], clips: Listed, log: Log) -> None:
        self.settings, self.works, self.clips, self.log = settings, works, clips, log
        self.planned: Plan | None = None
        self.leases: Mapping[str, int] = {}  # path -> fencing id
        self.store = FeatureStore(settings.store)
        self.health = Health()
        self.slices = itertools.count()
        self.begun: list[tuple[str, str, int]] = []  # block, fingerprint and fencing id of what is written
        fingerprints = {work.spec.name: work.fingerprints for work in works}
        stored = {name: scrub(value) if isinstance(value, str) else value for name, value in settings.as_json().items()}
        self.record = RunRecord(stored, fingerprints, clips.num_rows)

    def preview(self) -> None:
        """Log what a run would do."""
        self._admit()
        need, errors = self._lacking()
        if not need.any():
            return
        pending, joined = measure(self.clips, need, errors), joins(self.settings.address)
        with cluster(self.settings.address) if joined else nullcontext():
            nodes = cluster_nodes.free_nodes() if joined else [local_node()]
            plan = self._plan(pending, nodes, elastic=joined)
            record = dataclasses.asdict(self.record)
            self.log(describe_estimate(self.store.runs(), record, plan, pending.clips, len(nodes)))

    def all(self, leases: BlockLeases) -> None:
        """Do what is missing, under the leases of the blocks.

        Raises:
            NoHealthyWorkerError: no worker can do the work.
        """
        with acquire_sources(self.settings.store, f"extract {self.record.run_id}") as lease:
            admission = self._admit(leases.others)
            if self.record.relocated:
                self._write_record()  # first, so that a killed run leaves the reason
            sources.record(self.store, admission, self.record.run_id, lease.check)
        need, errors = self._lacking()
        self._begin(need, leases)
        if need.any() or self.record.relocated:
            self._write_record()  # so that errors of a killed run have a version
        if not need.any():
            return
        try:
            self.leases = leases.tokens
            self._compute(need, errors)
        except NoHealthyWorkerError as error:
            self.record.stopped = str(error)
            self._finish()
            raise
        self._finish()

    def _begin(self, need: Need, leases: BlockLeases) -> None:
        """Take over the versions that are written; parts of them that are lost are named, and not counted any more."""
        for work in self.works:
            for fingerprint, signals in work.versions().items():
                lacks = np.any(need & sum(map(work.spec.bit, signals)))
                if lacks or self.store.lost_parts(work.spec.name, fingerprint):
                    token = leases.tokens[lease_path(work.spec.name)]
                    self.record.lost += self.store.begin(work.spec.name, fingerprint, token)
                    self.begun.append((work.spec.name, fingerprint, token))
        self.record.lost += self.store.drop_lost_errors()
        for line in self.record.lost:
            self.log(f"lost      {line}")

    def _admit(self, beside: Callable[[], Sequence[str]] = list) -> sources.Admission:
        """Compare the list with the sources that the store has recorded, before anything runs."""
        admission = sources.admit(self.store, self.clips, self.settings.relocated, self.settings.clips, beside)
        self.record.relocated = admission.relocations
        for line in admission.lines:
            self.log(f"sources   {line}")
        return admission

    def _lacking(self) -> tuple[Need, pa.Table]:
        """Return what the clips lack, and the errors of the store; what there is to do is logged and recorded."""
        errors = self.store.errors()
        found = find_missing(self.clips, self.works, self.store, errors)
        self.record.left = int(np.count_nonzero(found.pending))
        self.record.failed_on_list = int(np.count_nonzero(found.excluded))
        need = self._wanted(found)
        self.record.pending = int(np.count_nonzero(need))
        self.record.pairs = pending_pairs(need, self.works)
        for line in describe_pending(need, self.works):
            self.log(line)
        return need, errors

    def _wanted(self, found: MissingWork) -> Need:
        return found.missing if self.settings.retry_errors else found.pending

    def _active(self, pending: Pending) -> list[BlockWork]:
        """Return the blocks that any pending clip lacks."""
        return [work for work in self.works if pending.need & work.spec.mask]

    def _plan(self, pending: Pending, nodes: list[Node], *, elastic: bool) -> Plan:
        audio = Audio(pending.clips, pending.seconds, pending.longest_s)
        most, device = self.settings.max_workers, self.settings.device
        plan = make_plan(self._active(pending), audio, nodes, device, elastic=elastic, max_workers=most)
        if plan != self.planned:
            for line in describe(plan, nodes):
                self.log(line)
        self.planned = plan
        return plan

    def _compute(self, need: Need, errors: pa.Table) -> None:
        failed_before = 0 if self.settings.retry_errors else self.record.failed_on_list
        total = self.record.pending
        watch = FailureWatch(allowed_of_pending(self.settings.max_error_rate, self.record.clips, total, failed_before))
        with cluster(self.settings.address) as own, closing(Progress(total, sys.stderr)) as progress:
            nodes = self._nodes(own)
            started = time.perf_counter()
            try:
                while need.any() and not self.record.stopped:
                    pending = measure(self.clips, need, errors)
                    plan = self._settled_plan(pending, nodes, joined=own is None)
                    try:
                        with self._tasks(pending, need, errors, plan) as tasks:
                            self._stream(tasks, plan, self._active(pending), watch, progress, elastic=own is None)
                        break
                    except SickWorkerError as error:
                        need, errors = self._left(error, progress)
            except LeaseLost:
                metrics.LEASES_LOST.record(1)
                raise
            finally:
                self.record.finish(time.perf_counter() - started)

    def _nodes(self, own: Node | None) -> list[Node]:
        """Return the nodes of the run: this machine, or those of a joined cluster."""
        if own is not None:
            return [own]
        if self.settings.wait_for_nodes is not None:
            cluster_nodes.wait_for_nodes(self.settings.wait_for_nodes, self.log)
        return cluster_nodes.free_nodes()

    def _settled_plan(self, pending: Pending, nodes: list[Node], *, joined: bool) -> Plan:
        """Return the plan for the nodes there are now, once these can read what the clips need and have room."""
        gc.collect()  # frames of an error that is over, and cycles of Ray Data, hold the workers of the last execution
        marker = join(self.settings.store, run_path(self.record.run_id))
        left_out = self.health.left_out
        while joined:
            left = cluster_nodes.as_of_now(nodes, left_out)
            cluster_nodes.check_paths(left, pending.uris, marker, self._active(pending))
            plan = self._plan(pending, left, elastic=True)
            if cluster_nodes.wait_for_room(plan, self.log, left_out):
                return plan
        return self._plan(pending, nodes, elastic=False)

    @contextmanager
    def _tasks(self, pending: Pending, need: Need, errors: pa.Table, plan: Plan) -> Iterator[graph.Tasks]:
        """The pending list for the length of the block: files of the run, or in memory where URLs hold credentials."""
        tables = (cut_tasks(rows, plan.task_s) for rows in pending_rows(self.clips, need, errors))
        if pending.secret:
            yield pa.concat_tables(tables)
            return
        files = write_pending(self.store, self.record.run_id, tables)
        try:
            yield files
        finally:
            for path in files:
                self.store.filesystem.remove(path)

    def _stream(
        self,
        tasks: graph.Tasks,
        plan: Plan,
        works: list[BlockWork],
        watch: FailureWatch,
        progress: Progress,
        *,
        elastic: bool,
    ) -> None:
        record = self.record
        watch.in_work = plan.in_work
        record.pools = workers_of(plan)
        metrics.PENDING.record(record.pending - record.finished)
        job = graph.Job(self.settings.store, record.run_id, works, self.leases, tasks)
        with closing(graph.run(job, plan, self.slices, self.health, elastic=elastic)) as slices:
            for written in slices:
                record.count(written)
                progress.show(record.finished, record.failed)
                metrics.PENDING.record(record.pending - record.finished)
                watch.add(written.clips, written.failed)
                if watch.exceeded and record.finished < record.pending:
                    record.stopped = (
                        f"stopped after {record.finished} of {record.pending} clips: {record.failed} of them failed, "
                        f"more than --max-error-rate {self.settings.max_error_rate:g} allows"
                    )
                    break

    def _left(self, error: SickWorkerError, progress: Progress) -> tuple[Need, pa.Table]:
        """Return what is still to do after a worker was at fault, and the errors; the store decides."""
        errors = self.store.errors()
        failed = pc.unique(_of_run(errors, self.record.run_id)["clip_id"])
        need = self._wanted(find_missing(self.clips, self.works, self.store, errors)).copy()
        done = self.clips.index.positions(failed)
        need[done[done >= 0]] = 0
        self.record.finished, self.record.failed = self.record.pending - int(np.count_nonzero(need)), len(failed)
        progress.show(self.record.finished, self.record.failed)
        try:
            fault = self.health.note(error, working_nodes(), failed.to_pylist())
        finally:
            self.record.faults = [dataclasses.asdict(fault) for fault in self.health.faults]
        out = "the run goes on without this node" if fault.left_out else "new workers do its clips"
        self.log(f"node      {fault.host} {fault.node[:8]}: {error}; nothing of its task is recorded, {out}")
        return need, errors

    def own_errors(self) -> pa.Table:
        """Return this run's errors."""
        return _of_run(self.store.errors(), self.record.run_id)

    def _finish(self) -> None:
        """Write the record with the counts that the store gives after the run, not the run's own."""
        for block, fingerprint, token in self.begun:
            self.store.version(block, fingerprint).end(token)
        found = find_missing(self.clips, self.works, self.store, self.store.errors())
        self.record.left = int(np.count_nonzero(found.pending))
        self.record.failed_on_list = int(np.count_nonzero(found.missing))
        self._write_record()

    def _write_record(self) -> None:
        self.store.write_run(self.record.run_id, dataclasses.asdict(self.record))


def _of_run(errors: pa.Table, run_id: str) -> pa.Table:
    return errors.filter(pc.and_(pc.equal(errors["run_id"], run_id), pc.not_equal(errors["code"], RESOLVED)))
