"""PANNs CNN14: one embedding of 2048 numbers and 527 class probabilities for a whole clip.

Weights: the authors' checkpoint of mAP 0.431. Both engines read it: the fast one into `cnn14`, the reference one into
the model class of panns-inference, called as that library's AudioTagging calls it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from acoustic_env.audio.decode import resample
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Engine, Json, Waveforms
from acoustic_env.features.embedders.contract import EmbedderBlock, EmbedderOutput, LoadedModel
from acoustic_env.features.embedders.weights import fit_state, read_checkpoint
from acoustic_env.features.embedders.weights_registry import CNN14_FRONT_END

if TYPE_CHECKING:
    import torch

    from acoustic_env.features.embedders.cnn14 import PublishedCnn14

INPUTS: Final = ("resampled-16k", "native-32k")
# What a shorter waveform is padded to. At 16 kHz the source system's 10 s; at 32 kHz the shortest input of the network:
# 32 frames, so that five halvings leave one time step.
SAMPLE_RATE: Final[dict[str, int]] = {"resampled-16k": 16_000, "native-32k": 32_000}
MIN_SAMPLES: Final[dict[str, int]] = {"resampled-16k": 160_000, "native-32k": 31 * CNN14_FRONT_END.hop}


class PannsBlock(EmbedderBlock):
    """CNN14's clip embedding and probabilities.

    Option `input`: resampled-16k (the default, the source system's: padded with its mean to 10 s at 16 kHz, then
    resampled to 32 kHz, so nothing is above 8 kHz) or native-32k (as decoded at 32 kHz). CNN14 pools over time before
    its embedding layer, so there is no per-frame table.
    """

    name = "panns"
    architecture = "cnn14"
    default_weights = "panns-cnn14"
    front_end = CNN14_FRONT_END
    frame_s = np.inf  # the only frame is the clip
    embedding_size, score_size = 2048, 527
    engines = ("fast", "reference")
    step_samples = {"cpu": 8 * 320_000, "cuda": 64 * 320_000}  # noqa: RUF012
    pooling = "the network's own, maximum plus mean over time"

    def __init__(self, engine: Engine, *, input: str = INPUTS[0], **options: Any) -> None:
        if input not in INPUTS:
            raise UsageError(f"block {self.name}: input {input!r} is not one of {', '.join(INPUTS)}")
        if options.get("frames"):
            msg = f"block {self.name}: CNN14 has one embedding per clip and no frames; take frames from yamnet or mn04"
            raise UsageError(msg)
        self.input = input
        self.sample_rate, self.min_samples = SAMPLE_RATE[input], MIN_SAMPLES[input]
        super().__init__(engine, **options)

    def own_parameters(self) -> dict[str, Json]:
        resampler = "soxr HQ" if self.input == "resampled-16k" else None
        padding = f"its mean at the end, to {self.min_samples} samples"
        libraries = _library_versions() if self.engine == "reference" else {}
        return {"input": self.input, "padding": padding, "resampler": resampler, **libraries}

    def load_model(self, device: str) -> LoadedModel:
        self._use_winograd = device == "cpu" and self.precision != "bf16"
        return super().load_model(device)

    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        import torch

        from acoustic_env.features.embedders.cnn14 import AudioTagging, Cnn14, Cnn14FrontEnd, PublishedCnn14

        weights = str(self.weights)
        if self.engine == "reference":
            model = published_class()(32_000, 1024, 320, 64, 50, 14_000, 527)
            fit_state(model, read_model_state(weights), weights)
            return torch.nn.Identity(), AudioTagging(model)
        published = PublishedCnn14.empty()
        fit_state(published, read_model_state(weights), weights)
        check_mel_weights(published, weights)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return Cnn14FrontEnd(published), Cnn14(published, use_winograd=self._use_winograd, dtype=dtype)

    def embed(self, waveforms: Waveforms) -> EmbedderOutput:
        padded = pad_with_mean(waveforms, self.min_samples)
        if self.input == "native-32k":
            return super().embed(padded)
        return super().embed(np.stack([resample(waveform, self.sample_rate, 32_000) for waveform in padded]))

    def metadata(self) -> dict[str, str]:
        described = super().metadata()
        if self.engine == "reference":
            described["libraries"] = json.dumps({"torch": version("torch"), **_library_versions()})
        return described


def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in ("panns-inference", "torchlibrosa")}


def pad_with_mean(waveforms: Waveforms, samples: int) -> Waveforms:
    """Return waveforms of at least `samples` samples, each one's mean added at its end (np.pad, mode mean).

    >>> pad_with_mean(np.array([[1.0, 3.0]], np.float32), 4)
    array([[1., 3., 2., 2.]], dtype=float32)
    """
    missing = samples - waveforms.shape[1]
    if missing <= 0:
        return waveforms
    return np.pad(waveforms.astype(np.float32), ((0, 0), (0, missing)), mode="mean")


def read_model_state(weights: str) -> dict[str, Any]:
    """Return the tensors under "model" of a published checkpoint.

    The trainer that wrote these files saved the state of its sampler beside the model, with NumPy arrays in it; those
    types, and no others, are allowed besides tensors.

    Raises:
        UsageError: not in the cache, damaged, or not such a checkpoint.
    """
    import torch
    from numpy._core.multiarray import _reconstruct, scalar

    numpy_types: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd")]
    for function in (_reconstruct, scalar):
        numpy_types += [(function, f"numpy.{core}.multiarray.{function.__name__}") for core in ("core", "_core")]
    with torch.serialization.safe_globals(numpy_types):
        checkpoint = read_checkpoint(weights)
    state = checkpoint.get("model")
    if not isinstance(state, dict):
        msg = f"weights {weights!r}: no model in the checkpoint, only {', '.join(map(str, list(checkpoint)[:5]))}"
        raise UsageError(msg)
    return state


def check_mel_weights(published: PublishedCnn14, weights: str) -> None:
    """Refuse a checkpoint of the same shapes whose mel bands are not the expected front end's.

    Raises:
        UsageError: its mel weights are others.
    """
    import librosa

    end = CNN14_FRONT_END
    stored = published.logmel_extractor.get_parameter("melW").detach().numpy()
    expected = librosa.filters.mel(
        sr=end.sample_rate, n_fft=end.fft, n_mels=end.mel_bands, fmin=end.low_hz, fmax=end.high_hz
    ).T
    error = float(np.abs(stored - expected).max() / expected.max())
    if not error < 1e-3:
        raise UsageError(
            f"weights {weights!r}: its mel bands are not {end.mel_bands} from {end.low_hz:g} to {end.high_hz:g} Hz at "
            f"{end.sample_rate} Hz (logmel_extractor.melW differs by {error:.2g}); take the CNN14 of mAP 0.431"
        )


def published_class() -> Any:
    """Return panns-inference's Cnn14 without importing the package, which would run wget for a list of classes."""
    alias = "_panns_inference_without_download"
    if alias not in sys.modules:
        found = importlib.util.find_spec("panns_inference")
        if found is None or not found.submodule_search_locations:
            msg = "the reference engine of block panns needs panns-inference: pip install panns-inference==0.1.1"
            raise UsageError(msg)
        package = types.ModuleType(alias)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[alias] = package
    return importlib.import_module(f"{alias}.models").Cnn14
