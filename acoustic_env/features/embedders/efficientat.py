"""mn04 of EfficientAT in PyTorch: a MobileNetV3 of width 0.4 with 993,485 parameters, from the published tensors.

Schmid, Koutini and Widmer 2023, "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation"
(arXiv:2211.04772); checkpoint and definition by its authors (fschmid56/EfficientAT, MIT: models/mn and
models/preprocess.py in evaluation mode). Differences, none of which changes what is computed: batch normalization is
folded into the convolutions, and the squeeze-and-excitation over channels stands alone, without the maximum over one.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from acoustic_env.features.embedders.spectrogram import power_spectrogram
from acoustic_env.features.embedders.weights_registry import MN04_FRONT_END

PREEMPHASIS: Final = 0.97
EMBEDDING: Final = 384
HIDDEN: Final = 512
CLASSES: Final = 527


class _Bottleneck(NamedTuple):
    """One inverted residual: Howard et al. 2019 (arXiv:1905.02244), table 1, channels times 0.4 to multiples of 8."""

    kernel: int
    expanded: int
    outputs: int
    excited: bool
    activation: type[nn.ReLU] | type[nn.Hardswish]
    stride: int


STEM: Final = 8
BOTTLENECKS: Final = (
    _Bottleneck(3, 8, 8, False, nn.ReLU, 1),
    _Bottleneck(3, 24, 16, False, nn.ReLU, 2),
    _Bottleneck(3, 32, 16, False, nn.ReLU, 1),
    _Bottleneck(5, 32, 16, True, nn.ReLU, 2),
    _Bottleneck(5, 48, 16, True, nn.ReLU, 1),
    _Bottleneck(5, 48, 16, True, nn.ReLU, 1),
    _Bottleneck(3, 96, 32, False, nn.Hardswish, 2),
    _Bottleneck(3, 80, 32, False, nn.Hardswish, 1),
    _Bottleneck(3, 72, 32, False, nn.Hardswish, 1),
    _Bottleneck(3, 72, 32, False, nn.Hardswish, 1),
    _Bottleneck(3, 192, 48, True, nn.Hardswish, 1),
    _Bottleneck(3, 272, 48, True, nn.Hardswish, 1),
    _Bottleneck(5, 272, 64, True, nn.Hardswish, 2),
    _Bottleneck(5, 384, 64, True, nn.Hardswish, 1),
    _Bottleneck(5, 384, 64, True, nn.Hardswish, 1),
)
# Squeezed channels: a quarter, to a multiple of 8.
SQUEEZED: Final = {32: 8, 48: 16, 192: 48, 272: 72, 384: 96}


def kaldi_mel_weights(bands: int, fft: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Compute triangles of equal height on Kaldi's mel scale, 1127 ln(1 + f/700), as torchaudio's get_mel_banks.

    Triangles are straight in mel, not in Hz; the bin at half the sample rate belongs to none. Computed in float32, as
    there: its rounding, up to 2e-5 of a triangle's height, is part of what the network was trained on.

    Returns:
        float32[bands, fft // 2 + 1].

    >>> kaldi_mel_weights(128, 1024, 32_000, 0.0, 15_000.0).shape
    torch.Size([128, 513])
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    edges = low + torch.arange(bands + 2)[:, None] * ((high - low) / (bands + 1))
    bins = 1127.0 * (1.0 + sample_rate / fft * torch.arange(fft // 2) / 700.0).log()
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return functional.pad(torch.minimum(rising, falling).clamp_min(0.0), (0, 1))


class Mn04FrontEnd(nn.Module):
    """Normalized log mel spectrogram: waveforms[clips, samples] -> [clips, 1, 128 mel bands, frames]."""

    window: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        end = MN04_FRONT_END
        edge = (end.fft - end.window) // 2
        self.register_buffer("window", functional.pad(torch.hann_window(end.window, periodic=False), (edge, edge)))
        mel = kaldi_mel_weights(end.mel_bands, end.fft, end.sample_rate, end.low_hz, end.high_hz)
        self.register_buffer("mel", mel.T.contiguous())

    def forward(self, waveforms: Tensor) -> Tensor:
        emphasised = waveforms[:, 1:] - PREEMPHASIS * waveforms[:, :-1]
        mel = power_spectrogram(emphasised, self.window, MN04_FRONT_END.hop) @ self.mel
        return mel.add_(1e-5).log_().add_(4.5).div_(5.0).transpose(1, 2)[:, None]


class Mn04(nn.Module):
    """The network under its published names: spectrogram[clips, 1, 128, frames] -> (embeddings, scores).

    The embedding is the last feature map's mean over frequency and time. By the frame, a step of 32 spectrogram
    frames (0.32 s), it is the mean over frequency, and the classifier is applied to every step.

    Args:
        per_frame: whether to give [clips, steps, 384] and [clips, steps, 527], or one step for the clip.
    """

    def __init__(self, *, per_frame: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [_NormedConvolution(1, STEM, 3, stride=2, activation=nn.Hardswish)]
        inputs = STEM
        for setting in BOTTLENECKS:
            layers.append(_InvertedResidual(inputs, setting))
            inputs = setting.outputs
        layers.append(_NormedConvolution(inputs, EMBEDDING, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.ModuleDict({"2": nn.Linear(EMBEDDING, HIDDEN), "5": nn.Linear(HIDDEN, CLASSES)})
        self.per_frame = per_frame

    def fold(self) -> Mn04:
        """Fold batch normalization into the convolutions, for inference; returns the network itself."""
        self.eval()
        for module in self.modules():
            if isinstance(module, _NormedConvolution):
                module.fold()
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.features(spectrogram).float()
        with torch.autocast(maps.device.type, enabled=False):
            pooled = maps.mean(2) if self.per_frame else maps.mean((2, 3))[:, :, None]
            embeddings = pooled.transpose(1, 2)
            hidden = functional.hardswish(self.classifier["2"](embeddings))
            return embeddings, torch.sigmoid(self.classifier["5"](hidden))


class _NormedConvolution(nn.Sequential):
    """Convolution of the same size, batch normalization, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.ReLU] | type[nn.Hardswish] | None = None,
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs, eps=0.001))
        if activation is not None:
            self.append(activation(inplace=True))

    def fold(self) -> None:
        """Make one of convolution and normalization; once, after the weights are loaded."""
        conv, norm = self[0], self[1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        self[0], self[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


class _SqueezeExcitation(nn.Module):
    """Channels scaled by what their means over frequency and time say: Hu et al. 2018 (arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = {"fc1": nn.Linear(channels, SQUEEZED[channels]), "fc2": nn.Linear(SQUEEZED[channels], channels)}
        self.conc_se_layers = nn.ModuleList([nn.ModuleDict(layers)])

    def forward(self, x: Tensor) -> Tensor:
        layers = self.conc_se_layers[0]
        squeezed = functional.relu(layers.get_submodule("fc1")(x.mean((2, 3))))
        return x * torch.sigmoid(layers.get_submodule("fc2")(squeezed))[:, :, None, None]


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, excite, narrow; the input is added where shapes allow."""

    def __init__(self, inputs: int, setting: _Bottleneck) -> None:
        super().__init__()
        wide, activation = setting.expanded, setting.activation
        layers: list[nn.Module] = []
        if wide != inputs:
            layers.append(_NormedConvolution(inputs, wide, 1, activation=activation))
        depthwise = _NormedConvolution(
            wide, wide, setting.kernel, stride=setting.stride, groups=wide, activation=activation
        )
        layers.append(depthwise)
        if setting.excited:
            layers.append(_SqueezeExcitation(wide))
        layers.append(_NormedConvolution(wide, setting.outputs, 1))
        self.block = nn.Sequential(*layers)
        self.residual = setting.stride == 1 and inputs == setting.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y
