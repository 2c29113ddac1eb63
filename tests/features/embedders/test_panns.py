"""Block panns: CNN14 by the fast engine against panns-inference, on a checkpoint of the published format, seeded."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

from acoustic_env.audio.decode import decode, resample
from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.errors import UsageError
from acoustic_env.features.block import fingerprint
from acoustic_env.features.embedders.cnn14 import Cnn14FrontEnd, PublishedCnn14
from acoustic_env.features.embedders.panns import PannsBlock
from acoustic_env.features.embedders.weights_cache import ENVIRONMENT, WeightsCache
from acoustic_env.features.embedders.weights_registry import weights_source
from acoustic_env.features.embedders.winograd import conv3x3_relu, transform_kernel
from acoustic_env.features.registry import make_block


def seeded_state() -> dict[str, torch.Tensor]:
    """CNN14's tensors with seeded numbers that keep every layer's output of the order of one."""
    generator = torch.Generator().manual_seed(23)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in PublishedCnn14().state_dict().items()}
    front_end = {
        "spectrogram_extractor": Spectrogram(n_fft=1024, hop_length=320, win_length=1024),
        "logmel_extractor": LogmelFilterBank(sr=32000, n_fft=1024, n_mels=64, fmin=50, fmax=14000),
    }
    state = {f"{name}.{key}": value for name, part in front_end.items() for key, value in part.state_dict().items()}
    for key, shape in shapes.items():
        if key in state:
            continue
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000)
        elif key.endswith("running_var") or (".bn" in key and key.endswith("weight")):
            state[key] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) > 1:
            state[key] = torch.empty(shape).normal_(0, (2 / shape[1:].numel()) ** 0.5, generator=generator)
        else:
            state[key] = 0.1 * torch.randn(shape, generator=generator)
    state["bn0.running_mean"] -= 30.0
    state["bn0.running_var"] *= 200.0
    state["bn0.weight"] = torch.ones(64)
    return state


def place(cache: Path, name: str, checkpoint: Any, **how: Any) -> Path:
    """Put a checkpoint into a cache of weights as if it were the published file; where it lies."""
    source = weights_source(name)
    file = cache / "made-by-a-test"
    torch.save(checkpoint, file, **how)
    known = hashlib.sha256(file.read_bytes()).hexdigest()
    WeightsCache(str(cache)).put(source, file, "a test", sha256=known)
    file.unlink()
    return cache / source.file_name


def place_classes(cache: Path) -> None:
    """A list of 527 classes, as the registry's entry for them has it."""
    file = cache / "classes"
    file.write_text("index,mid,display_name\n" + "".join(f"{i},/m/{i},class {i}\n" for i in range(527)))
    known = hashlib.sha256(file.read_bytes()).hexdigest()
    WeightsCache(str(cache)).put(weights_source("audioset-classes"), file, "a test", sha256=known)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with seeded CNN14 weights, in the old file format and with a trainer's state, as published."""
    cache = tmp_path_factory.mktemp("weights")
    sampler = {"indexes_per_class": [np.arange(5)], "pointer": np.int64(3), "queue": [1, 2]}
    checkpoint = {"iteration": 600000, "model": seeded_state(), "sampler": sampler}
    file = place(cache, "panns-cnn14", checkpoint, _use_new_zipfile_serialization=False)
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = str(cache)
    yield cache
    file.unlink()
    del os.environ[ENVIRONMENT]
    if before is not None:
        os.environ[ENVIRONMENT] = before


@pytest.fixture(scope="module")
def fast(seeded: Path) -> PannsBlock:
    block = PannsBlock("fast", input="native-32k")
    block.load("cpu")
    return block


@pytest.fixture(scope="module")
def reference(seeded: Path) -> PannsBlock:
    block = PannsBlock("reference", input="native-32k")
    block.load("cpu")
    return block


