"""SHAP values of the preprocessed features, over many backgrounds, for a classifier of any kind.

A SHAP value is a difference from a background, and changes with it. So the background is stratified (k-means within
each class, one clip from each cluster, weighted by the cluster's size) and drawn anew many times; what is reported is
how the ranks of the features vary over these draws, and whether the values add up to f(x) - E f.

Networks and logistic regressions get expected gradients: the gradient integrated along the straight line from each
background clip to the explained one (Sundararajan, Taly and Yan 2017; Erion et al. 2021), as `shap.GradientExplainer`
estimates by sampling, here by Gauss-Legendre quadrature. Trees get interventional SHAP values of `shap.TreeExplainer`,
exact. Every other classifier gets the mean change of its probability as features are switched one by one, in a random
order and its reverse, from a background clip to the explained one (permutation sampling, Mitchell et al. 2022), on
fewer clips. Values are computed once for each pair of explained clip and background clip; every background is a
weighted mean over pairs, so many backgrounds cost no more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from acoustic_env.explain.gradients import LogOdds, is_smooth, weight_count
from acoustic_env.explain.maps import stratified_rows
from acoustic_env.models.estimators.fitting import Ensemble
from acoustic_env.models.estimators.per_label import PerLabelClassifier
from acoustic_env.models.estimators.xgboost import MOST_SINGLE_OUTPUTS
from acoustic_env.stats.intervals import Floats

CLUSTERS: Final = 20
PER_CLUSTER: Final = 4
BACKGROUNDS: Final = 40
# Gradients of ReLU networks jump; so many nodes keep the sum within a few thousandths of what it should be.
NODES: Final = 32
# Clips explained, and the multiplications that the gradients of all classes may cost: half a minute.
MOST_ROWS: Final = 100
LEAST_ROWS: Final = 10
BUDGET: Final = 2e11
CLUSTERED_ROWS: Final = 2000
# For other classifiers: clusters, clips of each, and evaluations of the classifier.
FEW_CLUSTERS: Final = 5
FEW_PER_CLUSTER: Final = 2
EVALUATIONS: Final = 200_000
SEED: Final = 23

Rows = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
Values = tuple[Features, Floats, Floats]


@dataclass(frozen=True)
class Backgrounds:
    """Reference clips and the ways to draw a background from them."""

    pool: Rows  # row numbers of the reference clips [p]
    draws: npt.NDArray[np.int64]  # [backgrounds, clusters] place in the pool of each cluster's clip
    weights: Floats  # share of the clips that each cluster stands for [clusters]


@dataclass(frozen=True)
class Attribution:
    """SHAP values of the clips explained."""

    rows: Rows  # row numbers of the clips explained [n]
    phi: Floats  # mean over backgrounds [n, d], in `output` units
    values: Features  # the reduced features of those clips [n, d]
    importance: Floats  # mean |phi| over the clips, for each background [backgrounds, d]
    ranks: Floats  # 1 = most important, for each background [backgrounds, d]
    residual: Floats  # f(x) - E f - sum of phi, for each background and clip [backgrounds, n]
    std: float  # standard deviation of f(x) over the clips, to compare the residual with
    output: str  # what f is

    def rank_interval(self) -> tuple[Floats, Floats, Floats]:
        """Return the median, 2.5 % and 97.5 % quantile of each feature's rank over backgrounds [d]."""
        low, middle, high = np.quantile(self.ranks, [0.025, 0.5, 0.975], axis=0, method="nearest")
        return middle, low, high

    def table(self, names: Sequence[str]) -> pd.DataFrame:
        """Return importance and rank of the features with their intervals, and direction, the most important first."""
        middle, low, high = self.rank_interval()
        lowest, highest = np.quantile(self.importance, [0.025, 0.975], axis=0)
        block, signal, _ = zip(*(name.split(".", 2) for name in names), strict=True)
        found = pd.DataFrame({"feature": names, "block": block, "signal": signal})
        found = found.assign(importance=self.importance.mean(axis=0), importance_low=lowest, importance_high=highest)
        found = found.assign(rank=middle, rank_low=low, rank_high=high, direction=self.direction())
        return found.sort_values("importance", ascending=False, kind="stable")

    def direction(self) -> Floats:
        """Return the correlation of each feature's value with its phi [d]; its sign is the way a high value pushes."""
        x = self.values - self.values.mean(axis=0)
        y = self.phi - self.phi.mean(axis=0)
        length = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
        return np.asarray(np.divide((x * y).sum(axis=0), length, out=np.zeros(x.shape[1]), where=length > 0))


