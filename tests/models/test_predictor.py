"""A predictor answers in this process what the batch job answers, for files, waveforms and long recordings."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from acoustic_env import Predictor
from acoustic_env.cli import main
from acoustic_env.clips.table import read_clips
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.features.indices import IndicesBlock
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.learn import prepare, train
from acoustic_env.models.novelty import Novelty
from acoustic_env.models.predict import predict, predict_files
from acoustic_env.options import ServeSettings
from acoustic_env.store.feature_store import FeatureStore
from tests import sounds
from tests.models.conftest import write_sounds
from tests.models.tones import FRAMES, MEL, RATE, tone, write_tones


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle that tells noises from tones of two seconds."""
    return write_sounds(tmp_path_factory.mktemp("predictor") / "sounds")


KINDS: dict[str, dict[str, Any]] = {
    "multilabel of two signals": {"task": "multilabel", "classes": {}, "signals": ["raw", "original"]},
    "recordings by frames": {
        **FRAMES,
        "windows": {"length": 0.2, "hop": 0.1, "pooling": "noisy-or", "level": "recording"},
    },
    "recordings by learned pooling": {
        **FRAMES,
        "windows": {"length": 0.2, "hop": 0.1, "pooling": "learned", "level": "recording"},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_have_the_numbers_of_their_rows_in_a_store(kind: str, tmp_path: Path) -> None:
    tones = write_tones(tmp_path, **KINDS[kind])
    clips, store = read_clips(tones.clips), FeatureStore(tones.store)
    bundle = train(prepare(clips, store, load_recipe(tones.recipe), log=silent), silent)[0]
    assert bundle.clip_s == 0.5
    some = clips.slice(0, 4)
    uris, ids = some["uri"].to_pylist(), some["clip_id"].to_pylist()
    of_store = predict(bundle, ids, store, silent, some["group"].to_pylist())["posterior"].to_numpy()
    np.testing.assert_allclose(predict_files(bundle, uris)["posterior"].to_numpy(), of_store, atol=1e-6)
    predictor = Predictor(bundle)
    found = predictor.predict(tone("low", 0), sample_rate=RATE)
    np.testing.assert_allclose([found.posterior[name] for name in bundle.classes], of_store[:2], atol=1e-6)
    if bundle.recipe.level == "recording":
        pooled = predictor.pool([predictor.predict(uri) for uri in uris])
        together = predict(bundle, ids, store, silent, ["one"] * 4)["posterior"].to_numpy()
        np.testing.assert_allclose([pooled.posterior[name] for name in bundle.classes], together, atol=1e-6)


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize("windows", [None, {"length": 0.2, "hop": 0.1, "level": "window"}])
def test_clips_of_other_lengths_train_and_predict_alike_in_lists_and_files(
    windows: dict[str, Any] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mel = {name: value for name, value in MEL.items() if name != "seconds"}
    changes: dict[str, Any] = {**FRAMES, "blocks": {"logmel": {**mel, "frames": True}}, "windows": windows}
    tones = write_tones(tmp_path, {3: 3_900, 4: 3_800, 8: 900, 29: 9_000}, **changes)
    clips, store = read_clips(tones.clips), FeatureStore(tones.store)
    said: list[str] = []
    bundle = train(prepare(clips, store, load_recipe(tones.recipe), log=silent), said.append)[0]
    assert "4 clips of the list cropped or repeated to 32 frames" in said
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    ids, uris = clips["clip_id"].to_pylist(), clips["uri"].to_pylist()
    of_files = predict_files(loaded, uris)["posterior"].to_numpy()
    of_store = predict(bundle, ids, store, silent)["posterior"].to_numpy()
    np.testing.assert_allclose(of_files, of_store, atol=1e-6)
    rows = of_files.reshape(len(ids), -1)
    alone = [predict(loaded, [name], store, silent)["posterior"].to_numpy() for name in ("c8", "c29")]
    np.testing.assert_allclose(alone, rows[[8, 29]], atol=1e-6)  # whatever else is in the list
    recipe = load_recipe(tones.recipe).replace(clip_seconds=0.4)
    shorter = train(prepare(clips, store, recipe, log=silent), silent)[0]
    assert shorter.preprocessor.frames_ == 25
    command = ["predict", "--bundle", str(tmp_path / "bundle"), "--out", str(tmp_path / "some.parquet")]
    assert main([*command, uris[29], uris[8]]) == 0
    assert not capsys.readouterr().err
    np.testing.assert_allclose(pq.read_table(tmp_path / "some.parquet")["posterior"], rows[[29, 8]].ravel(), atol=1e-6)


def test_a_file_that_a_block_fails_on_is_named_and_the_others_are_predicted(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = IndicesBlock.compute

    def failing(self: IndicesBlock, waveforms: Any) -> Any:
        if waveforms.shape[1] == 48_000:
            raise ValueError("an odd number")
        return compute(self, waveforms)

    monkeypatch.setattr(IndicesBlock, "compute", failing)
    files = [str(made / f"{seconds}.wav") for seconds in (2, 3, 4)]
    for seconds, file in zip((2.0, 3.0, 4.0), files, strict=True):
        Path(file).write_bytes(sounds.encode(sounds.noise(seconds).astype(np.float32), 16_000, "WAV", "FLOAT"))
    command = ["predict", "--bundle", f"{made}/bundle", "--out", f"{made}/some.parquet"]
    assert main([*command, *files]) == 0
    assert f"without prediction: compute_failed: {files[1]}: ValueError('an odd number')" in capsys.readouterr().err
    assert pq.read_table(made / "some.parquet")["clip_id"].to_pylist()[::2] == [files[0], files[2]]


def test_missing_files_and_folders_among_others_are_named_and_the_others_are_predicted(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = made / "there.wav"
    there.write_bytes(sounds.encode(sounds.noise(2.0).astype(np.float32), 16_000, "WAV", "FLOAT"))
    command = ["predict", "--bundle", f"{made}/bundle", "--out", f"{made}/some.parquet"]
    assert main([*command, f"{made}/gone.wav", str(there), str(made)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "without prediction" in line]
    assert len(said) == 2
    assert f"{made}/gone.wav" in said[0]
    assert str(made) in said[1]
    assert set(pq.read_table(made / "some.parquet")["clip_id"].to_pylist()) == {str(there)}


def test_many_files_are_looked_through_once(made: Path) -> None:
    files = [f"{number}.wav" for number in range(100_000)]
    started = time.perf_counter()
    with pytest.raises(UsageError, match=r"^7\.wav: given twice"):
        predict_files(Bundle.load(str(made / "bundle")), [*files, "7.wav"])
    assert time.perf_counter() - started < 10  # was 157 s


def test_a_bundle_of_other_features_than_are_computed_here_is_refused_when_it_is_loaded(made: Path) -> None:
    bundle = Bundle.load(made / "bundle")
    bundle.fingerprints = {"indices": {"raw": "0" * 16}}
    with pytest.raises(UsageError, match="block indices, signal raw: trained on version 0000"):
        Predictor(bundle)


@pytest.mark.slow
def test_the_command_does_not_import_ray(made: Path) -> None:
    path = made / "short.wav"
    path.write_bytes(sounds.encode(sounds.noise(2.0).astype(np.float32), 16_000, "WAV", "FLOAT"))
    script = "import sys; from acoustic_env.cli import main; main(); print('ray' in sys.modules)"
    command = ["predict", "--bundle", f"{made}/bundle", "--out", f"{made}/short.parquet", str(path)]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["False"]


def test_windows_of_a_recording_are_clips_of_their_own(made: Path) -> None:
    predictor = Predictor.load(made / "bundle")
    assert predictor.window_s == 2.0
    recording = sounds.noise(39.5).astype(np.float32)
    windows = list(predictor.predict_windows(recording, sample_rate=16_000))
    assert [window.start_s for window in windows] == [2.0 * number for number in range(20)]
    assert windows[-1].end_s == 39.5
    alone = predictor.predict(recording[32_000 * 13 : 32_000 * 14], sample_rate=16_000)
    assert windows[13].posterior == pytest.approx(alone.posterior, abs=1e-6)
    whole = predictor.pool(windows)
    assert whole.posterior["noise"] == pytest.approx(np.mean([window.posterior["noise"] for window in windows]))
    assert (whole.start_s, whole.end_s) == (0.0, 39.5)


@pytest.mark.parametrize(
    ("seconds", "ends"), [(0.5, [0.5]), (2.9, [2.0]), (3.0, [2.0, 3.0]), (16.0, [2.0 * i for i in range(1, 9)])]
)
def test_a_last_window_of_less_than_half_is_left_out_unless_it_is_the_only_one(
    made: Path, seconds: float, ends: list[float]
) -> None:
    windows = Predictor.load(made / "bundle").predict_windows(sounds.noise(seconds), sample_rate=16_000)
    assert [window.end_s for window in windows] == ends


def test_the_command_writes_a_row_for_each_window_and_class(made: Path) -> None:
    (made / "long.wav").write_bytes(sounds.encode(sounds.noise(5.0).astype(np.float32), 16_000, "WAV", "FLOAT"))
    command = ["predict", "--bundle", f"{made}/bundle", "--each-window", "--out", f"{made}/windows.parquet"]
    assert main([*command, f"{made}/long.wav"]) == 0
    table = pq.read_table(made / "windows.parquet")
    assert table.column_names == ["clip_id", "start_s", "end_s", "unlike", "label", "posterior"]
    assert table["start_s"].to_pylist() == [0.0, 0.0, 2.0, 2.0, 4.0, 4.0]
    assert main([*command, "--clips", f"{made}/clips.csv", "--store", f"{made}/store"]) == 2


def test_a_file_that_cannot_be_used_is_named_and_the_others_are_predicted(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "broken.wav").write_bytes(b"RIFF, and then nothing")
    good = str(made / "long.wav")
    Path(good).write_bytes(sounds.encode(sounds.noise(5.0).astype(np.float32), 16_000, "WAV", "FLOAT"))
    command = ["predict", "--bundle", f"{made}/bundle", "--out", f"{made}/some.parquet", f"{made}/broken.wav"]
    assert main([*command, good]) == 0
    assert "without prediction: " in (said := capsys.readouterr().err)
    assert "broken.wav" in said
    assert set(pq.read_table(made / "some.parquet")["clip_id"].to_pylist()) == {good}
    assert main(command) == 2
    assert "none of the 1 files could be used; the first: " in (said := capsys.readouterr().err)
    assert "broken.wav" in said
    with pytest.raises(ClipError, match="broken"):
        Predictor.load(made / "bundle").predict(made / "broken.wav")


def test_a_decompression_bomb_costs_the_command_bounded_memory_and_the_others_are_predicted(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acoustic_env.commands.learn.ServeSettings", partial(ServeSettings, decode_megabytes=64))
    (made / "bomb.flac").write_bytes(sounds.encode(np.zeros((6_600_000, 8), np.int16), 655_350, "FLAC", "PCM_16"))
    (made / "good.wav").write_bytes(sounds.encode(sounds.noise(2.0).astype(np.float32), 16_000, "WAV", "FLOAT"))
    command = ["predict", "--bundle", f"{made}/bundle", "--out", f"{made}/some.parquet"]
    assert main([*command, f"{made}/bomb.flac", f"{made}/good.wav"]) == 0
    assert "bomb.flac: decoding needs more memory than the limit" in capsys.readouterr().err
    assert set(pq.read_table(made / "some.parquet")["clip_id"].to_pylist()) == {f"{made}/good.wav"}


def test_a_sound_unlike_the_training_clips_is_marked_and_an_old_bundle_does_not_say(made: Path) -> None:
    seconds = np.arange(32_000) / 16_000
    tone, clicks = np.sin(2 * np.pi * 1234.5 * seconds), (np.arange(32_000) % 4000 == 0).astype(float)
    predictor = Predictor.load(made / "bundle")
    assert predictor.predict(clicks, sample_rate=16_000).unlike
    assert not predictor.predict(tone, sample_rate=16_000).unlike
    bundle = Bundle.load(made / "bundle")
    bundle.novelty = None
    assert Predictor(bundle).predict(clicks, sample_rate=16_000).unlike is None


@pytest.mark.parametrize("features", [3, 60])
@pytest.mark.parametrize("clips", [300, 3000])
def test_about_one_in_a_hundred_clips_of_the_same_kind_is_marked(clips: int, features: int) -> None:
    rng, marked = np.random.default_rng(7), []
    for seed in range(10):
        x = rng.standard_t(5, size=(clips + 1000, features)) @ rng.normal(size=(features, features))
        novelty = Novelty.fit(x[:clips], np.arange(clips), seed)
        assert novelty is not None
        marked.append(novelty.unlike(x[clips:]).mean())
        far = rng.normal(size=(100, features)) * 20 * x.std(axis=0)
        assert novelty.unlike(far).mean() > 0.9
    assert 0.005 < np.mean(marked) < 0.02


def test_features_that_are_mostly_zero_do_not_mark_more() -> None:
    rng, marked = np.random.default_rng(11), []
    for seed in range(10):
        x = rng.exponential(size=(600, 300)) * (rng.random((600, 300)) < rng.choice([0.005, 0.05, 0.5], 300))
        novelty = Novelty.fit(x[:300], np.arange(300), seed)
        assert novelty is not None
        marked.append(novelty.unlike(x[300:]).mean())
    assert 0.003 < np.mean(marked) < 0.025


def test_clips_of_one_group_are_not_compared_with_each_other() -> None:
    rng = np.random.default_rng(3)
    x = np.repeat(rng.normal(size=(100, 5)), 4, axis=0) + 1e-6 * rng.normal(size=(400, 5))
    novelty = Novelty.fit(x, np.repeat(np.arange(100), 4), 0)
    assert novelty is not None
    assert novelty.unlike(rng.normal(size=(1000, 5))).mean() < 0.05
    assert Novelty.fit(x, np.zeros(400, np.int64), 0) is None
