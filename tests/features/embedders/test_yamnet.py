"""YAMNet: the fast engine against TF-Hub's model and against the tflite interpreter, and the reading of both files."""

from __future__ import annotations

import builtins
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from acoustic_env.audio.decode import decode, resample
from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.errors import UsageError
from acoustic_env.features.block import fingerprint, table_schema
from acoustic_env.features.embedders.log_mel import LogMelPatches, htk_mel_weights
from acoustic_env.features.embedders.tflite import read_tflite
from acoustic_env.features.embedders.weights_cache import WeightsCache
from acoustic_env.features.embedders.weights_fetch import fetch
from acoustic_env.features.embedders.weights_registry import YAMNET_FRONT_END, weights_source
from acoustic_env.features.embedders.yamnet import YamnetBlock
from acoustic_env.features.embedders.yamnet_weights import LOG_OFFSET, fold_variables, map_operators
from acoustic_env.features.registry import make_block

# Full clips, odd lengths around a patch and its hop, and clips too short for one patch.
LENGTHS = (160_000, 79_999, 15_600, 15_601, 23_280, 23_281, 1_600)


def real_clips(test_data: Path, every: int) -> list[npt.NDArray[np.float32]]:
    """ESC-10 clips at 16 kHz, normalized."""
    waveforms = []
    for path in sorted((test_data / "clips" / "esc10").glob("*/*.ogg"))[::every]:
        with path.open("rb") as stream:
            waveform, rate = decode(stream, None, None, path.name)
        waveforms.append(rms_normalize(resample(waveform, rate, 16_000)[None])[0])
    return waveforms


