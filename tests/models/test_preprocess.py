"""Reduction: equal to scikit-learn's chain, blind to what it was not fitted on, honest about what it drops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acoustic_env.config import ReductionSettings
from acoustic_env.errors import UsageError
from acoustic_env.models.data import preprocessing as preprocess
from acoustic_env.models.data.matrix import FeatureColumn
from acoustic_env.models.data.preprocessing import Preprocessor, PrincipalComponents, load_preprocessor


def table(n: int = 150, d: int = 12, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(n, 4)) @ random.normal(size=(4, d)) + 0.3 * random.normal(size=(n, d))
    values = (mixed * 10 ** random.uniform(-1, 2, d) + random.normal(size=d)).astype(np.float32)
    values[random.random((n, d)) < 0.05] = np.nan
    return values


def columns(d: int, block: str = "indices", signal: str = "raw") -> list[FeatureColumn]:
    return [FeatureColumn(block, signal, f"f{i}") for i in range(d)]


def same_up_to_sign(first: np.ndarray, second: np.ndarray, tolerance: float) -> None:
    signs = np.sign((first * second).sum(axis=0))
    np.testing.assert_allclose(first * signs, second, atol=tolerance)


@pytest.mark.parametrize("scale_first", [True, False])
@pytest.mark.parametrize("shape", [(150, 12), (20, 40)])
def test_the_chain_is_scikit_learns(scale_first: bool, shape: tuple[int, int]) -> None:
    values, new = table(*shape), table(*shape, seed=0)[:7] * np.float32(1.1)
    settings = ReductionSettings(scale_first=scale_first, components={"indices": 5})
    reducer = Preprocessor.of(columns(shape[1]), settings).fit(values)
    scaler = [StandardScaler()] if scale_first else []
    chain = make_pipeline(SimpleImputer(), *scaler, PCA(5), StandardScaler()).fit(values)
    for rows in (values, new):
        same_up_to_sign(reducer.transform(rows), chain.transform(rows), 2e-3)
    np.testing.assert_allclose(reducer.parts[0].explained, chain[-2].explained_variance_ratio_, rtol=1e-4)


def test_a_share_of_variance_takes_the_fewest_components_that_reach_it() -> None:
    values = table()
    reducer = Preprocessor.of(columns(12), ReductionSettings(components={"indices": 0.9})).fit(values)
    expected = make_pipeline(SimpleImputer(), StandardScaler(), PCA(0.9)).fit(values)[-1].n_components_
    assert reducer.parts[0].size == expected
    assert reducer.parts[0].explained.sum() >= 0.9


@pytest.mark.parametrize("wanted", [6, 0.9, 0.9999])
def test_the_randomized_solver_finds_the_exact_components_or_leaves_them_to_the_exact_one(
    monkeypatch: pytest.MonkeyPatch, wanted: float
) -> None:
    random = np.random.default_rng(0)
    spectrum = np.arange(1, 81) ** -1.0
    values = (random.normal(size=(200, 80)) * spectrum) @ np.linalg.qr(random.normal(size=(80, 80)))[0]
    exact = PrincipalComponents(wanted, 23).fit(values)
    monkeypatch.setattr(preprocess, "EXACT", 10)
    monkeypatch.setattr(preprocess, "SKETCHED", 30)
    found = [PrincipalComponents(wanted, 23).fit(values) for _ in range(2)]
    assert found[0].components_.shape == exact.components_.shape
    np.testing.assert_array_equal(found[0].components_, found[1].components_)
    np.testing.assert_allclose(found[0].explained_variance_ratio_, exact.explained_variance_ratio_, rtol=1e-4)
    cosines = np.linalg.svd(found[0].components_ @ exact.components_.T, compute_uv=False)
    assert cosines.min() > 1 - 1e-5
    assert (len(exact.components_) > 30) == (wanted == 0.9999)


def test_each_block_and_signal_is_reduced_by_itself_to_its_own_size() -> None:
    values = np.column_stack([table(seed=1), table(seed=2), table(seed=3)])
    named = columns(12, "mps", "raw") + columns(12, "mps", "fg") + columns(12, "vggish", "raw")
    settings = ReductionSettings(components={"mps": 3, "vggish": 0})
    reducer = Preprocessor.of(named, settings).fit(values)
    assert [part.size for part in reducer.parts] == [3, 3, 12]
    assert reducer.names[:4] == ["mps.raw.pc000", "mps.raw.pc001", "mps.raw.pc002", "mps.fg.pc000"]
    assert reducer.names[-1] == "vggish.raw.f11"
    alone = Preprocessor.of(named[12:24], settings).fit(values[:, 12:24])
    np.testing.assert_array_equal(reducer.transform(values)[:, 3:6], alone.transform(values[:, 12:24]))


def test_without_pca_features_are_imputed_and_scaled_only() -> None:
    values = table()
    reducer = Preprocessor.of(columns(12), ReductionSettings(components={"indices": 0})).fit(values)
    expected = make_pipeline(SimpleImputer(), StandardScaler()).fit_transform(values)
    np.testing.assert_allclose(reducer.transform(values), expected, atol=1e-4)


def test_columns_that_say_nothing_are_left_out_and_named() -> None:
    values = np.column_stack([table(), np.full(150, 3.0), np.full(150, np.nan)]).astype(np.float32)
    reducer = Preprocessor.of(columns(14), ReductionSettings()).fit(values)
    part = reducer.parts[0]
    assert part.left_out == {"constant": ("f12",), "without any value": ("f13",)}
    assert "1 without any value left out: f13; 1 constant left out: f12" in reducer.summary()[0]
    assert np.isfinite(reducer.transform(values)).all()


def test_a_column_that_only_rounding_moves_is_left_out_and_named() -> None:
    random = np.random.default_rng(0)
    named = [FeatureColumn("indices", signal, name) for signal in ("raw", "original") for name in ("ACI", "MEANt")]
    values = random.normal(size=(100, 4)) * [1, 1e-11, 1, 1e-4]  # raw.MEANt is the mean of what has no mean
    reducer = Preprocessor.of(named, ReductionSettings(components={"indices": 0})).fit(values.astype(np.float32))
    assert reducer.names == ["indices.raw.ACI", "indices.original.ACI", "indices.original.MEANt"]
    assert "; 1 rounding noise left out: MEANt" in reducer.summary()[0]
    again = load_preprocessor(reducer.dump_fitted(), sequences=False)
    assert again.summary() == reducer.summary()
    moved = values + 1e-9 * random.normal(size=(100, 4))
    np.testing.assert_allclose(again.transform(moved.astype(np.float32)), reducer.transform(values), atol=1e-4)


def test_features_that_nowhere_vary_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"no feature varies.*indices\.raw.*2 constant left out: f0, f1"):
        Preprocessor.of(columns(2), ReductionSettings()).fit(np.ones((10, 2), np.float32))


def test_rows_that_are_transformed_do_not_change_what_was_learned() -> None:
    values = table()
    reducer = Preprocessor.of(columns(12), ReductionSettings()).fit(values[:100])
    alone = reducer.transform(values[120:121])
    np.testing.assert_allclose(reducer.transform(values[100:])[20:21], alone, rtol=1e-6)


def test_back_projection_says_what_a_reduced_feature_does_when_a_feature_moves() -> None:
    values = np.nan_to_num(table())
    for scale_first in (True, False):
        settings = ReductionSettings(scale_first=scale_first, components={"indices": 4})
        reducer = Preprocessor.of(columns(12), settings).fit(values)
        loading = reducer.back_project(2)
        moved = values.copy()
        moved[:, 5] += reducer.parts[0].deviation[5]
        change = reducer.transform(moved)[:, 2] - reducer.transform(values)[:, 2]
        np.testing.assert_allclose(change, loading.per_deviation[5], rtol=1e-3, atol=1e-4)
        assert loading.columns[5].name == "f5"
        assert np.linalg.norm(loading.component) == pytest.approx(1.0)
