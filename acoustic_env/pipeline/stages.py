"""The stages of the extraction job as plain callables, table in, table out: no Ray here.

A clip that fails in one stage carries its error to the sink and passes the later stages by; its neighbors never
notice.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.fetch import any_remote, open_source
from acoustic_env.audio.signals import SIGNALS
from acoustic_env.errors import AcousticEnvError
from acoustic_env.features.block import Engine, FeatureBlock, to_table
from acoustic_env.features.golden import check_decoders, check_golden
from acoustic_env.pipeline.guard import alarm
from acoustic_env.pipeline.rows import (
    SECONDS,
    RowError,
    pack_errors,
    pack_rows,
    pack_waves,
    row_error,
    rows_column,
    unpack_waves,
    wave_column,
)
from acoustic_env.pipeline.work import BlockSpec, BlockWork, block_work, missing_signals, needed

Wave = npt.NDArray[np.float32]
Decoded = tuple[dict[int, Wave], list[RowError], float]  # waveforms at each rate, errors, seconds
T = TypeVar("T")

# Samples normalized, separated and computed at once (8 clips of 10 s): bounds the memory of a task.
STEP_SAMPLES: Final = 8 * 160_000
HANG_S: Final = 1800.0  # without one clip decoded: a decoder or a download that never ends
# Remote reads wait on the network, so several clips are fetched at once; local ones wait on the decoder.
REMOTE_READERS: Final = 8


class Decode:
    """Clips to waveforms: fetched, decoded once, resampled to each wanted rate.

    Args:
        rates: wanted sample rates, Hz.
        patience_s: seconds without one clip done after which the process is ended
            (`guard.CrashIsolatedStage` finds the clip).
    """

    def __init__(self, rates: Sequence[int], patience_s: float = HANG_S) -> None:
        self.rates = tuple(rates)
        self.patience_s = patience_s

    def __call__(self, clips: pa.Table) -> pa.Table:
        rows = clips.select(["uri", "start_s", "end_s"]).to_pylist()
        with alarm(self.patience_s) as put_off:
            if any_remote(clips["uri"]):
                with ThreadPoolExecutor(REMOTE_READERS) as readers:
                    decoded = [put_off(result) for result in readers.map(self._decode, rows)]
            else:
                decoded = [put_off(self._decode(row)) for row in rows]
        return self._with_results(clips, decoded)

    def check(self) -> None:
        """Decode the golden clip; raises what a sick worker's decoder raises."""
        check_decoders(self.rates)

    def skip(self, clips: pa.Table, error: RowError) -> pa.Table:
        """Clips without waveforms, with this error."""
        return self._with_results(clips, [({}, [error], 0.0)] * clips.num_rows)

    def _with_results(self, clips: pa.Table, decoded: Sequence[Decoded]) -> pa.Table:
        for rate in self.rates:
            waves = [waveforms.get(rate) for waveforms, _, _ in decoded]
            clips = clips.append_column(wave_column(rate), pack_waves(waves))
        clips = clips.append_column("errors", pack_errors([errors for _, errors, _ in decoded]))
        return clips.append_column(f"{SECONDS}decode", pa.array([seconds for _, _, seconds in decoded], pa.float64()))

    def _decode(self, row: dict[str, object]) -> Decoded:
        started = time.perf_counter()
        uri, start_s, end_s = str(row["uri"]), row["start_s"], row["end_s"]
        try:
            with open_source(uri) as source:
                waves = prepare.decode_and_resample(source, start_s, end_s, uri, self.rates)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001  whatever a decoder does to one clip stays with that clip
            return {}, [row_error("decode", error)], time.perf_counter() - started
        return waves, [], time.perf_counter() - started


@dataclass(frozen=True)
class ComputeSettings:
    """What one pool of compute workers does.

    Attributes:
        blocks: the blocks it computes.
        decodes: sample rates the pool decodes the clips to, Hz; none where an earlier pool did.
        prepares: whether waveforms arrive decoded (the pool normalizes and separates) or as prepared signals.
        passes_on: blocks of later pools, for which the prepared signals are kept.
        device: where the blocks' models run, "cpu" or "cuda".
    """

    blocks: tuple[BlockWork, ...]
    decodes: tuple[int, ...]
    prepares: bool
    passes_on: tuple[BlockWork, ...]
    device: str


