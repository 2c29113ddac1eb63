"""Checks keep one contract; the ranking finds planted errors and is never a rate."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score

from acoustic_env.audit import check, scorers
from acoustic_env.audit.check import (
    CheckResult,
    duplicate_sets,
    duplicates_check,
    from_probabilities,
    label_quality,
)
from acoustic_env.audit.combine import fit_combination
from acoustic_env.audit.posterior import predict_out_of_fold, predict_without_two_folds
from acoustic_env.audit.rank import prepare, rank_exclusive, rank_multilabel
from acoustic_env.audit.ranking import check_ranked, scorer_names
from acoustic_env.audit.scorers import LabeledClips
from acoustic_env.audit.tags import tag_scores
from acoustic_env.config import AuditSettings, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.registry import Registry
from tests.audit.planted import plant_errors

QUICK = AuditSettings(scorers=("logistic", "neighbors"), folds=4, neighbors=15)


def clouds(clips: int = 600, classes: int = 2, seed: int = 0, apart: float = 2.0):
    """Gaussian classes of known truth, 10 % of the labels wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, clips)
    centers = rng.normal(0, apart / 3, (classes, 12))
    x = (centers[truth] * 3 + rng.normal(0, 1.5, (clips, 12))).astype(np.float32)
    given, wrong = plant_errors(truth, 0.1, rng)
    return x, truth, given, wrong


def ids(n: int) -> list[str]:
    return [f"clip{i:04d}" for i in range(n)]


@pytest.mark.parametrize("classes", [2, 4])
def test_planted_errors_come_first(classes: int) -> None:
    x, _, given, wrong = clouds(classes=classes)
    names = [f"class {k}" for k in range(classes)]
    clips = prepare(ids(600), x, given, np.arange(600), QUICK)
    table, summary = rank_exclusive(clips, given, names, QUICK)
    check_ranked(table, "ranked")
    assert table.num_rows == 600 * classes
    assert scorer_names(table) == ["logistic", "neighbors"]
    own = table.filter(table.column("given")).sort_by("clip_id")
    assert own.num_rows == 600
    quality = own.column("quality").to_numpy()
    assert average_precision_score(wrong, -quality) > 0.75
    assert wrong[np.argsort(quality)[:40]].mean() > 0.85
    assert "ranking" in str(summary["note"])


def test_a_missing_label_is_suspect_on_its_own_row() -> None:
    x, _, given, wrong = clouds()
    clips = prepare(ids(600), x, given, np.arange(600), QUICK)
    table, _ = rank_exclusive(clips, given, ["a", "b"], QUICK)
    absent = table.filter(pa.compute.invert(table.column("given"))).sort_by("clip_id")
    assert average_precision_score(wrong, -absent.column("quality").to_numpy()) > 0.75


def test_multi_label_classes_are_ranked_one_at_a_time() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random((500, 3)) < [0.3, 0.5, 0.004]
    truth[:2, 2] = True
    x = (truth @ rng.normal(0, 3, (3, 10)) + rng.normal(0, 1, (500, 10))).astype(np.float32)
    given = truth.copy()
    missing = np.flatnonzero(truth[:, 0])[:15]
    given[missing, 0] = False
    clips = prepare(ids(500), x, given, np.arange(500), QUICK)
    tables = list(rank_multilabel(clips, given, ["rain", "wind", "rare"], QUICK))
    assert [summary["label"] for _, summary in tables] == ["rain", "wind", "rare"]
    rain = tables[0][0].filter(pa.compute.invert(tables[0][0].column("given")))
    first = set(rain.column("clip_id").to_pylist()[:20])
    assert len(first & {f"clip{i:04d}" for i in missing}) >= 13
    rare, summary = tables[2]
    assert set(rare.column("quality").to_pylist()) == {0.5}
    assert "not scored" in str(summary["note"])


def test_the_same_seed_gives_the_same_ranking_and_groups_stay_together() -> None:
    x, _, given, _ = clouds(300)
    groups = np.arange(300) // 3
    one, two = (prepare(ids(300), x, given, groups, QUICK) for _ in range(2))
    assert rank_exclusive(one, given, ["a", "b"], QUICK)[0].equals(rank_exclusive(two, given, ["a", "b"], QUICK)[0])
    assert all(len(set(one.folds[groups == g])) == 1 for g in range(100))
    neighbor_groups = groups[one.neighborhood.index]
    assert (neighbor_groups != groups[:, None]).all()