def noise(clips: int, samples: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(samples)
    return (0.1 * rng.standard_normal((clips, samples)) * np.linspace(0.01, 2.0, samples)).astype(np.float32)


def difference(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference over largest value."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def test_the_fast_engine_gives_what_tf_hubs_model_gives(savedmodels: Path) -> None:
    fast, reference = make_block("yamnet", "fast"), make_block("yamnet_frames", "reference")
    frames = make_block("yamnet_frames", "fast")
    for block in (fast, reference, frames):
        block.load("cpu")
    for samples in LENGTHS:
        waveforms = noise(2, samples)
        expected = reference.compute(waveforms)
        for column, values in frames.compute(waveforms).items():
            assert values.shape == expected[column].shape
            assert difference(values, expected[column]) < 1e-4
        means = fast.compute(waveforms)
        assert difference(means["embedding"], expected["embedding"].mean(axis=1)) < 1e-4
        assert difference(means["scores"], expected["scores"].mean(axis=1)) < 1e-4


@pytest.mark.slow
def test_the_front_end_is_tensorflows_within_1e_5(test_data: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    front_end = LogMelPatches(YAMNET_FRONT_END, LOG_OFFSET, pads=False)
    mel = tf.signal.linear_to_mel_weight_matrix(64, 257, 16000, 125.0, 7500.0)
    assert np.abs(htk_mel_weights(YAMNET_FRONT_END) - mel.numpy()).max() < 1e-5
    for waveform in real_clips(test_data, every=40):
        for cut in (waveform, waveform[:31_337]):
            expected = tf.math.log(tf.abs(tf.signal.stft(cut, 400, 160, 512)) @ mel + 0.001).numpy()
            actual = front_end.log_mel(torch.from_numpy(cut)[None])[0].numpy()
            assert actual.shape == expected.shape
            # Where a loud clip has silent bands, TensorFlow's own rounding is larger than that.
            assert difference(actual, expected) < max(1e-5, 2 * difference(expected, _exact_log_mel(cut, mel.numpy())))


def _exact_log_mel(waveform: npt.NDArray[np.float32], mel: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), 400)[::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    return np.log(np.abs(np.fft.rfft(frames * window, 512)) @ mel.astype(np.float64) + 0.001)


def test_one_table_names_weights_classes_and_licence(savedmodels: Path) -> None:
    schema = table_schema(make_block("yamnet", "fast"), {})
    metadata = {key.decode().removeprefix("acoustic_env."): value.decode() for key, value in schema.metadata.items()}
    sha256 = json.loads((savedmodels / "yamnet_1.tar.gz.json").read_text())["sha256"]
    assert metadata["weights_sha256"] == sha256
    assert json.loads(metadata["parameters"])["weights_sha256"] == sha256
    assert metadata["weights_origin"].startswith("https://tfhub.dev/google/yamnet/1")
    assert json.loads(metadata["class_names"])[520] == "Class 520, seeded"
    assert schema.field("embedding").type.list_size == 1024
    assert schema.field("scores").type.list_size == 521


def test_other_weights_give_another_fingerprint(savedmodels: Path, real_yamnet: Path) -> None:
    prints = {fingerprint(make_block("yamnet", "fast", {"weights": "tflite"}), {})}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ACOUSTIC_ENV_WEIGHTS", str(savedmodels))
        prints |= {fingerprint(make_block("yamnet", engine), {}) for engine in ("fast", "reference")}
    assert len(prints) == 3


def test_workers_of_the_fast_engine_need_no_tensorflow(savedmodels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_tensorflow(monkeypatch)
    block = YamnetBlock("fast")
    block.load("cpu")
    assert block.embed(noise(1, 16_000)).embeddings.shape == (1, 2, 1024)


def test_without_tensorflow_the_error_says_what_to_install(
    cache: Path, savedmodels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = savedmodels / "yamnet_1.tar.gz"
    monkeypatch.setenv("ACOUSTIC_ENV_WEIGHTS", str(cache))
    sha256 = json.loads((savedmodels / "yamnet_1.tar.gz.json").read_text())["sha256"]
    fetch(weights_source("yamnet-tfhub"), WeightsCache(), str(archive), sha256)
    _without_tensorflow(monkeypatch)
    for engine in ("fast", "reference"):
        with pytest.raises(UsageError, match=r"pip install 'acoustic-env\[tensorflow\]'"):
            make_block("yamnet", engine).load("cpu")


def _without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] in ("tensorflow", "tensorflow_hub"):
            msg = f"No module named {name!r}"
            raise ModuleNotFoundError(msg)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize(("content", "message"), [("nothing", "no SavedModel"), ("cut", "truncated or not a .tar.gz")])
@pytest.mark.slow
def test_an_archive_that_is_no_savedmodel_is_refused(cache: Path, tmp_path: Path, content: str, message: str) -> None:
    pytest.importorskip("tensorflow_hub")
    archive, member = tmp_path / "yamnet_1.tar.gz", tmp_path / "readme"
    member.write_bytes(np.random.default_rng(0).bytes(100_000))
    with tarfile.open(archive, "w:gz") as members:
        members.add(member, arcname="readme")
    if content == "cut":
        archive.write_bytes(archive.read_bytes()[:50_000])
    source = weights_source("vggish-tfhub")
    fetch(source, WeightsCache(), str(archive))
    with pytest.raises(UsageError, match=message):
        make_block("vggish", "fast").load("cpu")


def test_variables_of_another_network_are_refused() -> None:
    variables: Mapping[str, npt.NDArray[np.float32]] = {"layer1/conv/kernel": np.zeros((3, 3, 1, 32), np.float32)}
    with pytest.raises(UsageError, match="not YAMNet as TF-Hub publishes it: no variable 'layer1/conv/bn"):
        fold_variables(dict(variables), "some file")


@pytest.mark.slow
def test_the_tflite_file_is_read_as_tensorflow_reads_it(test_data: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    path = test_data / "weights" / "yamnet.tflite"
    interpreter = tf.lite.Interpreter(str(path))
    details = {d["name"]: d for d in interpreter.get_tensor_details() if d["name"]}
    compared = 0
    for operator in read_tflite(path):
        for tensor in operator.inputs:
            if tensor is None or tensor.values is None or details[tensor.name]["dtype"] != np.int8:
                continue
            detail = details[tensor.name]
            quantised = detail["quantization_parameters"]
            along = [1] * len(tensor.shape)
            along[quantised["quantized_dimension"]] = -1
            stored = interpreter.get_tensor(detail["index"]).astype(np.float64)
            zero, scale = (quantised[key].reshape(along) for key in ("zero_points", "scales"))
            np.testing.assert_allclose(tensor.values, (stored - zero) * scale, rtol=1e-6)
            compared += 1
    assert compared == 26  # 13 pointwise and 11 depthwise convolutions, the classifier, the mel weights


def test_a_truncated_tflite_file_is_refused(test_data: Path, tmp_path: Path) -> None:
    data = (test_data / "weights" / "yamnet.tflite").read_bytes()
    for size in (4, 40, 1_000_000, len(data) - 1000):
        (tmp_path / "cut.tflite").write_bytes(data[:size])
        with pytest.raises(UsageError, match="not a tflite file"):
            read_tflite(tmp_path / "cut.tflite")


def test_operators_of_another_network_are_refused(test_data: Path) -> None:
    operators = read_tflite(test_data / "weights" / "yamnet.tflite")
    without_one = [operator for operator in operators if operator.kind]
    del without_one[5]
    with pytest.raises(UsageError, match="not YAMNet: 26 convolutions, expected 27"):
        map_operators(without_one, "another")


@pytest.mark.slow
def test_the_tflite_weights_agree_with_their_interpreter_on_real_clips(real_yamnet: Path, test_data: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    block = make_block("yamnet", "fast", {"weights": "tflite"})
    block.load("cpu")
    path = str(test_data / "weights" / "yamnet.tflite")
    interpreter = tf.lite.Interpreter(path, experimental_preserve_all_tensors=True, num_threads=1)
    interpreter.allocate_tensors()
    pooled = next(
        d["index"]
        for d in interpreter.get_tensor_details()
        if d["name"].endswith("global_average_pooling2d/Mean") and list(d["shape"]) == [1, 1024]
    )
    near = []
    for waveform in real_clips(test_data, every=40):
        expected = _interpreted(interpreter, pooled, waveform).mean(axis=0)
        near.append(_cosine(block.compute(waveform[None])["embedding"][0], expected))
    assert np.mean(near) > 0.95  # the interpreter rounds activations to 8 bits, this network does not


def _interpreted(interpreter: Any, pooled: int, waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    frames = 1 + -(-(len(waveform) - 15_600) // 7_680)
    padded = np.pad(waveform, (0, 15_600 + 7_680 * (frames - 1) - len(waveform)))
    embeddings = []
    for frame in range(frames):
        interpreter.set_tensor(0, padded[7_680 * frame : 7_680 * frame + 15_600])
        interpreter.invoke()
        embeddings.append(interpreter.get_tensor(pooled)[0].copy())
    return np.array(embeddings)


def _cosine(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.slow
def test_bf16_is_near_float32_on_real_clips(real_yamnet: Path, test_data: Path) -> None:
    exact = make_block("yamnet", "fast", {"weights": "tflite"})
    rounded = make_block("yamnet", "fast", {"weights": "tflite", "precision": "bf16"})
    for block in (exact, rounded):
        block.load("cpu")
    for waveform in real_clips(test_data, every=133):
        embeddings = [block.compute(waveform[None])["embedding"][0] for block in (exact, rounded)]
        assert embeddings[0].dtype == embeddings[1].dtype == np.float32
        assert 0.99 < _cosine(*embeddings) < 1.0 - 1e-7


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("reference", {"weights": "tflite"}, "runs TF-Hub's model, not 'yamnet-tflite'"),
        ("fast", {"activations": "int8"}, "unexpected keyword argument 'activations'"),
        ("fast", {"patch_hop": 1}, "unexpected keyword argument 'patch_hop'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(engine: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_block("yamnet", engine, options)
