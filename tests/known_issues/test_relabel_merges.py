"""`audit relabel` replaced earlier decisions and other lists' rows, and rows without an answer were called unsure."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acoustic_env.audit.labels import read_version
from acoustic_env.cli import main
from tests.audit.planted import answered, drawn, planted


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_list(name: str, seed: int, n: int = 0) -> pa.Table:
    """A ranked list whose clips are named after it; with n, a sample of it and a perfect annotator's answers."""
    ranked, truth = planted(300, 0.1, 0.9, "uniform", seed)
    sample = drawn(ranked, max(n, 20), "simple", seed)
    annotations = answered(sample, truth)

    def named(table: pa.Table) -> pa.Table:
        return table.set_column(0, "clip_id", pa.array([f"{name}-{clip}" for clip in table["clip_id"].to_pylist()]))

    pq.write_table(named(ranked), f"{name}.parquet")
    if n:
        pq.write_table(named(sample), f"{name}-sample.parquet")
        pq.write_table(named(annotations), f"{name}-answers.parquet")
    return named(ranked)


def relabel(name: str, with_answers: bool) -> None:
    files = ["--annotations", f"{name}-answers.parquet", "--sample", f"{name}-sample.parquet"] if with_answers else []
    assert main(["audit", "relabel", "--ranked", f"{name}.parquet", "--versions", "labels", *files]) == 0


def decisions(table: pa.Table, prefix: str) -> dict[str, tuple[object, ...]]:
    rows = table.to_pylist()
    return {row["clip_id"]: (row["votes"], row["action"]) for row in rows if row["clip_id"].startswith(prefix)}


def people(table: pa.Table, prefix: str) -> dict[str, tuple[object, ...]]:
    return {clip: decided for clip, decided in decisions(table, prefix).items() if decided[0] is not None}


def test_a_second_list_joins_the_first() -> None:
    write_list("one", 1, n=60)
    write_list("two", 2)
    relabel("one", True)
    first = read_version("labels")
    relabel("two", False)
    second = read_version("labels")
    assert set(second["version"].to_pylist()) == {"v0002"}
    assert second.num_rows == 600
    assert decisions(second, "one-") == decisions(first, "one-")
    assert len(decisions(second, "two-")) == 300


def test_decisions_by_people_outlive_a_new_ranking_without_answers() -> None:
    write_list("one", 1, n=60)
    relabel("one", True)
    first = read_version("labels")
    assert len(people(first, "one-")) == 60
    new = write_list("one", 1)
    turned = new.set_column(3, "quality", pa.array(1.0 - new["quality"].to_numpy()))
    pq.write_table(turned, "one.parquet")
    relabel("one", False)
    again = read_version("labels")
    assert people(again, "one-") == people(first, "one-")
    assert again.num_rows == 300


def test_new_answers_replace_earlier_ones_on_their_rows_only() -> None:
    write_list("one", 1, n=60)
    relabel("one", True)
    first = people(read_version("labels"), "one-")
    annotations = pq.read_table("one-answers.parquet")
    kept = annotations.slice(0, 10)
    turned = ["wrong" if said == "right" else "right" for said in kept["answer"].to_pylist()]
    pq.write_table(kept.set_column(3, "answer", pa.array(turned)), "one-answers.parquet")
    relabel("one", True)
    second = people(read_version("labels"), "one-")
    changed = {clip for clip, decided in second.items() if decided != first[clip]}
    assert changed == set(kept["clip_id"].to_pylist())
    assert second.keys() == first.keys()


def test_nothing_is_written_when_a_list_is_relabeled_the_same_way_again() -> None:
    write_list("one", 1, n=60)
    write_list("two", 2)
    for name, with_answers in (("one", True), ("two", False), ("two", False), ("one", True)):
        relabel(name, with_answers)
    assert read_version("labels")["version"][0].as_py() == "v0002"


def test_rows_without_an_answer_are_not_unsure(capsys: pytest.CaptureFixture[str]) -> None:
    write_list("one", 1, n=60)
    annotations = pq.read_table("one-answers.parquet").slice(0, 40)
    said = ["unsure"] * 3 + annotations["answer"].to_pylist()[3:]
    pq.write_table(annotations.set_column(3, "answer", pa.array(said)), "some.parquet")
    estimate = ["audit", "estimate", "--sample", "one-sample.parquet", "--annotations", "some.parquet"]
    assert main(estimate) == 0
    out = capsys.readouterr().out
    assert "without an answer: 20 rows" in out
    assert "unsure: 3 rows" in out
    assert main([*estimate, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answered"], found["without_answer"], found["unsure"]["rows"]) == (37, 20, 3)