def draw_backgrounds(
    x: Features, label: Rows, count: int = BACKGROUNDS, clusters: int = CLUSTERS, per_cluster: int = PER_CLUSTER
) -> Backgrounds:
    """Draw `count` backgrounds stratified by class and, within a class, by k-means.

    Args:
        x: reduced features of the training clips [n, d].
        label: class of each [n]; each class gets clusters by its share, at least one.
        clusters: of all classes together.
        per_cluster: reference clips of a cluster.
    """
    from sklearn.cluster import KMeans

    random = np.random.default_rng(SEED)
    some = stratified_rows(label, CLUSTERED_ROWS)
    found: list[Rows] = []
    for own in (some[label[some] == value] for value in np.unique(label[some])):
        wanted = min(len(own), max(1, round(clusters * len(own) / len(some))))
        assigned = KMeans(wanted, n_init=1, random_state=SEED).fit_predict(x[own])
        found += [own[assigned == cluster] for cluster in np.unique(assigned)]
    pools = [random.permutation(rows)[:per_cluster] for rows in found]
    starts = np.cumsum([0, *(len(pool) for pool in pools)])
    draws = np.stack([starts[c] + random.integers(len(pool), size=count) for c, pool in enumerate(pools)], axis=1)
    sizes = np.array([len(rows) for rows in found], np.float64)
    return Backgrounds(np.concatenate(pools), draws, sizes / sizes.sum())


def attribute(
    classifier: Ensemble,
    chosen: int,
    x: Features,
    label: Rows,
    candidates: Rows,
    count: int = BACKGROUNDS,
    *,
    budget: float = BUDGET,
) -> Attribution:
    """Compute SHAP values of a class over several backgrounds.

    Args:
        classifier: trained, its members of any kind.
        chosen: number of the class.
        x: preprocessed features of the clips [n, d]; backgrounds are drawn from all of them.
        label: class of each [n], for stratification.
        candidates: rows that may be explained; a stratified sample of at most 100 is, fewer where the model is large.
        count: backgrounds.
        budget: multiplications that the gradients may cost.
    """
    members = classifier.members
    grounds = draw_backgrounds(x, label, count)

    def sample(affordable: float) -> Rows:
        most = int(np.clip(affordable, LEAST_ROWS, MOST_ROWS))
        return candidates[stratified_rows(label[candidates], most)]

    found = None
    if all(is_smooth(member, classifier.classes) for member in members):
        rows = sample(budget / (6.0 * weight_count(members) * NODES * len(grounds.pool)))
        found = expected_gradients(LogOdds(members, chosen), x[rows], x[grounds.pool])
        output = "log odds"
    elif len(trees := [own for member in members if (own := _trees(member, chosen))]) == len(members):
        rows = sample(MOST_ROWS)
        found = _tree_values(trees, x[rows], x[grounds.pool])
        output = "output of the trees"
    if found is None:
        grounds = draw_backgrounds(x, label, count, FEW_CLUSTERS, FEW_PER_CLUSTER)
        rows = sample(EVALUATIONS / (2 * x.shape[1] * len(grounds.pool)))
        found = permutation_values(lambda z: classifier.predict_proba(z)[:, chosen], x[rows], x[grounds.pool])
        output = "probability"
    pairs, values, base = found
    weights = np.zeros((count, len(grounds.pool)))
    np.put_along_axis(weights, grounds.draws, np.tile(grounds.weights, (count, 1)), axis=1)
    phi = np.tensordot(weights, pairs, axes=(1, 1))  # [backgrounds, n, d]
    importance = np.abs(phi).mean(axis=1)
    residual = values - (weights @ base)[:, None] - phi.sum(axis=2)
    ranks = stats.rankdata(-importance, "ordinal", axis=1).astype(np.float64)
    return Attribution(rows, phi.mean(axis=0), x[rows], importance, ranks, residual, float(values.std()), output)