@pytest.fixture(scope="module")
def waveform() -> npt.NDArray[np.float32]:
    """10 s of chirps, noise and a silent second at 32 kHz."""
    rng = np.random.default_rng(5)
    time = np.arange(320_000) / 32_000
    sound = np.sin(2 * np.pi * (200 + 300 * time) * time) + 0.3 * rng.standard_normal(time.size)
    sound[96_000:128_000] = 0
    return rms_normalize(sound[None].astype(np.float32))[0]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [320_000, 50_001, 9_920])
def test_the_fast_engine_gives_what_panns_inference_gives(
    fast: PannsBlock, reference: PannsBlock, waveform: npt.NDArray[np.float32], samples: int
) -> None:
    batch = waveform[None, :samples]

    given, expected = fast.embed(batch), reference.embed(batch)

    assert given.scores is not None
    assert expected.scores is not None
    scale = np.abs(expected.embeddings).max()
    assert scale > 0.1
    assert np.abs(given.embeddings - expected.embeddings).max() < 1e-5 * scale  # promised: 1e-4
    np.testing.assert_allclose(given.scores, expected.scores, atol=1e-5)


def real_clips(folder: Path) -> Iterator[npt.NDArray[np.float32]]:
    """1 s of three recordings at 32 kHz: one nearly silent in between, one with nothing above 8 kHz, one untouched."""
    for name, rate in (
        ("esc10/*/4-175000-B.ogg", 32_000),
        ("esc10/*/1-100032-A.ogg", 16_000),
        ("*/100263-*.wav", 32_000),
    ):
        file = next(folder.glob(name))
        with file.open("rb") as source:
            native, native_rate = decode(source, None, None, file.name)
        yield resample(rms_normalize(resample(native, native_rate, rate)[None])[0], rate, 32_000)[None, :32_000]


@pytest.mark.slow
def test_the_fast_engine_agrees_on_real_clips(fast: PannsBlock, reference: PannsBlock, test_data: Path) -> None:
    for batch in real_clips(test_data / "clips"):
        given, expected = fast.embed(batch).embeddings, reference.embed(batch).embeddings
        assert np.abs(given - expected).max() < 1e-5 * np.abs(expected).max()


def test_bands_of_real_clips_down_to_90_db_are_torchlibrosas(
    fast: PannsBlock, reference: PannsBlock, test_data: Path
) -> None:
    model: Any = reference._model.network.model
    for batch in real_clips(test_data / "clips"):
        waveform = torch.from_numpy(batch)
        with torch.inference_mode():
            expected = model.logmel_extractor(model.spectrogram_extractor(waveform))[:, 0]
            error = (fast._model.preprocess(waveform) - expected).abs() / expected.abs().max()
        audible = expected > expected.amax(-1, keepdim=True) - 90
        assert float(error[audible].max()) < 1e-5
        assert float(error.max()) < 1e-4  # below, panns-inference's own rounding


@pytest.mark.parametrize("samples", [320_000, 123_457, 1_000])
def test_the_front_end_gives_torchlibrosas_decibels(
    fast: PannsBlock, reference: PannsBlock, waveform: npt.NDArray[np.float32], samples: int
) -> None:
    model: Any = reference._model.network.model
    batch = torch.from_numpy(waveform[None, :samples])
    with torch.inference_mode():
        expected = model.logmel_extractor(model.spectrogram_extractor(batch))[:, 0]
        given = fast._model.preprocess(batch)
    assert given.shape == expected.shape
    assert float((given - expected).abs().max() / expected.abs().max()) < 1e-5


def test_one_clip_does_not_depend_on_its_neighbors(fast: PannsBlock, waveform: npt.NDArray[np.float32]) -> None:
    pieces = waveform[: 4 * 16_000].reshape(4, 16_000)
    together = fast.embed(pieces).embeddings
    alone = np.concatenate([fast.embed(piece[None]).embeddings for piece in pieces])
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())


def test_silence_and_the_shortest_clip_have_finite_embeddings(fast: PannsBlock) -> None:
    output = fast.embed(np.zeros((1, 3_200), np.float32))
    assert np.isfinite(output.embeddings).all()
    assert output.embeddings.shape == (1, 1, 2048)
    assert output.scores is not None
    assert output.scores.shape == (1, 1, 527)


