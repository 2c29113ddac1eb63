"""Convolutions, pooled over all cells, then dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from acoustic_env.config import Task
from acoustic_env.models.estimators.frames_settings import SequenceSettings
from acoustic_env.models.estimators.layers import ConvLayer

if TYPE_CHECKING:
    import torch


class CNNSettings(SequenceSettings):
    """Convolutions, pooled over all cells, then dense layers."""

    kind: Literal["cnn"] = "cnn"

    layers: tuple[ConvLayer, ...] = tuple(ConvLayer(channels=channels) for channels in (32, 64, 128, 128))
    """Convolutions, first to last."""

    pool: Literal["mean", "max", "meanmax", "flatten"] = "meanmax"
    """How maps become a vector: mean or largest cell, mean over bands then mean plus largest frame, or every cell."""

    dense: tuple[int, ...] = ()
    """Units of dense layers before the last."""

    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout after every dense layer but the last; without others, before it."""

    def body(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build the network: [n, frames, bands] -> logits [n, outputs]."""
        from acoustic_env.models.estimators.modules import Convolutional, ConvStack, dense_head

        return Convolutional(ConvStack(self.layers), self.pool, dense_head(self.dense, outputs, self.dropout))
