"""The extraction job: compute the missing rows of a clip list and account for every clip.

    list - committed keys -> pending list -> workers: decode, prepare, compute -> writers -> parts, manifests, errors
    `books`                  `pending`       `graph`: `guard`, `compute`           `sink`    `store`

What may run where is planned first (`nodes`, `plan`). `books` keeps what the store has and lacks.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext

import pyarrow as pa

from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import read_clip_batches
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.io.location import join
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline import graph, metrics
from acoustic_env.pipeline import nodes as cluster_nodes
from acoustic_env.pipeline.books import Books
from acoustic_env.pipeline.cluster import cluster, joins, local_node
from acoustic_env.pipeline.estimate import describe_estimate
from acoustic_env.pipeline.health import Health, NoHealthyWorkerError, SickWorkerError
from acoustic_env.pipeline.pending import Pending, cut_tasks, stored
from acoustic_env.pipeline.plan import Node, Plan, describe, make_plan
from acoustic_env.pipeline.progress import Progress
from acoustic_env.pipeline.record import RunRecord
from acoustic_env.pipeline.watch import allowed_of_pending, check_failures, too_many_fail
from acoustic_env.pipeline.work import BlockWork, resolve_blocks
from acoustic_env.store.layout import run_path
from acoustic_env.store.lease import LeaseLost, acquire_blocks

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
    books = Books(settings, works, Listed(batches, settings.clips, settings.limit), log)
    record = books.record
    if settings.dry_run:
        _Run(books, {}).preview()
        return record
    with acquire_blocks(settings.store, [work.spec.name for work in works], f"extract {record.run_id}") as leases:
        todo = books.open(leases)
        if todo.clips:
            try:
                _Run(books, leases.tokens).all(todo)
            except NoHealthyWorkerError as error:
                record.stopped = str(error)
                books.close()
                raise
            books.close()
    check_failures(record, books.own_errors(), settings)
    return record


class _Run:
    """One run on Ray; it continues with the clips that are left when a worker is at fault.

    Args:
        books: of the run.
        leases: path -> fencing id.
    """

    def __init__(self, books: Books, leases: Mapping[str, int]) -> None:
        self.books, self.leases = books, leases
        self.settings, self.record = books.settings, books.record
        self.health = Health()
        self.slices = itertools.count()
        self.planned: Plan | None = None

    def preview(self) -> None:
        """Log what a run would do."""
        self.books.admit()
        pending, joined = self.books.lacking(), joins(self.settings.address)
        if not pending.clips:
            return
        with cluster(self.settings.address) if joined else nullcontext():
            nodes = cluster_nodes.free_nodes() if joined else [local_node()]
            plan = self._plan(pending, nodes, elastic=joined)
            record = dataclasses.asdict(self.record)
            self.books.log(describe_estimate(self.books.store.runs(), record, plan, pending.clips, len(nodes)))

    def all(self, todo: Pending) -> None:
        """Do what is missing.

        Raises:
            NoHealthyWorkerError: no worker can do the work.
        """
        settings, record = self.settings, self.record
        failed_before = 0 if settings.retry_errors else record.failed_on_list
        allowed = allowed_of_pending(settings.max_error_rate, record.clips, record.pending, failed_before)
        with cluster(settings.address) as own, closing(Progress(record.pending, sys.stderr)) as progress:
            nodes = self._nodes(own)
            started = time.perf_counter()
            try:
                while todo.clips and not record.stopped:
                    plan = self._settled_plan(todo, nodes, joined=own is None)
                    try:
                        self._stream(todo, plan, allowed, progress, elastic=own is None)
                        break
                    except SickWorkerError as error:
                        todo = self._left(error, progress)
            except LeaseLost:
                metrics.LEASES_LOST.record(1)
                raise
            finally:
                record.finish(time.perf_counter() - started)

    def _active(self, pending: Pending) -> list[BlockWork]:
        """Return the blocks that any pending clip lacks."""
        return [work for work in self.books.works if pending.need & work.spec.mask]

    def _plan(self, pending: Pending, nodes: list[Node], *, elastic: bool) -> Plan:
        most, device = self.settings.max_workers, self.settings.device
        plan = make_plan(self._active(pending), pending, nodes, device, elastic=elastic, max_workers=most)
        if plan != self.planned:
            for line in describe(plan, nodes):
                self.books.log(line)
        self.planned = plan
        return plan

    def _nodes(self, own: Node | None) -> list[Node]:
        """Return the nodes of the run: this machine, or those of a joined cluster."""
        if own is not None:
            return [own]
        if self.settings.wait_for_nodes is not None:
            cluster_nodes.wait_for_nodes(self.settings.wait_for_nodes, self.books.log)
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
            if cluster_nodes.wait_for_room(plan, self.books.log, left_out):
                return plan
        return self._plan(pending, nodes, elastic=False)

    @contextmanager
    def _tasks(self, pending: Pending, plan: Plan) -> Iterator[graph.Tasks]:
        """The pending list for the length of the block: files of the run, or in memory where URLs hold credentials."""
        import ray

        tables = (cut_tasks(table, plan.task_s, plan.least_s) for table in pending.rows())
        if pending.secret:
            yield {ray.put(table): len(table) for table in tables}
        else:
            with stored(self.books.store, self.record.run_id, tables) as files:
                yield files

    def _stream(self, pending: Pending, plan: Plan, allowed: float, progress: Progress, *, elastic: bool) -> None:
        record = self.record
        record.pools = {pool.name: pool.workers for pool in plan.pools}
        metrics.PENDING.record(record.pending - record.finished)
        with self._tasks(pending, plan) as tasks:
            job = graph.Job(self.settings.store, record.run_id, self._active(pending), self.leases, tasks)
            with closing(graph.run(job, plan, self.slices, self.health, elastic=elastic)) as slices:
                for written in slices:
                    record.count(written)
                    progress.show(record.finished, record.failed)
                    metrics.PENDING.record(record.pending - record.finished)
                    stop = too_many_fail(allowed, record.finished, record.failed, plan.in_work)
                    if stop and record.finished < record.pending:
                        record.stopped = (
                            f"stopped after {record.finished} of {record.pending} clips: {record.failed} failed, "
                            f"more than --max-error-rate {self.settings.max_error_rate:g} allows"
                        )
                        break

    def _left(self, error: SickWorkerError, progress: Progress) -> Pending:
        """Return what is still to do after a worker was at fault."""
        todo, failed = self.books.left()
        progress.show(self.record.finished, self.record.failed)
        try:
            fault = self.health.note(error, {node.node_id for node in cluster_nodes.joined_nodes()}, failed)
        finally:
            self.record.faults = [dataclasses.asdict(fault) for fault in self.health.faults]
        out = "the run goes on without this node" if fault.left_out else "new workers do its clips"
        self.books.log(f"node      {fault.host} {fault.node[:8]}: {error}; nothing of its task is recorded, {out}")
        return todo