def test_the_16_khz_input_is_padded_with_its_mean_to_ten_seconds_and_resampled(
    seeded: Path, fast: PannsBlock, waveform: npt.NDArray[np.float32]
) -> None:
    clip = waveform[:60_001] + np.float32(0.01)
    at_16k = PannsBlock("fast", input="resampled-16k")
    at_16k._loaded = fast._loaded
    by_hand = resample(np.pad(clip, (0, 160_000 - clip.size), mode="mean"), 16_000, 32_000)

    given = at_16k.embed(clip[None]).embeddings

    np.testing.assert_array_equal(given, fast.embed(by_hand[None]).embeddings)


def test_input_and_weights_are_in_the_fingerprint(seeded: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def of(**options: Any) -> str:
        return fingerprint(make_block("panns", "fast", options), {})

    standard = of()
    assert of(input="resampled-16k") == standard
    assert of(input="native-32k") != standard
    assert of(precision="bf16") != standard
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    place(tmp_path, "panns-cnn14", {"model": {}})
    assert of() != standard


def test_the_reference_engines_rows_name_the_library_that_made_them(seeded: Path) -> None:
    made = make_block("panns", "reference")
    assert made.parameters()["panns-inference"] == "0.1.1"
    place_classes(seeded)
    assert "panns-inference" in made.metadata()["libraries"]
    assert "tensorflow" not in made.metadata()["libraries"]


def test_the_native_input_asks_for_32_khz_and_the_other_for_16_khz(seeded: Path) -> None:
    assert make_block("panns", "fast").sample_rate == 16_000
    assert make_block("panns", "fast", {"input": "native-32k"}).sample_rate == 32_000


@pytest.mark.slow
def test_bf16_stays_close_to_float32(seeded: Path, fast: PannsBlock, waveform: npt.NDArray[np.float32]) -> None:
    coarse = PannsBlock("fast", precision="bf16", input="native-32k")
    coarse.load("cpu")
    batch = waveform[None, :32_000]
    given, expected = coarse.embed(batch).embeddings[0, 0], fast.embed(batch).embeddings[0, 0]
    cosine = given @ expected / np.linalg.norm(given) / np.linalg.norm(expected)
    assert 0.999 < cosine < 1


def test_the_reference_engine_neither_downloads_nor_imports_the_package(reference: PannsBlock) -> None:
    assert "panns_inference" not in sys.modules
    assert "panns_inference.config" not in sys.modules
    assert not any(name.endswith("download.config") for name in sys.modules)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": True}, "no frames"),
        ({"input": "44k"}, "resampled-16k, native-32k"),
        ({"rate": 3}, "rate"),
        ({"weights": "mn04"}, "for the network mn04, not cnn14"),
    ],
)
def test_an_option_it_cannot_honour_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_block("panns", "fast", options)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    return tmp_path


def hollow_state(**other: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors of CNN14's shapes that take no room: every number is the same one."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in PublishedCnn14().state_dict().items()}
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()} | other


def test_weights_of_another_architecture_are_refused_by_key_and_shape(cache: Path) -> None:
    key = "spectrogram_extractor.stft.conv_real.weight"
    place(cache, "panns-cnn14", {"model": hollow_state(**{key: torch.zeros(()).expand(257, 1, 512)})})
    with pytest.raises(UsageError, match=rf"{key} of shape \(257, 1, 512\), expected \(513, 1, 1024\)"):
        PannsBlock("fast").load("cpu")


def test_weights_without_a_layer_are_refused_by_its_name(cache: Path) -> None:
    state = hollow_state()
    del state["fc1.bias"]
    place(cache, "panns-cnn14", {"model": state})
    with pytest.raises(UsageError, match=r"fc1\.bias missing"):
        PannsBlock("fast").load("cpu")


