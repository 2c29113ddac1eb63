"""The DSP stages of the benchmark: each with the published libraries and with the fast engine."""

from __future__ import annotations

import io
from collections.abc import Callable

from acoustic_env.audio import prepare
from acoustic_env.audio.signals import Engine
from acoustic_env.bench.clips import SAMPLE_RATE, BenchClip
from acoustic_env.bench.timing import Pair, Side
from acoustic_env.features.block import FeatureBlock
from acoustic_env.features.golden import GOLDEN_SIGNALS
from acoustic_env.features.indices import IndicesBlock
from acoustic_env.features.modulation import ModulationBlock
from acoustic_env.features.registry import make_block


def decode() -> Pair:
    """Decode a file's bytes to 16 kHz mono: `librosa.load`, and ours."""
    import librosa

    def reference(clip: BenchClip) -> object:
        duration = clip.end_s - clip.start_s
        return librosa.load(io.BytesIO(clip.data), sr=SAMPLE_RATE, offset=clip.start_s, duration=duration)

    def fast(clip: BenchClip) -> object:
        return prepare.decode_and_resample(io.BytesIO(clip.data), clip.start_s, clip.end_s, "clip", [SAMPLE_RATE])

    return Pair(reference, fast)


def separation() -> Pair:
    """Normalize and separate a clip into its signals."""
    return _pair(lambda engine: lambda clip: prepare.prepare(clip.raw[None], SAMPLE_RATE, engine, GOLDEN_SIGNALS))


def indices() -> Pair:
    """Compute all 60 indices of each signal."""
    return _pair(lambda engine: _compute(IndicesBlock(engine)))


def modulation() -> Pair:
    """Compute the modulation spectrum of each signal."""
    return _pair(lambda engine: _compute(ModulationBlock(engine)))


def logmel() -> Pair:
    """Compute the log-mel statistics of each signal."""
    return _short_time("logmel")


def mfcc() -> Pair:
    """Compute the MFCC statistics of each signal."""
    return _short_time("mfcc")


def spectral() -> Pair:
    """Compute the spectral statistics of each signal."""
    return _short_time("spectral")


def _short_time(block: str) -> Pair:
    return _pair(lambda engine: _compute(make_block(block, engine, {"sample_rate": SAMPLE_RATE})))


def dsp() -> Pair:
    """Compute all of it: separation, 60 indices and modulation spectrum of each signal."""

    def side(engine: Engine) -> Side:
        blocks = (IndicesBlock(engine), ModulationBlock(engine))

        def run(clip: BenchClip) -> None:
            for waveforms in prepare.prepare(clip.raw[None], SAMPLE_RATE, engine, GOLDEN_SIGNALS).values():
                for block in blocks:
                    block.compute(waveforms)

        return run

    return _pair(side)


def _pair(side: Callable[[Engine], Side]) -> Pair:
    return Pair(side("reference"), side("fast"))


def _compute(block: FeatureBlock) -> Side:
    return lambda clip: [block.compute(waveform[None]) for waveform in clip.signals.values()]
