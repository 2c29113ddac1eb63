"""Convolutions, then a recurrent layer over frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from acoustic_env.config import Task
from acoustic_env.models.estimators.frames_settings import SequenceSettings
from acoustic_env.models.estimators.layers import ConvLayer

if TYPE_CHECKING:
    import torch


class CRNNSettings(SequenceSettings):
    """Convolutions, then a recurrent layer over frames."""

    kind: Literal["crnn"] = "crnn"

    layers: tuple[ConvLayer, ...] = tuple(ConvLayer(channels=channels) for channels in (32, 64, 64))
    """Convolutions, first to last."""

    units: int = Field(64, ge=1)
    """Units of the GRU in each direction."""

    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout before the last layer."""

    def body(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build the network: [n, frames, bands] -> logits [n, outputs]."""
        from acoustic_env.models.estimators.modules import ConvRecurrent, ConvStack

        return ConvRecurrent(ConvStack(self.layers), self.units, outputs, self.dropout, shape)
