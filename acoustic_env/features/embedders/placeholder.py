"""An embedder without weights, for tests and dry runs: a fixed random projection of log-mel patches.

Its numbers mean nothing. A table made with it says so: the block is `placeholder`, the weights' origin "none".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from acoustic_env.features.block import Engine, Json
from acoustic_env.features.embedders.contract import Embedder, EmbedderBlock, FramesBlock, Precision
from acoustic_env.features.embedders.torch_embedder import TorchEmbedder
from acoustic_env.features.embedders.weights_registry import VGGISH_FRONT_END

if TYPE_CHECKING:
    import torch

EMBEDDING: Final = 64
SCORES: Final = 10
SEED: Final = 23


class PlaceholderEmbedder(TorchEmbedder):
    """Mean log-mel spectrum of each 0.96 s times a fixed random matrix; ten made-up scores."""

    def __init__(self, precision: Precision = "float32") -> None:
        super().__init__()
        self.weights, self.precision = None, precision
        self.front_end = VGGISH_FRONT_END
        self.sample_rate, self.min_samples, self.frame_hop_s = 16_000, 15_600, 0.96
        self.embedding_size, self.score_size = EMBEDDING, SCORES

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        import torch

        from acoustic_env.features.embedders.log_mel import LogMelPatches

        class Projection(torch.nn.Module):
            def __init__(self, matrix: torch.Tensor) -> None:
                super().__init__()
                self.register_buffer("matrix", matrix)

            def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                embeddings = patches.mean(2) @ self.get_buffer("matrix")
                return embeddings, torch.sigmoid(embeddings[..., :SCORES])

        rng = np.random.default_rng(SEED)
        matrix = rng.standard_normal((VGGISH_FRONT_END.mel_bands, EMBEDDING)) / np.sqrt(VGGISH_FRONT_END.mel_bands)
        projection = Projection(torch.from_numpy(matrix.astype(np.float32)))
        return LogMelPatches(VGGISH_FRONT_END, 0.01, pads=False), projection

    def parameters(self) -> dict[str, Json]:
        return {"seed": SEED}

    def class_names(self) -> tuple[str, ...]:
        return tuple(f"placeholder {number}" for number in range(SCORES))


class PlaceholderBlock(EmbedderBlock):
    """Numbers without meaning, in the form of an embedder's."""

    name = "placeholder"
    architecture = "placeholder"
    default_weights: ClassVar[Mapping[Engine, str]] = {}

    def make_embedder(self, engine: Engine, weights: str, precision: Precision, **options: Json) -> Embedder:
        if options:
            msg = f"unknown options {sorted(options)}; there are precision, frames"
            raise TypeError(msg)
        return PlaceholderEmbedder(precision)


class PlaceholderFramesBlock(FramesBlock, PlaceholderBlock):
    """Every frame of the placeholder."""

    name = "placeholder_frames"
