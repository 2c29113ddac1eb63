"""Attention over frames, for embeddings such as 10 x 128 (Kong et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from acoustic_env.config import Task
from acoustic_env.models.estimators.frames_settings import SequenceSettings

if TYPE_CHECKING:
    import torch


class AttentionSettings(SequenceSettings):
    """Attention over frames, for embeddings such as 10 x 128 (Kong et al. 2019)."""

    kind: Literal["attention"] = "attention"

    hidden: tuple[int, ...] = (512,)
    """Units of the dense layers that embed a frame."""

    heads: int = Field(4, ge=1)
    """Attentions, each of which pools the frames."""

    dense: tuple[int, ...] = (1024,)
    """Units of dense layers after pooling, before the last."""

    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout after every layer but the last."""

    def body(self, shape: tuple[int, ...], outputs: int, task: Task) -> torch.nn.Module:
        """Build the network: [n, frames, bands] -> logits [n, outputs]."""
        from acoustic_env.models.estimators.modules import AttentionPooling

        return AttentionPooling(
            shape[1],
            outputs,
            hidden=self.hidden,
            dense=self.dense,
            heads=self.heads,
            dropout=self.dropout,
            rare=task == "multilabel",
        )
