"""The two sides of the benchmark's stages `panns` and `mn04`, with random weights: what is in them costs no time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from acoustic_env.audio.decode import resample
from acoustic_env.bench.clips import SAMPLE_RATE, BenchClip
from acoustic_env.bench.timing import Pair
from acoustic_env.features.embedders.cnn14 import AudioTagging, Cnn14, Cnn14FrontEnd, PublishedCnn14
from acoustic_env.features.embedders.efficientat import Mn04, Mn04FrontEnd
from acoustic_env.features.embedders.onnx_runtime import OnnxOnCpu
from acoustic_env.features.embedders.panns import published_class

NETWORK_RATE = 32_000


def panns() -> Pair:
    """CNN14 on a clip's three signals, from waveform to embedding: panns-inference's model class, and ours."""
    model, published = random_cnn14()
    fast = nn.Sequential(Cnn14FrontEnd(published), Cnn14(published, use_winograd=True))
    return Pair(_run(AudioTagging(model)), _run(fast))


def random_cnn14() -> tuple[nn.Module, PublishedCnn14]:
    """panns-inference's model, and its weights as ours are made of."""
    model: nn.Module = published_class()(NETWORK_RATE, 1024, 320, 64, 50, 14_000, 527).eval()
    published = PublishedCnn14.empty()
    published.load_state_dict(model.state_dict())
    return model, published


def mn04() -> Pair:
    """mn04 likewise: its authors' layers as they define them, clip by clip, and as we run them."""
    plain, folded = Mn04().eval(), Mn04()
    folded.load_state_dict(plain.state_dict())
    fast = OnnxOnCpu(folded.fold(), variable_axes=(0, 3))
    sides = (nn.Sequential(Mn04FrontEnd(), network) for network in (plain, fast))
    return Pair(*(_run(side, step=1) for side in sides))


def _run(network: nn.Module, step: int = 3) -> Callable[[BenchClip], object]:
    def side(clip: BenchClip) -> object:
        signals = np.stack([resample(x, SAMPLE_RATE, NETWORK_RATE) for x in clip.signals.values()])
        with torch.inference_mode():
            return [network(some) for some in torch.split(torch.from_numpy(signals), step)]

    return side
