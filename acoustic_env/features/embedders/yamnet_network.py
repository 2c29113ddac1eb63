"""YAMNet's network: MobileNet v1 on log-mel patches (tensorflow/models, research/audioset/yamnet/yamnet.py).

Batch normalisation is folded into the convolutions, so weights read from a SavedModel and from a tflite file have one
form: layer1.weight, layer1.bias, layerN.depthwise.weight ..., layerN.pointwise.weight ..., classifier.weight, .bias.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from acoustic_env.features.embedders import onednn
from acoustic_env.features.embedders.int8_activations import rounded
from acoustic_env.features.embedders.log_mel import by_steps, on_cpu_in_float32

CLASSES: Final = 521
EMBEDDING: Final = 1024
# (stride, output channels) of layer1, a convolution, and of layer2 to layer14, each depthwise and then pointwise.
LAYERS: Final = (
    (2, 32),
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *((1, 512),) * 5,
    (2, 1024),
    (1, 1024),
)
# Patches at a time: memory stays bounded for recordings of any length, and on a CPU no array is so large that it is
# given back after each layer (`reuse_freed_memory`).
STEP_PATCHES: Final = {"cpu": 64, "cuda": 2048}


class _Convolution(nn.Module):
    """3x3 with TensorFlow's SAME padding, which for a stride of 2 and an even size adds its zeros at the end; ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, *, int8: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, 3, 3))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.stride, self.groups, self.int8 = stride, groups, int8

    def forward(self, x: Tensor) -> Tensor:
        x = rounded(x, (1, 2, 3)) if self.int8 else x
        if on_cpu_in_float32(x):
            return onednn.conv3x3_same_relu(x, self.weight, self.bias, stride=self.stride, groups=self.groups)
        padding = 1
        if self.stride == 2:
            x, padding = F.pad(x, (0, 1, 0, 1)), 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups).relu_()


class _Separable(nn.Module):
    """A depthwise 3x3 and a pointwise 1x1 convolution; the second is a matrix product over channels."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, int8: tuple[bool, bool]) -> None:
        super().__init__()
        self.depthwise = _Convolution(inputs, inputs, stride, groups=inputs, int8=int8[0])
        self.pointwise = nn.Linear(inputs, outputs)
        self.int8 = int8[1]
        self._packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        channels_last = self.depthwise(x).permute(0, 2, 3, 1)
        channels_last = rounded(channels_last, (3,)) if self.int8 else channels_last
        if not on_cpu_in_float32(channels_last):
            mixed: Tensor = self.pointwise(channels_last).relu_()
            return mixed.permute(0, 3, 1, 2)
        if self._packed is None:
            self._packed = onednn.packed(self.pointwise.weight)
        return onednn.linear(channels_last, self._packed, self.pointwise.bias, relu=True).permute(0, 3, 1, 2)


class YamnetNetwork(nn.Module):
    """Patches[clips, patches, 96, 64] to embeddings[clips, patches, 1024] and scores[clips, patches, 521] in [0, 1].

    Args:
        int8: modules whose inputs are rounded to 8 bits, as the tflite interpreter does; none by default.
    """

    def __init__(self, int8: Collection[str] = ()) -> None:
        super().__init__()
        channels = LAYERS[0][1]
        self.layer1 = _Convolution(1, channels, LAYERS[0][0], groups=1)
        for number, (stride, outputs) in enumerate(LAYERS[1:], start=2):
            rounds = f"layer{number}.depthwise" in int8, f"layer{number}.pointwise" in int8
            self.add_module(f"layer{number}", _Separable(channels, outputs, stride, int8=rounds))
            channels = outputs
        self.classifier = nn.Linear(EMBEDDING, CLASSES)
        self.int8 = "classifier" in int8

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = by_steps(self.embed, patches, STEP_PATCHES[patches.device.type])
        features = rounded(embeddings, (2,)) if self.int8 else embeddings
        return embeddings, torch.sigmoid(self.classifier(features).float())

    def embed(self, patches: Tensor) -> Tensor:
        """Patches[n, 96, 64] to embeddings[n, 1024]."""
        x = self.layer1(patches[..., None].permute(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
        for number in range(2, len(LAYERS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        embeddings: Tensor = x.mean((2, 3))
        return embeddings
