"""An embedder without weights, for tests and dry runs: a fixed random projection of log-mel patches.

Its numbers mean nothing. A table made with it says so: the block is `placeholder`, the weights' origin "none".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from acoustic_env.features.block import Json
from acoustic_env.features.embedders.contract import EmbedderBlock, FramesBlock
from acoustic_env.features.embedders.weights_registry import VGGISH_FRONT_END

if TYPE_CHECKING:
    import torch

SEED: Final = 23


class PlaceholderBlock(EmbedderBlock):
    """Mean log-mel spectrum of each 0.96 s times a fixed random matrix; ten scores without meaning."""

    name = "placeholder"
    architecture = "placeholder"
    front_end = VGGISH_FRONT_END
    sample_rate, min_samples, frame_s = 16_000, 15_600, 0.96
    embedding_size, score_size = 64, 10
    engines = ("fast", "reference")

    def own_parameters(self) -> dict[str, Json]:
        return {"seed": SEED}

    def class_names(self) -> tuple[str, ...]:
        return tuple(f"placeholder {number}" for number in range(self.score_size))

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        import torch

        from acoustic_env.features.embedders.log_mel import LogMelPatches

        bands, size, classes = self.front_end.mel_bands, self.embedding_size, self.score_size
        matrix = np.random.default_rng(SEED).standard_normal((bands, size)) / np.sqrt(bands)

        class Projection(torch.nn.Linear):
            def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
                embeddings = super().forward(patches.mean(2))
                return embeddings, torch.sigmoid(embeddings[..., :classes])

        projection = Projection(bands, size, bias=False)
        projection.weight.data = torch.from_numpy(matrix.T.astype(np.float32))
        return LogMelPatches(self.front_end, 0.01, pads=False), projection


class PlaceholderFramesBlock(FramesBlock, PlaceholderBlock):
    """Every frame of the placeholder."""

    name = "placeholder_frames"
