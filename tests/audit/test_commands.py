"""The audit commands as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import average_precision_score

from acoustic_env.cli import main
from tests.audit.generated import listen, ranked_with_truth
from tests.audit.planted import plant_errors
from tests.models.conftest import SIGNALS, Generated, write_block

RANKED, RIGHT = ranked_with_truth(1200)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(RANKED, "ranked.parquet")
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    assert main(["audit", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_plan_to_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = answer(capsys, "plan", "--half-width", "0.05", "--ranked", "ranked.parquet")
    assert {plan["design"] for plan in plans} == {"simple", "stratified", "unequal"}  # type: ignore[union-attr]
    drawn = answer(capsys, "sample", "--ranked", "ranked.parquet", "--n", "200", "--out", "sample.parquet")
    assert (drawn["sample"], drawn["repeat"]) == (200, 20)  # type: ignore[index]
    pq.write_table(listen(pq.read_table("sample.parquet"), RIGHT, {"ada": 1.0}, 0), "annotations.parquet")
    found = answer(capsys, "estimate", "--sample", "sample.parquet", "--annotations", "annotations.parquet")
    overall = found["overall"]["stratified"]  # type: ignore[index]
    assert overall["low"] <= RIGHT.mean() <= overall["high"]
    assert main(["audit", "estimate", "--sample", "sample.parquet", "--annotations", "annotations.parquet"]) == 0
    assert "label accuracy" in capsys.readouterr().out
    relabel = (
        "relabel",
        "--ranked",
        "ranked.parquet",
        "--annotations",
        "annotations.parquet",
        "--sample",
        "sample.parquet",
    )
    first = answer(capsys, *relabel, "--versions", "labels")
    assert (first["version"], first["new"]) == ("v0001", True)  # type: ignore[index]
    second = answer(capsys, *relabel, "--versions", "labels")
    assert (second["version"], second["new"]) == ("v0001", False)  # type: ignore[index]
    changed = answer(capsys, "diff", "--versions", "labels", "original", "v0001")
    assert {row["action"] for row in changed} <= {"drop", "abstain"}  # type: ignore[union-attr]
    clips = {"clip_id": RANKED.column("clip_id"), "uri": RANKED.column("clip_id"), "start_s": pa.array([1.5] * 1200)}
    pq.write_table(pa.table(clips), "clips.parquet")
    exported = answer(capsys, "export", "--versions", "labels", "--clips", "clips.parquet", "--out", "s.csv")
    assert exported["segments"] + exported["without_label"] == 1200  # type: ignore[index]


def test_the_annotations_may_be_a_csv(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pyarrow import csv

    main(["audit", "sample", "--ranked", "ranked.parquet", "--n", "100", "--design", "simple", "--out", "s.parquet"])
    csv.write_csv(listen(pq.read_table("s.parquet"), RIGHT, {"ada": 1.0}, 0).drop_columns(["note"]), "v.csv")
    capsys.readouterr()
    found = answer(capsys, "estimate", "--sample", "s.parquet", "--annotations", "v.csv")
    assert found["answered"] == 100  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--half-width", "0.9"], "--half-width 0.9"),
        (["sample", "--ranked", "nothing.parquet", "--n", "5", "--out", "s"], "nothing.parquet: no such file"),
        (["sample", "--ranked", "ranked.parquet", "--n", "5000", "--out", "s"], "expected 1 to 1200"),
        (["estimate", "--sample", "ranked.parquet", "--annotations", "ranked.parquet"], "no column 'annotator'"),
        (["diff", "--versions", "empty", "v0001", "v0002"], "no version 'v0002'"),
    ],
)
def test_wrong_use_is_named_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["audit", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_labels_of_released_embeddings_are_ranked(
    folder: Path, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released = [str(test_data / "audioset/embeddings/bal_train"), "--segments"]
    listed = str(test_data / "audioset/balanced_train_segments.csv")
    made = ["--recipe", "urban-nature", "--out", "clips.parquet", "--store", "store"]
    assert main(["clips", "from-audioset-embeddings", *released, listed, *made]) == 0
    capsys.readouterr()
    ranked = ["--clips", "clips.parquet", "--store", "store", "--recipe", "urban-nature", "--out", "r.parquet"]
    first, second = (
        next(row for row in pq.read_table("clips.parquet").to_pylist() if row["labels"][-1:] == [label])
        for label in ("/t/dd00128", "/t/dd00129")
    )
    rows = [f"{first['clip_id']},g,", f"{second['clip_id']},g,{first['clip_id']}"]
    Path("groups.csv").write_text("clip_id,group,duplicate_of\n" + "\n".join(rows) + "\n")
    quick = ["--blocks", "vggish_released", "--signals", "raw", "--scorers", "logistic,neighbors"]
    quick += ["--duplicates", "groups.csv"]
    found = answer(capsys, "rank", *ranked, *quick)
    assert "not an error rate" in found["note"] or "Neither" in found["note"]  # type: ignore[index]
    table = pq.read_table("r.parquet")
    assert table.column_names == [
        "clip_id",
        "label",
        "given",
        "quality",
        "flagged",
        "logistic",
        "neighbors",
        "duplicates",
    ]
    assert sorted(set(table.column("duplicates").to_pylist())) == [0.5, 1.0]
    assert table.num_rows == found["rows"] == 2 * 414  # type: ignore[index]


def test_a_block_of_many_columns_does_not_drown_one_of_few_where_the_recipe_reduces_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = np.arange(240) % 2
    given, wrong = plant_errors(truth, 0.1, np.random.default_rng(0))
    ids, names = [f"clip{i:03d}" for i in range(240)], np.array(["natural", "urban"])
    listed = {"clip_id": ids, "uri": ids, "labels": [[name] for name in names[given]], "group": ids}
    pq.write_table(pa.table(listed), "clips.parquet")
    write_block("store", Generated("indices", 4), ids, 2 * truth, seed=1)
    write_block("store", Generated("mps", 400), ids, 0 * truth, seed=2)
    study = {
        "task": "binary",
        "classes": {name: {"labels": [name]} for name in names.tolist()},
        "signals": list(SIGNALS),
        "blocks": {"indices": {}, "mps": {}},
    }
    found = []
    for components in (0, 2):
        study["reduction"] = {"components": {"indices": 0, "mps": components}}
        Path("recipe.yaml").write_text(yaml.safe_dump(study))
        ranked = ["--clips", "clips.parquet", "--store", "store", "--recipe", "recipe.yaml", "--out", "r.parquet"]
        answer(capsys, "rank", *ranked, "--scorers", "logistic,neighbors")
        table = pq.read_table("r.parquet").filter(pc.field("given")).sort_by("clip_id")
        found.append(average_precision_score(wrong, -table.column("quality").to_numpy()))
    assert found[1] > 0.9 > found[0]
