"""Maps of the clips: a stratified subsample, neighbors from other recordings, a seeded plane."""

from __future__ import annotations

import numpy as np
import pytest

from acoustic_env.explain.map_plots import COLORED, OTHERS, _marker
from acoustic_env.explain.maps import clip_map, neighbor_agreement, stratified_rows


def test_a_subsample_keeps_the_shares_of_the_classes() -> None:
    label = np.repeat([0, 1, 2], [700, 250, 50])
    rows = stratified_rows(label, 100)
    assert len(rows) == len(set(rows.tolist())) == 100
    assert np.bincount(label[rows]) == pytest.approx([70, 25, 5], abs=1)
    np.testing.assert_array_equal(stratified_rows(label, 100), rows)
    np.testing.assert_array_equal(stratified_rows(label, 5000), np.arange(1000))


def test_neighbors_of_the_same_recording_do_not_count() -> None:
    random = np.random.default_rng(0)
    label = np.repeat([0, 1], 40)
    apart = random.normal(size=(80, 3)) + 20 * label[:, None]
    agreement, chance = neighbor_agreement(apart, label, np.arange(80))
    assert agreement == 1.0
    assert chance == pytest.approx(39 / 79)
    # Each recording is a tight cloud of its own, and the clouds lie anywhere: nearness says nothing of the class.
    recordings = np.arange(80) // 4
    clouds = 50 * random.normal(size=(20, 3))[recordings] + 0.01 * random.normal(size=(80, 3))
    alone, _ = neighbor_agreement(clouds, label, np.arange(80))
    honest, _ = neighbor_agreement(clouds, np.repeat(random.permutation(20) % 2, 4), recordings)
    assert alone > honest - 0.2
    assert honest < 0.75


def test_the_plane_is_seeded_and_the_shares_are_of_the_variance() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(60, 5)) * [9, 3, 1, 1, 1]
    features -= features.mean(axis=0)
    first, again = (clip_map(features, np.arange(60) % 2, np.arange(60)) for _ in range(2))
    np.testing.assert_array_equal(first.tsne, again.tsne)
    variance = features.var(axis=0)
    assert first.explained[0] == pytest.approx(np.linalg.eigvalsh(np.cov(features.T, ddof=0))[-1] / variance.sum())
    assert first.pca.shape == first.tsne.shape == (60, 2)


def test_no_two_classes_of_a_map_look_alike_and_the_rest_is_grey() -> None:
    names = [*(f"class {number}" for number in range(COLORED)), OTHERS]
    looks = {(look["marker"], look["color"]) for look in (_marker(number, names) for number in range(len(names)))}
    assert len(looks) == len({marker for marker, _ in looks}) == COLORED + 1 == 13
