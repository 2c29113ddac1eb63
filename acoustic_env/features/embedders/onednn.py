"""Layers in float32 on a CPU with their ReLU in the same pass, by the oneDNN operators that torch.compile puts in.

`torch.nn.functional.linear` goes through MKL, which is here 1.1 to 1.6 times slower than oneDNN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own name for it
from torch import Tensor


def packed(weight: Tensor) -> Tensor:
    """Weights [outputs, inputs] in the order oneDNN computes with, for `linear`; a copy."""
    if not _available():
        return weight
    order: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return order


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """x Wᵀ + bias, then its ReLU if asked for.

    Args:
        x: float32[..., inputs] on a CPU.
        weight: float32[outputs, inputs], or from `packed`.
        bias: float32[outputs].
        relu: whether to take the ReLU.
    """
    if not _available():
        y = F.linear(x, weight, bias)
        return y.relu_() if relu else y
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
    return product


def conv3x3_same_relu(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, groups: int) -> Tensor:
    """ReLU of a 3x3 convolution with TensorFlow's SAME padding.

    For a stride of 2 and an even size that is zeros at the end only. A kernel of 4x4 whose first row and column are
    zero does the same with zeros on both sides, and spares a padded copy of x, which costs more than the convolution.

    Args:
        x: float32[images, inputs, height, width] on a CPU; height and width even for a stride of 2.
        weight: float32[outputs, inputs // groups, 3, 3].
        bias: float32[outputs].
        stride: 1 or 2.
        groups: of channels.
    """
    kernel = F.pad(weight, (1, 0, 1, 0)) if stride == 2 else weight
    if not _available():
        return F.conv2d(x, kernel, bias, stride, 1, groups=groups).relu_()
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, kernel, bias, [1] * 2, [stride] * 2, [1, 1], groups, "relu", [], ""
    )
    return result


def _available() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
