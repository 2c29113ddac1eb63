"""TF-Hub's SavedModels: run as published (the reference engine), and read once into plain arrays.

TensorFlow is needed here and nowhere else; workers of the fast engine read the converted arrays.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import tempfile
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import ClipError, UsageError
from acoustic_env.features.block import Waveforms
from acoustic_env.features.embedders.contract import EmbedderBlock, EmbedderOutput, LoadedModel, joined, pad_end
from acoustic_env.features.embedders.weights import Arrays, local_weights

INSTALL: Final = "pip install 'acoustic-env[tensorflow]'"
PROBE_SAMPLES: Final = 45_431  # an odd length: neither a whole number of patches nor of hops


@contextlib.contextmanager
def savedmodel(archive: Path) -> Iterator[Any]:
    """Load the model in a TF-Hub archive (.tar.gz); it is usable afterwards too, only its assets are gone.

    Raises:
        UsageError: TensorFlow is missing, or the archive is damaged or holds no SavedModel.
    """
    hub = _tensorflow_hub()
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder:
        try:
            with tarfile.open(archive) as members:
                members.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise UsageError(f"{archive}: truncated or not a .tar.gz archive: {error}") from error
        found = sorted(Path(folder).rglob("saved_model.pb"))
        if not found:
            raise UsageError(f"{archive}: holds no SavedModel (no saved_model.pb)")
        yield _load(hub, found[0].parent, archive)


def _load(hub: Any, folder: Path, archive: Path) -> Any:
    try:
        return hub.load(str(folder))
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0][:200]
        msg = f"{archive}: TensorFlow cannot load its SavedModel: {type(error).__name__}: {first}"
        raise UsageError(msg) from error


def read_variables(model: Any) -> Arrays:
    """Return every variable of a loaded SavedModel by its name, without ":0"."""
    found: Arrays = {}
    for variable in _variables(model):
        found[variable.name.removesuffix(":0")] = variable.numpy()
    return found


def _variables(model: Any) -> Iterator[Any]:
    for attribute in ("variables", "_variables"):
        yield from getattr(model, attribute, None) or ()
    functions = [*getattr(model, "signatures", {}).values()]
    if callable(model):
        functions += getattr(model.__call__, "concrete_functions", ())
    for function in functions:
        yield from function.variables


def probe() -> npt.NDArray[np.float32]:
    """Return a fixed waveform at 16 kHz by which a converted network is compared with its source: noise that swells."""
    noise = np.random.default_rng(20260101).standard_normal(PROBE_SAMPLES)
    return (0.1 * noise * np.linspace(0.1, 1.0, PROBE_SAMPLES)).astype(np.float32)


def check_conversion(name: str, expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    """Return the largest difference of two embeddings of the probe, over the largest value.

    Raises:
        UsageError: over 1e-4: the SavedModel of the weights `name` computes something else than the published network.
    """
    if expected.shape == actual.shape:
        error = float(np.abs(expected - actual).max() / np.abs(expected).max())
        if error <= 1e-4:
            return error
        found = f"differ by {error:.1e} of the largest value"
    else:
        found = f"are of shape {expected.shape}, expected {actual.shape}"
    raise UsageError(
        f"weights {name!r}: the SavedModel's own embeddings of a test signal {found}, so it is not the published "
        "network; use --engine reference for it"
    )


class SavedModelBlock(EmbedderBlock):
    """An embedder whose reference engine calls TF-Hub's model as its page says: one waveform at a time."""

    engines = ("fast", "reference")

    def load_model(self, device: str) -> LoadedModel:
        if self.engine == "fast":
            return super().load_model(device)
        _prepare_tensorflow(device)
        with savedmodel(local_weights(str(self.weights))) as model:
            return LoadedModel(device, None, model)

    def embed(self, waveforms: Waveforms) -> EmbedderOutput:
        if self.engine == "fast":
            return super().embed(waveforms)
        from tensorflow.errors import ResourceExhaustedError

        padded = pad_end(np.asarray(waveforms, np.float32), self.min_samples)
        try:
            return joined([self.call(self._model.network, waveform) for waveform in padded])
        except ResourceExhaustedError as error:
            msg = f"one clip of {padded.shape[1]} samples does not fit into the memory of {self._model.device}"
            raise ClipError("out_of_memory", msg) from error

    @abstractmethod
    def call(self, model: Any, waveform: npt.NDArray[np.float32]) -> EmbedderOutput:
        """Return the model's output for one waveform, as a batch of one."""


def _tensorflow_hub() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # tensorflow-hub still imports pkg_resources
            import tensorflow_hub
    except ImportError as error:
        raise UsageError(f"TF-Hub's models need TensorFlow ({error}): {INSTALL}") from error
    return tensorflow_hub


def _prepare_tensorflow(device: str) -> None:
    """Grow GPU memory as needed instead of taking all of it, or keep to the CPU; only before TensorFlow's first use."""
    _tensorflow_hub()
    import tensorflow as tf

    try:
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        else:
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, enable=True)
    except RuntimeError:
        return  # already in use in this process, set up by whoever was first
