"""The two sides of the benchmark's stages `vggish` and `yamnet`: TF-Hub's form of model, random weights, and ours."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from acoustic_env.bench import seeded_savedmodel
from acoustic_env.bench.clips import BenchClip
from acoustic_env.bench.timing import Pair
from acoustic_env.features.embedders import vggish, vggish_network, yamnet_network, yamnet_weights
from acoustic_env.features.embedders.log_mel import LogMelPatches
from acoustic_env.features.embedders.savedmodel import savedmodel
from acoustic_env.features.embedders.weights import Arrays
from acoustic_env.features.embedders.weights_registry import VGGISH_FRONT_END, YAMNET_FRONT_END


def vggish_pair() -> Pair:
    """VGGish on a clip's three signals, from waveform to embedding."""
    model, (arrays, details) = _seeded(seeded_savedmodel.write_vggish, vggish.convert_savedmodel)
    front_end = LogMelPatches(VGGISH_FRONT_END, vggish.LOG_OFFSET, pads=False)
    return _pair(model, front_end, vggish_network.vggish(arrays, "seeded", final_relu=bool(details["final_relu"])))


def yamnet_pair() -> Pair:
    """YAMNet on a clip's three signals, from waveform to embedding and scores."""
    model, (arrays, _) = _seeded(seeded_savedmodel.write_yamnet, yamnet_weights.convert_savedmodel)
    front_end = LogMelPatches(YAMNET_FRONT_END, yamnet_weights.LOG_OFFSET, pads=True)
    return _pair(model, front_end, yamnet_network.yamnet(arrays, "seeded"))


def _seeded(
    write: Callable[[Path], None], convert: Callable[[Path], tuple[Arrays, dict[str, Any]]]
) -> tuple[Any, tuple[Arrays, dict[str, Any]]]:
    """The SavedModel, on one thread as everything in the benchmark, and what it converts to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # an earlier stage has set it
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder:
        archive = Path(folder) / "model.tar.gz"
        write(archive)
        with savedmodel(archive) as model:
            return model, convert(archive)


def _pair(model: Any, front_end: nn.Module, network: nn.Module) -> Pair:
    """The SavedModel takes one waveform at a time, the network the three signals of a clip at once."""

    def reference(clip: BenchClip) -> object:
        return [model(signal) for signal in clip.signals.values()]

    def fast(clip: BenchClip) -> object:
        with torch.inference_mode():
            return network(front_end(torch.from_numpy(np.stack(list(clip.signals.values())))))

    return Pair(reference, fast)
