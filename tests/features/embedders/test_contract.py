"""What every embedder block promises, tried on the placeholder."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acoustic_env.errors import ClipError, UsageError
from acoustic_env.features.block import Json, fingerprint, table_schema, to_table
from acoustic_env.features.embedders.contract import EmbedderBlock, EmbedderOutput
from acoustic_env.features.embedders.placeholder import PlaceholderBlock
from acoustic_env.features.embedders.weights_registry import YAMNET_FRONT_END
from acoustic_env.features.registry import make_block


def noise(clips: int, samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal((clips, samples))).astype(np.float32)


def loaded(name: str = "placeholder", **options: Json) -> EmbedderBlock:
    block = make_block(name, "fast", options)
    assert isinstance(block, EmbedderBlock)
    block.load("cpu")
    return block


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(100, 40_000), st.integers(1, 4))
def test_numbers_do_not_depend_on_the_batch(clips: int, samples: int, step: int) -> None:
    block = loaded()
    waveforms = noise(clips, samples)
    block._model.step = step * samples
    together = block.compute(waveforms)
    block._model.step = None
    alone = [block.compute(waveforms[i : i + 1]) for i in range(clips)]
    for column in together:
        np.testing.assert_allclose(together[column], np.concatenate([c[column] for c in alone]), atol=1e-5)


def test_columns_are_those_promised() -> None:
    block = loaded()
    columns = block.compute(noise(3, 32_000))
    assert {name: values.shape for name, values in columns.items()} == {"embedding": (3, 64), "scores": (3, 10)}
    assert [(c.name, c.size) for c in block.columns] == [("embedding", 64), ("scores", 10)]
    table = to_table(table_schema(block, {}), ["a", "b", "c"], ["raw"] * 3, columns)
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), columns["embedding"])


def test_a_silent_clip_and_a_very_short_one_are_valid() -> None:
    block = loaded()
    assert np.isfinite(block.compute(np.zeros((1, 32_000), np.float32))["embedding"]).all()
    assert np.isfinite(block.compute(noise(1, 1_600))["embedding"]).all()


def test_a_short_clip_is_padded_with_zeros_to_one_frame() -> None:
    block = loaded()
    short = noise(1, 4_000)
    padded = np.concatenate([short, np.zeros((1, 15_600 - 4_000), np.float32)], axis=1)
    np.testing.assert_array_equal(block.compute(short)["embedding"], block.compute(padded)["embedding"])


def test_the_frames_table_holds_what_the_mean_is_made_of() -> None:
    frames, means = loaded("placeholder_frames"), loaded()
    waveforms = noise(2, 50_000)
    each, mean = frames.compute(waveforms), means.compute(waveforms)
    assert each["embedding"].shape == (2, 3, 64)
    np.testing.assert_allclose(each["embedding"].mean(axis=1), mean["embedding"], atol=1e-6)
    table = to_table(table_schema(frames, {}), ["a", "b"], ["raw", "raw"], each)
    assert table["frame"].to_pylist() == [0, 1, 2] * 2
    np.testing.assert_allclose(table["start_s"].to_numpy()[:3], [0.0, 0.96, 1.92])
    assert "start_s" not in table_schema(means, {}).names


def test_the_option_frames_changes_nothing_in_the_table_of_means() -> None:
    plain, asked = make_block("placeholder", "fast"), make_block("placeholder", "fast", {"frames": True})
    assert fingerprint(plain, {}) == fingerprint(asked, {})


def test_means_and_frames_of_a_batch_are_computed_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    forward = PlaceholderBlock._forward

    def counted(self: PlaceholderBlock, waveforms: npt.NDArray[np.float32]) -> EmbedderOutput:
        passes.append(len(waveforms))
        return forward(self, waveforms)

    monkeypatch.setattr(PlaceholderBlock, "_forward", counted)
    means, frames = loaded(), loaded("placeholder_frames")
    assert means._loaded is frames._loaded
    signals = [noise(2, 20_000, seed) for seed in range(3)]
    for signal in signals:
        means.compute(signal)
    for signal in signals:
        frames.compute(signal.copy())
    assert passes == [2, 2, 2]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError, ""),
        (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 800000000000 bytes"),
        (Exception, "bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 2457600000"),
    ],
)
def test_when_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(
    error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, waveforms = loaded(), noise(7, 20_000)
    block._model.step = None  # a block of another test may share the model
    whole = block.embed(waveforms)
    forward, sizes = PlaceholderBlock._forward, []

    def cramped(self: PlaceholderBlock, batch: npt.NDArray[np.float32]) -> EmbedderOutput:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error(message)
        return forward(self, batch)

    monkeypatch.setattr(PlaceholderBlock, "_forward", cramped)
    again = block.embed(waveforms)
    np.testing.assert_allclose(again.embeddings, whole.embeddings, atol=1e-5)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


def test_a_clip_that_does_not_fit_alone_is_an_error_of_that_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    block = loaded()

    def never(self: PlaceholderBlock, batch: npt.NDArray[np.float32]) -> EmbedderOutput:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(PlaceholderBlock, "_forward", never)
    with pytest.raises(ClipError, match="20000 samples does not fit") as caught:
        block.compute(noise(1, 20_000, seed=9))
    assert caught.value.code == "out_of_memory"
    assert not caught.value.permanent


class _WrongFrontEnd(PlaceholderBlock):
    name = "yamnet"
    architecture = "yamnet"
    default_weights = "yamnet-tflite"
    front_end = dataclasses.replace(YAMNET_FRONT_END, mel_bands=128, sample_rate=32_000)


def test_a_wrong_front_end_is_refused_before_anything_is_loaded(cache: object) -> None:
    message = "sample_rate: expected 16000, actual 32000; mel_bands: expected 64, actual 128"
    with pytest.raises(UsageError, match=message):
        _WrongFrontEnd("fast")


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(UsageError, match=r"weights 'mn04' are for the network mn04, not yamnet; use yamnet-tfhub"):
        make_block("yamnet", "fast", {"weights": "mn04"})
    with pytest.raises(UsageError, match=r"no weights named 'float'; expected one of: yamnet-tfhub, yamnet-tflite"):
        make_block("yamnet", "fast", {"weights": "float"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "'float16' is not one of float32, tf32, bf16"),
        ({"frames": "yes"}, "frames is true or false"),
        ({"hop": 1}, "unexpected keyword argument 'hop'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Json], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_block("placeholder", "fast", options)


def test_the_reference_engine_computes_in_float32_only() -> None:
    with pytest.raises(UsageError, match="reference engine computes in float32, not bf16"):
        make_block("placeholder", "reference", {"precision": "bf16"})


def test_the_precision_is_part_of_the_fingerprint() -> None:
    prints = {fingerprint(make_block("placeholder", "fast", {"precision": p}), {}) for p in ("float32", "tf32", "bf16")}
    assert len(prints) == 3


def test_bf16_is_near_float32() -> None:
    waveforms = noise(2, 32_000)
    exact, rounded = loaded().compute(waveforms), loaded(precision="bf16").compute(waveforms)
    error = np.abs(exact["embedding"] - rounded["embedding"]).max() / np.abs(exact["embedding"]).max()
    assert 0 < error < 0.02


def test_a_placeholder_says_in_its_table_that_it_is_none() -> None:
    block = PlaceholderBlock("fast")
    metadata = table_schema(block, {}).metadata
    assert metadata[b"acoustic_env.block"] == b"placeholder"
    assert metadata[b"acoustic_env.weights_origin"] == b"none"
    assert json.loads(metadata[b"acoustic_env.parameters"])["weights_sha256"] is None


def test_an_output_of_another_shape_than_promised_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    block = loaded()
    monkeypatch.setattr(block, "embed", lambda waveforms: EmbedderOutput(np.zeros((1, 2, 64), np.float32)))
    with pytest.raises(ValueError, match="for 2 clips"):
        block.compute(noise(2, 20_000, seed=5))
    with pytest.raises(ValueError, match=r"\[clips, samples\]"):
        block.compute(noise(2, 20_000)[0])


def test_an_embedder_that_is_not_loaded_says_so() -> None:
    with pytest.raises(RuntimeError, match="load an embedder"):
        PlaceholderBlock("fast").embed(noise(1, 20_000))


def test_a_gpu_that_is_not_there_is_a_clear_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="sees no GPU; use --device cpu"):
        PlaceholderBlock("fast").load("cuda")
