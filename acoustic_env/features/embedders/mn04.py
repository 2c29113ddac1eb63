"""EfficientAT mn04: an embedding of 384 numbers and 527 class scores, at an eightieth of CNN14's size.

Its authors publish no package, so there is no reference engine: `efficientat` follows their definition and
preprocessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from acoustic_env.errors import UsageError
from acoustic_env.features.block import Engine, Json
from acoustic_env.features.embedders.contract import Embedder, EmbedderBlock, FramesBlock, Precision
from acoustic_env.features.embedders.torch_embedder import TorchEmbedder
from acoustic_env.features.embedders.weights import fit_state, read_checkpoint
from acoustic_env.features.embedders.weights_registry import MN04_FRONT_END

if TYPE_CHECKING:
    import torch


class Mn04Embedder(TorchEmbedder):
    """The fast engine.

    Args:
        weights: name in the weights registry.
        precision: of the convolutions.
        per_frame: embeddings and scores of every 0.32 s, or of the clip as published.
    """

    weights: str
    step_samples: ClassVar[dict[str, int]] = {"cpu": 320_000, "cuda": 128 * 320_000}

    def __init__(self, weights: str, precision: Precision = "float32", *, per_frame: bool = False) -> None:
        super().__init__()
        self.weights, self.precision, self.per_frame = weights, precision, per_frame
        self.front_end = MN04_FRONT_END
        self.sample_rate = self.front_end.sample_rate
        self.min_samples = self.front_end.fft // 2 + 2  # pre-emphasis takes one, reflection half an FFT and one
        self.frame_hop_s = 32 * self.front_end.hop / self.sample_rate
        self.embedding_size, self.score_size = 384, 527

    def parameters(self) -> dict[str, Json]:
        return {"padding": f"zeros at the end, to {self.min_samples} samples", "per_frame": self.per_frame}

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        from acoustic_env.features.embedders.efficientat import Mn04, Mn04FrontEnd

        network = Mn04(per_frame=self.per_frame)
        fit_state(network, read_checkpoint(self.weights), self.weights)
        return Mn04FrontEnd(), network.fold()


class Mn04Block(EmbedderBlock):
    """mn04's clip embedding (the last feature map's mean) and the scores its classifier gives to that."""

    name = "mn04"
    architecture = "mn04"
    uses_gpu = True
    default_weights: ClassVar[Mapping[Engine, str]] = {"fast": "mn04", "reference": "mn04"}

    def make_embedder(self, engine: Engine, weights: str, precision: Precision, **options: Json) -> Embedder:
        if options:
            msg = f"unknown options {sorted(options)}; there are weights, precision, frames"
            raise TypeError(msg)
        if engine == "reference":
            msg = f"block {self.name} has no reference engine, because its authors publish no package; use engine fast"
            raise UsageError(msg)
        return Mn04Embedder(weights, precision, per_frame=self.keeps_frames)

    def metadata(self) -> dict[str, str]:
        return {**super().metadata(), "pooling": "none" if self.keeps_frames else "mean over frequency and time"}


class Mn04FramesBlock(FramesBlock, Mn04Block):
    """Every 0.32 s of mn04: the feature map's mean over frequency, and the classifier's scores for it."""

    name = "mn04_frames"
