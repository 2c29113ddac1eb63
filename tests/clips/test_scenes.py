"""Synthetic scenes: reproducible, plausible, neither too easy nor impossible to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.clips.scenes import CLASSES, CLIPS_PER_RECORDING, SOURCES, _sound, scene, write_scenes
from acoustic_env.clips.table import read_clips
from acoustic_env.errors import UsageError


def test_scenes_come_with_their_list_and_their_truth(tmp_path: Path) -> None:
    clips = write_scenes(tmp_path / "s", 16, seed=7, flip=0.25, seconds=2.0)
    assert read_clips(str(tmp_path / "s" / "clips.parquet")).equals(clips)
    truth = pq.read_table(tmp_path / "s" / "truth.parquet")
    assert truth["clip_id"].to_pylist() == clips["clip_id"].to_pylist()
    wrong = [
        given != [true] for given, true in zip(clips["labels"].to_pylist(), truth["label"].to_pylist(), strict=True)
    ]
    assert sum(wrong) == 4
    assert len(set(clips["group"].to_pylist())) == 16 / CLIPS_PER_RECORDING
    for uri in clips["uri"].to_pylist():
        samples, rate = soundfile.read(uri)
        assert 0.4 * 2.0 - 0.01 <= len(samples) / rate <= 2.0 + 0.01
        assert np.abs(samples).max() > 0.01


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_scenes(tmp_path / folder, 5, seed=seed, seconds=1.0)
    a, b, c = ((tmp_path / folder / "audio" / "scene-00004.flac").read_bytes() for folder in "abc")
    assert a == b
    assert a != c


def test_a_longer_study_begins_with_the_scenes_of_a_shorter_one() -> None:
    assert (scene(7, 3, 1.0).wave == scene(7, 3, 1.0).wave).all()
    labels = [scene(7, index, 1.0).label for index in range(0, 160, CLIPS_PER_RECORDING)]
    assert [labels[i : i + 2].count("urban") for i in range(0, 40, 2)] == [1] * 20


def test_rates_and_lengths_vary() -> None:
    scenes = [scene(23, index, 1.0) for index in range(160)]
    assert len({made.rate for made in scenes}) >= 3
    lengths = [len(made.wave) / made.rate for made in scenes]
    assert 2 <= sum(length < 0.999 for length in lengths) <= 32
    assert max(lengths) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [name for label in CLASSES for name in SOURCES[label]])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_every_source_sounds_whole_and_finite(name: str, rate: int) -> None:
    for seed in range(3):
        timing = np.random.default_rng([seed, 1])
        wave = _sound(
            (SOURCES["natural"] | SOURCES["urban"])[name], 2 * rate, rate, np.random.default_rng(seed), timing
        )
        assert np.isfinite(wave).all()
        assert wave.std() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("arguments", [{"clips": 0}, {"clips": 3, "flip": 1.5}, {"clips": 3, "seconds": 0.2}])
def test_impossible_numbers_are_refused(tmp_path: Path, arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="scenes: clips="):
        write_scenes(tmp_path, seed=1, **arguments)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        write_scenes(tmp_path / "file" / "scenes", 1, seed=1, seconds=1.0)


@pytest.mark.slow
def test_plain_statistics_tell_the_classes_apart_well_but_not_perfectly() -> None:
    import librosa
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, groups = [], [], []
    for index in range(320):
        made = scene(23, index)
        wave = librosa.resample(made.wave, orig_sr=made.rate, target_sr=16_000)
        mel = np.log(librosa.feature.melspectrogram(y=wave / wave.std(), sr=16_000, n_mels=32) + 1e-8)
        features.append(np.concatenate([mel.mean(axis=1), mel.std(axis=1)]))
        labels.append(CLASSES.index(made.label))
        groups.append(index // CLIPS_PER_RECORDING)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    scores = cross_val_predict(model, features, labels, groups=groups, cv=GroupKFold(5), method="predict_proba")[:, 1]
    assert 0.9 <= roc_auc_score(labels, scores) <= 0.985
