"""Variants of clips as training rows: in their clip's folds, in no validation or test, never counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from acoustic_env.audio.signals import check_signals
from acoustic_env.audit.reannotate import score
from acoustic_env.cli import main
from acoustic_env.clips.select import select
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.explain.material import gather
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.estimators.fitting import fit
from acoustic_env.models.learn import evaluate_bundle, prepare, train
from acoustic_env.models.tune import search_identity
from acoustic_env.models.validation.cross_fitting import out_of_fold
from tests.models.conftest import SIGNALS, Disk, Generated, write_block

VARIANT = "noise:snr_db=20#1"
SHIFT = 1000.0  # of every value of a variant: no row of a clip itself is near it


class Recorder(ClassifierMixin, BaseEstimator):
    """Predicts shares of classes and keeps what its fit was given; the last column is the clip's number."""

    seen: ClassVar[list[tuple[Any, ...]]] = []

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, groups: Any = None) -> Recorder:
        self.classes_ = np.unique(y)
        self.share_ = np.bincount(y, minlength=2) / len(y)
        self.seen.append((X, y, X_val, groups))
        return self

    def predict_proba(self, X: Any) -> Any:
        assert (X < SHIFT / 2).all(), "a variant is predicted"
        return np.tile(self.share_, (len(X), 1))


class Unchanged(BaseEstimator):
    """A preprocessor that changes nothing."""

    def fit(self, X: Any, y: Any = None) -> Unchanged:
        assert (X < SHIFT / 2).all(), "preprocessing is fitted on variants"
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> Any:
        return X


