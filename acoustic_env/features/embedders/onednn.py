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


def conv3x3_relu(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, padding: int, groups: int) -> Tensor:
    """relu(conv2d(x, weight, bias, stride, padding, groups=groups)) of float32 tensors on a CPU."""
    if not _available():
        return F.conv2d(x, weight, bias, stride, padding, groups=groups).relu_()
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups, "relu", [], ""
    )
    return result


def _available() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
