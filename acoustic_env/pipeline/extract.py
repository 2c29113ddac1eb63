"""The extraction job: compute the missing rows of a clip list and account for every clip."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio.fetch import any_remote
from acoustic_env.audio.signals import in_order
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import read_clip_batches
from acoustic_env.config import Recipe
from acoustic_env.errors import RESOLVED, TooManyFailures, UsageError
from acoustic_env.features.block import Json
from acoustic_env.io.documents import load_recipe
from acoustic_env.io.location import join, scrub
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline import graph, metrics
from acoustic_env.pipeline import nodes as cluster_nodes
from acoustic_env.pipeline.cluster import cluster, joins, local_node, working_nodes
from acoustic_env.pipeline.estimate import describe_estimate, workers_of
from acoustic_env.pipeline.health import Health, NoHealthyWorkerError, SickWorkerError
from acoustic_env.pipeline.missing import MissingWork, describe_pending, find_missing, pending_pairs, pending_rounds
from acoustic_env.pipeline.plan import Node, Plan, describe, make_plan
from acoustic_env.pipeline.progress import Progress
from acoustic_env.pipeline.record import RunRecord
from acoustic_env.pipeline.watch import FailureWatch, allowed_of_pending
from acoustic_env.pipeline.work import MAX_PAIRS, BlockSpec, BlockWork, block_work
from acoustic_env.store import sources
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.layout import lease_path, run_path
from acoustic_env.store.lease import BlockLeases, LeaseLost, acquire_blocks, acquire_sources

Log = Callable[[str], None]
Need = npt.NDArray[np.int64]  # [clips], as `missing.pending_rows`


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
    run.check_failures()
    return run.record


def resolve_blocks(settings: ExtractSettings, recipe: Recipe | None = None) -> list[BlockWork]:
    """The blocks of a run with their fingerprints: those named, else the recipe's, else indices and mps.

    Raises:
        UsageError: unknown block or signal, or options a block does not know.
    """
    if recipe is None:
        recipe = load_recipe(settings.recipe) if settings.recipe else Recipe(name="default")
    signals = in_order(settings.signals or (*recipe.signals, *recipe.variant_signals))
    chosen: dict[str, Mapping[str, Json]] = {}
    for name in settings.blocks or recipe.blocks:
        options = recipe.block_options(name)
        chosen[name] = options
        if options.get("frames") and not name.endswith("_frames"):
            chosen[f"{name}_frames"] = options
    if not 1 <= len(chosen) * len(signals) <= MAX_PAIRS:
        raise UsageError(
            f"--blocks, --signals: {len(chosen)} feature blocks (per-frame ones included) of {len(signals)} signals; "
            f"one run computes 1 to {MAX_PAIRS} pairs of a block and a signal"
        )
    return [
        block_work(BlockSpec(name, settings.engine, position, signals, options))
        for position, (name, options) in enumerate(chosen.items())
    ]


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
        need, errors = self._pending()
        for pending in itertools.islice(pending_rounds(self.clips, need, errors), 1):
            joined = joins(self.settings.address)
            with cluster(self.settings.address) if joined else nullcontext():
                nodes = cluster_nodes.free_nodes() if joined else [local_node()]
                plan = self._plan(pending, nodes, elastic=joined)
                self._estimate(plan, self.record.pending, len(nodes))

    def _estimate(self, plan: Plan, clips: int, nodes: int) -> None:
        """Log how long the planned run takes."""
        record = dataclasses.asdict(self.record)
        self.log(describe_estimate(self.store.runs(), record, plan, clips, nodes))

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
        need, errors = self._pending()
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

    def _pending(self) -> tuple[Need, pa.Table]:
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

    def _active(self, pending: pa.Table) -> list[BlockWork]:
        """Return the blocks that any pending clip lacks."""
        need = np.bitwise_or.reduce(pending["need"].to_numpy())
        return [work for work in self.works if need & work.spec.mask]

    def _plan(self, pending: pa.Table, nodes: list[Node], *, elastic: bool) -> Plan:
        plan = make_plan(
            self._active(pending),
            pending.num_rows,
            nodes,
            self.settings.device,
            remote=any_remote(pending["uri"]),
            elastic=elastic,
            max_workers=self.settings.max_workers,
        )
        if plan != self.planned:
            for line in describe(plan, nodes):
                self.log(line)
        self.planned = plan
        return plan

    def _compute(self, need: Need, errors: pa.Table) -> None:
        failed_before = 0 if self.settings.retry_errors else self.record.failed_on_list
        pending = self.record.pending
        allowed = allowed_of_pending(self.settings.max_error_rate, self.record.clips, pending, failed_before)
        watch = FailureWatch(allowed)
        with cluster(self.settings.address) as own, closing(Progress(pending, sys.stderr)) as progress:
            nodes = self._nodes(own)
            started = time.perf_counter()
            try:
                while need.any():
                    try:
                        for rows in pending_rounds(self.clips, need, errors):
                            plan = self._plan_round(rows, nodes, joined=own is None)
                            self._stream(rows, plan, watch, progress, elastic=own is None)
                            if self.record.stopped:
                                return
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

    def _plan_round(self, pending: pa.Table, nodes: list[Node], *, joined: bool) -> Plan:
        """Return the plan for the nodes there are now, once these can read what the clips need and have room."""
        gc.collect()  # frames of an error that is over, and cycles of Ray Data, hold the workers of the last round
        marker = join(self.settings.store, run_path(self.record.run_id))
        left_out = self.health.left_out
        while joined:
            left = cluster_nodes.as_of_now(nodes, left_out)
            cluster_nodes.check_paths(left, pending["uri"].to_pylist(), marker, self._active(pending))
            plan = self._plan(pending, left, elastic=True)
            if cluster_nodes.wait_for_room(plan, self.log, left_out):
                return plan
        return self._plan(pending, nodes, elastic=False)

    def _stream(self, pending: pa.Table, plan: Plan, watch: FailureWatch, progress: Progress, *, elastic: bool) -> None:
        record, works = self.record, self._active(pending)
        watch.in_work = plan.in_work
        record.pools = workers_of(plan)
        metrics.PENDING.record(record.pending - record.finished)
        with closing(
            graph.run(
                pending,
                plan,
                works,
                self.settings.store,
                self.leases,
                record.run_id,
                self.health,
                numbers=self.slices,
                elastic=elastic,
            )
        ) as batches:
            for written in batches:
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
        failed = pc.unique(self._own(errors)["clip_id"])
        need = self._wanted(find_missing(self.clips, self.works, self.store, errors)).copy()
        done = self.clips.positions(failed)
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

    def _own(self, errors: pa.Table) -> pa.Table:
        """Return this run's errors."""
        return errors.filter(
            pc.and_(pc.equal(errors["run_id"], self.record.run_id), pc.not_equal(errors["code"], RESOLVED))
        )

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

    def check_failures(self) -> None:
        """Raise TooManyFailures where more of the list failed, or is certain enough to fail, than is allowed."""
        record, allowed = self.record, f"--max-error-rate {self.settings.max_error_rate:g}"
        see = f"see: acoustic-env store errors {self.settings.store}"
        if record.stopped:
            msg = (
                f"{record.stopped}. {self._most_frequent()}What is done is kept; fix the cause and run the same "
                f"command again, or raise --max-error-rate; {see}"
            )
            raise TooManyFailures(msg, record, early=True)
        rate = record.failed_on_list / max(1, record.clips)
        if rate > self.settings.max_error_rate:
            when = "" if record.pending else " since earlier runs"
            again = "" if record.pending else "; they are not tried again without --retry-errors"
            msg = (
                f"done, but {record.failed_on_list} of {record.clips} clips ({rate:.1%}) have no features{when}, more "
                f"than {allowed} allows{again}. {self._most_frequent()}{see[0].upper()}{see[1:]}"
            )
            raise TooManyFailures(msg, record)

    def _most_frequent(self) -> str:
        """Name the run's most frequent error with one of its messages, and what to do where audio is gone."""
        errors = self._own(self.store.errors())
        if not errors.num_rows:
            return ""
        code = max(errors["code"].value_counts().to_pylist(), key=lambda count: count["counts"])["values"]
        said = f"Most often {code}: {errors.filter(pc.equal(errors['code'], code))['message'][0]}. "
        if code != "not_found":
            return said
        return (
            f"{said}Audio that is gone for good is left out of the list by: acoustic-env clips check "
            f"{self.settings.clips} --drop-missing NEW.parquet. "
        )