class Compute:
    """Waveforms to the rows of one or more blocks; models are loaded once, at construction."""

    def __init__(self, settings: ComputeSettings) -> None:
        self.settings = settings
        self.blocks: list[tuple[BlockWork, FeatureBlock]] = []
        for work in settings.blocks:
            block = _planned_block(work)
            block.load(settings.device)
            self.blocks.append((work, block))

    def check(self) -> None:
        """Decode and compute the golden clip; raises what a sick worker raises, AcousticEnvError where it differs."""
        if self.settings.decodes:
            check_decoders(self.settings.decodes)
        for _, block in self.blocks:
            check_golden(block)

    def __call__(self, clips: pa.Table) -> pa.Table:
        return self._compute(Decode(self.settings.decodes)(clips) if self.settings.decodes else clips)

    def skip(self, clips: pa.Table, error: RowError) -> pa.Table:
        """Clips with nothing left to compute, with this error."""
        if self.settings.decodes:
            return self._compute(Decode(self.settings.decodes).skip(clips, error))
        earlier = [[RowError(**e) for e in errors] for errors in clips["errors"].to_pylist()]
        errors = pack_errors([[*errors, error] for errors in earlier])
        nothing = pa.array(np.zeros(clips.num_rows, np.int64))
        for name, column in (("errors", errors), ("need", nothing)):
            clips = clips.set_column(clips.schema.get_field_index(name), name, column)
        return self._compute(clips)

    def _compute(self, clips: pa.Table) -> pa.Table:
        batch = _Batch(clips)
        for rate in sorted({work.sample_rate for work in (*self.settings.blocks, *self.settings.passes_on)}):
            later = [work for work in self.settings.passes_on if work.sample_rate == rate]
            for signals in self._signals(batch, rate):
                for work, block in self.blocks:
                    if work.sample_rate == rate:
                        batch.compute(work, block, signals)
                if self.settings.prepares:
                    batch.keep(rate, later, signals)
        return batch.table(self.settings)

    def _signals(self, batch: _Batch, rate: int) -> Iterable[_Signals]:
        if not self.settings.prepares:
            return batch.prepared(rate)
        works = [work for work in (*self.settings.blocks, *self.settings.passes_on) if work.sample_rate == rate]
        return batch.prepare(rate, [work.spec for work in works])


def _planned_block(work: BlockWork) -> FeatureBlock:
    """The block as this worker would compute it, which must be the version that was planned."""
    here = block_work(work.spec)
    if here.fingerprints != work.fingerprints:
        signal = next(signal for signal, planned in work.fingerprints.items() if here.fingerprints[signal] != planned)
        msg = (
            f"block {work.spec.name}, signal {signal}: this worker ({platform.node()}) computes version "
            f"{here.fingerprints[signal]}, the run was planned for {work.fingerprints[signal]}; give every node the "
            "same weights (ACOUSTIC_ENV_WEIGHTS) and installation"
        )
        raise AcousticEnvError(msg)
    return work.spec.make()


@dataclass
class _Signals:
    """Clips of one length: their positions in the batch and, for each signal, float32[clips, samples]."""

    clips: npt.NDArray[np.int64]
    waves: dict[str, Wave]


