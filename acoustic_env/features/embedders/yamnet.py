"""YAMNet: 1024 numbers and 521 class scores for every 0.96 s, a frame every 0.48 s.

Weights: TF-Hub's google/yamnet/1, or the published int8 tflite file, de-quantised. Both fill one network.
"""

from __future__ import annotations

import re
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
from acoustic_env.features.embedders.tflite import TfliteOperator, read_tflite
from acoustic_env.features.embedders.torch_embedder import TorchEmbedder
from acoustic_env.features.embedders.weights import (
    Arrays,
    class_names,
    converted,
    converted_details,
    fit_state,
    read_arrays,
)
from acoustic_env.features.embedders.weights_registry import YAMNET_FRONT_END, weights_source

if TYPE_CHECKING:
    import torch

LOG_OFFSET: Final = 0.001
MIN_SAMPLES: Final = 15_600  # 95 hops and one window: one patch
BATCH_NORM_EPSILON: Final = 1e-4
LAYERS: Final = 14


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
    """The fast engine."""

    weights: str

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        from acoustic_env.features.embedders.log_mel import LogMelPatches
        from acoustic_env.features.embedders.yamnet_network import YamnetNetwork

        path, details = converted(self.weights, CONVERTERS[weights_source(self.weights).format])
        network = YamnetNetwork()
        _fill(network, read_arrays(path), self.weights)
        return LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=bool(details["pads"])), network

    def class_names(self) -> tuple[str, ...]:
        details = converted_details(self.weights)
        if details is None:
            _, details = converted(self.weights, CONVERTERS[weights_source(self.weights).format])
        return tuple(details["class_names"])


class YamnetReference(_Yamnet, SavedModelEmbedder):
    """TF-Hub's model, clip by clip."""

    def call(self, model: Any, waveform: npt.NDArray[np.float32]) -> EmbedderOutput:
        scores, embeddings, _ = model(waveform)
        return EmbedderOutput(embeddings.numpy()[None], scores.numpy()[None])

    def class_names(self) -> tuple[str, ...]:
        return YamnetEmbedder(self.weights).class_names()


class YamnetBlock(EmbedderBlock):
    """Mean over frames of YAMNet's embedding and scores. Option `weights`: tfhub (the default) or tflite."""

    name = "yamnet"
    architecture = "yamnet"
    default_weights: ClassVar[Mapping[Engine, str]] = {"fast": "yamnet-tfhub", "reference": "yamnet-tfhub"}

    def make_embedder(self, engine: Engine, weights: str, precision: Precision, **options: Json) -> Embedder:
        if options:
            msg = f"unknown options {sorted(options)}; there are weights, precision, frames"
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


def convert_savedmodel(archive: Path) -> tuple[Arrays, dict[str, Any]]:
    """TF-Hub's google/yamnet/1 as the arrays of `YamnetNetwork`, compared with the model itself on a test signal."""
    with savedmodel(archive) as model:
        names = _class_map(model)
    arrays = fold_variables(read_variables(model), archive.name)
    scores, embeddings, _ = (output.numpy() for output in model(probe()))
    pads, error = _compare(arrays, archive.name, embeddings)
    if len(names) != scores.shape[1]:
        msg = f"{archive}: {len(names)} class names for {scores.shape[1]} scores"
        raise UsageError(msg)
    return arrays, {"class_names": names, "pads": pads, "conversion_error": error}