def test_variants_join_the_rows_of_a_fit_in_their_clips_groups_and_no_other_rows() -> None:
    x = np.arange(60, dtype=np.float32)[:, None]
    y, groups = np.arange(60) % 2, np.arange(60) // 3
    Recorder.seen.clear()
    data = Examples(x, y, groups, variants=(x + SHIFT, x + 2 * SHIFT))
    out_of_fold(data, Recorder(), 5, preprocessor=Unchanged())
    assert len(Recorder.seen) == 5
    for fitted, target, stopped_on, of in Recorder.seen:
        clips = (fitted[:, 0] % SHIFT).astype(int)
        copies = (fitted[:, 0] // SHIFT).astype(int)
        assert np.bincount(copies).tolist() == [len(fitted) // 3] * 3
        np.testing.assert_array_equal(target, y[clips])
        np.testing.assert_array_equal(of, groups[clips])
        assert (stopped_on < SHIFT / 2).all()
        assert not set(groups[clips]) & set(groups[stopped_on[:, 0].astype(int)])


def test_variants_of_sequences_follow_the_sequences() -> None:
    frames = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    rows = Examples(Sequences.of(frames), np.array([0, 1, 0, 1]), np.arange(4), None, (Sequences.of(frames + SHIFT),))
    joined = rows.take(np.array([2, 1])).with_variants()
    np.testing.assert_array_equal(joined.x.load(), np.concatenate([frames[[2, 1]], frames[[2, 1]] + SHIFT]))
    assert (joined.y.tolist(), joined.groups.tolist()) == ([0, 1, 0, 1], [2, 1, 2, 1])


def test_weights_of_variants_are_those_of_their_clips() -> None:
    class Weighed(Recorder):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Weighed:  # type: ignore[override]
            self.weights_ = sample_weight
            return self

    x, y, weights = np.zeros((2, 1), np.float32), np.array([0, 1]), np.array([1.0, 3.0])
    fitted = fit(Weighed(), Examples(x, y, y, weights, (x,)))
    assert fitted.weights_.tolist() == [1.0, 3.0, 1.0, 3.0]


def with_variant(disk: Disk, clip_ids: list[str] | None = None) -> Recipe:
    """Write the variant's rows of some clips, and return the recipe that names it."""
    ids = disk.table()["clip_id"].to_pylist()
    y = dict(zip(ids, np.arange(len(ids)) // 2 % 2, strict=True))
    ids = ids if clip_ids is None else clip_ids
    signals = tuple(f"{signal}+{VARIANT}" for signal in SIGNALS)
    for block, size, seed in (("indices", 4, 3), ("yamnet", 6, 4)):
        write_block(disk.store, Generated(block, size), ids, np.array([y[i] for i in ids]), seed, signals)
    return load_recipe(disk.write_recipe("variants.yaml", variants=[VARIANT], model={"kind": "logistic"}))


def test_a_bundle_learns_from_variants_and_is_judged_on_clips(disk: Disk, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = with_variant(disk)
    with_copies = prepare(disk.table(), disk.feature_store(), recipe, log=said.append)
    without = prepare(disk.table(), disk.feature_store(), recipe.replace(variants=()), log=said.append)
    assert f"variants of training clips are learned from, too: {VARIANT}" in said
    (bundle, found), (plain, judged) = train(with_copies, said.append), train(without, said.append)
    assert found.clips == judged.clips == len(with_copies.learning)
    assert bundle.fingerprints == plain.fingerprints
    bundle.save(tmp_path)
    variants = Bundle.load(tmp_path).variants
    assert {name for versions in variants.values() for name in versions} == {f"{s}+{VARIANT}" for s in SIGNALS}
    assert set(variants) == set(bundle.fingerprints)
    assert len(bundle.variant_lines()) == len(variants) * len(SIGNALS)
    assert not plain.variant_lines()
    said.clear()
    evaluate_bundle(bundle, disk.table(), disk.feature_store(), said.append)
    assert set(bundle.variant_lines()) <= set(said)
    assert bundle.training_hash == plain.training_hash
    identity, other = search_identity(with_copies), search_identity(without)
    assert {name for name in identity if identity[name] != other.get(name)} == {"variants"}
    different = bundle.predict_proba(without.matrix) != plain.predict_proba(without.matrix)
    assert different.any()


def test_explain_reannotation_and_the_report_name_the_versions_of_variants(disk: Disk, tmp_path: Path) -> None:
    clips, store, recipe = disk.table(), disk.feature_store(), with_variant(disk)
    bundle, _ = train(prepare(clips, store, recipe, log=lambda _: None), lambda _: None)
    assert bundle.variant_lines()
    explained: list[str] = []
    gather(bundle, clips, store, explained.append)
    assert set(bundle.variant_lines()) <= set(explained)
    scored: list[str] = []
    score(bundle, select(clips, recipe).clips, store, scored.append)
    assert set(bundle.variant_lines()) <= set(scored)
    bundle.save(tmp_path / "bundle")
    page = tmp_path / "report.html"
    assert main(["report", "--bundle", str(tmp_path / "bundle"), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    for block, versions in bundle.variants.items():
        for signal, version in versions.items():
            assert f"features {block}, {signal}" in text
            assert version in text


def test_clips_without_a_row_of_a_variant_are_refused_unless_they_are_test_clips(disk: Disk) -> None:
    study = prepare(disk.table(), disk.feature_store(), load_recipe(disk.recipe), log=lambda _: None)
    learning = [study.matrix.clip_ids[row] for row in study.learning]
    recipe = with_variant(disk, learning[1:])
    with pytest.raises(
        UsageError, match=rf"1 clips to learn from have no row, '{learning[0]}' first; run .*'raw\+noise.*,fg\+noise"
    ):
        prepare(disk.table(), disk.feature_store(), recipe, log=lambda _: None)
    with_variant(disk, learning[:1])
    prepare(disk.table(), disk.feature_store(), recipe, log=lambda _: None)


def test_a_variant_that_the_store_lacks_is_refused_with_the_way_to_extract_it(disk: Disk) -> None:
    recipe = load_recipe(disk.write_recipe("variants.yaml", variants=[VARIANT]))
    with pytest.raises(UsageError, match=r"signal raw\+noise:snr_db=20#1 .*extract it"):
        prepare(disk.table(), disk.feature_store(), recipe, log=lambda _: None)


def test_a_variant_that_is_none_is_refused_with_its_place(disk: Disk) -> None:
    with pytest.raises(UsageError, match=r"variants\[0\].*unknown|variants\[0\].*expected"):
        check_signals(load_recipe(disk.write_recipe("variants.yaml", variants=["nois:snr_db=20"])), "variants.yaml")
