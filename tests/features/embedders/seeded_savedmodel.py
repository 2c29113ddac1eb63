"""TF-Hub archives of VGGish and YAMNet with random weights, for benchmarks and tests where the real cannot be had.

Signatures, variable names, architecture and front end are those that tensorflow/models publishes (research/audioset:
yamnet/yamnet.py, yamnet/features.py, yamnet/export.py, vggish/vggish_slim.py, vggish/vggish_export_tfhub.py). Needs
TensorFlow.
"""

from __future__ import annotations

import csv
import math
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from acoustic_env.features.embedders.front_end import FrontEnd
from acoustic_env.features.embedders.vggish import LOG_OFFSET as VGGISH_LOG_OFFSET
from acoustic_env.features.embedders.vggish import SCOPES
from acoustic_env.features.embedders.weights_registry import VGGISH_FRONT_END, YAMNET_FRONT_END
from acoustic_env.features.embedders.yamnet_weights import BATCH_NORM_EPSILON
from acoustic_env.features.embedders.yamnet_weights import LOG_OFFSET as YAMNET_LOG_OFFSET

# (stride, output channels) of layer1 to layer14.
YAMNET_LAYERS: Final = (
    *((2, 32), (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)),
    *((1, 512),) * 5,
    *((2, 1024), (1, 1024)),
)
VGGISH_SHAPES: Final = (
    *((3, 3, i, o) for i, o in ((1, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512))),
    (12288, 4096),
    (4096, 4096),
    (4096, 128),
)
VGGISH_POOLED: Final = ("conv1", "conv2", "conv3_2", "conv4_2")


def write_yamnet(archive: Path, seed: int = 23, classes: int = 521) -> None:
    """An archive in the form of google/yamnet/1: waveform [samples] to scores, embeddings, log-mel spectrogram."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)

    def variable(values: Any, name: str) -> Any:
        return tf.Variable(np.asarray(values, np.float32), name=name, trainable=False)

    def batch_norm(scope: str, channels: int) -> list[Any]:
        return [
            variable(0.2 * rng.standard_normal(channels), f"{scope}/bn/beta"),
            variable(0.2 * rng.standard_normal(channels), f"{scope}/bn/moving_mean"),
            variable(rng.uniform(0.5, 1.5, channels), f"{scope}/bn/moving_variance"),
        ]

    def separable(number: int, inputs: int, outputs: int) -> list[list[Any]]:
        depthwise, pointwise = f"layer{number}/depthwise_conv", f"layer{number}/pointwise_conv"
        kernel = rng.standard_normal((3, 3, inputs, 1)) * math.sqrt(2 / 9)
        mixing = rng.standard_normal((1, 1, inputs, outputs)) * math.sqrt(2 / inputs)
        return [
            [variable(kernel, f"{depthwise}/depthwise_kernel"), *batch_norm(depthwise, inputs)],
            [variable(mixing, f"{pointwise}/kernel"), *batch_norm(pointwise, outputs)],
        ]

    class Yamnet(tf.Module):  # type: ignore[misc]
        def __init__(self, class_map: Path) -> None:
            super().__init__()
            first = rng.standard_normal((3, 3, 1, 32)) * math.sqrt(2 / 9)
            self.layers = [[[variable(first, "layer1/conv/kernel"), *batch_norm("layer1/conv", 32)]]]
            channels = 32
            for number, (_, outputs) in enumerate(YAMNET_LAYERS[1:], start=2):
                self.layers.append(separable(number, channels, outputs))
                channels = outputs
            self.dense = [
                variable(0.05 * rng.standard_normal((1024, classes)), "dense/kernel"),
                variable(rng.standard_normal(classes) - 3.0, "dense/bias"),
            ]
            self.class_map = tf.saved_model.Asset(str(class_map))

        @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
        def class_map_path(self) -> Any:
            return self.class_map.asset_path

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, waveform: Any) -> Any:
            log_mel = _log_mel(tf, _pad(tf, waveform), YAMNET_FRONT_END, YAMNET_LOG_OFFSET)
            x = tf.signal.frame(log_mel, 96, 48, axis=0)[..., None]
            for (stride, _), parts in zip(YAMNET_LAYERS, self.layers, strict=True):
                for part in parts:
                    x = _normalized(tf, _convolved(tf, x, part[0], stride), part)
                    stride = 1
            embeddings = tf.reduce_mean(x, [1, 2])
            scores = tf.sigmoid(embeddings @ self.dense[0] + self.dense[1])
            return scores, embeddings, log_mel

    def export(folder: Path) -> None:
        class_map = folder.parent / "yamnet_class_map.csv"
        with class_map.open("w", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream)
            rows.writerow(["index", "mid", "display_name"])
            rows.writerows([number, f"/m/{number}", f"Class {number}, seeded"] for number in range(classes))
        model = Yamnet(class_map)
        tf.saved_model.save(model, str(folder), signatures=model.__call__.get_concrete_function())

    _archived(archive, export)


def write_vggish(archive: Path, seed: int = 23) -> None:
    """Write an archive in the form of google/vggish/1: waveform [samples] to embeddings [patches, 128]."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)

    class Vggish(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._variables = []
            for scope, shape in zip(SCOPES, VGGISH_SHAPES, strict=True):
                scale = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
                values = scale * rng.standard_normal(shape, dtype=np.float32)
                bias = 0.1 * rng.standard_normal(shape[-1])
                for kind, numbers in (("weights", values), ("biases", bias)):
                    self._variables.append(tf.Variable(np.float32(numbers), name=f"{scope}/{kind}", trainable=False))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, waveform: Any) -> Any:
            log_mel = _log_mel(tf, waveform, VGGISH_FRONT_END, VGGISH_LOG_OFFSET)
            x = tf.signal.frame(log_mel, 96, 96, axis=0)[..., None]
            for i, scope in enumerate(SCOPES):
                weights, bias = self._variables[2 * i], self._variables[2 * i + 1]
                name = scope.rpartition("/")[2]
                if name.startswith("conv"):
                    x = tf.nn.relu(tf.nn.conv2d(x, weights, 1, "SAME") + bias)
                    x = tf.nn.max_pool2d(x, 2, 2, "SAME") if name in VGGISH_POOLED else x
                else:
                    x = tf.reshape(x, [-1, weights.shape[0]]) @ weights + bias
                    x = x if name == "fc2" else tf.nn.relu(x)
            return x

    _archived(archive, lambda folder: tf.saved_model.save(Vggish(), str(folder)))