def convert_tflite(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """The tflite file as the arrays of `YamnetNetwork`; padding as in TF-Hub's model, as the file takes one patch."""
    arrays = map_operators(read_tflite(path), path.name)
    return arrays, {"class_names": class_names("yamnet-tflite"), "pads": True}


CONVERTERS: Final = {"savedmodel": convert_savedmodel, "tflite": convert_tflite}


def fold_variables(variables: Arrays, source: str) -> Arrays:
    """TF-Hub's variables as the network's arrays: batch normalisation folded in, channels first.

    Args:
        variables: by name, such as layer1/conv/kernel and layer2/depthwise_conv/bn/moving_mean.
        source: for the message.

    Raises:
        UsageError: a variable is missing.
    """
    arrays: Arrays = {}
    try:
        for number in range(1, LAYERS + 1):
            for part in ("conv",) if number == 1 else ("depthwise_conv", "pointwise_conv"):
                scope = f"layer{number}/{part}"
                kernel = variables[f"{scope}/{'depthwise_kernel' if part == 'depthwise_conv' else 'kernel'}"]
                scale = 1.0 / np.sqrt(variables[f"{scope}/bn/moving_variance"].astype(np.float64) + BATCH_NORM_EPSILON)
                bias = variables[f"{scope}/bn/beta"] - variables[f"{scope}/bn/moving_mean"] * scale
                outputs_first = (2, 3, 0, 1) if part == "depthwise_conv" else (3, 2, 0, 1)
                _add(arrays, number, part, kernel.transpose(outputs_first) * scale[:, None, None, None], bias)
    except KeyError as error:
        msg = f"{source}: not YAMNet as TF-Hub publishes it: no variable {error}"
        raise UsageError(msg) from error
    dense = {v.ndim: v for name, v in variables.items() if not re.match(r"layer\d+/", name) and v.ndim in (1, 2)}
    if set(dense) != {1, 2}:
        msg = f"{source}: not YAMNet as TF-Hub publishes it: no dense layer among {sorted(variables)[:5]} ..."
        raise UsageError(msg)
    arrays |= {"classifier.weight": np.ascontiguousarray(dense[2].T), "classifier.bias": dense[1]}
    return arrays


def map_operators(operators: list[TfliteOperator], source: str) -> Arrays:
    """The operators of YAMNet's tflite file as the network's arrays, by the order they run.

    Raises:
        UsageError: the operators are not YAMNet's.
    """
    weighted = [operator for operator in operators if operator.kind]
    convolutions = [operator for operator in weighted if operator.kind != "fully_connected"]
    expected = ["conv", *["depthwise_conv", "conv"] * (LAYERS - 1)]
    if [operator.kind for operator in convolutions] != expected or weighted[-1].kind != "fully_connected":
        msg = f"{source}: not YAMNet: {len(convolutions)} convolutions, expected {len(expected)}, then a dense layer"
        raise UsageError(msg)
    arrays: Arrays = {}
    for place, operator in enumerate(convolutions):
        kernel, bias = _weights(operator, source)
        number, part = (
            (1, "conv") if place == 0 else ((place + 3) // 2, ("pointwise_conv", "depthwise_conv")[place % 2])
        )
        outputs_first = (3, 0, 1, 2) if part == "depthwise_conv" else (0, 3, 1, 2)
        _add(arrays, number, part, kernel.transpose(outputs_first), bias)
    kernel, bias = _weights(weighted[-1], source)
    return arrays | {"classifier.weight": kernel, "classifier.bias": bias}


def _weights(operator: TfliteOperator, source: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    stored = [tensor.values for tensor in operator.inputs[1:3] if tensor is not None and tensor.values is not None]
    if len(stored) != 2:
        msg = f"{source}: not YAMNet: a {operator.kind} without weights and bias"
        raise UsageError(msg)
    return stored[0], stored[1]


def _add(arrays: Arrays, number: int, part: str, kernel: npt.NDArray[Any], bias: npt.NDArray[Any]) -> None:
    name = f"layer{number}" if part == "conv" else f"layer{number}.{part.removesuffix('_conv')}"
    kernel = kernel[:, :, 0, 0] if part == "pointwise_conv" else kernel
    arrays[f"{name}.weight"] = np.ascontiguousarray(kernel, dtype=np.float32)
    arrays[f"{name}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)


def _fill(network: torch.nn.Module, arrays: Arrays, source: str) -> None:
    import torch

    fit_state(network, {name: torch.from_numpy(array) for name, array in arrays.items()}, source)


def _compare(arrays: Arrays, source: str, expected: npt.NDArray[np.float32]) -> tuple[bool, float]:
    """Whether the SavedModel pads the end of a waveform, and how far its embeddings of the probe are from ours."""
    import torch

    from acoustic_env.features.embedders.log_mel import LogMelPatches
    from acoustic_env.features.embedders.yamnet_network import YamnetNetwork

    network = YamnetNetwork()
    _fill(network, arrays, source)
    with torch.inference_mode():
        waveform = torch.from_numpy(probe())[None]
        padded = LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=True)(waveform)
        pads = len(expected) == padded.shape[1]
        patches = padded if pads else LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=False)(waveform)
        embeddings, _ = network(patches)
    return pads, check_conversion(source, expected, embeddings[0].numpy())


def _class_map(model: Any) -> list[str]:
    """Class names from the CSV that the SavedModel carries."""
    import csv

    path = Path(model.class_map_path().numpy().decode())
    with path.open(newline="", encoding="utf-8") as rows:
        return [row["display_name"] for row in csv.DictReader(rows)]
