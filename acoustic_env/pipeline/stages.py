"""The stages of the extraction job as plain callables, table in, table out: no Ray here.

A clip that fails in one stage carries its error to the sink and passes the later stages by; its neighbors never
notice.
"""

from __future__ import annotations

import io
import itertools
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.fetch import any_remote, open_source
from acoustic_env.audio.shards import Place, fetch_together, neighbors
from acoustic_env.audio.signals import signal_order
from acoustic_env.clips.table import PLACE_SCHEMA
from acoustic_env.errors import AcousticEnvError, ClipError
from acoustic_env.features.block import FeatureBlock, to_table
from acoustic_env.features.golden import check_decoders, check_golden
from acoustic_env.io.location import split_shard
from acoustic_env.pipeline.guard import HANG_S, alarmed
from acoustic_env.pipeline.rows import (
    ROWS,
    SECONDS,
    Piece,
    RowError,
    pack_errors,
    pack_rows,
    pack_waves,
    row_error,
    unpack_errors,
    unpack_waves,
    wave_column,
    wave_signals,
)
from acoustic_env.pipeline.work import BlockSpec, BlockWork, block_work, lacking_pairs, missing_signals

Wave = npt.NDArray[np.float32]
Decoded = tuple[dict[int, Wave], list[RowError], float]  # waveforms at each rate, errors, seconds

# Samples normalized, separated and computed at once (8 clips of 10 s): bounds the memory of a task.
STEP_SAMPLES: Final = 8 * 160_000
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
        rows = clips.select(["uri", "start_s", "end_s", *PLACE_SCHEMA.names]).to_pylist()
        groups = neighbors(*(clips[name].to_pylist() for name in ("uri", *PLACE_SCHEMA.names)))
        with ThreadPoolExecutor(REMOTE_READERS) as readers:
            decode = readers.map if any_remote(clips["uri"]) else map
            tasks = decode(self._decode_together, ([rows[i] for i in group] for group in groups))
            done = itertools.chain.from_iterable(alarmed(tasks, self.patience_s))
            decoded = dict(zip(itertools.chain.from_iterable(groups), done, strict=True))
        return self._with_results(clips, [decoded[i] for i in range(len(rows))])

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

    def _decode_together(self, rows: Sequence[dict[str, Any]]) -> list[Decoded]:
        """Decode clips whose bytes one request brings, or a single one without a place in a shard."""
        if None in (rows[0]["byte_offset"], rows[0]["byte_size"]) or not split_shard(rows[0]["uri"])[0]:
            return [self._decode(row) for row in rows]
        started = time.perf_counter()
        places = [Place(row["uri"], row["byte_offset"], row["byte_offset"] + row["byte_size"]) for row in rows]
        fetched = fetch_together(places)
        each = (time.perf_counter() - started) / len(rows)
        decoded = (self._decode(row, data) for row, data in zip(rows, fetched, strict=True))
        return [(waves, errors, seconds + each) for waves, errors, seconds in decoded]

    def _decode(self, row: dict[str, Any], fetched: bytes | ClipError | None = None) -> Decoded:
        started = time.perf_counter()
        uri, start_s, end_s = row["uri"], row["start_s"], row["end_s"]
        try:
            if isinstance(fetched, ClipError):
                raise fetched
            with open_source(uri) if fetched is None else io.BytesIO(fetched) as source:
                waves = prepare.decode_and_resample(source, start_s, end_s, uri, self.rates)
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
            block = planned_block(work)
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
        """Clips with nothing left to compute, with this error of what they lacked here."""
        lacking = [[*earlier, *self._of_subjects(error, need)] for earlier, need in _errors_and_needs(clips)]
        if self.settings.decodes:
            clips = Decode(self.settings.decodes).skip(clips, error)
        nothing = pa.array(np.zeros(clips.num_rows, np.int64))
        for name, column in (("errors", pack_errors(lacking)), ("need", nothing)):
            clips = clips.set_column(clips.schema.get_field_index(name), name, column)
        return self._compute(clips)

    def _of_subjects(self, error: RowError, need: int) -> list[RowError]:
        """The error of a clip that broke the worker: of its source, or of all that it lacked here."""
        if error.stage == "decode":
            return [error]
        pairs = [(spec.name, signal) for spec, signal in lacking_pairs(need, [w.spec for w in self.settings.blocks])]
        return [error._replace(block=block, signal=signal) for block, signal in pairs]

    def _compute(self, clips: pa.Table) -> pa.Table:
        batch, settings = _Batch(clips), self.settings
        for rate in sorted({work.sample_rate for work in (*settings.blocks, *settings.passes_on)}):
            now = [(work, block) for work, block in self.blocks if work.sample_rate == rate]
            later = [work for work in settings.passes_on if work.sample_rate == rate]
            specs = [work.spec for work in (*(work for work, _ in now), *later)]
            for signals in batch.prepare(rate, specs) if settings.prepares else batch.prepared(rate):
                for work, block in now:
                    batch.compute(work, block, signals)
                if settings.prepares:
                    batch.keep(rate, later, signals)
        return batch.table(settings)


