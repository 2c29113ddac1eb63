"""Activations rounded to 8 bits as the tflite interpreter does on a CPU, to reproduce its numbers.

With int8 weights the interpreter rounds the input of an operator to 256 steps between its smallest and largest value
(always with 0), then multiplies integers: "dynamic range" quantisation. In float32 the products are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x rounded to 256 steps, with one range over the given axes.

    Args:
        x: any shape.
        dims: axes that share a range: all but the first for a convolution of the interpreter's own, the channels for
            a matrix product.
    """
    low, high = x.amin(dims, keepdim=True).clamp(max=0.0), x.amax(dims, keepdim=True).clamp(min=0.0)
    step = ((high - low) / 255.0).clamp(min=1e-30)
    zero = torch.round(-128.0 - low / step)
    return (torch.clamp(torch.round(x / step) + zero, -128.0, 127.0) - zero) * step