def _pad(tf: Any, waveform: Any) -> Any:
    """`pad_waveform`: zeros at the end, to one patch, then to a whole number of patch hops."""
    first, hop = tf.cast((0.96 + 0.025 - 0.010) * 16000.0, tf.int32), tf.cast(0.48 * 16000.0, tf.int32)
    samples = tf.shape(waveform)[-1]
    short = tf.maximum(0, first - samples)
    beyond = tf.maximum(samples, first) - first
    hops = tf.cast(tf.math.ceil(tf.cast(beyond, tf.float32) / tf.cast(hop, tf.float32)), tf.int32)
    return tf.pad(waveform, [[0, short + hop * hops - beyond]])


def _log_mel(tf: Any, waveform: Any, front_end: FrontEnd, log_offset: float) -> Any:
    magnitude = tf.abs(tf.signal.stft(waveform, front_end.window, front_end.hop, front_end.fft))
    mel = tf.signal.linear_to_mel_weight_matrix(
        front_end.mel_bands, front_end.fft // 2 + 1, front_end.sample_rate, front_end.low_hz, front_end.high_hz
    )
    return tf.math.log(magnitude @ mel + log_offset)


def _convolved(tf: Any, x: Any, kernel: Any, stride: int) -> Any:
    if kernel.shape[3] == 1 and kernel.shape[0] == 3:
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")
    return tf.nn.conv2d(x, kernel, stride, "SAME")


def _normalized(tf: Any, x: Any, part: list[Any]) -> Any:
    _, beta, mean, variance = part
    ones = tf.ones_like(beta)
    x, _, _, *_ = tf.compat.v1.nn.fused_batch_norm(
        x, ones, beta, mean, variance, epsilon=BATCH_NORM_EPSILON, is_training=False
    )
    return tf.nn.relu(x)


def _archived(archive: Path, export: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as scratch:
        folder = Path(scratch) / "model"
        export(folder)
        with tarfile.open(archive, "w:gz", compresslevel=0) as members:
            for path in sorted(folder.iterdir()):
                members.add(path, arcname=path.name)
