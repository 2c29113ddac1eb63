"""The benchmark's stage `gpu`: the throughput of a GPU, and the CPU cores that keep it busy.

The job gives a GPU the modulation spectrum and the networks; CPUs decode, separate and compute the indices. A GPU part
is timed by the wall, from samples in host memory to numbers there, in batches; a CPU part in processor seconds. The
networks are those of the fast engine in float32 with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from acoustic_env.audio.decode import resample
from acoustic_env.bench.clips import SAMPLE_RATE, BenchClip
from acoustic_env.bench.timing import cpu_seconds, one_thread, wall_seconds
from acoustic_env.features.modulation import ModulationBlock

GPU_CLIPS: Final = 64
BATCH: Final = 64  # waveforms that a network takes at once
RUNS: Final = 3

Waves = npt.NDArray[np.float32]
Part = Callable[[Waves], object]


@dataclass(frozen=True)
class GpuPart:
    """One part of the work on a clip, its three signals."""

    part: str
    place: Literal["gpu", "cpu"]
    s_per_clip: float


@dataclass(frozen=True)
class GpuRate:
    """The throughput of a GPU that does nothing but these parts."""

    parts: tuple[str, ...]  # on the GPU
    clips_per_second: float  # of the GPU alone
    decode_cores: float  # CPU cores that decode as many clips
    dsp_cores: float  # CPU cores that separate as many clips and compute their indices


@dataclass(frozen=True)
class GpuResult:
    """All parts, and the two rates that follow: the DSP alone, and the DSP with all networks."""

    device: str
    parts: tuple[GpuPart, ...]
    dsp: GpuRate
    dsp_and_networks: GpuRate


def has_gpu() -> bool:
    """Return whether PyTorch sees a GPU here."""
    import torch

    return torch.cuda.is_available()


def measure_gpu(sample: Sequence[BenchClip], device: str, log: Callable[[str], None]) -> GpuResult:
    """Time every part with clips of one length on a device, "cuda" ("cpu" computes the same there)."""
    import torch

    repeated = [sample[i % len(sample)] for i in range(GPU_CLIPS)]
    waves = np.stack([signal for clip in repeated for signal in clip.signals.values()])
    with one_thread():  # as in a worker
        parts = [GpuPart(name, "cpu", each) for name, each in _cpu_parts(sample)]
        for name, run in _gpu_parts(device):
            log(f"{name} on {device}")
            run(waves[:3])  # warm-up: memory and kernels are chosen
            parts.append(GpuPart(name, "gpu", min(wall_seconds(partial(run, waves)) for _ in range(RUNS)) / GPU_CLIPS))
    place = torch.cuda.get_device_name() if device == "cuda" else device
    on_gpu = tuple(part.part for part in parts if part.place == "gpu")
    return GpuResult(place, tuple(parts), _rate(parts, ("modulation",)), _rate(parts, on_gpu))


def _rate(parts: Sequence[GpuPart], on_gpu: tuple[str, ...]) -> GpuRate:
    each = {part.part: part.s_per_clip for part in parts}
    rate = 1 / sum(each[name] for name in on_gpu)
    return GpuRate(on_gpu, rate, rate * each["decode"], rate * (each["separation"] + each["indices"]))


def _cpu_parts(sample: Sequence[BenchClip]) -> Iterator[tuple[str, float]]:
    from acoustic_env.bench import dsp

    for name, make in (("decode", dsp.decode), ("separation", dsp.separation), ("indices", dsp.indices)):
        side = make().fast
        side(sample[0])
        yield name, sum(cpu_seconds(side, clip) for clip in sample) / len(sample)


def _gpu_parts(device: str) -> Iterator[tuple[str, Part]]:
    """The name of each part, and the part as a function of waveforms [clips x signals, samples]."""
    from acoustic_env.bench.tagging import NETWORK_RATE, random_cnn14
    from acoustic_env.features.embedders import vggish, vggish_network, yamnet_network, yamnet_weights
    from acoustic_env.features.embedders.cnn14 import Cnn14, Cnn14FrontEnd
    from acoustic_env.features.embedders.efficientat import Mn04, Mn04FrontEnd
    from acoustic_env.features.embedders.log_mel import LogMelPatches, PatchSteps
    from acoustic_env.features.embedders.weights_registry import VGGISH_FRONT_END, YAMNET_FRONT_END

    block = ModulationBlock("fast")
    block.load(device)
    yield "modulation", block.compute
    front_end = LogMelPatches(VGGISH_FRONT_END, vggish.LOG_OFFSET, pads=False)
    network = PatchSteps(vggish_network.VggishNetwork(), vggish_network.STEP_PATCHES)
    yield "vggish", _network(front_end, network, SAMPLE_RATE, device)
    front_end = LogMelPatches(YAMNET_FRONT_END, yamnet_weights.LOG_OFFSET, pads=True)
    network = PatchSteps(yamnet_network.YamnetNetwork(), yamnet_network.STEP_PATCHES)
    yield "yamnet", _network(front_end, network, SAMPLE_RATE, device)
    published = random_cnn14()[1]
    cnn14 = Cnn14(published, use_winograd=device == "cpu")
    yield "panns", _network(Cnn14FrontEnd(published), cnn14, NETWORK_RATE, device)
    yield "mn04", _network(Mn04FrontEnd(), Mn04().eval().fold(), NETWORK_RATE, device)


def _network(front_end: Any, network: Any, rate: int, device: str) -> Part:
    """Return a function that resamples, sends and computes waveforms in batches, as an embedder does."""
    import torch

    from acoustic_env.features.embedders.contract import float32_products

    modules = torch.nn.Sequential(front_end, network).to(device).eval().requires_grad_(False)

    def run(waves: Waves) -> None:
        with torch.inference_mode(), float32_products(tf32=False):
            for first in range(0, len(waves), BATCH):
                some = [resample(wave, SAMPLE_RATE, rate) for wave in waves[first : first + BATCH]]
                embeddings, _ = modules(torch.from_numpy(np.stack(some)).to(device))
                embeddings.cpu()

    return run
