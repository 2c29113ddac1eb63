"""YAMNet: 1024 numbers and 521 class scores for every 0.96 s, a frame every 0.48 s.

Weights: TF-Hub's google/yamnet/1, or the published int8 tflite file, de-quantised. Both fill one network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.features.block import Engine, Json
from acoustic_env.features.embedders.contract import Embedder, EmbedderBlock, EmbedderOutput, FramesBlock, Precision
from acoustic_env.features.embedders.savedmodel import SavedModelEmbedder
from acoustic_env.features.embedders.torch_embedder import TorchEmbedder
from acoustic_env.features.embedders.weights import converted, converted_details, read_arrays
from acoustic_env.features.embedders.weights_registry import YAMNET_FRONT_END, weights_source
from acoustic_env.features.embedders.yamnet_weights import CONVERTERS, LOG_OFFSET, filled

if TYPE_CHECKING:
    import torch

OLD_MEL: Final = "front_end.mel"  # in arrays that an older release converted from the tflite file
MIN_SAMPLES: Final = 15_600  # 95 hops and one window: one patch


class _Yamnet(Embedder):
    """What both engines have in common."""

    def __init__(self, weights: str, precision: Precision = "float32") -> None:
        super().__init__()
        self.weights, self.precision = weights, precision
        self.front_end = YAMNET_FRONT_END
        self.sample_rate = self.front_end.sample_rate
        self.min_samples = MIN_SAMPLES
        self.frame_hop_s = 0.48
        self.embedding_size, self.score_size = 1024, 521

    def parameters(self) -> dict[str, Json]:
        return {"padding": "zeros at the end to a whole number of patch hops"}


class YamnetEmbedder(_Yamnet, TorchEmbedder):
    """The fast engine.

    Args:
        weights: name in the weights registry.
        precision: of the matrix products.
    """

    weights: str

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        from acoustic_env.features.embedders.log_mel import LogMelPatches
        from acoustic_env.features.embedders.yamnet_network import YamnetNetwork

        path, details = self._converted()
        arrays = {name: array for name, array in read_arrays(path).items() if name != OLD_MEL}
        front_end = LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=bool(details["pads"]))
        return front_end, filled(YamnetNetwork(), arrays, self.weights)

    def class_names(self) -> tuple[str, ...]:
        details = converted_details(self.weights) or self._converted()[1]
        return tuple(details["class_names"])

    def parameters(self) -> dict[str, Json]:
        return {**super().parameters(), "activations": "float32"}

    def _converted(self) -> tuple[Path, dict[str, Any]]:
        return converted(self.weights, CONVERTERS[weights_source(self.weights).format])


class YamnetReference(_Yamnet, SavedModelEmbedder):
    """TF-Hub's model, clip by clip."""

    def call(self, model: Any, waveform: npt.NDArray[np.float32]) -> EmbedderOutput:
        scores, embeddings, _ = model(waveform)
        return EmbedderOutput(embeddings.numpy()[None], scores.numpy()[None])

    def class_names(self) -> tuple[str, ...]:
        return YamnetEmbedder(self.weights).class_names()


class YamnetBlock(EmbedderBlock):
    """Mean over frames of YAMNet's embedding and scores.

    Option `weights`: tfhub (the default) or tflite.
    """

    name = "yamnet"
    architecture = "yamnet"
    default_weights: ClassVar[Mapping[Engine, str]] = {"fast": "yamnet-tfhub", "reference": "yamnet-tfhub"}

    def make_embedder(self, engine: Engine, weights: str, precision: Precision, **options: Json) -> Embedder:
        if options:
            msg = f"unknown options {sorted(options)}; expected some of: weights, precision, frames"
            raise TypeError(msg)
        if engine == "fast":
            return YamnetEmbedder(weights, precision)
        if weights_source(weights).format != "savedmodel":
            msg = f"block {self.name}: the reference engine runs TF-Hub's model, not {weights!r}; use weights: tfhub"
            raise UsageError(msg)
        return YamnetReference(weights)


class YamnetFramesBlock(FramesBlock, YamnetBlock):
    """Every frame of YAMNet: embedding and scores of 0.96 s, every 0.48 s."""

    name = "yamnet_frames"