def test_weights_for_other_mel_bands_are_refused(cache: Path) -> None:
    place(cache, "panns-cnn14", {"model": hollow_state()})
    with pytest.raises(UsageError, match=r"not 64 from 50 to 14000 Hz at 32000 Hz"):
        PannsBlock("fast").load("cpu")


def test_a_checkpoint_without_a_model_says_what_it_holds(cache: Path) -> None:
    place(cache, "panns-cnn14", {"state_dict": {}, "epoch": 3})
    with pytest.raises(UsageError, match="no model in the checkpoint, only state_dict, epoch"):
        PannsBlock("fast").load("cpu")


class Dangerous:
    """What a tampered checkpoint could carry: something to run when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(Path(os.environ[ENVIRONMENT]) / "harm"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_something_is_refused(cache: Path, zipped: bool) -> None:
    place(cache, "panns-cnn14", {"model": Dangerous()}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match="not a checkpoint that PyTorch can read safely"):
        PannsBlock("fast").load("cpu")
    assert not (cache / "harm").exists()


def test_a_truncated_or_tampered_file_is_refused(cache: Path) -> None:
    file = place(cache, "panns-cnn14", {"model": hollow_state()})
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + b"\x01", b""):
        file.write_bytes(damaged)
        with pytest.raises(UsageError, match="damaged"):
            PannsBlock("fast").load("cpu")


def test_a_truncated_file_that_was_trusted_by_checksum_is_still_one_clear_error(cache: Path) -> None:
    file = place(cache, "panns-cnn14", {"model": hollow_state()})
    half = file.read_bytes()[: file.stat().st_size // 2]
    (cache / "half").write_bytes(half)
    known = hashlib.sha256(half).hexdigest()
    WeightsCache(str(cache)).put(weights_source("panns-cnn14"), cache / "half", "a test", sha256=known)
    with pytest.raises(UsageError, match="not a checkpoint that PyTorch can read safely"):
        PannsBlock("fast").load("cpu")


@settings(max_examples=25, deadline=None)
@given(
    clips=st.integers(1, 4),
    height=st.integers(1, 70),
    width=st.integers(1, 9),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    halve=st.booleans(),
    seed=st.integers(0, 99),
)
def test_winograd_convolution_is_a_convolution(
    clips: int, height: int, width: int, inputs: int, outputs: int, halve: bool, seed: int
) -> None:
    if halve and min(height, width) < 2:
        return
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(clips, inputs, height, width, generator=generator)
    kernel, bias = torch.randn(outputs, inputs, 3, 3, generator=generator), torch.randn(outputs, generator=generator)
    expected = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
    if halve:
        expected = functional.avg_pool2d(expected, 2)

    given = conv3x3_relu(x.permute(0, 2, 3, 1), transform_kernel(kernel), bias, halve=halve)

    torch.testing.assert_close(given.permute(0, 3, 1, 2), expected, atol=2e-5, rtol=1e-5)


def test_many_tiles_are_worked_in_pieces_without_seams() -> None:
    generator = torch.Generator().manual_seed(1)
    for shape in ((1, 2, 101, 65), (3, 2, 1201, 2), (40, 2, 31, 2)):
        x = torch.randn(shape, generator=generator)
        kernel, bias = torch.randn(3, 2, 3, 3, generator=generator), torch.randn(3, generator=generator)
        expected = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
        given = conv3x3_relu(x.permute(0, 2, 3, 1), transform_kernel(kernel), bias, halve=False)
        torch.testing.assert_close(given.permute(0, 3, 1, 2), expected, atol=2e-5, rtol=1e-5)


def test_a_front_end_is_made_of_the_checkpoints_own_window_and_mel_weights(fast: PannsBlock) -> None:
    assert isinstance(fast._model.preprocess, Cnn14FrontEnd)
    np.testing.assert_allclose(
        fast._model.preprocess.window.numpy(), np.hanning(1025)[:-1].astype(np.float32), atol=1e-6
    )
    assert fast._model.preprocess.mel.shape == (513, 64)
