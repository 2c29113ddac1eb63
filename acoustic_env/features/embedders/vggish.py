"""VGGish as TF-Hub's google/vggish/1: 128 numbers for every 0.96 s, before AudioSet's PCA and 8-bit steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.features.block import Engine, Json
from acoustic_env.features.embedders.contract import Embedder, EmbedderBlock, EmbedderOutput, FramesBlock, Precision
from acoustic_env.features.embedders.savedmodel import (
    SavedModelEmbedder,
    check_conversion,
    probe,
    read_variables,
    savedmodel,
)
from acoustic_env.features.embedders.torch_embedder import TorchEmbedder
from acoustic_env.features.embedders.weights import Arrays, converted, fit_state, read_arrays
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


class _Vggish(Embedder):
    """What both engines have in common."""

    def __init__(self, weights: str, precision: Precision = "float32") -> None:
        super().__init__()
        self.weights, self.precision = weights, precision
        self.front_end = VGGISH_FRONT_END
        self.sample_rate = self.front_end.sample_rate
        self.min_samples = MIN_SAMPLES
        self.frame_hop_s = 0.96
        self.embedding_size, self.score_size = 128, 0

    def parameters(self) -> dict[str, Json]:
        return {"padding": "zeros at the end to one patch; a last part shorter than a patch is left out"}


class VggishEmbedder(_Vggish, TorchEmbedder):
    """The fast engine."""

    weights: str

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        from acoustic_env.features.embedders.log_mel import LogMelPatches

        path, details = converted(self.weights, convert_savedmodel)
        network = filled(read_arrays(path), self.weights, final_relu=bool(details["final_relu"]))
        return LogMelPatches(VGGISH_FRONT_END, LOG_OFFSET, pads=False), network


class VggishReference(_Vggish, SavedModelEmbedder):
    """TF-Hub's model, clip by clip."""

    def call(self, model: Any, waveform: npt.NDArray[np.float32]) -> EmbedderOutput:
        return EmbedderOutput(model(waveform).numpy()[None])


class VggishBlock(EmbedderBlock):
    """Mean over frames of VGGish's embedding."""

    name = "vggish"
    architecture = "vggish"
    default_weights: ClassVar[Mapping[Engine, str]] = {"fast": "vggish-tfhub", "reference": "vggish-tfhub"}

    def make_embedder(self, engine: Engine, weights: str, precision: Precision, **options: Json) -> Embedder:
        if options:
            msg = f"unknown options {sorted(options)}; there are weights, precision, frames"
            raise TypeError(msg)
        return VggishEmbedder(weights, precision) if engine == "fast" else VggishReference(weights)


class VggishFramesBlock(FramesBlock, VggishBlock):
    """Every frame of VGGish: the embedding of every 0.96 s."""

    name = "vggish_frames"


def convert_savedmodel(archive: Path) -> tuple[Arrays, dict[str, Any]]:
    """TF-Hub's google/vggish/1 as the arrays of `VggishNetwork`, compared with the model itself on a test signal."""
    import torch

    from acoustic_env.features.embedders.log_mel import LogMelPatches

    with savedmodel(archive) as model:
        variables = read_variables(model)
    arrays = map_variables(variables, archive.name)
    expected = model(probe()).numpy()
    final_relu = bool((expected >= 0).all())
    network = filled(arrays, archive.name, final_relu=final_relu)
    with torch.inference_mode():
        embeddings, _ = network(
            LogMelPatches(VGGISH_FRONT_END, LOG_OFFSET, pads=False)(torch.from_numpy(probe())[None])
        )
    error = check_conversion(archive.name, expected, embeddings[0].numpy())
    return arrays, {"final_relu": final_relu, "conversion_error": error}


def map_variables(variables: Arrays, source: str) -> Arrays:
    """TF-Hub's variables as the network's arrays, outputs first.

    Args:
        variables: by name, such as vggish/conv1/weights and vggish/fc2/biases.
        source: for the message.

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
        msg = f"{source}: not VGGish as TF-Hub publishes it: no variable {error}"
        raise UsageError(msg) from error
    return arrays


def filled(arrays: Arrays, source: str, *, final_relu: bool) -> torch.nn.Module:
    """The network with the arrays loaded.

    Raises:
        UsageError: they do not fit.
    """
    import torch

    from acoustic_env.features.embedders.vggish_network import VggishNetwork

    network = VggishNetwork(final_relu=final_relu)
    fit_state(network, {name: torch.from_numpy(array) for name, array in arrays.items()}, source)
    return network
