"""Weights for those who load them: a verified local file, its sha256, its class names, and how to read it safely.

Nothing here touches the network: weights come from the cache that `acoustic-env weights fetch` filled, so a hundred
workers never race for a download.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.weights_cache import WeightsCache
from acoustic_env.features.embedders.weights_registry import weights_source

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]
# Raised whenever a converter gives other numbers or names for the same source.
CONVERSION_VERSION = 1


def weights_sha256(name: str) -> str:
    """Return the sha256 of the weights in the cache, 64 hex digits; reads a small record, not the file.

    Raises:
        UsageError: they are not there; the message has the command and the file to place by hand.
    """
    return WeightsCache().record(weights_source(name)).sha256


def local_weights(name: str) -> Path:
    """Return a local file with the named weights, its sha256 just checked; a remote cache is copied once per node.

    Raises:
        UsageError: not in the cache, damaged, or no space for the node's copy.
    """
    return WeightsCache().local(weights_source(name))


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes of the named weights, in the order of their scores; empty when it has none.

    Raises:
        UsageError: the list of classes is not in the cache.
    """
    class_list = weights_source(name).class_list
    if class_list is None:
        return ()
    with local_weights(class_list).open(newline="", encoding="utf-8") as rows:
        return tuple(row["display_name"] for row in csv.DictReader(rows))


def read_checkpoint(name: str) -> dict[str, Any]:
    """Return a PyTorch checkpoint of the cache as the dictionary it holds, read with weights_only (no code can run).

    Raises:
        UsageError: not in the cache, or not such a checkpoint.
    """
    import torch

    path = local_weights(name)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        msg = f"{path}: not a checkpoint that PyTorch can read safely ({type(error).__name__}: {_first_line(error)})"
        raise UsageError(msg) from error
    if not isinstance(checkpoint, dict):
        raise UsageError(f"{path}: a checkpoint is a dictionary of tensors, not {type(checkpoint).__name__}")
    return checkpoint


def fit_state(network: torch.nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Load tensors into a network; every key must fit.

    Raises:
        UsageError: the tensors are of another architecture; names the first keys that are missing, left over or of
            another shape.
    """
    import torch

    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, torch.Tensor)}
    mismatches = [f"{key} missing" for key in wanted if key not in given]
    mismatches += [f"{key} not of this network" for key in given if key not in wanted]
    mismatches += [
        f"{key} of shape {given[key]}, expected {wanted[key]}"
        for key in wanted
        if key in given and given[key] != wanted[key]
    ]
    if mismatches:
        more = f" and {len(mismatches) - 3} more" if len(mismatches) > 3 else ""
        raise UsageError(f"weights {name!r} are of another architecture: {'; '.join(mismatches[:3])}{more}")
    network.load_state_dict(dict(state))


def fit_arrays(network: torch.nn.Module, arrays: Arrays, source: str) -> None:
    """Load arrays into a network; every key must fit.

    Raises:
        UsageError: as `fit_state`.
    """
    import torch

    fit_state(network, {name: torch.from_numpy(array) for name, array in arrays.items()}, source)


def converted(name: str, convert: Callable[[Path], tuple[Arrays, dict[str, Any]]]) -> tuple[Path, dict[str, Any]]:
    """Return the named weights as safetensors, converted once and kept in the cache under the source's checksum.

    Returns:
        The verified local safetensors file, and the plain data that `convert` returned beside the arrays.

    Raises:
        UsageError: neither the converted file nor the source is in the cache, or it cannot be converted here.
    """
    cache, source = WeightsCache(), weights_source(name)
    sha256 = cache.record(source).sha256
    file_name = f"converted/{name}-{sha256}-v{CONVERSION_VERSION}.safetensors"

    def build(target: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        arrays, details = convert(cache.local(source))
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, target)
        return details

    return cache.derived(file_name, build)


def converted_details(name: str) -> dict[str, Any] | None:
    """Return the plain data kept with converted weights, without loading them; None before they are converted."""
    cache, source = WeightsCache(), weights_source(name)
    file_name = f"converted/{name}-{cache.record(source).sha256}-v{CONVERSION_VERSION}.safetensors"
    return cache.derived_details(file_name)


def keep_export(name: str, part: str) -> Callable[[Callable[[], bytes]], bytes]:
    """Return what keeps the ONNX model of a network in the cache of weights, so that it is exported once.

    A damaged file is made again. Where the cache cannot be written, every process exports it. `part` tells several
    networks with the weights `name` apart.
    """
    import torch

    cache, source = WeightsCache(), weights_source(name)
    version = f"v{CONVERSION_VERSION}-torch-{torch.__version__}"
    file_name = f"converted/{name}-{part}-{cache.record(source).sha256}-{version}.onnx"

    def keep(export: Callable[[], bytes]) -> bytes:
        model: list[bytes] = []

        def build(target: Path) -> dict[str, Any]:
            if not model:
                model.append(export())
            target.write_bytes(model[0])
            return {}

        for again in (False, True):
            with contextlib.suppress(UsageError):  # damaged, or not writable
                return cache.derived(file_name, build, again=again)[0].read_bytes()
        return model[0] if model else export()

    return keep


def read_arrays(path: Path) -> Arrays:
    """Return the arrays of a safetensors file."""
    from safetensors.numpy import load_file

    return dict(load_file(path))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
