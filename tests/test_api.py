"""The Python API gives the numbers of the jobs, without Ray, and importing the package stays cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import acoustic_env
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.extract import extract
from tests import sounds
from tests.pipeline.test_extract import write_noise


def test_importing_the_package_loads_no_library() -> None:
    code = (
        "import sys, acoustic_env; print({'numpy', 'pandas', 'pyarrow', 'ray', 'torch'} & set(sys.modules) or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


def test_every_name_of_the_api_is_there() -> None:
    assert all(getattr(acoustic_env, name) for name in acoustic_env.__all__)
    assert set(acoustic_env.__all__) <= set(dir(acoustic_env))
    with pytest.raises(AttributeError, match="no_such_name"):
        acoustic_env.no_such_name  # noqa: B018


def test_a_file_and_its_waveform_have_the_same_features(tmp_path: Path) -> None:
    waveform = sounds.noise(1.0).astype(np.float32)
    (tmp_path / "noise.wav").write_bytes(sounds.encode(waveform, 16_000, "WAV", "FLOAT"))
    of_file = acoustic_env.compute(tmp_path / "noise.wav", ["indices"], ["raw", "bg"])
    of_waveform = acoustic_env.compute(waveform, ["indices"], ["raw", "bg"], sample_rate=16_000)
    assert of_file.equals(of_waveform)
    assert of_file["signal"].tolist() == ["raw", "bg"]


RECIPE = """
task: binary
classes: {even: {labels: [even]}, odd: {labels: [odd]}}
signals: [raw]
blocks: {indices: {}}
split: {folds: 5, validation_folds: [3], test_folds: [4]}
model: {kind: logistic}
"""


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_computed_and_predicted_here_has_the_numbers_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    noise, store = read_clips(str(write_noise(tmp_path / "audio", 40, seconds=1.0))), str(tmp_path / "store")
    rows = [clip | {"labels": [("even", "odd")[number % 2]]} for number, clip in enumerate(noise.to_pylist())]
    clips = str(tmp_path / "clips.csv")
    write_clips(clip_table(rows), clips)
    blocks, signals = ("indices", "placeholder"), ("raw", "fg", "bg")
    extract(ExtractSettings(clips=clips, store=store, blocks=blocks))
    for clip in rows[:3]:
        for block in blocks:
            here = acoustic_env.compute(clip["uri"], [block], signals)
            stored = acoustic_env.open_store(store).table(block, clip_ids=[clip["clip_id"]]).to_pandas()
            stored = stored.set_index("signal").loc[list(signals)].drop(columns="clip_id")
            for name, values in here.set_index("signal").items():
                # float32 networks round differently in batches of other sizes
                close = {"rtol": 1e-5, "atol": 1e-5} if block == "placeholder" else {"rtol": 0, "atol": 0}
                np.testing.assert_allclose(np.stack(values.to_list()), np.stack(stored[name].to_list()), **close)
    classifier = acoustic_env.train(clips, store, tmp_path / "recipe.yaml")
    of_files = classifier.predict([clip["uri"] for clip in rows[:3]])
    of_store = classifier.predict(clips=clips, store=store).head(len(of_files))
    assert of_files["posterior"].tolist() == pytest.approx(of_store["posterior"].tolist(), abs=1e-6)


def test_prediction_takes_files_or_a_clip_list() -> None:
    with pytest.raises(UsageError, match="either audio files, or clips with store"):
        acoustic_env.Classifier(None).predict("a.wav", clips="clips.csv", store="store")  # type: ignore[arg-type]


def test_columns_of_several_blocks_carry_the_block() -> None:
    table = acoustic_env.compute(sounds.noise(1.0), {"indices": {}, "placeholder": {}}, sample_rate=16_000)
    assert {"signal", "indices.ZCR", "placeholder.embedding"} <= set(table.columns)


def test_frames_are_not_joined_with_clips() -> None:
    with pytest.raises(UsageError, match="compute them separately"):
        acoustic_env.compute(sounds.noise(2.0), ["placeholder", "placeholder_frames"], sample_rate=16_000)


def test_a_waveform_needs_its_sample_rate_and_a_file_has_it() -> None:
    with pytest.raises(UsageError, match="sample_rate"):
        acoustic_env.compute(sounds.noise(1.0))
    with pytest.raises(UsageError, match="sample_rate"):
        acoustic_env.compute("a.wav", sample_rate=16_000)


def test_audio_that_is_too_short_is_refused() -> None:
    with pytest.raises(ClipError, match="shortest"):
        acoustic_env.compute(sounds.noise(0.05), sample_rate=16_000)
