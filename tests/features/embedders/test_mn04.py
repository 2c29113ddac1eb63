"""Block mn04: the published definition written out plainly, on the real checkpoint; ESC-10; bad weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from acoustic_env.audio.decode import decode, resample
from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.errors import UsageError
from acoustic_env.features.embedders import contract
from acoustic_env.features.embedders.contract import EmbedderBlock
from acoustic_env.features.embedders.efficientat import Mn04, Mn04FrontEnd, kaldi_mel_weights
from acoustic_env.features.embedders.mn04 import Mn04Block
from acoustic_env.features.embedders.weights_cache import ENVIRONMENT, WeightsCache
from acoustic_env.features.embedders.weights_registry import weights_source
from acoustic_env.features.registry import make_block

State = dict[str, torch.Tensor]
Clips = npt.NDArray[np.float32]

# What AudioSet calls the ten classes of ESC-10, by folder number.
AUDIOSET_NAMES = (
    ("Bark", "Dog"),
    ("Rain", "Rain on surface", "Raindrop"),
    ("Waves, surf", "Ocean"),
    ("Baby cry, infant cry",),
    ("Tick", "Tick-tock", "Clock"),
    ("Sneeze",),
    ("Helicopter",),
    ("Chainsaw",),
    ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
    ("Fire", "Crackle"),
)


@pytest.fixture(scope="module")
def weights(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with the real checkpoint and the list of classes; the checkpoint's path."""
    cache = tmp_path_factory.mktemp("weights")
    checkpoint = test_data / "weights" / "mn04_as_mAP_432.pt"
    WeightsCache(str(cache)).put(weights_source("mn04"), checkpoint, "test data")
    names = test_data / "audioset" / "class_labels_indices.csv"
    WeightsCache(str(cache)).put(weights_source("audioset-classes"), names, "test data")
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = str(cache)
    yield checkpoint
    del os.environ[ENVIRONMENT]
    if before is not None:
        os.environ[ENVIRONMENT] = before


@pytest.fixture(scope="module")
def block(weights: Path) -> EmbedderBlock:
    made = cast(EmbedderBlock, make_block("mn04", "fast"))
    made.load("cpu")
    return made


def read(file: Path, rate: int = 32_000) -> Clips:
    with file.open("rb") as source:
        native, native_rate = decode(source, None, None, file.name)
    return rms_normalize(resample(native, native_rate, rate)[None])


@pytest.fixture(scope="module")
def clip(test_data: Path) -> Clips:
    return read(sorted((test_data / "clips" / "esc10").glob("*/*.ogg"))[7])


def published_front_end(waveforms: torch.Tensor) -> torch.Tensor:
    """EfficientAT's AugmentMelSTFT in evaluation mode."""
    x = functional.conv1d(waveforms[:, None], torch.tensor([[[-0.97, 1.0]]]))[:, 0]
    window = torch.hann_window(800, periodic=False)
    spectrum = torch.stft(x, 1024, hop_length=320, win_length=800, center=True, window=window, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)
    return ((kaldi_mel_weights(128, 1024, 32_000, 0.0, 15_000.0) @ power + 0.00001).log() + 4.5) / 5.0


def published_network(state: State, spectrogram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """EfficientAT's MN(width 0.4) read off the checkpoint's keys, one layer after the other, nothing folded."""

    def normed(x: torch.Tensor, key: str, stride: int, activation: Any) -> torch.Tensor:
        kernel = state[f"{key}.0.weight"]
        groups = x.shape[1] // kernel.shape[1]
        x = functional.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, 1, groups)
        names = ("running_mean", "running_var", "weight", "bias")
        return activation(functional.batch_norm(x, *(state[f"{key}.1.{name}"] for name in names), eps=0.001))

    x = normed(spectrogram, "features.0", 2, functional.hardswish)
    for number in range(1, 16):
        key, before = f"features.{number}.block", x
        activation = functional.relu if number < 7 else functional.hardswish
        stride = 2 if number in (2, 4, 7, 13) else 1
        parts = sorted({int(name.split(".")[3]) for name in state if name.startswith(f"{key}.")})
        for part in parts:
            squeeze = f"{key}.{part}.conc_se_layers.0"
            if f"{squeeze}.fc1.weight" in state:
                scale = x.mean((2, 3))
                scale = functional.relu(scale @ state[f"{squeeze}.fc1.weight"].T + state[f"{squeeze}.fc1.bias"])
                scale = (scale @ state[f"{squeeze}.fc2.weight"].T + state[f"{squeeze}.fc2.bias"]).sigmoid()
                x = x * scale[:, :, None, None]
                continue
            depthwise = state[f"{key}.{part}.0.weight"].shape[1] == 1 and state[f"{key}.{part}.0.weight"].shape[-1] > 1
            last = part == parts[-1]
            x = normed(x, f"{key}.{part}", stride if depthwise else 1, (lambda y: y) if last else activation)
        if before.shape == x.shape and stride == 1:
            x = x + before
    embedding = normed(x, "features.16", 1, functional.hardswish).mean((2, 3))
    hidden = functional.hardswish(embedding @ state["classifier.2.weight"].T + state["classifier.2.bias"])
    return embedding, (hidden @ state["classifier.5.weight"].T + state["classifier.5.bias"]).sigmoid()