class _Batch:
    """One batch on its way through a compute stage."""

    def __init__(self, clips: pa.Table) -> None:
        self.clips = clips
        self.need: npt.NDArray[np.int64] = clips["need"].to_numpy()
        self.errors: list[list[RowError]] = [[RowError(**e) for e in errors] for errors in clips["errors"].to_pylist()]
        self.pieces: dict[str, tuple[list[pa.Table], list[npt.NDArray[np.int64]]]] = {}
        self.seconds: dict[str, npt.NDArray[np.float64]] = {}
        self.kept: dict[str, list[Wave | None]] = {}

    def prepare(self, rate: int, specs: Sequence[BlockSpec]) -> Iterator[_Signals]:
        """Normalize and separate what the specs lack, in groups of equal length and signals, a bounded step each."""
        waves = unpack_waves(self.clips[wave_column(rate)])
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for i, wave in enumerate(waves):
            missing = missing_signals(int(self.need[i]), specs)
            if wave is not None and missing:
                groups.setdefault((len(wave), missing), []).append(i)
        engine = specs[0].engine if specs else "fast"
        for (samples, signals), members in groups.items():
            step = max(1, STEP_SAMPLES // samples)
            for first in range(0, len(members), step):
                yield from self._prepare_group(members[first : first + step], waves, rate, engine, signals)

    def _prepare_group(
        self, members: list[int], waves: list[Wave | None], rate: int, engine: Engine, signals: tuple[str, ...]
    ) -> list[_Signals]:
        def run(positions: list[int]) -> _Signals:
            stack = np.stack([wave for i in positions if (wave := waves[i]) is not None])
            return _Signals(np.array(positions, np.int64), prepare.prepare(stack, rate, engine, signals))

        return self._guarded("prepare", members, run)

    def prepared(self, rate: int) -> list[_Signals]:
        """Signals that an earlier pool prepared, in groups of equal length and equal signals."""
        columns: dict[str, list[Wave | None]] = {
            signal: unpack_waves(self.clips[wave_column(rate, signal)])
            for signal in SIGNALS
            if wave_column(rate, signal) in self.clips.column_names
        }
        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for i in range(self.clips.num_rows):
            present = {s: wave for s, waves in columns.items() if (wave := waves[i]) is not None}
            if present:
                groups.setdefault(tuple((s, len(wave)) for s, wave in present.items()), []).append(i)
        return [
            _Signals(
                np.array(members, np.int64),
                {s: np.stack([wave for i in members if (wave := columns[s][i]) is not None]) for s, _ in key},
            )
            for key, members in groups.items()
        ]

    def compute(self, work: BlockWork, block: FeatureBlock, signals: _Signals) -> None:
        """Add the block's rows for the clips of a group that lack them."""
        tables, owners = self.pieces.setdefault(work.spec.name, ([], []))
        clip_ids = self.clips["clip_id"]
        stacks = []
        for signal in work.spec.signals:
            if signal in signals.waves:
                chosen = np.flatnonzero(needed(self.need[signals.clips], work.spec, signal))
                stacks.append((signal, signals.clips[chosen], signals.waves[signal][chosen]))
        missing = [
            (signal, int(i), wave) for signal, clips, waves in stacks for i, wave in zip(clips, waves, strict=True)
        ]
        if not missing:
            return

        def run(positions: list[int]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
            picked = [missing[p] for p in positions]
            columns = block.compute(np.stack([wave for _, _, wave in picked]))
            ids = [clip_ids[i].as_py() for _, i, _ in picked]
            table = to_table(work.schema, ids, [signal for signal, _, _ in picked], columns)
            clips = np.array([i for _, i, _ in picked], np.int64)
            return table, np.repeat(clips, table.num_rows // len(picked))

        clips_and_signals = [(i, signal) for signal, i, _ in missing]
        results = self._guarded(work.spec.name, list(range(len(missing))), run, clips_and_signals)
        for table, owner in results:
            tables.append(table)
            owners.append(owner)

    def _guarded(
        self,
        stage: str,
        members: list[int],
        run: Callable[[list[int]], T],
        owners: Sequence[tuple[int, str]] | None = None,
    ) -> list[T]:
        """Run all members at once; if that fails, one by one, so that a failure stays with its clip."""
        started = time.perf_counter()
        concerned: Sequence[tuple[int, str | None]] = owners or [(clip, None) for clip in members]
        results: list[T] = []
        try:
            results.append(run(members))
        except Exception:  # noqa: BLE001  which clip it was is found below
            for member, (clip, signal) in zip(members, concerned, strict=True):
                try:
                    results.append(run([member]))
                except Exception as error:  # noqa: BLE001  a clip's failure is a row of the errors table
                    self.errors[clip].append(row_error(stage, error)._replace(signal=signal))
        spent = self.seconds.setdefault(stage, np.zeros(self.clips.num_rows))
        np.add.at(spent, np.array([clip for clip, _ in concerned]), (time.perf_counter() - started) / len(members))
        return results

    def keep(self, rate: int, works: Sequence[BlockWork], signals: _Signals) -> None:
        """Hold on to the prepared signals that later pools need."""
        for signal, waves in signals.waves.items():
            lacking = [work for work in works if signal in work.spec.signals]
            for clip, wave in zip(signals.clips, waves, strict=True):
                if any(self.need[clip] & work.spec.bit(signal) for work in lacking):
                    nothing: list[Wave | None] = [None] * self.clips.num_rows
                    self.kept.setdefault(wave_column(rate, signal), nothing)[clip] = wave

    def table(self, settings: ComputeSettings) -> pa.Table:
        """The batch as a table for the next stage: waveforms nothing needs are gone."""
        later = {wave_column(w.sample_rate, s) for w in settings.passes_on for s in w.spec.signals}
        names = [n for n in self.clips.column_names if not n.startswith("wave:") or n in later]
        table = self.clips.select([name for name in names if name != "errors"])
        for name in sorted(later) if settings.prepares else ():
            table = table.append_column(name, pack_waves(self.kept.get(name, [None] * self.clips.num_rows)))
        for work in settings.blocks:
            tables, owners = self.pieces.get(work.spec.name, ([], []))
            packed = pack_rows(tables, owners, self.clips.num_rows, work.schema)
            table = table.append_column(rows_column(work.spec.name), packed)
        stages = [*(["prepare"] if settings.prepares else []), *(work.spec.name for work in settings.blocks)]
        for stage in stages:
            spent = self.seconds.get(stage, np.zeros(self.clips.num_rows))
            table = table.append_column(f"{SECONDS}{stage}", pa.array(spent, pa.float64()))
        return table.append_column("errors", pack_errors(self.errors))
