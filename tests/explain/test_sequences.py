"""explain on networks that read sequences: what patches add, what occluding them costs, the plots of the command."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pa_csv
import pytest
import torch
import yaml

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.explain.material import Material, _frame_axes, gather
from acoustic_env.explain.sequence_attribution import Patches, SequenceLogOdds, integrated_gradients, occlusion
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.features.mel import LogMelFramesBlock
from acoustic_env.features.registry import BLOCKS, make_block
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.data.cut import Cut
from acoustic_env.models.learn import prepare, train
from acoustic_env.store.feature_store import FeatureStore

SHAPE = (40, 16)
CLIPS = 60
LOW_HZ, HIGH_HZ = 500.0, 2_500.0
MEL = {"sample_rate": 8_000, "n_fft": 256, "hop_length": 128, "n_mels": 16}
OPTIONS: dict[str, dict[str, Any]] = {"logmel": MEL, "mfcc": {**MEL, "n_mfcc": 6, "deltas": 0}}


class OnePatch(torch.nn.Module):
    """A logit that depends on frames 10 to 11 of bands 4 to 5 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x[:, 10:12, 4:6]).sum((1, 2))[:, None] ** 2


class OnePatchClassifier:
    """What `SequenceLogOdds` asks of a fitted network."""

    task_, classes_ = "binary", np.arange(2)
    cut_: Cut | None = None
    runs_on = "cpu"

    def network(self) -> torch.nn.Module:
        return OnePatch()

    def build(self, device: str) -> torch.nn.Module:
        return OnePatch().to(device)


def test_both_methods_find_the_only_patch_that_counts() -> None:
    random = np.random.default_rng(3)
    clip, reference = np.abs(random.normal(size=SHAPE)).astype(np.float32) + 1, random.normal(size=16) / 10
    function, patches = SequenceLogOdds([OnePatchClassifier()], 1, SHAPE), Patches.of(*SHAPE)
    cells, value, base = integrated_gradients(function, clip, reference)
    assert cells.sum() == pytest.approx(value - base, rel=1e-2)
    gradients, lost = patches.sums(cells), occlusion(function, clip, reference, patches)
    for found in (gradients, lost):
        assert np.unravel_index(found.argmax(), found.shape) == (5, 2)
        assert found[5, 2] > 0.99 * np.abs(found).sum()
    against, _, _ = integrated_gradients(SequenceLogOdds([OnePatchClassifier()], 0, SHAPE), clip, reference)
    np.testing.assert_allclose(against, -cells, atol=1e-5)


def test_occluding_with_the_values_that_are_there_changes_nothing() -> None:
    reference = np.random.default_rng(4).normal(size=16)
    clip = np.tile(reference.astype(np.float32), (SHAPE[0], 1))
    function = SequenceLogOdds([OnePatchClassifier()], 1, SHAPE)
    assert np.abs(occlusion(function, clip, reference, Patches.of(*SHAPE))).max() < 1e-6


def test_frames_of_windows_add_the_mean_of_what_they_add_to_each_window_and_the_rest_nothing() -> None:
    windowed = OnePatchClassifier()
    windowed.cut_ = Cut(16, 10, "max")
    random = np.random.default_rng(5)
    clip, reference = np.abs(random.normal(size=SHAPE)).astype(np.float32) + 1, random.normal(size=16) / 10
    cells, value, base = integrated_gradients(SequenceLogOdds([windowed], 1, SHAPE), clip, reference)
    expected, single = np.zeros(SHAPE), SequenceLogOdds([OnePatchClassifier()], 1, (16, 16))
    for start in (0, 10, 20):
        expected[start : start + 16] += integrated_gradients(single, clip[start : start + 16], reference)[0] / 3
    np.testing.assert_allclose(cells, expected, atol=1e-4)
    assert cells.sum() == pytest.approx(value - base, rel=1e-2)
    assert not cells[36:].any()


