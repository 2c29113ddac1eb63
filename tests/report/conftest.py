"""Everything a report can be made from, small, with hostile text wherever a person can write."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA
from acoustic_env.audit.labels import write_version
from acoustic_env.audit.relabel import relabel
from acoustic_env.audit.sample import draw_sample
from acoustic_env.clips.table import CLIP_SCHEMA, read_clips
from acoustic_env.explain.plot import Plot, write_index
from acoustic_env.explain.style import new_figure
from acoustic_env.features.block import table_schema, to_table
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.compare import Row, comparison_table
from acoustic_env.models.learn import evaluate_bundle, prepare, train
from acoustic_env.models.tune import Trial, trial_table
from acoustic_env.options import RelabelSettings, SampleSettings
from acoustic_env.stats.intervals import Estimate
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.schema import ERROR_SCHEMA
from tests.models.conftest import SIGNALS, Generated

CLIPS = 200
HOSTILE = "<script>alert('x')</script>&\"<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Option of the report -> what to give it. A tenth of the labels is wrong in truth."""
    folder: Path = tmp_path_factory.mktemp("reported")
    random = np.random.default_rng(1)
    y = np.arange(CLIPS) // 2 % 2
    ids = [f"clip{i:03d}{HOSTILE}" for i in range(CLIPS)]
    names = np.array(["natural", f"urban {HOSTILE}"])
    rows = [
        {"clip_id": ids[i], "uri": f"{i}.wav", "labels": [names[y[i]]], "group": f"v{i // 2}", "source": HOSTILE}
        for i in range(CLIPS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=CLIP_SCHEMA), folder / "clips.parquet")
    truth = np.where(random.random(CLIPS) < 0.1, 1 - y, y)
    pq.write_table(pa.table({"clip_id": ids, "label": names[truth]}), folder / "truth.parquet")
    places = {name: str(folder / name) for name in ("store", "bundle", "explain", "compare", "tune", "versions")}
    places |= {name: str(folder / f"{name}.parquet") for name in ("clips", "truth", "ranked", "sample", "annotations")}
    _store(places["store"], ids, truth)
    _bundle(folder, places, names.tolist())
    _explain(folder / "explain")
    _study_and_search(folder)
    _audit(places, ids, names, y, truth, random)
    return places


def _store(url: str, ids: list[str], y: np.ndarray) -> None:
    store, block = FeatureStore(url), Generated("indices", 4)
    random = np.random.default_rng(2)
    for signal in SIGNALS:
        values = random.normal(size=(len(ids), 4)) + 1.5 * y[:, None]
        vector = random.normal(size=(len(ids), 3)).astype(np.float32)
        columns = {f"f{i}": values[:, i] for i in range(4)} | {"vector": vector}
        store.write_part(to_table(table_schema(block, {}), ids, [signal] * len(ids), columns))
    error = {"clip_id": f"lost{HOSTILE}", "stage": "decode", "code": "not_audio", "message": HOSTILE, "permanent": True}
    store.write_errors(
        pa.Table.from_pylist([{**error, "source": HOSTILE, "attempt": 1, "run_id": "r1"}], schema=ERROR_SCHEMA)
    )
    record = {
        "run_id": "20261121T000000Z-1",
        "clips": len(ids) + 1,
        "pending": len(ids) + 1,
        "finished": len(ids) + 1,
        "failed": 1,
        "clips_per_second": 3.2,
        "seconds": {"wall": 62.0, "indices": 40.0},
        "throughput": {"indices": 5.0},
        "settings": {"engine": "fast", "clips": HOSTILE},
        "versions": {"numpy": "2"},
    }
    store.write_run(str(record["run_id"]), record)


def _bundle(folder: Path, places: Mapping[str, str], names: list[str]) -> None:
    settings = {
        "task": "binary",
        "classes": {name: {"labels": [name]} for name in names},
        "signals": list(SIGNALS),
        "blocks": {"indices": {}},
        "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
        "model": {"kind": "logistic"},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    clips, store = read_clips(places["clips"]), FeatureStore(places["store"])
    bundle, _ = train(prepare(clips, store, load_recipe(str(folder / "study.yaml")), log=_silent), _silent)
    bundle.save(places["bundle"])
    judged, hashed = evaluate_bundle(bundle, clips, store, _silent)
    bundle.record_evaluation(places["bundle"], hashed, judged)


def _explain(folder: Path) -> None:
    figure = new_figure(3, 2)
    figure.subplots().plot([0, 1], [0, 1])
    words = ("What differs between the classes", f"Title {HOSTILE}", f"Sentence {HOSTILE}.", f"Alt {HOSTILE}")
    entry = Plot("contrast", *words, figure, pa.table({"x": [1]})).save(folder)
    write_index(folder, [entry], {"which_clips": "160 training and validation clips"})


def _study_and_search(folder: Path) -> None:
    def estimate(value: float) -> Estimate:
        return Estimate(value, value - 0.02, value + 0.02, "DeLong")

    rows = [
        Row(
            f"block{i}{HOSTILE}",
            "raw",
            "mlp",
            60,
            estimate(0.8 - i / 50),
            None,
            estimate(i / 50) if i else None,
            2.5,
            0.1,
        )
        for i in range(4)
    ]
    (folder / "compare").mkdir()
    pa_csv.write_csv(comparison_table(rows), folder / "compare" / "compare.csv")
    scores = [0.71, 0.78, None, 0.75]
    trials = [
        Trial(i, {}, {"layers": [240], "dropout": 0.5}, score, 1.0, "" if score else HOSTILE)
        for i, score in enumerate(scores)
    ]
    (folder / "tune").mkdir()
    pa_csv.write_csv(trial_table(trials), folder / "tune" / "trials.csv")


def _audit(
    places: Mapping[str, str],
    ids: list[str],
    names: np.ndarray,
    y: np.ndarray,
    truth: np.ndarray,
    random: np.random.Generator,
) -> None:
    suspect = np.clip(random.normal(0.7 - 0.4 * (truth != y), 0.15), 0.01, 0.99)
    own = {"clip_id": ids, "label": names[y], "given": [True] * CLIPS, "quality": suspect, "flagged": suspect < 0.4}
    other = {
        "clip_id": ids,
        "label": names[1 - y],
        "given": [False] * CLIPS,
        "quality": suspect,
        "flagged": suspect < 0.4,
    }
    ranked = pa.concat_tables([pa.table({**part, "mlp": suspect}) for part in (own, other)])
    pq.write_table(ranked, places["ranked"])
    sample = draw_sample(ranked, SampleSettings(n=60, design="stratified"))
    pq.write_table(sample, places["sample"])
    right = dict(zip(ids, names[truth].tolist(), strict=True))
    annotations = [
        {
            "clip_id": row["clip_id"],
            "label": row["label"],
            "annotator": HOSTILE,
            "answer": "right" if right[row["clip_id"]] == row["label"] else "wrong",
            "note": HOSTILE,
            "time_utc": dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
            "role": row["role"],
        }
        for row in sample.to_pylist()
    ]
    answered = pa.Table.from_pylist(annotations, schema=ANNOTATION_SCHEMA)
    pq.write_table(answered, places["annotations"])
    write_version(places["versions"], [relabel(ranked, answered, sample, RelabelSettings())], {"ranked": "ranked"})


def _silent(_: str) -> None:
    pass
