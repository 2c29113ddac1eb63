"""3x3 convolution on a CPU by Winograd minimal filtering F(2x2, 3x3): 2.25 times fewer multiplications than directly.

Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), equation 12: every tile of
4x4 inputs gives 2x2 outputs as Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A. B and A hold only 0 and ±1, so their products are written as
additions of strided slices; what remains is sixteen matrix products, one for each place in the tile. In float32 the
result differs from a direct convolution's by less than 1e-6 of the largest output in CNN14's layers.

On a GPU, cuDNN has its own; this is for CPUs, where PyTorch's convolution is a direct one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

# Tiles transformed at a time: the slices stay in the caches, and the matrix products are still tall enough.
CHUNK_TILES: Final = 512


def transform_kernel(weight: Tensor) -> Tensor:
    """Compute G g Gᵀ of kernels [outputs, inputs, 3, 3]: float32[16, inputs, outputs], place in the 4x4 tile first.

    >>> transform_kernel(torch.ones(8, 3, 3, 3)).shape
    torch.Size([16, 3, 8])
    """
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=weight.dtype)
    both = torch.kron(g, g).T.contiguous()  # [9, 16]
    outputs, inputs = weight.shape[:2]
    transformed = torch.empty(16, inputs, outputs, dtype=weight.dtype)
    for first in range(0, outputs, 64):
        some = weight[first : first + 64].reshape(-1, 9) @ both
        transformed[:, :, first : first + 64] = some.view(-1, inputs, 16).permute(2, 1, 0)
    return transformed


def conv3x3_relu(x: Tensor, kernel: Tensor, bias: Tensor, *, halve: bool) -> Tensor:
    """Compute relu(conv(x) + bias) with zero padding 1, and with `halve` its 2x2 averages (a last odd row left out).

    Args:
        x: float32[clips, height, width, inputs].
        kernel: from `transform_kernel`.
        bias: float32[outputs].
        halve: whether to average 2x2 outputs, as `avg_pool2d(2)` does.

    Returns:
        float32[clips, height, width, outputs], or of half height and width.

    >>> generator = torch.Generator().manual_seed(23)
    >>> x, weight = torch.randn(1, 6, 6, 3, generator=generator), torch.randn(8, 3, 3, 3, generator=generator)
    >>> found = conv3x3_relu(x, transform_kernel(weight), torch.zeros(8), halve=False)
    >>> direct = functional.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).relu().permute(0, 2, 3, 1)
    >>> found.shape, torch.allclose(found, direct, atol=1e-4)
    (torch.Size([1, 6, 6, 8]), True)
    """
    clips, height, width, inputs = x.shape
    outputs = kernel.shape[2]
    tile_rows, tile_columns = (height + 1) // 2, (width + 1) // 2
    padded = functional.pad(x, (0, 0, 1, 1 + 2 * tile_columns - width, 1, 1 + 2 * tile_rows - height))
    shape = (height // 2, width // 2) if halve else (height, width)
    y = x.new_empty(clips, *shape, outputs)
    most = min(clips * tile_rows * tile_columns, max(CHUNK_TILES, tile_columns))
    transformed, product = x.new_empty(16 * most * inputs), x.new_empty(16 * most * outputs)
    for some_clips, first, last in _chunks(clips, tile_rows, tile_columns):
        rows = last - first
        count = len(range(*some_clips.indices(clips)))
        tiles = count * rows * tile_columns
        d = transformed[: 16 * tiles * inputs].view(16, tiles, inputs)
        m = product[: 16 * tiles * outputs].view(16, tiles, outputs)
        _transform_input(padded[some_clips, 2 * first : 2 * last + 2], d.view(4, 4, count, rows, tile_columns, inputs))
        for place in range(16):  # faster than one batched product
            torch.mm(d[place], kernel[place], out=m[place])
        quarters = _transform_output(m.view(4, 4, count, rows, tile_columns, outputs))
        if halve:
            _store_mean(quarters, bias, y[some_clips, first:last])
        else:
            _store(quarters, bias, y[some_clips, 2 * first : 2 * last])
    return y if halve else y.relu_()


def _chunks(clips: int, tile_rows: int, tile_columns: int) -> Iterator[tuple[slice, int, int]]:
    """Return (clips, first and last row of tiles) of pieces of about `CHUNK_TILES` tiles."""
    rows = min(tile_rows, max(1, CHUNK_TILES // tile_columns))
    step = max(1, CHUNK_TILES // (tile_rows * tile_columns))
    for clip in range(0, clips, step):
        for first in range(0, tile_rows, rows):
            yield slice(clip, min(clip + step, clips)), first, min(first + rows, tile_rows)


def _transform_input(x: Tensor, out: Tensor) -> None:
    """Put Bᵀ d B of every tile of x [clips, 2 rows + 2, 2 columns + 2, c] in out [4, 4, clips, rows, columns, c]."""

    def differences(lines: list[Tensor], out: list[Tensor] | list[None]) -> list[Tensor]:
        first, second, third, fourth = lines
        return [
            torch.sub(first, third, out=out[0]),
            torch.add(second, third, out=out[1]),
            torch.sub(third, second, out=out[2]),
            torch.sub(second, fourth, out=out[3]),
        ]

    rows, columns = out.shape[3:5]
    along_height = differences([x[:, i : i + 2 * rows - 1 : 2] for i in range(4)], [None] * 4)
    for i, lines in enumerate(along_height):
        differences([lines[:, :, j : j + 2 * columns - 1 : 2] for j in range(4)], list(out[i]))


def _transform_output(m: Tensor) -> list[list[Tensor]]:
    """Compute AᵀmA of m [4, 4, clips, rows, columns, c]: 2x2 outputs of every tile, each [clips, rows, columns, c]."""

    def sums(lines: Tensor) -> list[Tensor]:
        upper, lower = lines[0] + lines[1], lines[1] - lines[2]
        return [upper.add_(lines[2]), lower.sub_(lines[3])]

    return [sums(half) for half in sums(m)]


def _store(quarters: list[list[Tensor]], bias: Tensor, out: Tensor) -> None:
    """Interleave the 2x2 outputs of every tile in out [clips, 2 rows or one less, 2 columns or one less, c]."""
    for i, half in enumerate(quarters):
        for j, quarter in enumerate(half):
            target = out[:, i::2, j::2]
            torch.add(quarter[:, : target.shape[1], : target.shape[2]], bias, out=target)


def _store_mean(quarters: list[list[Tensor]], bias: Tensor, out: Tensor) -> None:
    """Compute the mean over every tile after bias and ReLU: out [clips, rows, columns, c], whole tiles only."""
    (a, b), (c, d) = ([quarter.add_(bias).relu_() for quarter in half] for half in quarters)
    total = a.add_(b).add_(c).add_(d)
    torch.mul(total[:, : out.shape[1], : out.shape[2]], 0.25, out=out)
