"""Agreement, several fallible votes, and one fallible annotator."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import fleiss_kappa

from acoustic_env.audit import agreement as measures
from acoustic_env.audit.agreement import agreement, vote_counts
from acoustic_env.audit.intervals import Interval
from acoustic_env.audit.votes import dawid_skene, dawid_skene_share, rogan_gladen
from tests.audit.coverage import coverage

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: nominal data with missing values, 0.743.
KRIPPENDORFF = (
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ]
    ).T
    - 1
)


def test_alpha_equals_krippendorffs_own_example() -> None:
    alpha = measures.krippendorff_alpha(vote_counts(KRIPPENDORFF, 5))
    assert alpha[0] == pytest.approx(0.743, abs=5e-4)


def test_alpha_follows_fleiss_kappa_on_complete_votes() -> None:
    votes = np.random.default_rng(0).integers(0, 3, (400, 4))
    votes[:, 1:3] = votes[:, :1]
    counts = vote_counts(votes, 3)
    kappa = fleiss_kappa(counts)
    # alpha corrects kappa for the finite sample: 1 - alpha = (1 - kappa)(1 - 1/N)
    assert 1 - measures.krippendorff_alpha(counts)[0] == pytest.approx((1 - kappa) * (1 - 1 / counts.sum()), rel=1e-9)


def test_ac1_equals_the_formula_for_two_annotators() -> None:
    votes = np.array([[0, 0]] * 118 + [[0, 1]] * 5 + [[1, 0]] * 2 + [[1, 1]] * 0)
    agree, share = 118 / 125, (5 + 2) / 250
    chance = 2 * share * (1 - share)
    assert measures.gwet_ac1(vote_counts(votes, 2))[0] == pytest.approx((agree - chance) / (1 - chance))


def test_agreement_with_fewer_than_two_common_clips_says_nothing() -> None:
    found = agreement(np.array([[1, -1], [-1, 0], [1, 1]]), 2, seed=0)
    assert all(interval.n == 0 for interval in found.values())


def noisy_votes(rng: np.random.Generator, clips: int, annotators: int, share: float = 0.7, skill: float = 0.85):
    truth = (rng.random(clips) < share).astype(np.int64)
    right = rng.random((clips, annotators)) < skill
    return truth, np.where(right, truth[:, None], 1 - truth[:, None])


def agreement_coverage(repeats: int, draws: int, seed: int) -> dict[str, float]:
    _, many = noisy_votes(np.random.default_rng(1), 400_000, 3)
    truths = {name: float(measure(vote_counts(many, 2))[0]) for name, measure in measures.MEASURES.items()}
    rng = np.random.default_rng(seed)
    held = dict.fromkeys(truths, 0)
    for _ in range(repeats):
        found = agreement(noisy_votes(rng, 200, 3)[1], 2, seed=int(rng.integers(2**31)), draws=draws)
        for name, interval in found.items():
            held[name] += interval.low <= truths[name] <= interval.high
    return {name: count / repeats for name, count in held.items()}


def test_agreement_intervals_cover() -> None:
    held = agreement_coverage(200, 300, seed=8)
    assert all(0.93 <= share <= 0.97 for share in held.values()), held


def test_dawid_skene_beats_the_majority_when_one_annotator_guesses() -> None:
    rng = np.random.default_rng(3)
    truth, votes = noisy_votes(rng, 1500, 3, skill=0.9)
    guesses = rng.integers(0, 2, (1500, 2))
    votes = np.column_stack([votes, guesses])
    votes[rng.random(votes.shape) < 0.2] = -1
    model = dawid_skene(votes, 2)
    majority = (votes == 1).sum(axis=1) > (votes == 0).sum(axis=1)
    believed = model.posterior.argmax(axis=1)
    assert (believed == truth).mean() > (majority == truth).mean() + 0.03
    assert model.confusion[0, 1, 1] == pytest.approx(0.9, abs=0.05)
    assert model.confusion[4, 1, 1] == pytest.approx(0.5, abs=0.08)
    np.testing.assert_allclose(model.posterior.sum(axis=1), 1.0)


def test_gold_clips_teach_dawid_skene_what_two_annotators_cannot() -> None:
    rng = np.random.default_rng(4)
    truth, votes = noisy_votes(rng, 800, 2, share=0.6)
    votes[:, 1] = np.where(rng.random(800) < 0.6, truth, 1 - truth)
    known = np.full(800, -1)
    known[:300] = truth[:300]
    model = dawid_skene(votes, 2, known)
    np.testing.assert_array_equal(model.posterior[:300].argmax(axis=1), truth[:300])
    assert model.confusion[0, 0, 0] == pytest.approx(0.85, abs=0.06)
    assert model.confusion[1, 0, 0] == pytest.approx(0.6, abs=0.07)


def draw_share(rng: np.random.Generator) -> tuple[Interval, float]:
    _, votes = noisy_votes(rng, 300, 4, share=0.7, skill=0.85)
    return dawid_skene_share(votes, 2, 1, seed=int(rng.integers(2**31)), draws=150), 0.7


@pytest.mark.slow
def test_the_dawid_skene_share_covers() -> None:
    assert 0.93 <= coverage(draw_share, 200, seed=6) <= 0.97


def test_gold_clips_correct_the_share_that_two_annotators_cannot_tell() -> None:
    rng = np.random.default_rng(6)
    truth, votes = noisy_votes(rng, 600, 2, share=0.7)
    votes[:, 1] = np.where(rng.random(600) < 0.6, truth, 1 - truth)
    known, gold = noisy_votes(rng, 400, 2, share=0.5)
    gold[:, 1] = np.where(rng.random(400) < 0.6, known, 1 - known)
    alone = dawid_skene_share(votes, 2, 1, seed=1, draws=50)
    taught = dawid_skene_share(votes, 2, 1, seed=1, draws=50, gold=(known, gold))
    assert abs(taught.estimate - 0.7) < 0.04
    assert abs(taught.estimate - 0.7) <= abs(alone.estimate - 0.7)


def draw_fallible(rng: np.random.Generator) -> tuple[Interval, float]:
    share, sensitivity, specificity = 0.74, 0.92, 0.85
    positive = share * sensitivity + (1 - share) * (1 - specificity)
    right = rng.binomial([250, 80, 80], [positive, sensitivity, specificity])
    return rogan_gladen(right[0], 250, (right[1], 80), (right[2], 80), int(rng.integers(2**31)), 2000), share


def test_the_fallible_annotator_is_corrected_and_its_interval_covers() -> None:
    assert 0.93 <= coverage(draw_fallible, 400, seed=3) <= 0.97
    found = rogan_gladen(0.7 * 1000, 1000, (900, 1000), (800, 1000), seed=1)
    assert found.estimate == pytest.approx((0.7 + 0.8 - 1) / 0.7)


def test_no_correction_is_made_up_without_gold_or_skill() -> None:
    assert rogan_gladen(70, 100, (0, 0), (8, 10), seed=1).n == 0
    guessing = rogan_gladen(70, 100, (5, 10), (5, 10), seed=1)
    assert (guessing.low, guessing.high) == (0.0, 1.0)


@pytest.mark.simulation
@pytest.mark.parametrize("draw", [draw_share, draw_fallible])
def test_vote_intervals_cover_thoroughly(draw) -> None:
    assert 0.93 <= coverage(draw, 1500, seed=2) <= 0.97


@pytest.mark.simulation
def test_agreement_intervals_cover_thoroughly() -> None:
    held = agreement_coverage(2000, 600, seed=1)
    assert all(0.93 <= share <= 0.97 for share in held.values()), held
