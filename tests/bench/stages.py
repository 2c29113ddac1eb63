"""The pairs that the benchmark times: the published libraries and the fast engine, on the same clip.

Networks have random weights: what is in them costs no time.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from acoustic_env.audio import prepare
from acoustic_env.audio.decode import resample
from acoustic_env.audio.signals import Engine
from acoustic_env.features.block import Json
from acoustic_env.features.embedders.cnn14 import AudioTagging, Cnn14, Cnn14FrontEnd, PublishedCnn14
from acoustic_env.features.embedders.efficientat import Mn04, Mn04FrontEnd
from acoustic_env.features.embedders.onnx_runtime import OnnxOnCpu
from acoustic_env.features.embedders.panns import published_class
from acoustic_env.features.golden import GOLDEN_SIGNALS
from acoustic_env.features.registry import make_block
from tests.bench.clips import SAMPLE_RATE, BenchClip

NETWORK_RATE = 32_000
LENGTHS = (5.0, 10.0, 20.0, 30.0, 60.0)  # seconds
LENGTH_RUNS = 3
Side = Callable[[BenchClip], object]


@dataclass(frozen=True)
class Timed:
    """Processor seconds of one thread, per clip with its three signals, medians over clips."""

    name: str
    reference_s: float
    fast_s: float
    ratio: float  # median of the clips' ratios


def _engines(side: Callable[[Engine], Side]) -> tuple[Side, Side]:
    return side("reference"), side("fast")


def _decode() -> tuple[Side, Side]:
    import librosa

    def reference(clip: BenchClip) -> object:
        duration = clip.end_s - clip.start_s
        return librosa.load(io.BytesIO(clip.data), sr=SAMPLE_RATE, offset=clip.start_s, duration=duration)

    def fast(clip: BenchClip) -> object:
        return prepare.decode_and_resample(io.BytesIO(clip.data), clip.start_s, clip.end_s, "clip", [SAMPLE_RATE])

    return reference, fast


def _separation() -> tuple[Side, Side]:
    return _engines(lambda engine: lambda clip: prepare.prepare(clip.raw[None], SAMPLE_RATE, engine, GOLDEN_SIGNALS))


def _block(name: str, **options: Json) -> Callable[[], tuple[Side, Side]]:
    def side(engine: Engine) -> Side:
        block = make_block(name, engine, options)
        return lambda clip: [block.compute(waveform[None]) for waveform in clip.signals.values()]

    return lambda: _engines(side)


def _whole() -> tuple[Side, Side]:
    def side(engine: Engine) -> Side:
        blocks = [make_block(name, engine) for name in ("indices", "mps")]

        def run(clip: BenchClip) -> None:
            for waveforms in prepare.prepare(clip.raw[None], SAMPLE_RATE, engine, GOLDEN_SIGNALS).values():
                for block in blocks:
                    block.compute(waveforms)

        return run

    return _engines(side)


def _panns() -> tuple[Side, Side]:
    model: nn.Module = published_class()(NETWORK_RATE, 1024, 320, 64, 50, 14_000, 527).eval()
    published = PublishedCnn14.empty()
    published.load_state_dict(model.state_dict())
    fast = nn.Sequential(Cnn14FrontEnd(published), Cnn14(published, use_winograd=True))
    return _network(AudioTagging(model)), _network(fast)


def _mn04() -> tuple[Side, Side]:
    plain, folded = Mn04().eval(), Mn04()
    folded.load_state_dict(plain.state_dict())
    fast = OnnxOnCpu(folded.fold(), variable_axes=(0, 3))
    reference, ours = (nn.Sequential(Mn04FrontEnd(), network) for network in (plain, fast))
    return _network(reference, step=1), _network(ours, step=1)


def _network(network: nn.Module, step: int = 3) -> Side:
    def side(clip: BenchClip) -> object:
        signals = np.stack([resample(x, SAMPLE_RATE, NETWORK_RATE) for x in clip.signals.values()])
        with torch.inference_mode():
            return [network(some) for some in torch.split(torch.from_numpy(signals), step)]

    return side


DSP = {
    "decode": _decode,
    "separation": _separation,
    "indices": _block("indices"),
    "modulation": _block("mps"),
    "dsp": _whole,
    **{name: _block(name, sample_rate=SAMPLE_RATE) for name in ("logmel", "mfcc", "spectral")},
}
NETWORKS = {"panns": _panns, "mn04": _mn04}


def measure(name: str, make: Callable[[], tuple[Side, Side]], clips: Sequence[BenchClip]) -> Timed:
    """Time each clip by one engine and then by the other; the first clip twice, to warm up."""
    with one_thread():
        reference, fast = make()
        _, *times = [(_seconds(reference, clip), _seconds(fast, clip)) for clip in (clips[0], *clips)]
    ratio = statistics.median(a / b for a, b in times)
    return Timed(name, *(statistics.median(own) for own in zip(*times, strict=True)), ratio)


def measure_lengths(clip: BenchClip) -> dict[float, float]:
    """Return the seconds of the fast engine's whole DSP for a clip cut or repeated to each length."""
    with one_thread():
        _, fast = _whole()
        others = [replace(clip, raw=np.resize(clip.raw, round(s * SAMPLE_RATE)), signals={}) for s in LENGTHS]
        return {s: min(_seconds(fast, own) for _ in range(LENGTH_RUNS)) for s, own in zip(LENGTHS, others, strict=True)}


def _seconds(side: Side, clip: BenchClip) -> float:
    started = time.process_time()
    side(clip)
    return time.process_time() - started


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP and PyTorch to one thread, as in a worker of the job."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
