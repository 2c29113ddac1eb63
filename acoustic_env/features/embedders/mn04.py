"""EfficientAT mn04: an embedding of 384 numbers and 527 class scores, at an eightieth of CNN14's size.

Its authors publish no package, so there is no reference engine: `efficientat` follows their definition and
preprocessing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from acoustic_env.features.block import Json
from acoustic_env.features.embedders.contract import EmbedderBlock, FramesBlock
from acoustic_env.features.embedders.weights import fit_state, keep_export, read_checkpoint
from acoustic_env.features.embedders.weights_registry import MN04_FRONT_END

if TYPE_CHECKING:
    import torch


class Mn04Block(EmbedderBlock):
    """mn04's clip embedding (the last feature map's mean) and the scores its classifier gives to that."""

    name = "mn04"
    architecture = "mn04"
    default_weights = "mn04"
    front_end = MN04_FRONT_END
    sample_rate = MN04_FRONT_END.sample_rate
    min_samples = MN04_FRONT_END.fft // 2 + 2  # pre-emphasis takes one, reflection half an FFT and one
    frame_s = 32 * MN04_FRONT_END.hop / MN04_FRONT_END.sample_rate
    embedding_size, score_size = 384, 527
    step_samples = {"cpu": 320_000, "cuda": 128 * 320_000}  # noqa: RUF012
    pooling = "mean over frequency and time"

    def own_parameters(self) -> dict[str, Json]:
        return {"padding": f"zeros at the end, to {self.min_samples} samples", "per_frame": self.keeps_frames}

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        from acoustic_env.features.embedders.efficientat import Mn04, Mn04FrontEnd
        from acoustic_env.features.embedders.onnx_runtime import OnnxOnCpu

        network = Mn04(per_frame=self.keeps_frames)
        fit_state(network, read_checkpoint(str(self.weights)), str(self.weights))
        keep = keep_export(str(self.weights), "frames" if self.keeps_frames else "clip")
        return Mn04FrontEnd(), OnnxOnCpu(network.fold(), variable_axes=(0, 3), keep=keep)


class Mn04FramesBlock(FramesBlock, Mn04Block):
    """Every 0.32 s of mn04: the feature map's mean over frequency, and the classifier's scores for it."""

    name = "mn04_frames"
