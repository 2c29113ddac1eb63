"""Networks that read sequences: frames [n, frames, bands] in, logits [n, outputs] out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from acoustic_env.models.estimators.layers import AugmentSettings, ConvLayer


SMALLEST_STD: Final = 1e-6
RARE_LOGIT: Final = -4.0  # of a label before training: most labels are absent from most clips


class SequenceNetwork(nn.Module):
    """Scaling, augmentation while training, and a body: frames [n, frames, bands] to logits [n, outputs].

    Args:
        bands: of the input.
        body: what follows.
        augment: what is done while training.
        by_clip: standardize each clip by itself.
        bf16: whether products are in bfloat16.
    """

    def __init__(self, bands: int, body: nn.Module, augment: AugmentSettings, *, by_clip: bool, bf16: bool) -> None:
        super().__init__()
        self.bf16 = bf16
        self.scale = Scale(bands, by_clip=by_clip)
        self.augment = Augment(augment)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return torch.as_tensor(self.body(self.augment(self.scale(x)))).float()


class Scale(nn.Module):
    """Standardization by what `fit` measured, or of each clip by itself.

    >>> scale = Scale(2, by_clip=False)
    >>> frames = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]])
    >>> scale.fit(frames.numpy(), (0, 1))
    >>> scale(frames).tolist()
    [[[-1.0, -1.0], [1.0, 1.0]]]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bands: int, *, by_clip: bool) -> None:
        super().__init__()
        self.by_clip = by_clip
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("std", torch.ones(bands))

    def fit(self, x: npt.NDArray[np.float32], axes: tuple[int, ...]) -> None:
        """Measure rows [n, frames, bands] over some axes."""
        self.mean.copy_(torch.as_tensor(x.mean(axes, dtype="float64")))
        self.std.copy_(torch.as_tensor(x.std(axes, dtype="float64").clip(SMALLEST_STD)))

    def forward(self, x: Tensor) -> Tensor:
        if self.by_clip:
            return (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True).clamp(min=SMALLEST_STD)
        return (x - self.mean) / self.std


