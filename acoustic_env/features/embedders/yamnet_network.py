"""YAMNet's network: MobileNet v1 on log-mel patches (tensorflow/models, research/audioset/yamnet/yamnet.py).

Batch normalization is folded into the convolutions, so weights read from a SavedModel and from a tflite file have one
form: layer1.weight, layer1.bias, layerN.depthwise.weight ..., layerN.pointwise.weight ..., classifier.weight, .bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from acoustic_env.features.embedders.log_mel import PatchSteps
from acoustic_env.features.embedders.onnx_runtime import OnnxOnCpu
from acoustic_env.features.embedders.weights import Arrays, fit_arrays

CLASSES: Final = 521
EMBEDDING: Final = 1024
# (stride, output channels) of layer1, a convolution, and of layer2 to layer14, each depthwise and then pointwise.
LAYERS: Final = (
    *((2, 32), (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)),
    *((1, 512),) * 5,
    *((2, 1024), (1, 1024)),
)
# Patches at a time: memory stays bounded for recordings of any length, and on a CPU no array is so large that it is
# given back after each layer (`reuse_freed_memory`).
STEP_PATCHES: Final = {"cpu": 64, "cuda": 2048}


class _Convolution(nn.Conv2d):
    """3x3 with TensorFlow's SAME padding, which for a stride of 2 and an even size adds its zeros at the end; ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__(inputs, outputs, 3, stride, 1 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.stride == (2, 2) else x).relu_()


class _Separable(nn.Module):
    """A depthwise 3x3 and a pointwise 1x1 convolution; the second is a matrix product over channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _Convolution(inputs, inputs, stride, groups=inputs)
        self.pointwise = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.pointwise.weight[:, :, None, None]
        return F.conv2d(self.depthwise(x), weight, self.pointwise.bias).relu_()


class YamnetNetwork(nn.Module):
    """Patches[n, 96, 64] to embeddings[n, 1024] and scores[n, 521] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        channels = LAYERS[0][1]
        self.layer1 = _Convolution(1, channels, LAYERS[0][0], groups=1)
        for number, (stride, outputs) in enumerate(LAYERS[1:], start=2):
            self.add_module(f"layer{number}", _Separable(channels, outputs, stride))
            channels = outputs
        self.classifier = nn.Linear(EMBEDDING, CLASSES)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        x = patches[:, None].contiguous(memory_format=torch.channels_last)
        for number in range(1, len(LAYERS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        embeddings = x.mean((2, 3))
        return embeddings, torch.sigmoid(self.classifier(embeddings).float())


def yamnet(arrays: Arrays, source: str, keep: Callable[[Callable[[], bytes]], bytes] | None = None) -> PatchSteps:
    """Return the network with its weights: patches[clips, patches, 96, 64] to embeddings and scores of each.

    Raises:
        UsageError: the arrays do not fit; names their `source`.
    """
    network = YamnetNetwork()
    fit_arrays(network, arrays, source)
    return PatchSteps(OnnxOnCpu(network.eval(), keep=keep), STEP_PATCHES)
