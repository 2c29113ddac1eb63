"""CNN14 of PANNs in PyTorch: the published front end and network, arranged for speed, from the published tensors.

Kong et al. 2020, "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition"
(arXiv:1912.10211); checkpoints and model class by its authors (panns-inference, `models.Cnn14`). Differences from that
class, none of which changes what is computed: a real FFT in place of two convolutions with DFT matrices, batch
normalization folded into the convolutions, channels last, and on CPUs Winograd convolution (`winograd`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from acoustic_env.features.embedders.spectrogram import power_spectrogram
from acoustic_env.features.embedders.weights_registry import CNN14_FRONT_END
from acoustic_env.features.embedders.winograd import conv3x3_relu, transform_kernel

WINDOW: Final = CNN14_FRONT_END.window
HOP: Final = CNN14_FRONT_END.hop
MEL_BANDS: Final = CNN14_FRONT_END.mel_bands
CHANNELS: Final = (1, 64, 128, 256, 512, 1024, 2048)
EMBEDDING: Final = 2048
CLASSES: Final = 527
# Clips whose spectrum is taken at a time: what fits a CPU's caches, and 130 MB of a GPU's memory.
SPECTRUM_CLIPS: Final = {"cpu": 1, "cuda": 16}
# The first two blocks' maps are larger than a CPU's caches: there, one clip at a time is faster.
EARLY: Final = 4


class PublishedCnn14(nn.Module):
    """The tensors of a published CNN14 checkpoint under their published names and in their shapes; computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrogram_extractor = nn.Module()
        self.spectrogram_extractor.stft = nn.Module()
        for name in ("conv_real", "conv_imag"):
            self.spectrogram_extractor.stft.add_module(name, nn.Conv1d(1, WINDOW // 2 + 1, WINDOW, bias=False))
        self.logmel_extractor = nn.Module()
        self.logmel_extractor.melW = nn.Parameter(torch.empty(WINDOW // 2 + 1, MEL_BANDS))
        self.bn0 = nn.BatchNorm2d(MEL_BANDS)
        for block, (inputs, outputs) in enumerate(pairwise(CHANNELS), start=1):
            self.add_module(f"conv_block{block}", _PublishedBlock(inputs, outputs))
        self.fc1 = nn.Linear(CHANNELS[-1], EMBEDDING)
        self.fc_audioset = nn.Linear(EMBEDDING, CLASSES)

    @classmethod
    def empty(cls) -> PublishedCnn14:
        """Build it without the time that initializing 80 million numbers takes; the tensors hold anything."""
        with torch.device("meta"):
            module = cls()
        return module.to_empty(device="cpu").eval()

    def blocks(self) -> list[_PublishedBlock]:
        """Return the six blocks of two convolutions."""
        return [block for block in self.children() if isinstance(block, _PublishedBlock)]


class _PublishedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.bn2 = nn.BatchNorm2d(outputs)


class Cnn14FrontEnd(nn.Module):
    """Log mel spectrogram as torchlibrosa computes it: waveforms[clips, samples] -> decibels[clips, frames, 64].

    Window and mel weights are the checkpoint's. The spectrum is taken in float64: a float32 FFT spreads its rounding
    over all bands, and the quietest, 80 dB below the loudest, would differ by more than 1e-5.
    """

    window: Tensor
    mel: Tensor

    def __init__(self, published: PublishedCnn14) -> None:
        super().__init__()
        real = published.spectrogram_extractor.get_parameter("stft.conv_real.weight")
        self.register_buffer("window", real[0, 0].detach().double())  # the DFT's first row is the window itself
        self.register_buffer("mel", published.logmel_extractor.get_parameter("melW").detach().clone())

    def forward(self, waveforms: Tensor) -> Tensor:
        pieces: tuple[Tensor, ...] = torch.split(waveforms, SPECTRUM_CLIPS[waveforms.device.type])
        mel = [power_spectrogram(piece.double(), self.window, HOP).float() @ self.mel for piece in pieces]
        return torch.cat(mel).clamp_min_(1e-10).log10_().mul_(10.0)


class Cnn14(nn.Module):
    """The network: decibels[clips, frames, 64] -> (embeddings[clips, 1, 2048], probabilities[clips, 1, 527]).

    CNN14 pools over time before its embedding layer, so a clip has one embedding.

    Args:
        published: with the weights loaded.
        use_winograd: for a CPU in float32.
        dtype: of the convolutions' weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, published: PublishedCnn14, *, use_winograd: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        norm = published.bn0
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach())
        layers: list[nn.Module] = []
        blocks = published.blocks()
        for block in blocks:
            # One input channel has nothing to save.
            layer = _FilteredConvolution if use_winograd and block is not blocks[0] else _Convolution
            first, second = (block.conv1, block.bn1), (block.conv2, block.bn2)
            layers.append(layer(fuse_conv_bn_eval(*first).to(dtype), halve=False))
            layers.append(layer(fuse_conv_bn_eval(*second).to(dtype), halve=block is not blocks[-1]))
        self.early, self.late = nn.Sequential(*layers[:EARLY]), nn.Sequential(*layers[EARLY:])
        self.early_by_clip = use_winograd
        self.fc1, self.fc_audioset = published.fc1, published.fc_audioset

    def forward(self, decibels: Tensor) -> tuple[Tensor, Tensor]:
        x = decibels * self.scale + self.shift
        pieces: tuple[Tensor, ...] = torch.split(x[..., None], 1 if self.early_by_clip else len(x))
        x = self.late(torch.cat([self.early(piece) for piece in pieces])).float().mean(2)
        with torch.autocast(x.device.type, enabled=False):
            embeddings = functional.relu_(self.fc1(x.amax(1) + x.mean(1)))
            probabilities = torch.sigmoid(self.fc_audioset(embeddings))
        return embeddings[:, None], probabilities[:, None]


class AudioTagging(nn.Module):
    """panns-inference's model class, called as that library's AudioTagging does, with the outputs of `Cnn14`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(waveforms, None)
        return output["embedding"][:, None], output["clipwise_output"][:, None]


class _Convolution(nn.Module):
    """relu(convolution), then 2x2 averages if `halve`: [clips, time, mel, channels] both ways."""

    def __init__(self, conv: nn.Conv2d, halve: bool) -> None:
        super().__init__()
        self.conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu_(self.conv(x.permute(0, 3, 1, 2)))
        return (functional.avg_pool2d(y, 2) if self.halve else y).permute(0, 2, 3, 1)


class _FilteredConvolution(nn.Module):
    """As `_Convolution`, by Winograd convolution."""

    kernel: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, halve: bool) -> None:
        super().__init__()
        assert conv.bias is not None
        self.register_buffer("kernel", transform_kernel(conv.weight.detach()))
        self.register_buffer("bias", conv.bias.detach())
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3_relu(x.contiguous(), self.kernel, self.bias, halve=self.halve)