@pytest.mark.parametrize("samples", [160_000, 77_777])
def test_it_gives_what_the_published_definition_gives(
    block: EmbedderBlock, weights: Path, clip: Clips, samples: int
) -> None:
    batch = clip[:, :samples]
    state = torch.load(weights, weights_only=True)
    embedding, scores = published_network(state, published_front_end(torch.from_numpy(batch))[:, None])

    given = block.compute(batch)

    assert given["embedding"].shape == (1, 384)
    assert given["scores"].shape == (1, 527)
    np.testing.assert_allclose(given["embedding"], embedding.numpy(), atol=1e-5 * float(embedding.abs().max()))
    np.testing.assert_allclose(given["scores"], scores.numpy(), atol=1e-5)


@pytest.mark.parametrize("samples", [320_000, 44_101, 514])
def test_the_front_end_is_the_published_one(samples: int) -> None:
    waveforms = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(4))
    given, expected = Mn04FrontEnd()(waveforms)[:, 0], published_front_end(waveforms)
    assert given.shape == expected.shape
    assert float((given - expected).abs().max() / expected.abs().max()) < 1e-6


def test_the_mel_weights_are_torchaudios() -> None:
    # torchaudio 2.9.0: compliance.kaldi.get_mel_banks(128, 1024, 32000.0, 0.0, 15000.0, 100.0, -500.0, 1.0)
    mel = kaldi_mel_weights(128, 1024, 32_000, 0.0, 15_000.0)
    assert mel.shape == (128, 513)
    assert int((mel > 0).sum()) == 948
    known = {(0, 1): 0.188595, (20, 14): 0.136253, (20, 15): 0.739703, (64, 85): 0.988558, (127, 458): 0.142873}
    for place, value in known.items():
        assert float(mel[place]) == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(mel[[0, 20, 64, 127]].sum(1), [0.188595, 0.875956, 2.671334, 11.832725], rtol=1e-5)


def test_one_clip_does_not_depend_on_its_neighbors(block: EmbedderBlock, clip: Clips) -> None:
    pieces = clip[:, :128_000].reshape(4, 32_000)
    together = block.compute(pieces)["embedding"]
    alone = np.concatenate([block.compute(piece[None])["embedding"] for piece in pieces])
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("samples", [1, 3_200, 40_000])
def test_silence_and_short_clips_have_finite_embeddings(block: EmbedderBlock, samples: int) -> None:
    given = block.compute(np.zeros((1, samples), np.float32))
    assert np.isfinite(given["embedding"]).all()
    assert ((given["scores"] >= 0) & (given["scores"] <= 1)).all()


def test_the_mean_over_frames_is_the_clips_embedding(block: EmbedderBlock, clip: Clips) -> None:
    frames = make_block("mn04_frames", "fast")
    frames.load("cpu")

    given = frames.compute(clip)

    assert frames.frame_hop_s == pytest.approx(0.32)
    assert given["embedding"].shape == (1, 16, 384)  # 5 s, a frame every 0.32 s
    assert given["scores"].shape == (1, 16, 527)
    np.testing.assert_allclose(given["embedding"].mean(1), block.compute(clip)["embedding"], atol=1e-5)


def test_bf16_stays_close_to_float32(block: EmbedderBlock, clip: Clips) -> None:
    coarse = make_block("mn04", "fast", {"precision": "bf16"})
    coarse.load("cpu")
    given, expected = coarse.compute(clip)["embedding"][0], block.compute(clip)["embedding"][0]
    cosine = given @ expected / np.linalg.norm(given) / np.linalg.norm(expected)
    assert 0.99 < cosine < 1