def test_the_scorers_never_see_the_clip_they_judge_nor_the_fold_their_weights_are_for() -> None:
    folds = np.arange(200) % 4
    seen = []

    def judge(train: np.ndarray, judged: np.ndarray) -> np.ndarray:
        seen.append((set(folds[train]), set(folds[judged])))
        return np.tile(sum(10.0**fold for fold in set(folds[train])), (judged.sum(), 2))

    assert (predict_out_of_fold(judge, folds, 2)[folds == 0] == 1110.0).all()
    before, after = predict_without_two_folds(judge, folds, 2)
    assert all(not learned & judged for learned, judged in seen)
    assert (before[folds == 0] == 110.0).all()
    assert (after[folds == 0] == 1100.0).all()


def test_all_built_in_scorers_find_the_errors() -> None:
    x, _, given, wrong = clouds(240)
    everyone = AuditSettings(folds=3)
    clips = prepare(ids(240), x, given, np.arange(240), everyone)
    table, summary = rank_exclusive(clips, given, ["a", "b"], everyone)
    own = table.filter(table.column("given")).sort_by("clip_id")
    for name in scorer_names(table):
        assert average_precision_score(wrong, -own.column(name).to_numpy()) > 0.5, name
    assert set(summary["weights"]) == set(everyone.scorers)  # type: ignore[arg-type]