@pytest.mark.parametrize(("frames", "bands", "signals"), [(40, 16, 1), (10, 128, 1), (41, 30, 2), (3, 4, 2)])
def test_patches_cover_every_cell_once_and_none_lies_in_two_signals(frames: int, bands: int, signals: int) -> None:
    patches = Patches.of(frames, bands, signals)
    assert patches.sizes().sum() == frames * bands
    assert {bands // signals * signal for signal in range(signals)} <= set(patches.bands.tolist())
    np.testing.assert_array_equal(patches.sums(np.ones((frames, bands))), patches.sizes())


@dataclass
class Networks:
    """A trained bundle and its places."""

    bundle: str
    clips: str
    store: str

    def options(self) -> list[str]:
        return ["--bundle", self.bundle, "--clips", self.clips, "--store", self.store]

    def material(self, **rows: Any) -> Material:
        clips = read_clips(self.clips).slice(**rows) if rows else read_clips(self.clips)
        return gather(Bundle.load(self.bundle), clips, FeatureStore(self.store), _silent)


@pytest.fixture(scope="module", params=["logmel", "mfcc"])
def networks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """Sixty clips of 0.6 s with a low or a high tone in noise, and a small network."""
    folder, random = tmp_path_factory.mktemp("networks"), np.random.default_rng(23)
    high = np.arange(CLIPS) % 2 == 1
    phase = 2 * np.pi * np.where(high, HIGH_HZ, LOW_HZ)[:, None] * np.arange(4_800) / 8_000
    waves = (0.1 * np.sin(phase) + random.normal(0, 0.05, (CLIPS, 4_800))).astype(np.float32)
    ids = [f"c{number:02d}" for number in range(CLIPS)]
    listed = [
        {"clip_id": clip_id, "uri": f"{clip_id}.wav", "labels": [("low", "high")[is_high]], "group": clip_id}
        for clip_id, is_high in zip(ids, high.tolist(), strict=True)
    ]
    write_clips(clip_table(listed), str(folder / "clips.parquet"))
    name = request.param
    block = make_block(f"{name}_frames", "fast", OPTIONS[name])
    store = FeatureStore(str(folder / "store"))
    schema = table_schema(block, {}, ("original",))
    store.write_part(to_table(schema, ids, ["original"] * CLIPS, block.compute(waves)))
    model = {"kind": "cnn", "layers": [{"channels": 8}, {"channels": 8}], "max_epochs": 25, "learning_rate": 0.01}
    recipe = {
        "task": "binary",
        "classes": {"low": {"labels": ["low"]}, "high": {"labels": ["high"]}},
        "signals": ["original"],
        "blocks": {name: {**OPTIONS[name], "frames": True}},
        "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
        "model": {**model, "batch_size": 8},
        "windows": {"length": 0.3, "hop": 0.1} if name == "mfcc" else None,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(recipe))
    places = Networks(str(folder / "bundle"), str(folder / "clips.parquet"), store.url)
    study = prepare(read_clips(places.clips), store, load_recipe(str(folder / "study.yaml")), log=_silent)
    train(study, _silent)[0].save(folder / "bundle")
    return places


@pytest.mark.slow
def test_the_command_draws_held_out_clips_and_means_and_the_report_shows_them(
    networks: Networks, tmp_path: Path
) -> None:
    out, page = tmp_path / "explained", tmp_path / "report.html"
    assert main(["explain", *networks.options(), "--out", str(out)]) == 0
    index = json.loads((out / "explain.json").read_text())
    assert [plot["name"] for plot in index["plots"]] == ["clips-0", "clips-1", "clips-means"]
    material = networks.material()
    held_out = {material.targets.clip_ids[row] for scorer in material.scorers for row in scorer.rows}
    assert len(held_out) == CLIPS // 5
    in_hz = "logmel_frames" in material.bundle.recipe.blocks
    for plot in index["plots"]:
        assert (out / plot["files"]["png"]).read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / plot["files"]["svg"]).read_text()
        assert "held out from the model that scores them" in plot["caption"]
    for number in range(2):
        rows = pa_csv.read_csv(out / f"clips-{number}.csv").to_pylist()
        assert {row["clip_id"] for row in rows} <= held_out
        assert max(row["end_s"] for row in rows) == pytest.approx(0.6, abs=0.02)
        assert ("low_Hz" in rows[0]) == in_hz
        if in_hz:
            for method in ("occlusion", "gradients"):
                bands = Counter[tuple[float, float]]()
                for row in rows:
                    bands[row["low_Hz"], row["high_Hz"]] += row[method]
                low, high = max(bands, key=lambda band: abs(bands[band]))
                # the tone that is not there tells the class as well
                assert any(low <= tone <= high for tone in (LOW_HZ, HIGH_HZ)), (method, bands)
    assert main(["report", "--explain", str(out), "--out", str(page)]) == 0
    assert "What the network relies on" in page.read_text()


@pytest.mark.slow
def test_integrated_gradients_of_a_trained_network_are_complete(networks: Networks) -> None:
    material = networks.material()
    clip = material.matrix.values.load(slice(0, 1))[0]
    function = SequenceLogOdds(material.bundle.classifier.members, 1, clip.shape)
    cells, value, base = integrated_gradients(function, clip, clip.mean(0) * 0.9)
    assert cells.sum() == pytest.approx(value - base, abs=0.02 * max(1.0, abs(value - base)))


def test_of_another_list_the_clips_that_were_learned_from_are_left_out(networks: Networks) -> None:
    whole = networks.material()
    part = networks.material(length=CLIPS - 5)
    assert "not trained on" in part.clips
    assert not set(part.targets.clip_ids) & set(whole.targets.clip_ids)


class OwnFrames(LogMelFramesBlock):
    """A mel spectrogram of another package."""

    name = "own_frames"


def test_the_bands_of_any_block_that_says_so_have_mel_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCKS._targets, "own_frames", EntryPoint("own_frames", f"{__name__}:OwnFrames", BLOCKS.group))
    axes = _frame_axes({"own_frames": table_schema(OwnFrames("fast", n_mels=16, sample_rate=8_000), {})})
    assert axes.edges_hz is not None
    assert len(axes.edges_hz) == 17
    assert axes.edges_hz[-1] < 4_000
    assert _frame_axes({"mfcc_frames": table_schema(make_block("mfcc_frames", "fast"), {})}).edges_hz is None


def _silent(_: str) -> None:
    pass