def planned_block(work: BlockWork) -> FeatureBlock:
    """The block as this worker would compute it, which must be the version that was planned."""
    here = block_work(work.spec)
    if here.fingerprints != work.fingerprints:
        signal = next(signal for signal, planned in work.fingerprints.items() if here.fingerprints[signal] != planned)
        raise AcousticEnvError(
            f"block {work.spec.name}, signal {signal}: this worker ({platform.node()}) computes version "
            f"{here.fingerprints[signal]}, the run was planned for {work.fingerprints[signal]}; give every node the "
            "same weights (ACOUSTIC_ENV_WEIGHTS) and installation"
        )
    return work.spec.make()


@dataclass
class _Signals:
    """Clips of one length: their positions in the batch and, for each signal, float32[clips, samples]."""

    clips: list[int]
    waves: dict[str, Wave]


def _errors_and_needs(clips: pa.Table) -> Iterator[tuple[list[RowError], int]]:
    return zip(unpack_errors(clips), clips["need"].to_pylist(), strict=True)


class _Member(NamedTuple):
    """A waveform of a group: the clip's position in the batch, and its signal (None as it was decoded)."""

    clip: int
    signal: str | None
    wave: Wave


class _Batch:
    """One batch on its way through a compute stage."""

    def __init__(self, clips: pa.Table) -> None:
        self.clips = clips
        self.need: npt.NDArray[np.int64] = clips["need"].to_numpy()
        self.errors = unpack_errors(clips)
        self.pieces: dict[str, list[Piece]] = {}
        self.seconds: dict[str, npt.NDArray[np.float64]] = {}
        self.kept: dict[str, list[Wave | None]] = {}

    def prepare(self, rate: int, specs: Sequence[BlockSpec]) -> Iterator[_Signals]:
        """Normalize and separate what the specs lack, in groups of equal length and signals, a bounded step each."""
        waves = unpack_waves(self.clips[wave_column(rate)])
        groups: dict[tuple[int, tuple[str, ...]], list[_Member]] = {}
        for i, wave in enumerate(waves):
            missing = missing_signals(int(self.need[i]), specs)
            if wave is not None and missing:
                groups.setdefault((len(wave), missing), []).append(_Member(i, None, wave))
        for (samples, signals), members in groups.items():
            step = max(1, STEP_SAMPLES // samples)
            for first in range(0, len(members), step):
                yield from self._prepare(members[first : first + step], rate, specs, signals)

    def _prepare(
        self, members: list[_Member], rate: int, specs: Sequence[BlockSpec], signals: Sequence[str]
    ) -> Iterator[_Signals]:
        """Prepare signals of clips of one length; where that fails, clip by clip and signal by signal."""
        started = time.perf_counter()
        engine = specs[0].engine
        clips = [member.clip for member in members]
        try:
            waves = prepare.prepare(np.stack([member.wave for member in members]), rate, engine, signals)
            prepared = [_Signals(clips, waves)]
        except Exception:  # noqa: BLE001  which clip and signal it was is found below
            prepared = []
            for member in members:
                own = _Signals([member.clip], {})
                for signal in signals:
                    try:
                        own.waves |= prepare.prepare(member.wave[None], rate, engine, [signal])
                    except Exception as error:  # noqa: BLE001  a clip's failure is a row of the errors table
                        self._fail(
                            member.clip, "prepare", error, [spec for spec in specs if signal in spec.signals], signal
                        )
                prepared.append(own)
        self._spend("prepare", clips, started)
        yield from prepared

    def prepared(self, rate: int) -> Iterator[_Signals]:
        """Signals that an earlier pool prepared, in groups of equal length and equal signals."""
        signals = sorted(wave_signals(self.clips.column_names, rate), key=signal_order)
        columns = {signal: unpack_waves(self.clips[wave_column(rate, signal)]) for signal in signals}
        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for i in range(self.clips.num_rows):
            sizes = tuple((s, len(wave)) for s, waves in columns.items() if (wave := waves[i]) is not None)
            groups.setdefault(sizes, []).append(i)
        for sizes, clips in groups.items():
            stacks = {s: np.stack([wave for i in clips if (wave := columns[s][i]) is not None]) for s, _ in sizes}
            yield _Signals(clips, stacks)

    def compute(self, work: BlockWork, block: FeatureBlock, signals: _Signals) -> None:
        """Add the block's rows for the clips of a group that lack them."""
        members = [
            _Member(clip, signal, wave)
            for signal in work.spec.signals
            if signal in signals.waves
            for clip, wave in zip(signals.clips, signals.waves[signal], strict=True)
            if self.need[clip] & work.spec.bit(signal)
        ]

        def run(some: list[_Member]) -> Piece:
            columns = block.compute(np.stack([member.wave for member in some]))
            clips = np.array([member.clip for member in some], np.int64)
            ids = self.clips["clip_id"].take(clips).to_pylist()
            table = to_table(work.schema, ids, [str(member.signal) for member in some], columns)
            return table, np.repeat(clips, table.num_rows // len(some))

        if not members:
            return
        started = time.perf_counter()
        pieces = self.pieces.setdefault(work.spec.name, [])
        try:
            pieces.append(run(members))
        except Exception:  # noqa: BLE001  which clip it was is found below
            for member in members:
                try:
                    pieces.append(run([member]))
                except Exception as error:  # noqa: BLE001  a clip's failure is a row of the errors table
                    self._fail(member.clip, "compute", error, [work.spec], str(member.signal))
        self._spend(work.spec.name, [member.clip for member in members], started)

    def _fail(self, clip: int, stage: str, error: Exception, specs: Sequence[BlockSpec], signal: str) -> None:
        """Note an error of one signal, for each of the blocks that lack it."""
        lacking = [spec.name for spec in specs if self.need[clip] & spec.bit(signal)]
        self.errors[clip] += [row_error(stage, error)._replace(block=block, signal=signal) for block in lacking]

    def _spend(self, stage: str, clips: Sequence[int], started: float) -> None:
        spent = self.seconds.setdefault(stage, np.zeros(self.clips.num_rows))
        np.add.at(spent, clips, (time.perf_counter() - started) / len(clips))

    def keep(self, rate: int, works: Sequence[BlockWork], signals: _Signals) -> None:
        """Hold on to the prepared signals that later pools need."""
        for signal, waves in signals.waves.items():
            lacking = sum(work.spec.bit(signal) for work in works if signal in work.spec.signals)
            kept = self.kept.setdefault(wave_column(rate, signal), [None] * self.clips.num_rows)
            for clip, wave in zip(signals.clips, waves, strict=True):
                if self.need[clip] & lacking:
                    kept[clip] = wave

    def table(self, settings: ComputeSettings) -> pa.Table:
        """The batch as a table for the next stage: waveforms nothing needs are gone."""
        later = {wave_column(w.sample_rate, s) for w in settings.passes_on for s in w.spec.signals}
        names = [n for n in self.clips.column_names if not n.startswith("wave:") or n in later]
        table = self.clips.select([name for name in names if name != "errors"])
        for name in sorted(later) if settings.prepares else ():
            table = table.append_column(name, pack_waves(self.kept.get(name, [None] * self.clips.num_rows)))
        for work in settings.blocks:
            packed = pack_rows(self.pieces.get(work.spec.name, []), self.clips.num_rows, work.schema)
            table = table.append_column(f"{ROWS}{work.spec.name}", packed)
        stages = [*(["prepare"] if settings.prepares else []), *(work.spec.name for work in settings.blocks)]
        for stage in stages:
            spent = self.seconds.get(stage, np.zeros(self.clips.num_rows))
            table = table.append_column(f"{SECONDS}{stage}", pa.array(spent, pa.float64()))
        return table.append_column("errors", pack_errors(self.errors))
