"""YAMNet: 1024 numbers and 521 class scores for every 0.96 s, a frame every 0.48 s.

Weights: TF-Hub's google/yamnet/1, or the published int8 tflite file, dequantized. Both fill one network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.features.block import Engine, Json
from acoustic_env.features.embedders.contract import EmbedderOutput, FramesBlock
from acoustic_env.features.embedders.savedmodel import SavedModelBlock
from acoustic_env.features.embedders.weights import converted, converted_details, keep_export, read_arrays
from acoustic_env.features.embedders.weights_registry import YAMNET_FRONT_END, weights_source
from acoustic_env.features.embedders.yamnet_weights import CONVERTERS, LOG_OFFSET

if TYPE_CHECKING:
    import torch

OLD_MEL: Final = "front_end.mel"  # in arrays that an older release converted from the tflite file
MIN_SAMPLES: Final = 15_600  # 95 hops and one window: one patch


class YamnetBlock(SavedModelBlock):
    """Mean over frames of YAMNet's embedding and scores.

    Option `weights`: tfhub (the default) or tflite.
    """

    name = "yamnet"
    architecture = "yamnet"
    converts = True
    default_weights = "yamnet-tfhub"
    front_end = YAMNET_FRONT_END
    sample_rate = YAMNET_FRONT_END.sample_rate
    min_samples = MIN_SAMPLES
    frame_s = 0.48
    embedding_size, score_size = 1024, 521

    def __init__(self, engine: Engine, **options: Any) -> None:
        super().__init__(engine, **options)
        if engine == "reference" and weights_source(str(self.weights)).format != "savedmodel":
            raise UsageError(
                f"block {self.name}: the reference engine runs TF-Hub's model, not {self.weights!r}; use weights: tfhub"
            )

    def own_parameters(self) -> dict[str, Json]:
        activations: dict[str, Json] = {"activations": "float32"} if self.engine == "fast" else {}
        return {"padding": "zeros at the end to a whole number of patch hops", **activations}

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        from acoustic_env.features.embedders.log_mel import LogMelPatches
        from acoustic_env.features.embedders.yamnet_network import yamnet

        path, details = self._converted()
        arrays = {name: array for name, array in read_arrays(path).items() if name != OLD_MEL}
        front_end = LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=bool(details["pads"]))
        return front_end, yamnet(arrays, str(self.weights), keep_export(str(self.weights), "patches"))

    def call(self, model: Any, waveform: npt.NDArray[np.float32]) -> EmbedderOutput:
        scores, embeddings, _ = model(waveform)
        return EmbedderOutput(embeddings.numpy()[None], scores.numpy()[None])

    def class_names(self) -> tuple[str, ...]:
        details = converted_details(str(self.weights)) or self._converted()[1]
        return tuple(details["class_names"])

    def _converted(self) -> tuple[Path, dict[str, Any]]:
        return converted(str(self.weights), CONVERTERS[weights_source(str(self.weights)).format])


class YamnetFramesBlock(FramesBlock, YamnetBlock):
    """Every frame of YAMNet: embedding and scores of 0.96 s, every 0.48 s."""

    name = "yamnet_frames"
