"""VGGish: the fast engine against TF-Hub's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from acoustic_env.audio.signals import Engine
from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.contract import EmbedderBlock
from acoustic_env.features.embedders.log_mel import LogMelPatches
from acoustic_env.features.embedders.savedmodel import check_conversion
from acoustic_env.features.embedders.vggish import LOG_OFFSET, map_variables
from acoustic_env.features.embedders.vggish_network import VggishNetwork
from acoustic_env.features.embedders.weights_cache import ENVIRONMENT
from acoustic_env.features.embedders.weights_registry import VGGISH_FRONT_END
from acoustic_env.features.embedders.winograd_4x4 import conv3x3_relu, transform_kernel
from acoustic_env.features.registry import make_block

ENGINES: tuple[Engine, ...] = ("fast", "reference")


def noise(clips: int, samples: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(samples)
    return (0.1 * rng.standard_normal((clips, samples)) * np.linspace(0.01, 2.0, samples)).astype(np.float32)


@pytest.fixture(scope="module")
def blocks(savedmodel_cache: Path) -> dict[str, EmbedderBlock]:
    """The per-frame block of both engines, loaded."""
    made = {}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(ENVIRONMENT, str(savedmodel_cache))
        for engine in ("fast", "reference"):
            block = make_block("vggish_frames", engine)
            block.load("cpu")
            assert isinstance(block, EmbedderBlock)
            made[engine] = block
    return made


def test_the_fast_engine_gives_what_tf_hubs_model_gives(blocks: dict[str, EmbedderBlock]) -> None:
    for samples, frames in ((80_000, 5), (79_999, 5), (15_600, 1), (15_601, 1), (30_959, 1), (30_960, 2), (1_600, 1)):
        waveforms = noise(2, samples)
        expected, actual = (blocks[engine].compute(waveforms)["embedding"] for engine in ("reference", "fast"))
        assert expected.shape == actual.shape == (2, frames, 128)
        assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-4


def test_the_block_is_the_mean_over_frames(blocks: dict[str, EmbedderBlock], savedmodels: Path) -> None:
    means = make_block("vggish", "fast")
    means.load("cpu")
    waveforms = noise(1, 48_000)
    expected = blocks["fast"].compute(waveforms)["embedding"].mean(axis=1)
    np.testing.assert_allclose(means.compute(waveforms)["embedding"], expected, atol=1e-6)
    assert [column.name for column in means.columns] == ["embedding"]


@pytest.mark.slow
def test_the_front_end_is_tensorflows_within_1e_5() -> None:
    tf = pytest.importorskip("tensorflow")
    mel = tf.signal.linear_to_mel_weight_matrix(64, 257, 16000, 125.0, 7500.0)
    for samples in (160_000, 31_337):
        waveform = noise(1, samples)
        expected = tf.math.log(tf.abs(tf.signal.stft(waveform[0], 400, 160, 512)) @ mel + 0.01).numpy()
        actual = LogMelPatches(VGGISH_FRONT_END, LOG_OFFSET, pads=False).log_mel(torch.from_numpy(waveform))[0].numpy()
        assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-5


def test_winograd_convolution_gives_what_the_library_convolves() -> None:
    torch.manual_seed(23)
    network = VggishNetwork().requires_grad_(False)
    patches = torch.randn(3, 1, 96, 64)
    direct, winograd = network._direct(patches), network._winograd(patches)
    assert direct.shape == winograd.shape == (3, 6, 4, 512)
    assert float((direct - winograd).abs().max() / direct.abs().max()) < 1e-5


@pytest.mark.parametrize("halve", [False, True])
def test_winograd_convolution_of_4x4_tiles_gives_what_the_library_convolves(halve: bool) -> None:
    torch.manual_seed(4)
    x, kernel, bias = torch.randn(41, 7, 12, 8).relu(), torch.randn(10, 7, 3, 3), torch.randn(10)
    expected = functional.conv2d(x.double(), kernel.double(), bias.double(), padding=1).relu()
    expected = functional.max_pool2d(expected, 2) if halve else expected
    given = conv3x3_relu(x.permute(0, 2, 3, 1), transform_kernel(kernel), bias, halve=halve).permute(0, 3, 1, 2)
    assert given.shape == expected.shape
    assert float((given - expected).abs().max() / expected.max()) < 1e-5


def test_winograd_convolution_of_4x4_tiles_refuses_maps_of_other_sizes() -> None:
    with pytest.raises(ValueError, match="maps of 6x8 are not made of whole 4x4 tiles"):
        conv3x3_relu(torch.zeros(1, 6, 8, 1), transform_kernel(torch.zeros(1, 1, 3, 3)), torch.zeros(1), halve=False)


def test_variables_of_another_network_are_refused() -> None:
    with pytest.raises(UsageError, match="not VGGish as TF-Hub publishes it: no variable 'vggish/conv1/weights'"):
        map_variables({"layer1/conv/kernel": np.zeros((3, 3, 1, 32), np.float32)}, "some file")


def test_a_savedmodel_that_computes_something_else_is_refused() -> None:
    expected = np.ones((2, 128), np.float32)
    assert check_conversion("a file", expected, expected + np.float32(1e-6)) < 1e-4
    with pytest.raises(UsageError, match=r"differ by 1\.0e-02 of the largest value"):
        check_conversion("a file", expected, expected * np.float32(1.01))
    with pytest.raises(UsageError, match=r"are of shape \(2, 128\), expected \(3, 128\)"):
        check_conversion("a file", expected, np.ones((3, 128), np.float32))