def test_onnx_runtime_gives_what_pytorch_gives(block: EmbedderBlock, clip: Clips) -> None:
    network = block._model.network
    for samples in (160_000, 50_001):
        with torch.inference_mode():
            spectrogram = block._model.preprocess(torch.from_numpy(clip[:, :samples]))
            for given, expected in zip(network(spectrogram), network.network(spectrogram), strict=True):
                assert float((given - expected).abs().max() / expected.abs().max()) < 1e-5
    assert network._session.get_session_options().intra_op_num_threads == torch.get_num_threads()


def test_the_network_is_exported_once_for_all_processes_and_again_where_the_kept_file_is_damaged(
    block: EmbedderBlock, clip: Clips, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = block.compute(clip)["scores"]
    (kept,) = Path(os.environ[ENVIRONMENT], "converted").glob("mn04-clip-*.onnx")

    def another_process() -> Any:
        contract._LOADED.clear()  # blocks of one process share the network
        again = make_block("mn04", "fast")
        again.load("cpu")
        return again.compute(clip)["scores"]

    with monkeypatch.context() as never:
        never.setattr(torch.onnx, "export", None)
        np.testing.assert_array_equal(another_process(), expected)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1])
    np.testing.assert_array_equal(another_process(), expected)
    assert kept.read_bytes() == whole


def test_there_is_no_reference_engine_and_it_says_so() -> None:
    with pytest.raises(UsageError, match="no reference engine"):
        make_block("mn04", "reference")


def test_it_names_the_527_audioset_classes(block: EmbedderBlock) -> None:
    names = block.class_names()
    assert len(names) == 527
    assert names[:2] == ("Speech", "Male speech, man speaking")


def test_weights_of_another_width_are_refused_by_key_and_shape(tmp_path: Path, monkeypatch: Any) -> None:
    state = {key: value for key, value in Mn04().state_dict().items() if not key.startswith("classifier")}
    state |= {"classifier.2.weight": torch.zeros(1280, 960), "classifier.2.bias": torch.zeros(1280)}
    state |= {"classifier.5.weight": torch.zeros(527, 1280), "classifier.5.bias": torch.zeros(527)}
    torch.save(state, tmp_path / "mn10")
    known = hashlib.sha256((tmp_path / "mn10").read_bytes()).hexdigest()
    WeightsCache(str(tmp_path)).put(weights_source("mn04"), tmp_path / "mn10", "a test", sha256=known)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    with pytest.raises(UsageError, match=r"classifier\.2\.weight of shape \(1280, 960\), expected \(512, 384\)"):
        Mn04Block("fast").load("cpu")


def esc10(folder: Path, block: EmbedderBlock, folds: set[int]) -> dict[str, npt.NDArray[Any]]:
    """Embedding, scores, class and fold of the clips of the given folds."""
    rows: dict[str, list[Any]] = {"embedding": [], "scores": [], "class": [], "fold": []}
    for file in sorted(folder.glob("*/*.ogg")):
        if int(file.name[0]) not in folds:
            continue
        computed = block.compute(read(file))
        rows["embedding"].append(computed["embedding"][0])
        rows["scores"].append(computed["scores"][0])
        rows["class"].append(int(file.parent.name[:3]) - 1)
        rows["fold"].append(int(file.name[0]))
    return {name: np.array(values) for name, values in rows.items()}


def zero_shot_accuracy(rows: dict[str, npt.NDArray[Any]], names: list[str]) -> float:
    """Share of clips whose class has the highest score among the ten."""
    scores = [rows["scores"][:, [names.index(name) for name in of_class]].max(1) for of_class in AUDIOSET_NAMES]
    return float((np.argmax(scores, axis=0) == rows["class"]).mean())


@pytest.mark.slow
def test_the_class_scores_recognise_a_fold_of_esc10(block: EmbedderBlock, test_data: Path) -> None:
    rows = esc10(test_data / "clips" / "esc10", block, {1})
    assert len(rows["class"]) == 80
    assert zero_shot_accuracy(rows, list(block.class_names())) >= 0.93


@pytest.mark.slow
def test_esc10_reaches_the_published_accuracies(block: EmbedderBlock, test_data: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = esc10(test_data / "clips" / "esc10", block, {1, 2, 3, 4, 5})
    right = []
    for fold in range(1, 6):
        test = rows["fold"] == fold
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        probe.fit(rows["embedding"][~test], rows["class"][~test])
        right.append(probe.score(rows["embedding"][test], rows["class"][test]))
    zero_shot = zero_shot_accuracy(rows, list(block.class_names()))
    print(f"ESC-10, mn04, normalized: linear probe {100 * np.mean(right):.2f} %, zero-shot {100 * zero_shot:.2f} %")
    assert np.mean(right) >= 0.98
    assert zero_shot >= 0.955