class Augment(nn.Module):
    """Rotation, permutation and masks of scaled frames while training; a masked cell is 0, the mean.

    >>> from acoustic_env.models.estimators.layers import AugmentSettings
    >>> augment, frames = Augment(AugmentSettings(roll=1.0)), torch.arange(4.0)[None, :, None]
    >>> torch.equal(augment.eval()(frames), frames), augment.train()(frames).sum().item()
    (True, 6.0)
    """

    def __init__(self, settings: AugmentSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        at, (clips, frames, bands) = self.settings, x.shape
        if at.roll or at.permute:
            order = torch.arange(frames, device=x.device).repeat(clips, 1)
            shift = torch.randint(frames, (clips, 1), device=x.device)
            rolled = torch.rand(clips, 1, device=x.device) < at.roll
            order = torch.where(rolled, (order + shift) % frames, order)
            permuted = torch.rand(clips, 1, device=x.device) < at.permute
            order = torch.where(permuted, torch.rand(clips, frames, device=x.device).argsort(1), order)
            x = x.gather(1, order[:, :, None].expand(-1, -1, bands))
        for _ in range(at.time_masks):
            x = x * self._kept(clips, frames, at.time_mask, x.device)[:, :, None]
        for _ in range(at.band_masks):
            x = x * self._kept(clips, bands, at.band_mask, x.device)[:, None, :]
        return x

    def _kept(self, clips: int, length: int, widest: float, device: torch.device) -> Tensor:
        """Return 0 within one random stretch of each clip and 1 elsewhere, [clips, length]."""
        width = (torch.rand(clips, 1, device=device) * (widest * length + 1)).floor()
        first = (torch.rand(clips, 1, device=device) * (length - width + 1)).floor()
        place = torch.arange(length, device=device)
        masked = (place >= first) & (place < first + width)
        return (~(masked & (torch.rand(clips, 1, device=device) < self.settings.mask_probability))).float()


class ConvStack(nn.Sequential):
    """Convolutions with batch norm, pooling, ReLU and dropout as settings say: [n, channels, frames, bands].

    Args:
        layers: settings of each.
        inputs: channels of the input.

    >>> from acoustic_env.models.estimators.layers import ConvLayer
    >>> stack = ConvStack([ConvLayer(channels=8, pool=(2, 2))])
    >>> stack(torch.zeros(2, 1, 20, 64)).shape, stack.channels
    (torch.Size([2, 8, 10, 32]), 8)
    """

    def __init__(self, layers: Sequence[ConvLayer], inputs: int = 1) -> None:
        made: list[nn.Module] = []
        for layer in layers:
            made.append(
                nn.Conv2d(
                    inputs, layer.channels, layer.kernel, layer.stride, _padding(layer), bias=not layer.batch_norm
                )
            )
            if layer.batch_norm:
                made.append(nn.BatchNorm2d(layer.channels))
            # The largest of the rectified cells is the rectified largest cell, of which there are fewer.
            if layer.pool != (1, 1):
                made.append(nn.MaxPool2d(layer.pool, layer.pool_stride))
            made.append(nn.ReLU())
            if layer.dropout:
                made.append(nn.Dropout(layer.dropout))
            inputs = layer.channels
        super().__init__(*made)
        self.channels = inputs


def _padding(layer: ConvLayer) -> int | str | tuple[int, int]:
    """Return the padding as PyTorch takes it; `same` with a stride pads half the kernel."""
    if layer.padding == "valid":
        return 0
    return "same" if layer.stride == (1, 1) else (layer.kernel[0] // 2, layer.kernel[1] // 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions after batch norm and ReLU, added to the input (He et al. 2016, arXiv:1603.05027).

    >>> ResidualBlock(4, 8, stride=2)(torch.zeros(2, 4, 10, 6)).shape
    torch.Size([2, 8, 5, 3])
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        alike = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if alike else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.body(x) + self.shortcut(x))


class GlobalPool(nn.Module):
    """From maps [n, channels, frames, bands] to vectors.

    mean and max over all cells, meanmax (Kong et al. 2020: mean over bands, then mean plus max over frames), or
    flatten, which keeps all cells.

    >>> maps = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    >>> [GlobalPool(kind)(maps).tolist() for kind in ("mean", "max", "meanmax", "flatten")]
    [[[4.0]], [[7.0]], [[10.0]], [[1.0, 3.0, 5.0, 7.0]]]
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "flatten":
                return x.flatten(1)
            case "mean":
                return x.mean((2, 3))
            case "max":
                return x.amax((2, 3))
        over_bands = x.mean(3)
        return over_bands.mean(2) + over_bands.amax(2)


class Convolutional(nn.Sequential):
    """A body of convolutions, pooled, and a head of dense layers."""

    def __init__(self, body: nn.Module, pool: str, head: nn.Module) -> None:
        super().__init__(AddChannel(), channels_last(body), GlobalPool(pool), head)


def channels_last(body: nn.Module) -> nn.Module:
    """Put the weights of convolutions into the memory format that takes half the time on CPUs, and return them."""
    return body.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


class AddChannel(nn.Module):
    """From [n, frames, bands] to [n, 1, frames, bands], in the memory format of the maps."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None].contiguous(memory_format=torch.channels_last)


def dense_head(widths: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """Build (linear, ReLU, dropout) per width, then linear; without a width, dropout and linear.

    >>> dense_head([16], 3, dropout=0.5)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """
    layers: list[nn.Module] = [] if widths else [nn.Dropout(dropout)]
    for width in widths:
        layers += [nn.LazyLinear(width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.LazyLinear(outputs))


class AttentionPooling(nn.Module):
    """Embed every frame, average the embeddings by the attention of several heads, classify by dense layers.

    This is attention on the level of features (Kong et al. 2019, arXiv:1903.00765): each head weighs the frames by a
    softmax over them, and the weighted means of all heads stand side by side.

    Args:
        bands: numbers of a frame.
        outputs: classes.
        hidden: units of the layers that embed a frame; dense: of those after pooling.
        heads: attentions.
        dropout: after every layer but the last.
        rare: whether most outputs are absent from most clips, so that training starts from low logits.

    >>> AttentionPooling(64, 3, hidden=[8], dense=[8], heads=2, dropout=0.3, rare=True)(torch.zeros(2, 10, 64)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        bands: int,
        outputs: int,
        *,
        hidden: Sequence[int],
        dense: Sequence[int],
        heads: int,
        dropout: float,
        rare: bool,
    ) -> None:
        super().__init__()
        self.embed, width = _normalized_layers(bands, hidden, dropout)
        self.attend = nn.Linear(width, heads)
        self.dense, width = _normalized_layers(heads * width, dense, dropout)
        self.score = nn.Linear(width, outputs)
        if rare:
            nn.init.constant_(self.score.bias, RARE_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.embed(x)
        weights = torch.softmax(self.attend(frames), dim=1)
        pooled = torch.einsum("nth,ntw->nhw", weights, frames).flatten(1)
        return torch.as_tensor(self.score(self.dense(pooled)))


def _normalized_layers(inputs: int, widths: Sequence[int], dropout: float) -> tuple[nn.Sequential, int]:
    """Build (linear, layer norm, ReLU, dropout) per width; return it with the width of its output."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers), inputs


class ConvRecurrent(nn.Module):
    """Convolutions, then a bidirectional GRU over frames, then the mean of the frames' logits."""

    def __init__(self, body: ConvStack, units: int, outputs: int, dropout: float, shape: Sequence[int]) -> None:
        super().__init__()
        self.body = nn.Sequential(AddChannel(), channels_last(body))
        with torch.no_grad():
            left = self.body.eval()(torch.zeros(1, *shape)).shape[3]
        self.recurrent = nn.GRU(body.channels * left, units, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * units, outputs))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        frames, _ = self.recurrent(maps.permute(0, 2, 1, 3).flatten(2))
        return torch.as_tensor(self.head(frames).mean(1))
