"""From sample and annotations to label accuracy: right on planted truth, where the most suspicious clips are wrong."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from acoustic_env.audit.annotations import check_annotations, latest
from acoustic_env.audit.estimate import estimate
from acoustic_env.audit.intervals import Interval, wilson
from acoustic_env.audit.sample import draw_sample
from acoustic_env.errors import UsageError
from acoustic_env.options import SampleSettings
from tests.audit.generated import listen, ranked_with_truth

RANKED, RIGHT = ranked_with_truth()
LABELS = np.asarray(RANKED.column("label"))
GOLD = pa.table(
    {
        "clip_id": [f"clip{i:05d}" for i in range(80)],
        "label": LABELS[:80],
        "truth": np.where(RIGHT[:80], "right", "wrong"),
    }
)


def audit(design: str, seed: int, n: int = 240, skill: float = 1.0, **more):
    sample = draw_sample(RANKED, SampleSettings(n=n, design=design, seed=seed, repeat=0.0))  # type: ignore[arg-type]
    annotations = check_annotations(listen(sample, RIGHT, {"ada": skill}, seed), "annotations")
    return estimate(sample, annotations, "sample.parquet", **more)


@pytest.mark.parametrize(
    ("repeats", "error"),  # `error`: twice the standard error of a true 95 %
    [pytest.param(150, 0.036, marks=pytest.mark.slow), pytest.param(1000, 0.014, marks=pytest.mark.simulation)],
)
@pytest.mark.parametrize("design", ["simple", "stratified", "unequal"])
def test_the_preferred_estimate_covers_overall_per_label_and_for_the_ranking(
    design: str, repeats: int, error: float
) -> None:
    truths = {
        "overall": RIGHT.mean(),
        "urban": RIGHT[LABELS == "urban"].mean(),
        "precision": (~RIGHT)[np.asarray(RANKED.column("flagged"))].mean(),
        "recall": np.asarray(RANKED.column("flagged"))[~RIGHT].mean(),
    }
    held = dict.fromkeys(truths, 0)
    for seed in range(1000, 1000 + repeats):
        found = audit(design, seed)
        intervals: dict[str, Interval] = {
            "overall": found["overall"][found["preferred"]],
            "urban": found["labels"]["urban"][found["preferred"]],
            **found["ranking"]["flagged"],
        }
        for name, interval in intervals.items():
            held[name] += interval.low <= truths[name] <= interval.high
    assert all(count / repeats >= 0.914 - error for count in held.values()), held
    assert 0.95 - error <= held["overall"] / repeats <= 0.95 + error


def test_the_most_suspicious_clips_estimate_nothing_but_themselves() -> None:
    quality = np.asarray(RANKED.column("quality"))
    suspicious = np.argsort(quality)[:200]
    naive = wilson(float((~RIGHT)[suspicious].sum()), 200)
    sampled = audit("stratified", 3)["overall"]["stratified"]
    truth = 1 - RIGHT.mean()
    assert naive.low > truth + 0.2
    assert 1 - sampled.high <= truth <= 1 - sampled.low


def test_a_fallible_annotator_is_corrected_by_gold_clips() -> None:
    sample = draw_sample(RANKED, SampleSettings(n=600, design="simple", seed=2), GOLD)
    annotations = check_annotations(listen(sample, RIGHT, {"ada": 0.85}, 5), "v")
    found = estimate(sample, annotations, "s")
    apparent, corrected = found["overall"]["difference"], found["annotators"]["corrected"]
    assert apparent.high < RIGHT.mean()
    assert corrected.low <= RIGHT.mean() <= corrected.high
    assert found["annotators"]["self_agreement"].n == 60


def test_several_annotators_are_weighed_and_their_agreement_reported() -> None:
    sample = draw_sample(RANKED, SampleSettings(n=300, design="simple", seed=2), GOLD)
    annotations = check_annotations(listen(sample, RIGHT, {"ada": 0.95, "bob": 0.9, "cy": 0.6}, 5), "v")
    found = estimate(sample, annotations, "s")
    assert found["overall"]["wilson"].low <= RIGHT.mean() <= found["overall"]["wilson"].high
    assert 0.1 < found["annotators"]["agreement"]["krippendorff_alpha"].estimate < 0.7
    assert found["annotators"]["gold"]["cy"]["right"].estimate < found["annotators"]["gold"]["ada"]["right"].estimate
    assert "dawid_skene" in found["annotators"]


def test_unsure_answers_are_counted_and_bounded() -> None:
    sample = draw_sample(RANKED, SampleSettings(n=200, design="unequal"))
    found = estimate(sample, check_annotations(listen(sample, RIGHT, {"ada": 1.0}, 1, unsure=0.15), "v"), "s")
    assert found["answered"] + found["unsure"]["rows"] == 200
    low, high = found["unsure"]["if all wrong"].estimate, found["unsure"]["if all right"].estimate
    assert low < found["overall"]["difference"].estimate < high


def test_clips_of_one_recording_widen_the_interval() -> None:
    sample = draw_sample(RANKED, SampleSettings(n=200, design="simple"))
    everywhere = np.zeros(len(RIGHT), dtype=bool)
    order = np.argsort(sample.column("clip_id").to_pylist())
    ids = np.array(sample.column("clip_id").to_pylist())[order]
    groups = {clip: f"video{i // 5}" for i, clip in enumerate(ids)}
    for i, clip in enumerate(ids):
        everywhere[int(clip[4:])] = (i // 5) % 3 > 0
    annotations = check_annotations(listen(sample, everywhere, {"ada": 1.0}, 0), "v")
    plain, grouped = estimate(sample, annotations, "s"), estimate(sample, annotations, "s", groups)
    assert grouped["design_effect"] > 3
    assert grouped["overall"]["wilson"].half_width > 1.5 * plain["overall"]["wilson"].half_width


def test_the_latest_answer_of_an_annotator_counts() -> None:
    sample = draw_sample(RANKED, SampleSettings(n=50, design="simple", repeat=0.0))
    annotations = listen(sample, np.ones(3000, dtype=bool), {"ada": 1.0}, 0)
    changed = listen(sample, np.zeros(3000, dtype=bool), {"ada": 1.0}, 0)
    import datetime as dt

    times = [t + dt.timedelta(days=1) for t in changed.column("time_utc").to_pylist()]
    changed = changed.set_column(changed.column_names.index("time_utc"), "time_utc", pa.array(times))
    both = latest(check_annotations(pa.concat_tables([changed, annotations], promote_options="permissive"), "v"))
    assert set(both.column("answer").to_pylist()) == {"wrong"}


def test_a_sample_without_answers_and_broken_annotations_are_refused() -> None:
    sample = draw_sample(RANKED, SampleSettings(n=50, design="simple"))
    annotations = check_annotations(listen(sample, RIGHT, {"ada": 1.0}, 0), "v")
    with pytest.raises(UsageError, match="annotate first"):
        estimate(sample, annotations.slice(0, 0), "sample.parquet")
    wrong = annotations.set_column(3, "answer", pa.array(["perhaps"] * annotations.num_rows))
    with pytest.raises(UsageError, match=r"v\.csv: row 1, column 'answer': 'perhaps'"):
        check_annotations(wrong, "v.csv")
    with pytest.raises(UsageError, match="no column 'annotator'"):
        check_annotations(annotations.drop_columns(["annotator"]), "v.csv")
