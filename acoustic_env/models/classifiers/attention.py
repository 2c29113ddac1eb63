"""Attention over frames, for embeddings such as 10 x 128 (Kong et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from acoustic_env.config import Task
from acoustic_env.models.classifiers.sequences import SequenceSettings

if TYPE_CHECKING:
    import torch


class AttentionSettings(SequenceSettings):
    """Attention over frames, for embeddings such as 10 x 128 (Kong et al. 2018)."""

    kind: Literal["attention"] = "attention"

    hidden: tuple[int, ...] = (512, 512)
    """Units of the dense layers that embed a frame."""

    heads: int = Field(4, ge=1)
    """Attentions averaged."""

    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout after every hidden layer."""

    def body(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build the network: [n, frames, bands] -> logits [n, outputs]."""
        from acoustic_env.models.networks import AttentionPooling

        return AttentionPooling(
            shape[1], outputs, self.hidden, self.heads, self.dropout, exclusive=task == "multiclass"
        )
