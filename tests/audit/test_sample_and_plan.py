"""Samples are probability samples that anyone can check; plans say how many clips before anyone listens."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from acoustic_env.audit.plan import plan, simple_size
from acoustic_env.audit.sample import (
    SAMPLE_SCHEMA,
    allocate,
    draw_sample,
    frame_of,
    inclusion_probabilities,
    systematic,
)
from acoustic_env.errors import UsageError
from acoustic_env.options import SampleSettings
from tests.audit.generated import ranked_with_truth

RANKED, RIGHT = ranked_with_truth()
GOLD = pa.table({"clip_id": ["g1", "g2"], "label": ["urban", "nature"], "truth": ["right", "wrong"]})


@pytest.mark.parametrize("design", ["simple", "stratified", "unequal"])
def test_a_sample_has_the_rows_asked_for_and_every_inclusion_probability(design: str) -> None:
    sample = draw_sample(RANKED, SampleSettings(n=200, design=design, repeat=0.1), GOLD)  # type: ignore[arg-type]
    assert sample.schema.equals(SAMPLE_SCHEMA)
    roles = sample.column("role").to_pylist()
    assert (roles.count("sample"), roles.count("gold"), roles.count("repeat")) == (200, 2, 20)
    drawn = sample.filter(pc.equal(sample.column("role"), "sample"))
    inclusion = drawn.column("inclusion_probability").to_numpy()
    assert (inclusion > 0).all()
    # the expanded sample is the frame's size: exactly for equal chances, nearly for unequal ones
    assert (1 / inclusion).sum() == pytest.approx(3000, rel=0.25 if design == "unequal" else 1e-9)
    assert sorted(sample.column("order").to_pylist()) == list(range(222))
    assert len(set(drawn.column("clip_id").to_pylist())) == 200


def test_repeats_come_after_their_originals() -> None:
    rows = draw_sample(RANKED, SampleSettings(n=100, repeat=0.5)).to_pylist()
    first = {row["clip_id"]: row["order"] for row in rows if row["role"] == "sample"}
    assert all(row["order"] > first[row["clip_id"]] for row in rows if row["role"] == "repeat")


def test_the_same_seed_draws_the_same_sample_from_rows_in_any_order() -> None:
    shuffled = RANKED.take(pa.array(np.random.default_rng(0).permutation(RANKED.num_rows)))
    settings = SampleSettings(n=150, design="unequal", seed=5)
    assert draw_sample(RANKED, settings).equals(draw_sample(shuffled, settings))
    assert not draw_sample(RANKED, settings).equals(
        draw_sample(RANKED, SampleSettings(n=150, design="unequal", seed=6))
    )


def test_the_frame_hash_changes_when_a_label_does() -> None:
    settings = SampleSettings(n=10, design="simple")
    other = RANKED.set_column(1, "label", pa.array(["urban", *RANKED.column("label").to_pylist()[1:]]))
    other = other if other.column("label")[0] != RANKED.column("label")[0] else RANKED.slice(1)
    assert draw_sample(RANKED, settings).column("frame_hash")[0] != draw_sample(other, settings).column("frame_hash")[0]


def test_unequal_probabilities_have_a_floor_and_sum_to_n() -> None:
    quality = np.concatenate([np.full(900, 0.999999), np.full(100, 0.5)])
    inclusion = inclusion_probabilities(quality, 150)
    assert inclusion.sum() == pytest.approx(150)
    assert inclusion.min() >= 0.1 * 150 / 1000 - 1e-9
    assert inclusion.max() <= 1.0
    assert inclusion[950] > 5 * inclusion[0]


def test_systematic_sampling_keeps_its_inclusion_probabilities() -> None:
    inclusion = inclusion_probabilities(np.linspace(0.02, 0.98, 60), 12)
    counts = np.zeros(60)
    rng = np.random.default_rng(2)
    for _ in range(4000):
        rows = systematic(inclusion, rng)
        assert len(rows) == 12
        counts[rows] += 1
    np.testing.assert_allclose(counts / 4000, inclusion, atol=0.035)


def test_allocation_follows_size_and_spread_with_a_floor() -> None:
    given = allocate(np.array([1000, 1000, 6]), np.array([0.5, 0.1, 0.5]), 64)
    assert given.sum() == 64
    assert 4 <= given[0] / given[1] <= 6
    assert given[2] == 4
    assert allocate(np.array([100, 100, 100]), np.array([0.5, 0.01, 0.01]), 10).tolist() == [4, 3, 3]


def test_labels_not_given_can_be_sampled_too() -> None:
    absent = RANKED.set_column(2, "given", pa.array(np.arange(3000) % 3 == 0))
    sample = draw_sample(absent, SampleSettings(n=60, design="simple", absent=True))
    assert not any(sample.column("given").to_pylist())
    assert frame_of(sample, "s")["size"] == 2000


def test_impossible_samples_are_rejected_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="expected 1 to 3000, the number of rows of given labels"):
        draw_sample(RANKED, SampleSettings(n=3001))
    with pytest.raises(UsageError, match="row 2, column 'truth': 'maybe'"):
        draw_sample(RANKED, SampleSettings(n=50), GOLD.set_column(2, "truth", pa.array(["right", "maybe"])))
    with pytest.raises(UsageError, match="not a sample of `audit sample`"):
        frame_of(RANKED, "ranked.parquet")


def test_plans_give_the_known_sizes() -> None:
    assert simple_size(0.74, 0.05) == 296
    assert simple_size(0.64, 0.05) == 355
    assert (simple_size(0.74, 0.03), simple_size(0.64, 0.03)) == (822, 984)
    assert simple_size(0.74, 0.05, frame=243) < 140


def test_a_planned_sample_reaches_its_width() -> None:
    from acoustic_env.audit.intervals import wilson

    n = plan(0.05, 0.74)[0].n
    assert wilson(0.74 * n, n).half_width == pytest.approx(0.05, abs=0.001)


def test_a_ranking_saves_listening_and_the_safe_number_stands_beside_it() -> None:
    by_design = {(p.design, p.per_class): p.n for p in plan(0.05, 0.74, RANKED)}
    assert by_design["stratified", False] < by_design["simple", False]
    assert by_design["unequal", False] < by_design["simple", False]
    assert by_design["simple", True] > by_design["simple", False]


@pytest.mark.parametrize(("half_width", "share"), [(0.0, 0.5), (0.6, 0.5), (0.05, 1.0)])
def test_plans_refuse_what_cannot_be(half_width: float, share: float) -> None:
    with pytest.raises(UsageError):
        plan(half_width, share)
