"""The report's sections on the clips themselves: what they look like, which are misclassified, and how those sound."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
import soundfile
import yaml

from acoustic_env.clips.scenes import write_scenes
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.learn import evaluate_bundle, prepare, train
from acoustic_env.report.clip_sample import RATE, decibels, draw_clips, hear
from acoustic_env.report.clip_section import tags_of
from acoustic_env.store.feature_store import FeatureStore
from tests.models.conftest import Generated
from tests.report.test_report import Page, report, sections

CLIPS = 40
TAG = "<script>alert(1)</script> $x_$"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """40 short scenes with tags; a bundle whose features miss the class of every fourth clip."""
    folder = tmp_path_factory.mktemp("scenes")
    clips = write_scenes(folder, CLIPS, seed=3, seconds=1.0)
    wet = [list(labels) + ["wet"] * (row % 2) for row, labels in enumerate(clips["labels"].to_pylist())]
    tags = pa.array([f"dawn, {TAG}" if row % 3 else None for row in range(CLIPS)])
    clips = clips.append_column("tags", tags)
    clips = clips.set_column(clips.schema.get_field_index("labels"), clips.schema.field("labels"), pa.array(wet))
    places = {name: str(folder / name) for name in ("clips.parquet", "store", "bundle", "recipe.yaml")}
    write_clips(clips, places["clips.parquet"])
    y = np.array(["urban" in labels for labels in wet])
    said = np.where(np.arange(CLIPS) % 4 == 0, ~y, y)
    random = np.random.default_rng(1)
    columns = {f"f{i}": random.normal(size=CLIPS) + 4 * said for i in range(4)}
    columns |= {"vector": random.normal(size=(CLIPS, 3)).astype(np.float32)}
    schema = table_schema(Generated("indices", 4), {})
    store = FeatureStore(places["store"])
    store.write_part(to_table(schema, clips["clip_id"].to_pylist(), ["raw"] * CLIPS, columns))
    settings = {
        "classes": {name: {"labels": [name]} for name in ("natural", "urban")},
        "signals": ["raw"],
        "blocks": {"indices": {}},
        "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
        "model": {"kind": "logistic"},
    }
    Path(places["recipe.yaml"]).write_text(yaml.safe_dump(settings))
    bundle, _ = train(prepare(clips, store, load_recipe(places["recipe.yaml"]), log=print), print)
    bundle.save(places["bundle"])
    found, hashed = evaluate_bundle(bundle, clips, store, print)
    bundle.record_evaluation(places["bundle"], hashed, found)
    return {name.partition(".")[0]: place for name, place in places.items()}


@pytest.fixture(scope="module")
def page(study: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return out, report(out, study, "clips", "recipe", "store", "bundle")


def test_clips_are_drawn_with_their_labels_tags_and_levels(page: tuple[Path, Page]) -> None:
    path, parsed = page
    assert "Clips" in sections(parsed)
    files = path.parent / "report_files"
    for name in ("example", "gallery", "labels", "levels", "lengths", "tags"):
        assert (files / f"clip-{name}.png").stat().st_size > 5_000, name
    counts = {row["label"]: row for row in pa_csv.read_csv(files / "clip-labels.csv").to_pylist()}
    assert sum(row["training"] + row["validation"] + row["test"] for row in counts.values()) == CLIPS
    tags = pa_csv.read_csv(files / "clip-tags.csv").to_pylist()
    assert tags[0]["clips"] == sum(row % 3 > 0 for row in range(CLIPS))


def test_labels_that_occur_together_are_counted_without_a_recipe(study: dict[str, str], tmp_path: Path) -> None:
    report(tmp_path / "r.html", study, "clips")
    table = pa_csv.read_csv(tmp_path / "r_files" / "clip-cooccurrence.csv").to_pylist()
    both = {(row["label"], row["other"]): row["clips"] for row in table}
    assert both["natural", "wet"] == both["wet", "natural"] > 0
    assert both["wet", "wet"] == CLIPS // 2


def test_misclassified_test_clips_are_sliced_and_can_be_listened_to(
    page: tuple[Path, Page], study: dict[str, str]
) -> None:
    path, parsed = page
    assert "Misclassified test clips" in sections(parsed)
    text = path.read_text(encoding="utf-8")
    assert "Error rate by tag" in text
    assert "<script" not in text
    assert "media-src data:" in text
    players = parsed.of("audio")
    assert players
    for player in players:
        assert player["aria-label"]
        data = base64.b64decode(player["src"].removeprefix("data:audio/flac;base64,"))
        samples, rate = soundfile.read(io.BytesIO(data))
        assert rate == RATE
        assert 0.2 < len(samples) / rate <= 1.01
        assert np.abs(samples).max() > 0.01


def test_a_list_without_its_audio_and_one_that_was_not_evaluated_are_told_without_figures(
    study: dict[str, str], tmp_path: Path
) -> None:
    from acoustic_env.clips.table import read_clips

    clips = read_clips(study["clips"])
    gone = pa.array([f"/nowhere/{row}.flac" for row in range(CLIPS - 1)])
    clips = clips.slice(1).set_column(clips.schema.get_field_index("uri"), "uri", gone)
    write_clips(clips, str(tmp_path / "gone.parquet"))
    out = tmp_path / "r.html"
    report(out, {**study, "clips": str(tmp_path / "gone.parquet")}, "clips", "recipe", "store", "bundle")
    text = out.read_text(encoding="utf-8")
    assert "10 of 10 sampled clips could not be read" in text
    assert "the bundle was not evaluated on the test clips of this list" in text
    assert not Page(text).of("audio")


def test_the_sample_does_not_depend_on_the_order_of_the_list(study: dict[str, str]) -> None:
    from acoustic_env.clips.table import read_clips

    clips = read_clips(study["clips"])
    mixed = clips.take(pa.array(np.random.default_rng(0).permutation(CLIPS)))
    first, second = (draw_clips(table, table["labels"].to_pylist()) for table in (clips, mixed))
    assert json.dumps([[clip.clip_id for clip in own] for own in first.clips.values()]) == json.dumps(
        [[clip.clip_id for clip in own] for own in second.clips.values()]
    )
    assert first.tried == second.tried <= 3 * 12


def test_levels_are_those_of_the_recording_before_normalization(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "tone.wav", tone, RATE, subtype="FLOAT")
    clip = hear("tone", str(tmp_path / "tone.wav"), None, None)
    assert clip.rms_db == pytest.approx(float(decibels(0.125)), abs=0.01)
    assert clip.crossings == pytest.approx(880, rel=0.01)
    assert clip.seconds == 1.0


def test_clips_of_one_length_are_told_in_a_sentence_and_not_drawn(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, (4, RATE))
    for number, wave in enumerate(noise):
        soundfile.write(tmp_path / f"{number}.wav", wave[: RATE - 10 * number], RATE)
    rows = [
        {"clip_id": f"c{n}", "uri": str(tmp_path / f"{n}.wav"), "labels": ["rain"], "group": f"g{n}"} for n in range(4)
    ]
    write_clips(clip_table(rows), str(tmp_path / "clips.parquet"))
    report(tmp_path / "r.html", {"clips": str(tmp_path / "clips.parquet")}, "clips")
    assert "All 4 sampled clips are 1.00 s long." in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not (tmp_path / "r_files" / "clip-lengths.png").exists()


def test_tags_are_lists_or_texts_with_commas() -> None:
    table = pa.table({"tags": pa.array([["a", " b "], None])})
    assert tags_of(table) == [["a", "b"], []]
    assert tags_of(pa.table({"clip_id": ["x"]})) == [[]]