def expected_gradients(function: LogOdds, explained: npt.NDArray[Any], pool: npt.NDArray[Any]) -> Values:
    """Integrate gradients for each pair.

    Args:
        function: with `value` and `gradient`.
        explained: [n, d].
        pool: reference clips [p, d].

    Returns:
        phi [n, p, d], the function at the explained clips [n] and at the references [p].
    """
    places, weights = np.polynomial.legendre.leggauss(NODES)
    places, weights = (places + 1) / 2, weights / 2
    references = np.asarray(pool, np.float64)
    pairs = np.empty((len(explained), *references.shape), np.float32)
    for i, row in enumerate(np.asarray(explained, np.float64)):
        step = row - references
        points = references[:, None] + places[None, :, None] * step[:, None]
        slopes = function.gradient(points.reshape(-1, references.shape[1])).reshape(points.shape)
        pairs[i] = step * np.tensordot(slopes, weights, axes=(1, 0))
    return pairs, function.value(explained), function.value(pool)


def permutation_values(function: Callable[[Features], Floats], explained: Features, pool: Features) -> Values:
    """Estimate SHAP values of any function of rows [n, d] for each pair; they add up exactly.

    Args and result as of `expected_gradients`.
    """
    random = np.random.default_rng(SEED)
    features = explained.shape[1]
    pairs = np.zeros((len(explained), *pool.shape), np.float32)
    for i, row in enumerate(explained):
        for p, reference in enumerate(pool):
            order = random.permutation(features)
            for path in (order, order[::-1]):
                switched = np.tri(features + 1, features, -1, dtype=bool)[:, np.argsort(path)]
                steps = np.diff(function(np.where(switched, row, reference)))
                pairs[i, p, path] += steps / 2
    return pairs, function(explained), function(pool)


def _trees(member: Any, chosen: int) -> tuple[Any, Callable[[Features], Any], int] | None:
    """Return the trees of a fitted estimator as shap reads them, their output, and the class; None for others."""
    if isinstance(member, PerLabelClassifier):
        return _trees(member.estimators_[chosen], 1)
    if hasattr(member, "booster_"):
        from xgboost import DMatrix

        booster = member.booster_
        multilabel = member.task_ == "multilabel" and len(member.classes_) > MOST_SINGLE_OUTPUTS
        return None if multilabel else (booster, lambda x: booster.predict(DMatrix(x), output_margin=True), chosen)
    if type(member).__name__ == "HistGradientBoostingClassifier":
        return member, member.decision_function, chosen
    forest = hasattr(member, "estimators_") and hasattr(member, "max_depth") and not isinstance(member.classes_, list)
    return (member, member.predict_proba, chosen) if forest else None


def _tree_values(trees: Sequence[Any], explained: Features, pool: Features) -> Values | None:
    """Return interventional SHAP values of the mean output of trees; None where shap cannot read them."""
    import shap

    def of_class(found: Any, chosen: int, ndim: int) -> npt.NDArray[Any]:
        """Return the class's part of what has `ndim` axes where there is one output: of two classes the second's."""
        found = np.asarray(found)
        return np.asarray(found[..., chosen]) if found.ndim > ndim else found * (1 if chosen else -1)

    found = []
    for model, output, chosen in trees:
        try:
            explainers = (shap.TreeExplainer(model, row[None], feature_perturbation="interventional") for row in pool)
            pairs = [one.shap_values(explained, check_additivity=False) for one in explainers]
        except Exception:  # noqa: BLE001  shap has no type for a model it cannot read
            return None
        values, base = (of_class(output(rows), chosen, 1) for rows in (explained, pool))
        found.append((np.stack([of_class(pair, chosen, 2) for pair in pairs], axis=1), values, base))
    pairs, values, base = (np.mean(own, axis=0) for own in zip(*found, strict=True))
    return pairs.astype(np.float32), values, base
