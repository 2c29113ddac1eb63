"""3x3 convolution on a CPU by Winograd minimal filtering F(4x4, 3x3): 4 times fewer multiplications than directly.

Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), section 4.3: every tile of
6x6 inputs gives 4x4 outputs as Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A. Against `winograd`, F(2x2, 3x3), it needs maps of whole 4x4
tiles and rounds more: in float32 within 1e-5 of the largest output in VGGish's layers.

On a GPU, cuDNN has its own; this is for CPUs, where PyTorch's convolution is a direct one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

# Tiles transformed at a time: the slices stay in the caches, and the matrix products are still tall enough.
CHUNK_TILES: Final = 192
# Column 1 of Aᵀ is all ones: what is added to place (1, 1) of a tile is added to all its outputs.
BIAS_PLACE: Final = 1 * 6 + 1


def transform_kernel(weight: Tensor) -> Tensor:
    """Compute G g Gᵀ of kernels [outputs, inputs, 3, 3]: float32[36, inputs, outputs], place in the 6x6 tile first.

    >>> transform_kernel(torch.ones(8, 3, 3, 3)).shape
    torch.Size([36, 3, 8])
    """
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    g = torch.tensor(rows, dtype=torch.float64) / 24
    outputs, inputs = weight.shape[:2]
    transformed = torch.kron(g, g) @ weight.detach().double().reshape(-1, 9).T
    return transformed.to(weight.dtype).view(36, outputs, inputs).transpose(1, 2).contiguous()


def conv3x3_relu(x: Tensor, kernel: Tensor, bias: Tensor, *, halve: bool) -> Tensor:
    """Compute relu(conv(x) + bias) with zero padding 1, and with `halve` its 2x2 maxima.

    Args:
        x: float32[maps, height, width, inputs], height and width multiples of 4.
        kernel: from `transform_kernel`.
        bias: float32[outputs].
        halve: whether to take 2x2 maxima, as `max_pool2d(2)` does.

    Returns:
        float32[maps, height, width, outputs], or of half height and width.

    Raises:
        ValueError: height or width is not a multiple of 4.

    >>> generator = torch.Generator().manual_seed(23)
    >>> x, weight = torch.randn(1, 8, 8, 3, generator=generator), torch.randn(8, 3, 3, 3, generator=generator)
    >>> found = conv3x3_relu(x, transform_kernel(weight), torch.zeros(8), halve=True)
    >>> direct = functional.max_pool2d(functional.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).relu(), 2)
    >>> found.shape, torch.allclose(found, direct.permute(0, 2, 3, 1), atol=1e-4)
    (torch.Size([1, 4, 4, 8]), True)
    """
    maps, height, width, inputs = x.shape
    if height % 4 or width % 4:
        raise ValueError(f"maps of {height}x{width} are not made of whole 4x4 tiles")
    outputs = kernel.shape[2]
    padded = functional.pad(x, (0, 0, 1, 1, 1, 1))
    y = x.new_empty(maps, height // 2, width // 2, outputs) if halve else x.new_empty(maps, height, width, outputs)
    rows, columns = height // 4, width // 4
    step = min(maps, max(1, CHUNK_TILES // (rows * columns)))
    # Used again for every chunk: memory fresh from the system would cost more than the arithmetic.
    along_height = x.new_empty(6 * step * rows * (width + 2) * inputs)
    transformed = x.new_empty(36 * step * rows * columns * inputs)
    products, results = (x.new_empty(places * step * rows * columns * outputs) for places in (36, 16))
    output_matrix = _output_matrix(x)
    for first in range(0, maps, step):
        some = padded[first : first + step]
        count, tiles = len(some), len(some) * rows * columns
        d = _part(transformed, 6, 6, count, rows, columns, inputs)
        _transform_input(some, _part(along_height, 6, count, rows, width + 2, inputs), d)
        d, m = d.view(36, tiles, inputs), _part(products, 36, tiles, outputs)
        for place in range(36):  # faster than one batched product
            if place == BIAS_PLACE:
                torch.addmm(bias, d[place], kernel[place], out=m[place])
            else:
                torch.mm(d[place], kernel[place], out=m[place])
        result = torch.mm(output_matrix, m.view(36, -1), out=_part(results, 16, tiles * outputs))
        store = _store_maxima if halve else _store
        store(result.view(4, 4, count, rows, columns, outputs), y[first : first + step])
    return y


def _part(room: Tensor, *shape: int) -> Tensor:
    """Return the beginning of flat room in a shape."""
    return room[: math.prod(shape)].view(shape)


def _transform_input(x: Tensor, along_height: Tensor, out: Tensor) -> None:
    """Compute Bᵀ d B of every tile of x [maps, 4 rows + 2, 4 columns + 2, c] in out [6, 6, maps, rows, columns, c].

    `along_height` is room for Bᵀ d, [6, maps, rows, 4 columns + 2, c].
    """
    rows, columns = out.shape[3:5]
    _combine_inputs([x[:, i : i + 4 * rows - 3 : 4] for i in range(6)], along_height.unbind())
    _combine_inputs([along_height[:, :, :, j : j + 4 * columns - 3 : 4] for j in range(6)], out.unbind(1))


def _combine_inputs(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Compute Bᵀ d of six lines; the first and last output hold what the others are made of until their turn."""
    even, odd = out[0], out[5]
    torch.sub(d[4], d[2], alpha=4, out=even)
    torch.sub(d[3], d[1], alpha=4, out=odd)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    even.add_(d[0], alpha=4).sub_(d[2], alpha=4)  # 4 d0 - 5 d2 + d4
    odd.mul_(-4).sub_(d[3]).add_(d[5])  # 4 d1 - 5 d3 + d5


def _output_matrix(x: Tensor) -> Tensor:
    """Return AᵀmA as one matrix for all of a tile, [16, 36]: each of the 36 values is read only once."""
    rows = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    a = torch.tensor(rows, dtype=x.dtype)
    return torch.kron(a, a)


def _store(tiles: Tensor, out: Tensor) -> None:
    """Store the ReLU of tiles [4, 4, maps, rows, columns, c] in out [maps, 4 rows, 4 columns, c]."""
    for i in range(4):
        for j in range(4):
            torch.clamp_min(tiles[i, j], 0.0, out=out[:, i::4, j::4])


def _store_maxima(tiles: Tensor, out: Tensor) -> None:
    """Compute 2x2 maxima of the ReLU of tiles [4, 4, maps, rows, columns, c] in out [maps, 2 rows, 2 columns, c]."""
    rows = torch.maximum(tiles[::2], tiles[1::2], out=tiles[::2])
    maxima = torch.maximum(rows[:, ::2], rows[:, 1::2], out=rows[:, ::2])
    for i in range(2):
        for j in range(2):
            torch.clamp_min(maxima[i, j], 0.0, out=out[:, i::2, j::2])
