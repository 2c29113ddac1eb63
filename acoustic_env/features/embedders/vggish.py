"""VGGish as TF-Hub's google/vggish/1: 128 numbers for every 0.96 s, before AudioSet's PCA and 8-bit steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json
from acoustic_env.features.embedders.contract import EmbedderOutput, FramesBlock
from acoustic_env.features.embedders.savedmodel import (
    SavedModelBlock,
    check_conversion,
    probe,
    read_variables,
    savedmodel,
)
from acoustic_env.features.embedders.weights import Arrays, converted, read_arrays
from acoustic_env.features.embedders.weights_registry import VGGISH_FRONT_END

if TYPE_CHECKING:
    import torch

LOG_OFFSET: Final = 0.01
MIN_SAMPLES: Final = 15_600  # 95 hops and one window: one patch
# Variable scope in the SavedModel -> module of `VggishNetwork`.
SCOPES: Final = {
    "vggish/conv1": "convolutions.conv1",
    "vggish/conv2": "convolutions.conv2",
    "vggish/conv3/conv3_1": "convolutions.conv3_1",
    "vggish/conv3/conv3_2": "convolutions.conv3_2",
    "vggish/conv4/conv4_1": "convolutions.conv4_1",
    "vggish/conv4/conv4_2": "convolutions.conv4_2",
    "vggish/fc1/fc1_1": "dense.fc1_1",
    "vggish/fc1/fc1_2": "dense.fc1_2",
    "vggish/fc2": "dense.fc2",
}


class VggishBlock(SavedModelBlock):
    """Mean over frames of VGGish's embedding."""

    name = "vggish"
    architecture = "vggish"
    converts = True
    default_weights = "vggish-tfhub"
    front_end = VGGISH_FRONT_END
    sample_rate = VGGISH_FRONT_END.sample_rate
    min_samples = MIN_SAMPLES
    frame_s = 0.96
    embedding_size = 128

    def own_parameters(self) -> dict[str, Json]:
        return {"padding": "zeros at the end to one patch; a last part shorter than a patch is left out"}

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        from acoustic_env.features.embedders.log_mel import LogMelPatches
        from acoustic_env.features.embedders.vggish_network import vggish

        path, details = converted(str(self.weights), convert_savedmodel)
        network = vggish(read_arrays(path), str(self.weights), final_relu=bool(details["final_relu"]))
        return LogMelPatches(VGGISH_FRONT_END, LOG_OFFSET, pads=False), network

    def call(self, model: Any, waveform: npt.NDArray[np.float32]) -> EmbedderOutput:
        return EmbedderOutput(model(waveform).numpy()[None])


class VggishFramesBlock(FramesBlock, VggishBlock):
    """Every frame of VGGish: the embedding of every 0.96 s."""

    name = "vggish_frames"


def convert_savedmodel(archive: Path) -> tuple[Arrays, dict[str, Any]]:
    """Convert TF-Hub's google/vggish/1 to the arrays of `VggishNetwork`; both must agree on a test signal."""
    import torch

    from acoustic_env.features.embedders.log_mel import LogMelPatches
    from acoustic_env.features.embedders.vggish_network import vggish

    with savedmodel(archive) as model:
        variables = read_variables(model)
    arrays = map_variables(variables, archive.name)
    expected = model(probe()).numpy()
    final_relu = bool((expected >= 0).all())
    network = vggish(arrays, archive.name, final_relu=final_relu)
    with torch.inference_mode():
        embeddings, _ = network(
            LogMelPatches(VGGISH_FRONT_END, LOG_OFFSET, pads=False)(torch.from_numpy(probe())[None])
        )
    error = check_conversion(archive.name, expected, embeddings[0].numpy())
    return arrays, {"final_relu": final_relu, "conversion_error": error}


def map_variables(variables: Arrays, source: str) -> Arrays:
    """Return TF-Hub's variables, such as vggish/conv1/weights and vggish/fc2/biases, as the network's, outputs first.

    Raises:
        UsageError: a variable is missing.
    """
    arrays: Arrays = {}
    try:
        for scope, module in SCOPES.items():
            weights = variables[f"{scope}/weights"]
            arrays[f"{module}.weight"] = np.ascontiguousarray(
                weights.T if weights.ndim == 2 else weights.transpose(3, 2, 0, 1)
            )
            arrays[f"{module}.bias"] = variables[f"{scope}/biases"]
    except KeyError as error:
        raise UsageError(f"{source}: not VGGish as TF-Hub publishes it: no variable {error}") from error
    return arrays
