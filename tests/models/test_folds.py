"""Inner folds: stratified, groups whole, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from acoustic_env.errors import UsageError
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.folds import grouped_folds
from acoustic_env.models.validation.cross_fitting import out_of_fold


@given(seed=st.integers(0, 10_000), folds=st.integers(2, 6), size=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_groups_stay_whole_and_every_fold_has_rows(seed: int, folds: int, size: int) -> None:
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), random.integers(1, size + 1, 40))
    y = random.integers(0, 3, len(groups))
    found = grouped_folds(y, groups, folds, seed)
    assert set(found) == set(range(folds))
    for group in range(40):
        assert len(set(found[groups == group])) == 1


def test_each_fold_has_its_share_of_every_class() -> None:
    y = np.array([0] * 100 + [1] * 40 + [2] * 11)
    found = grouped_folds(y, np.arange(151), 5, 1)
    shares = np.array([np.bincount(y[found == fold], minlength=3) for fold in range(5)])
    np.testing.assert_array_equal(shares[:, 0], 20)
    np.testing.assert_array_equal(shares[:, 1], 8)
    assert set(shares[:, 2]) <= {2, 3}


def test_a_rare_label_of_a_multilabel_study_is_spread_over_the_folds() -> None:
    random = np.random.default_rng(3)
    y = random.random((300, 4)) < np.array([0.6, 0.4, 0.2, 0.03])
    y[:10, 3] = True
    found = grouped_folds(y, np.arange(300), 5, 1)
    per_fold = np.array([y[found == fold, 3].sum() for fold in range(5)])
    assert per_fold.max() - per_fold.min() <= 1


def test_the_same_seed_gives_the_same_folds_and_another_one_others() -> None:
    y = np.arange(60) % 2
    first, again, other = (grouped_folds(y, np.arange(60), 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_fewer_groups_than_folds_is_refused() -> None:
    with pytest.raises(UsageError, match="3 groups of clips cannot be split into 5 folds"):
        grouped_folds(np.zeros(30, np.int64), np.arange(30) % 3, 5, 1)


def test_a_class_of_one_group_is_refused_with_what_to_do() -> None:
    y = np.array([0] * 20 + [1] * 4)
    groups = np.array([*range(20), 20, 20, 20, 20])
    x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    with pytest.raises(UsageError, match=r"a class lies in so few groups .* add recordings of it"):
        out_of_fold(Examples(x, y, groups), LogisticRegression(), folds=2)
