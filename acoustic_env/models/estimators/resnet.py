"""Residual blocks of convolutions, activation first (He et al. 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from acoustic_env.config import Task
from acoustic_env.models.estimators.frames_settings import SequenceSettings
from acoustic_env.models.estimators.layers import ConvLayer

if TYPE_CHECKING:
    import torch


class ResNetSettings(SequenceSettings):
    """Residual blocks of convolutions, activation first (He et al. 2016)."""

    kind: Literal["resnet"] = "resnet"

    stem: tuple[ConvLayer, ...] = (ConvLayer(channels=32, pool=(1, 1)),)
    """Convolutions before the blocks."""

    blocks: tuple[int, ...] = (32, 64, 128)
    """Channels of each residual block; where they grow, maps are halved."""

    pool: Literal["mean", "max", "meanmax", "flatten"] = "meanmax"
    """How maps become a vector: mean or largest cell, mean over bands then mean plus largest frame, or every cell."""

    dense: tuple[int, ...] = ()
    """Units of dense layers before the last."""

    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout after every dense layer but the last; without others, before it."""

    def body(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build the network: [n, frames, bands] -> logits [n, outputs]."""
        from torch import nn

        from acoustic_env.models.estimators.modules import Convolutional, ConvStack, ResidualBlock, dense_head

        stem = ConvStack(self.stem)
        made: list[nn.Module] = [stem]
        inputs = stem.channels
        for channels in self.blocks:
            made.append(ResidualBlock(inputs, channels, 2 if channels > inputs else 1))
            inputs = channels
        body = nn.Sequential(*made, nn.BatchNorm2d(inputs), nn.ReLU())
        return Convolutional(body, self.pool, dense_head(self.dense, outputs, self.dropout))
