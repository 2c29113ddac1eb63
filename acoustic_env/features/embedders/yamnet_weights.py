"""YAMNet's weights, from TF-Hub's SavedModel or the published tflite file, as the arrays of `YamnetNetwork`."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.savedmodel import check_conversion, probe, read_variables, savedmodel
from acoustic_env.features.embedders.tflite import TfliteOperator, read_tflite
from acoustic_env.features.embedders.weights import Arrays, class_names
from acoustic_env.features.embedders.weights_registry import YAMNET_FRONT_END

LOG_OFFSET: Final = 0.001
BATCH_NORM_EPSILON: Final = 1e-4
LAYERS: Final = 14


def convert_savedmodel(archive: Path) -> tuple[Arrays, dict[str, Any]]:
    """Convert TF-Hub's google/yamnet/1 to the arrays of `YamnetNetwork`; both must agree on a test signal."""
    with savedmodel(archive) as model:
        names = _class_map(model)
    arrays = fold_variables(read_variables(model), archive.name)
    scores, embeddings, _ = (output.numpy() for output in model(probe()))
    pads, error = _compare(arrays, archive.name, embeddings)
    if len(names) != scores.shape[1]:
        raise UsageError(f"{archive}: {len(names)} class names for {scores.shape[1]} scores")
    return arrays, {"class_names": names, "pads": pads, "conversion_error": error}


def convert_tflite(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Convert the tflite file to the arrays of `YamnetNetwork`; padding as in TF-Hub's model."""
    arrays = map_operators(read_tflite(path), path.name)
    return arrays, {"class_names": class_names("yamnet-tflite"), "pads": True}


CONVERTERS: Final = {"savedmodel": convert_savedmodel, "tflite": convert_tflite}


def fold_variables(variables: Arrays, source: str) -> Arrays:
    """Return TF-Hub's variables, such as layer1/conv/kernel and layer2/depthwise_conv/bn/moving_mean, as the network's.

    Batch normalization is folded in; channels come first.

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
        raise UsageError(f"{source}: not YAMNet as TF-Hub publishes it: no variable {error}") from error
    dense = {v.ndim: v for name, v in variables.items() if not re.match(r"layer\d+/", name) and v.ndim in (1, 2)}
    if set(dense) != {1, 2}:
        msg = f"{source}: not YAMNet as TF-Hub publishes it: no dense layer among {sorted(variables)[:5]} ..."
        raise UsageError(msg)
    arrays |= {"classifier.weight": np.ascontiguousarray(dense[2].T), "classifier.bias": dense[1]}
    return arrays


def map_operators(operators: list[TfliteOperator], source: str) -> Arrays:
    """Return the operators of YAMNet's tflite file as the network's arrays, by the order they run.

    Raises:
        UsageError: the operators are not YAMNet's.
    """
    weighted = [operator for operator in operators if operator.kind]
    convolutions = [operator for operator in weighted if operator.kind != "fully_connected"]
    expected = ["conv", *["depthwise_conv", "conv"] * (LAYERS - 1)]
    if [operator.kind for operator in convolutions] != expected or weighted[-1].kind != "fully_connected":
        msg = f"{source}: not YAMNet: {len(convolutions)} convolutions, expected {len(expected)}, then a dense layer"
        raise UsageError(msg)
    parts = [(1, "conv")]
    parts += [(number, part) for number in range(2, LAYERS + 1) for part in ("depthwise_conv", "pointwise_conv")]
    arrays: Arrays = {}
    for (number, part), operator in zip(parts, convolutions, strict=True):
        kernel, bias = _weights(operator, source)
        outputs_first = (3, 0, 1, 2) if part == "depthwise_conv" else (0, 3, 1, 2)
        _add(arrays, number, part, kernel.transpose(outputs_first), bias)
    kernel, bias = _weights(weighted[-1], source)
    return arrays | {"classifier.weight": kernel, "classifier.bias": bias}


def _weights(operator: TfliteOperator, source: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    stored = [t.values for t in operator.inputs[1:3] if t is not None and t.values is not None]
    if len(stored) != 2:
        raise UsageError(f"{source}: not YAMNet: a {operator.kind} without weights and bias")
    return stored[0], stored[1]


def _add(arrays: Arrays, number: int, part: str, kernel: npt.NDArray[Any], bias: npt.NDArray[Any]) -> None:
    """Add a convolution under the name of its module."""
    name = f"layer{number}" if part == "conv" else f"layer{number}.{part.removesuffix('_conv')}"
    kernel = kernel[:, :, 0, 0] if part == "pointwise_conv" else kernel
    arrays[f"{name}.weight"] = np.ascontiguousarray(kernel, dtype=np.float32)
    arrays[f"{name}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)


def _compare(arrays: Arrays, source: str, expected: npt.NDArray[np.float32]) -> tuple[bool, float]:
    """Whether the SavedModel pads the end of a waveform, and how far its embeddings of the probe are from ours."""
    import torch

    from acoustic_env.features.embedders.log_mel import LogMelPatches
    from acoustic_env.features.embedders.yamnet_network import yamnet

    network = yamnet(arrays, source)
    with torch.inference_mode():
        waveform = torch.from_numpy(probe())[None]
        padded = LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=True)(waveform)
        pads = len(expected) == padded.shape[1]
        patches = padded if pads else LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=False)(waveform)
        embeddings, _ = network(patches)
    return pads, check_conversion(source, expected, embeddings[0].numpy())


def _class_map(model: Any) -> list[str]:
    """Class names from the CSV that the SavedModel carries."""
    path = Path(model.class_map_path().numpy().decode())
    with path.open(newline="", encoding="utf-8") as rows:
        return [row["display_name"] for row in csv.DictReader(rows)]
