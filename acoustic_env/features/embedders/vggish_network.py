"""VGGish's network (tensorflow/models, research/audioset/vggish/vggish_slim.py), up to the embedding layer."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor, nn

from acoustic_env.features.embedders.log_mel import PatchSteps
from acoustic_env.features.embedders.weights import Arrays, fit_arrays
from acoustic_env.features.embedders.winograd_4x4 import conv3x3_relu, transform_kernel

EMBEDDING: Final = 128
# (name, inputs, outputs, whether 2x2 maxima follow) of the 3x3 convolutions.
CONVOLUTIONS: Final = (
    ("conv1", 1, 64, True),
    ("conv2", 64, 128, True),
    ("conv3_1", 128, 256, False),
    ("conv3_2", 256, 256, True),
    ("conv4_1", 256, 512, False),
    ("conv4_2", 512, 512, True),
)
# (name, inputs, outputs) of the dense layers; the first reads [6, 4, 512] row by row.
DENSE: Final = (("fc1_1", 6 * 4 * 512, 4096), ("fc1_2", 4096, 4096), ("fc2", 4096, EMBEDDING))
# The maps of the first two convolutions are the largest: few patches at a time, and they stay in a CPU's caches.
EARLY_PATCHES: Final = 4
STEP_PATCHES: Final = {"cpu": 40, "cuda": 1024}


class VggishNetwork(nn.Module):
    """Patches[n, 96, 64] to embeddings[n, 128], before any activation.

    Args:
        final_relu: the first edition of the published network ended in a ReLU; later ones do not.
    """

    def __init__(self, *, final_relu: bool = False) -> None:
        super().__init__()
        self.final_relu = final_relu
        self.convolutions = nn.ModuleDict({name: nn.Conv2d(i, o, 3, padding=1) for name, i, o, _ in CONVOLUTIONS})
        self.dense = nn.ModuleDict({name: nn.Linear(i, o) for name, i, o in DENSE})
        self._kernels: dict[str, Tensor] = {}

    def forward(self, patches: Tensor) -> tuple[Tensor, None]:
        winograd = patches.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        x = (self._winograd(patches[:, None]) if winograd else self._direct(patches[:, None])).flatten(1)
        for name, _, outputs in DENSE:
            x = self.dense[name](x)
            x = x.relu_() if outputs != EMBEDDING or self.final_relu else x
        return x, None

    def _direct(self, x: Tensor) -> Tensor:
        """Map [n, 1, 96, 64] to [n, 6, 4, 512] with the library's convolutions."""
        x = x.contiguous(memory_format=torch.channels_last)
        for name, _, _, pooled in CONVOLUTIONS:
            x = self.convolutions[name](x).relu_()
            x = F.max_pool2d(x, 2) if pooled else x
        return x.permute(0, 2, 3, 1)

    def _winograd(self, x: Tensor) -> Tensor:
        """As `_direct`, with Winograd convolution for all but the first convolution."""
        weight = self.get_parameter("convolutions.conv1.weight").to(memory_format=torch.channels_last)
        bias = self.get_parameter("convolutions.conv1.bias")
        early: list[Tensor] = []
        for piece in torch.split(x, EARLY_PATCHES):
            y = F.max_pool2d(F.conv2d(piece, weight, bias, padding=1).relu_(), 2)
            early.append(self._filtered("conv2", y.permute(0, 2, 3, 1), pooled=True))
        x = torch.cat(early)
        for name, _, _, pooled in CONVOLUTIONS[2:]:
            x = self._filtered(name, x, pooled=pooled)
        return x

    def _filtered(self, name: str, x: Tensor, *, pooled: bool) -> Tensor:
        if name not in self._kernels:
            self._kernels[name] = transform_kernel(self.get_parameter(f"convolutions.{name}.weight"))
        return conv3x3_relu(x, self._kernels[name], self.get_parameter(f"convolutions.{name}.bias"), halve=pooled)


def vggish(arrays: Arrays, source: str, *, final_relu: bool) -> PatchSteps:
    """Return the network with its weights: patches[clips, patches, 96, 64] to an embedding of each.

    Raises:
        UsageError: the arrays do not fit.
    """
    network = VggishNetwork(final_relu=final_relu)
    fit_arrays(network, arrays, source)
    return PatchSteps(network, STEP_PATCHES)
