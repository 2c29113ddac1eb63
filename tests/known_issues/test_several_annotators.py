"""Several annotators: in `reannotate` the last one won, and relabeling let a majority overrule gold rows.

Each command aggregated answers in its own way, so one file of answers had three meanings.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.audit.annotations import check_annotations
from acoustic_env.audit.consensus import consensus
from acoustic_env.audit.estimate import estimate
from acoustic_env.audit.frames import FrameEvaluation, FrameInfo, draw_frame, evaluate_frames
from acoustic_env.audit.relabel import applies, relabel
from acoustic_env.audit.sample import draw_sample
from acoustic_env.options import RelabelSettings, SampleSettings
from tests.audit.generated import START, listen, ranked_with_truth

RANKED, RIGHT = ranked_with_truth(600)
SETTINGS = RelabelSettings()


def simple_sample(n: int, gold: pa.Table | None = None) -> pa.Table:
    return draw_sample(RANKED, SampleSettings(n=n, design="simple", seed=4, repeat=0.0), gold)


def answers(sample: pa.Table, skill: dict[str, float], seed: int = 0) -> pa.Table:
    return check_annotations(listen(sample, RIGHT, skill, seed), "answers.parquet")


def gold_rows(rows: range) -> pa.Table:
    return pa.table(
        {
            "clip_id": [f"clip{i:05d}" for i in rows],
            "label": [RANKED["label"][i].as_py() for i in rows],
            "truth": ["right" if RIGHT[i] else "wrong" for i in rows],
        }
    )


def test_in_reannotate_the_last_annotator_does_not_win() -> None:
    sample = weekly_sample(200)
    careful = {"ada": 1.0, "bob": 0.97, "cy": 0.97}
    with_guesser = answers(sample, careful | {"zoe": 0.0})  # zoe answers last, and always wrongly
    told, measured = (weekly(sample, table) for table in (with_guesser, answers(sample, careful)))
    rows = [int(row["clip_id"][4:]) for row in sample.to_pylist()]
    assert told.as_given == pytest.approx(RIGHT[rows].mean(), abs=0.02)
    assert told.as_given == pytest.approx(measured.as_given, abs=0.02)


def weekly_sample(n: int) -> pa.Table:
    """What `reannotate` draws of a version that changes nothing."""
    labels = relabel(RANKED, None, None, SETTINGS)
    sample = draw_frame([(labels, None, labels["clip_id"])], [], FrameInfo(1, "clips", "v0001", None), n, 4)
    assert sample is not None
    return sample


def weekly(sample: pa.Table, annotations: pa.Table) -> FrameEvaluation:
    (evaluation,) = evaluate_frames([sample], annotations)
    return evaluation


def test_gold_is_not_overruled_when_relabeling() -> None:
    sample = simple_sample(50, gold_rows(range(20)))
    mistaken = answers(sample, dict.fromkeys(("ada", "bob", "cy"), 0.05))
    labels = relabel(RANKED, mistaken, sample, SETTINGS)
    known = {f"clip{i:05d}": bool(RIGHT[i]) for i in range(20)}
    state = dict(zip(labels["clip_id"].to_pylist(), applies(labels).tolist(), strict=True))
    actions = dict(zip(labels["clip_id"].to_pylist(), labels["action"].to_pylist(), strict=True))
    assert {clip: state[clip] for clip in known} == known
    assert {actions[clip] for clip in known} <= {"keep", "drop"}


def test_the_three_commands_give_one_meaning_to_one_file_of_answers() -> None:
    sample = weekly_sample(150)
    told = answers(sample, {"ada": 0.95, "bob": 0.8, "cy": 0.55}, seed=3)
    rows = [consensus(told, {})[key] for key in keys_of(sample)]
    believed = np.array([row.applies for row in rows], dtype=float)
    found = estimate(sample, told, "sample.parquet")
    assert found["overall"]["stratified"].estimate == pytest.approx(believed.mean(), abs=1e-12)
    assert weekly(sample, told).as_given == pytest.approx(believed.mean(), abs=1e-12)
    labels = relabel(RANKED, told, sample, SETTINGS)
    decided = dict(zip(labels["clip_id"].to_pylist(), labels["action"].to_pylist(), strict=True))
    for (clip_id, _), belief in zip(keys_of(sample), believed, strict=True):
        assert decided[clip_id] == ("keep" if belief >= 0.9 else "drop" if belief <= 0.1 else "abstain")


def keys_of(sample: pa.Table) -> list[tuple[str, str]]:
    return [(row["clip_id"], row["label"]) for row in sample.to_pylist() if row["role"] == "sample"]


def test_an_annotators_last_answer_replaces_that_annotators_alone() -> None:
    def answer(annotator: str, chosen: str, second: int) -> dict[str, object]:
        time = START + dt.timedelta(seconds=second)
        row = {"clip_id": "c", "label": "wind", "annotator": annotator, "answer": chosen, "time_utc": time}
        return row | {"role": "sample", "note": None, "seconds": 1.0}

    said = [answer("ada", "right", 1), answer("bob", "right", 2), answer("cy", "wrong", 3), answer("cy", "right", 4)]
    found = consensus(check_annotations(pa.Table.from_pylist(said), "a"), {})["c", "wind"]
    assert found.votes == ["ada: right", "bob: right", "cy: right"]
    assert found.applies is not None
    assert found.applies > 0.9


def test_gold_rows_without_answers_do_not_enter_the_estimate_of_the_sample() -> None:
    sample = simple_sample(60, gold_rows(range(300)))
    first = answers(sample, {"ada": 1.0}).slice(0, 40)
    found = estimate(sample, first, "sample.parquet")
    answered = {row["clip_id"] for row in first.to_pylist() if row["role"] == "sample"}
    assert found["answered"] == len(answered)
