"""The DSP stages of the benchmark: each with the published libraries and with the fast engine."""

from __future__ import annotations

import io
from collections.abc import Callable

from acoustic_env.audio import prepare
from acoustic_env.audio.signals import Engine
from acoustic_env.bench.clips import SAMPLE_RATE, BenchClip
from acoustic_env.bench.timing import Pair, Side
from acoustic_env.features.block import Json
from acoustic_env.features.golden import GOLDEN_SIGNALS
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


def _block(name: str, **options: Json) -> Callable[[], Pair]:
    """Return a stage that computes a block of each signal."""

    def side(engine: Engine) -> Side:
        block = make_block(name, engine, options)
        return lambda clip: [block.compute(waveform[None]) for waveform in clip.signals.values()]

    return lambda: _pair(side)


indices = _block("indices")
modulation = _block("mps")
logmel = _block("logmel", sample_rate=SAMPLE_RATE)
mfcc = _block("mfcc", sample_rate=SAMPLE_RATE)
spectral = _block("spectral", sample_rate=SAMPLE_RATE)


def dsp() -> Pair:
    """Compute all of it: separation, 60 indices and modulation spectrum of each signal."""

    def side(engine: Engine) -> Side:
        blocks = [make_block(name, engine) for name in ("indices", "mps")]

        def run(clip: BenchClip) -> None:
            for waveforms in prepare.prepare(clip.raw[None], SAMPLE_RATE, engine, GOLDEN_SIGNALS).values():
                for block in blocks:
                    block.compute(waveforms)

        return run

    return _pair(side)


def _pair(side: Callable[[Engine], Side]) -> Pair:
    return Pair(side("reference"), side("fast"))