def score_by_first_feature(clips: LabeledClips, train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    assert not (train & held_out).any()
    score = 1 / (1 + np.exp(-clips.features[held_out, 0].astype(float)))
    return np.stack([1 - score, score], axis=1)


def test_a_scorer_of_another_package_ranks_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", f"{__name__}:score_by_first_feature", "acoustic_env.scorers")
    registry = Registry("scorers", "scorer", {"neighbors": "acoustic_env.audit.neighbors:score_by_neighbors"})
    monkeypatch.setattr("acoustic_env.registry.entry_points", lambda group: [entry] if group == entry.group else [])
    monkeypatch.setattr("acoustic_env.audit.scorers.SCORERS", registry)
    x, _, given, _ = clouds(240)
    settings = AuditSettings(scorers=("mine", "neighbors"), folds=3)
    clips = prepare(ids(240), x, given, np.arange(240), settings)
    assert scorer_names(rank_exclusive(clips, given, ["a", "b"], settings)[0]) == ["mine", "neighbors"]


def test_an_unknown_scorer_and_too_few_folds_are_rejected() -> None:
    x, _, given, _ = clouds(240)
    settings = AuditSettings(scorers=("oracle",))
    clips = prepare(ids(240), x, given, np.arange(240), settings)
    with pytest.raises(UsageError, match="no scorer named 'oracle'; expected one of: mlp, xgboost, logistic"):
        rank_exclusive(clips, given, ["a", "b"], settings)
    with pytest.raises(UsageError, match="cnn reads frames, and these clips come without any"):
        rank_exclusive(clips, given, ["a", "b"], settings.replace(scorers=("cnn",)))
    with pytest.raises(UsageError, match="folds: 2: input should be greater than or equal to 3"):
        from_mapping(AuditSettings, {"folds": 2}, "recipe.yaml")


@pytest.mark.parametrize("classes", [2, 4])
def test_trees_that_learn_from_a_share_of_the_clips_find_the_errors_too(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _, given, wrong = clouds(classes=classes)
    settings = AuditSettings(scorers=("xgboost",), folds=3)
    monkeypatch.setattr(scorers, "TREE_ROWS", 100)
    clips = prepare(ids(600), x, given, np.arange(600), settings)
    one, two = (rank_exclusive(clips, given, [f"{k}" for k in range(classes)], settings)[0] for _ in range(2))
    assert one.equals(two)
    own = one.filter(one.column("given")).sort_by("clip_id")
    assert average_precision_score(wrong, -own.column("quality").to_numpy()) > 0.7


def test_one_class_only_is_rejected() -> None:
    x, _, _, _ = clouds(60)
    given = np.zeros(60, dtype=np.int64)
    clips = prepare(ids(60), x, given, np.arange(60), QUICK)
    with pytest.raises(UsageError, match="two classes"):
        rank_exclusive(clips, given, ["a", "b"], QUICK)


def test_duplicates_with_contradicting_labels_are_flagged_and_sink() -> None:
    x, _, given, _ = clouds(200)
    given[0], given[1] = 0, 1
    duplicates = np.full(200, -1)
    duplicates[[0, 1]] = 7
    with_, without = (
        prepare(ids(200), x, given, np.arange(200), QUICK, found) for found in (duplicates, np.full(200, -1))
    )
    one, two = (rank_exclusive(clips, given, ["a", "b"], QUICK)[0] for clips in (with_, without))
    for clip in ("clip0000", "clip0001"):
        row, before = (
            next(r for r in table.to_pylist() if r["clip_id"] == clip and r["given"]) for table in (one, two)
        )
        assert row["flagged"]
        assert row["duplicates"] == 0.5
        assert row["quality"] == pytest.approx(before["quality"] / 2)


def test_sets_of_duplicates_follow_chains_and_leave_single_clips_out() -> None:
    sets = duplicate_sets({"b": "a", "c": "b", "x": "elsewhere"}, ["a", "b", "c", "d", "x"])
    assert sets[0] == sets[1] == sets[2] >= 0
    assert list(sets[3:]) == [-1, -1]


def test_tag_scores_are_a_scorer_where_present() -> None:
    x, truth, given, wrong = clouds(300, apart=0.3)
    tags = np.eye(2)[truth] * 0.8 + 0.1
    tags[:20] = np.nan
    clips = prepare(ids(300), x, given, np.arange(300), QUICK, tags={"tags_yamnet": tags})
    own = rank_exclusive(clips, given, ["a", "b"], QUICK)[0]
    own = own.filter(own.column("given")).sort_by("clip_id")
    assert average_precision_score(wrong, -own.column("quality").to_numpy()) > 0.8
    assert set(own.column("tags_yamnet").to_pylist()[:20]) == {0.5}


def test_tag_scores_take_the_largest_tag_of_a_class_and_leave_gaps() -> None:
    rows = pa.table({"clip_id": ["b", "a"], "scores": pa.array([[0.1, 0.2, 0.9], None], pa.list_(pa.float32(), 3))})
    wanted = [frozenset({"Wind", "Rain"}), frozenset({"Car"})]
    found = tag_scores(rows, ["Wind", "Rain", "Car"], ["a", "b", "c"], wanted)
    np.testing.assert_allclose(found[1], [0.2, 0.9], rtol=1e-6)
    assert np.isnan(found[[0, 2]]).all()
    assert tag_scores(rows, ["Wind", "Rain", "Car"], ["a"], [frozenset({"Owl"}), frozenset({"Car"})]) is None


def random_probabilities(clips: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    given = np.concatenate([np.arange(classes), rng.integers(0, classes, clips - classes)])
    scores = rng.normal(0, 1, (clips, classes)) + 1.5 * np.eye(classes)[given]
    probabilities = np.exp(scores)
    return given, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_confident_joint_and_flags_equal_cleanlabs(classes: int, seed: int) -> None:
    from cleanlab.count import compute_confident_joint, estimate_joint
    from cleanlab.filter import find_label_issues

    given, probabilities = random_probabilities(400, classes, seed)
    joint = estimate_joint(
        given, probabilities, confident_joint=compute_confident_joint(given, probabilities, calibrate=False)
    )
    # cleanlab rounds the calibrated counts to whole clips
    np.testing.assert_allclose(check.confident_joint(given, probabilities), joint, atol=1.01 / 400)
    flags = find_label_issues(given, probabilities, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(check.confident_flags(given, probabilities), flags)


def test_every_check_keeps_the_contract() -> None:
    given, probabilities = random_probabilities(150, 3, 0)
    for result in (from_probabilities("mlp", probabilities, given), duplicates_check(np.arange(150) // 2, given, 3)):
        assert result.score.shape == (150, 3)
        assert result.flagged.dtype == bool
        assert "summary" in result.information
    with pytest.raises(ValueError, match="outside 0 to 1"):
        CheckResult("bad", np.full((2, 2), 1.5), np.zeros(2, dtype=bool), 0.0, {})


def test_a_label_quality_is_its_own_inverse() -> None:
    given, probabilities = random_probabilities(50, 4, 3)
    score = label_quality(probabilities, given)
    np.testing.assert_allclose(label_quality(score, given), probabilities)
    assert score[0, given[0]] == pytest.approx(probabilities[0, given[0]])


def test_the_better_scorer_gets_more_weight_which_equals_logistic_regression() -> None:
    rng = np.random.default_rng(1)
    given = rng.integers(0, 2, 4000)
    good, bad = (np.where(given == 1, 1, -1) * strength + rng.normal(0, 1, 4000) for strength in (1.2, 0.2))
    both = np.stack([[1 - p, p] for p in (1 / (1 + np.exp(-good)), 1 / (1 + np.exp(-bad)))]).transpose(0, 2, 1)
    combination = fit_combination(both, np.eye(2)[given], True)
    assert combination.weights[0, 0] > 3 * combination.weights[1, 0]
    assert combination.shares[0, 0] > combination.shares[1, 0] > 0.2
    np.testing.assert_allclose(combination.pool(both).sum(axis=1), 1.0)
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6).fit(np.stack([good, bad], axis=1), given)
    expected = model.predict_proba(np.stack([good, bad], axis=1))[:, 1]
    np.testing.assert_allclose(combination.log_pool(both)[:, 1], expected, atol=0.02)


def test_labels_weighed_together_get_the_weights_of_two_classes_weighed_alone() -> None:
    rng = np.random.default_rng(4)
    given = rng.random((500, 3)) < [0.5, 0.1, 0.02]
    strength = np.array([2.0, 0.5, -1.0])[:, None, None]
    one = 1 / (1 + np.exp(-(strength * (2 * given - 1) + rng.normal(0, 1.5, (3, 500, 3)))))
    together = fit_combination(one, given.astype(float), False)
    assert together.weights[2].max() == 0.0  # a scorer that is wrong more often than right
    for k in range(3):
        both = np.stack([1 - one[:, :, k], one[:, :, k]], axis=2)
        alone = fit_combination(both, np.eye(2)[given[:, k].astype(np.int64)], True)
        np.testing.assert_allclose(together.shares[:, k], alone.shares[:, 0], atol=2e-3)
        np.testing.assert_allclose(together.pool(one)[:, k], alone.pool(both)[:, 1], atol=2e-3)
        np.testing.assert_allclose(together.log_pool(one)[:, k], alone.log_pool(both)[:, 1], atol=1e-2)


def test_a_label_judged_with_others_is_judged_as_it_is_alone() -> None:
    x, _, given, _ = clouds(400, classes=3)
    many = np.eye(3, dtype=bool)[given]
    clips = prepare(ids(400), x, given, np.arange(400), QUICK)
    tables = [table for table, _ in rank_multilabel(clips, many, ["a", "b", "c"], QUICK)]
    for k, together in enumerate(tables):
        alone, _ = rank_exclusive(clips, many[:, k].astype(np.int64), ["without", "with"], QUICK)
        alone = alone.filter(pa.compute.equal(alone.column("label"), "with")).sort_by("clip_id")
        for name in ("quality", "logistic", "neighbors"):
            expected = alone.column(name).to_numpy()
            np.testing.assert_allclose(together.sort_by("clip_id").column(name).to_numpy(), expected, atol=2e-3)


def test_the_ranking_is_the_same_on_one_thread_and_on_two() -> None:
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(8)
    given = rng.random((2000, 12)) < 0.1
    x = (given @ rng.normal(0, 1, (12, 100)) + rng.normal(0, 1, (2000, 100))).astype(np.float32)
    names = [f"label {k}" for k in range(12)]
    clips = prepare(ids(2000), x, given, np.arange(2000), QUICK)
    tables = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            tables.append(pa.concat_tables(table for table, _ in rank_multilabel(clips, given, names, QUICK)))
    assert tables[0].equals(tables[1])


def test_all_built_in_scorers_learn_many_labels() -> None:
    rng = np.random.default_rng(6)
    truth = rng.random((300, 3)) < 0.4
    x = (truth @ rng.normal(0, 3, (3, 10)) + rng.normal(0, 1, (300, 10))).astype(np.float32)
    given = truth.copy()
    wrong = rng.random((300, 3)) < 0.05
    given ^= wrong
    settings = AuditSettings(folds=3)
    clips = prepare(ids(300), x, given, np.arange(300), settings)
    for k, (table, _) in enumerate(rank_multilabel(clips, given, ["rain", "wind", "owl"], settings)):
        for name in scorer_names(table):
            score = table.sort_by("clip_id").column(name).to_numpy()
            assert average_precision_score(wrong[:, k], -score) > 0.4, (k, name)


def test_a_label_whose_companions_are_too_rare_is_scored_alone() -> None:
    x, truth, _, _ = clouds(200)
    given = np.stack([truth == 1, np.arange(200) == 7], axis=1)
    clips = prepare(ids(200), x, given, np.arange(200), QUICK)
    (common, _), (_, rare) = rank_multilabel(clips, given, ["rain", "owl"], QUICK)
    logistic = common.sort_by("clip_id")["logistic"].to_numpy()
    assert (logistic > 0.5).mean() > 0.9
    assert "not scored" in str(rare["note"])


def test_a_broken_ranked_table_is_rejected_by_file_and_column() -> None:
    table = pa.table({"clip_id": ["a"], "label": ["x"], "given": [True], "quality": [1.5], "flagged": [False]})
    with pytest.raises(UsageError, match=r"r\.parquet: column 'quality' runs from 1\.5 to 1\.5"):
        check_ranked(table, "r.parquet")
    with pytest.raises(UsageError, match="no column 'flagged'"):
        check_ranked(table.drop_columns(["flagged"]), "r.parquet")
