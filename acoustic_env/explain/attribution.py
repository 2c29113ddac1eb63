"""What the model makes its decision of: SHAP values of the reduced features, over many backgrounds.

A SHAP value is a difference from a background, and changes with it. So the background is stratified (k-means within
each class, one clip from each cluster, weighted by the cluster's size) and drawn anew many times; what is reported is
how the ranks of the features vary over these draws, and whether the values add up to f(x) - E f.

Models that can be differentiated (MLP, logistic) get expected gradients: the gradient integrated along the straight
line from each background clip to the explained one (Sundararajan, Taly and Yan 2017; Erion et al. 2021), what
`shap.GradientExplainer` estimates by sampling, here by Gauss-Legendre quadrature. Trees get interventional SHAP values
of `shap.TreeExplainer`, exact. Both are computed once for each pair of explained clip and background clip; every
background is a weighted mean over pairs, so many backgrounds cost no more than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.explain.gradients import SMOOTH, LogOdds, members_of, parameters
from acoustic_env.explain.maps import stratified_rows
from acoustic_env.models.classifier import Classifier, State
from acoustic_env.models.evaluate import Floats

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
SEED: Final = 23

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Backgrounds:
    """Reference clips and the ways to draw a background from them.

    Attributes:
        pool: row numbers of the reference clips [p].
        draws: [backgrounds, clusters] place in the pool of each cluster's clip.
        weights: share of the clips that each cluster stands for [clusters].
    """

    pool: Rows
    draws: npt.NDArray[np.int64]
    weights: Floats


@dataclass(frozen=True)
class Attribution:
    """SHAP values of the clips explained.

    Attributes:
        rows: row numbers of the clips explained [n].
        phi: mean over backgrounds [n, d], in `output` units.
        values: the reduced features of those clips [n, d].
        importance: mean |phi| over the clips, for each background [backgrounds, d].
        ranks: 1 = most important, for each background [backgrounds, d].
        residual: f(x) - E f - sum of phi, for each background and clip [backgrounds, n].
        spread: standard deviation of f(x) over the clips, to judge the residual by.
        output: what f is.
    """

    rows: Rows
    phi: Floats
    values: npt.NDArray[np.float32]
    importance: Floats
    ranks: Floats
    residual: Floats
    spread: float
    output: str

    def rank_interval(self) -> tuple[Floats, Floats, Floats]:
        """Median, 2.5 % and 97.5 % quantile of each feature's rank over backgrounds [d]."""
        low, middle, high = np.quantile(self.ranks, [0.025, 0.5, 0.975], axis=0, method="nearest")
        return middle, low, high

    def direction(self) -> Floats:
        """Correlation of each feature's value with its phi [d]: the sign says which way a high value pushes."""
        x = self.values - self.values.mean(axis=0)
        y = self.phi - self.phi.mean(axis=0)
        length = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
        return np.asarray(np.divide((x * y).sum(axis=0), length, out=np.zeros(x.shape[1]), where=length > 0))


def draw_backgrounds(
    x: npt.NDArray[np.float32], label: npt.NDArray[np.int64], count: int = BACKGROUNDS, seed: int = SEED
) -> Backgrounds:
    """Backgrounds stratified by class and, within a class, by k-means.

    Args:
        x: reduced features of the training clips [n, d].
        label: class of each [n]; each class gets clusters by its share, at least one.
        count: backgrounds.
        seed: of clusters and draws.
    """
    from sklearn.cluster import KMeans

    random = np.random.default_rng(seed)
    some = stratified_rows(label, CLUSTERED_ROWS, seed)
    clusters: list[Rows] = []
    for own in (some[label[some] == value] for value in np.unique(label[some])):
        wanted = min(len(own), max(1, round(CLUSTERS * len(own) / len(some))))
        assigned = KMeans(wanted, n_init=1, random_state=seed).fit_predict(x[own])
        clusters += [own[assigned == cluster] for cluster in np.unique(assigned)]
    pools = [random.permutation(rows)[:PER_CLUSTER] for rows in clusters]
    starts = np.cumsum([0, *(len(pool) for pool in pools)])
    draws = np.stack([starts[c] + random.integers(len(pool), size=count) for c, pool in enumerate(pools)], axis=1)
    sizes = np.array([len(rows) for rows in clusters], np.float64)
    return Backgrounds(np.concatenate(pools), draws, sizes / sizes.sum())


def attribute(
    classifier: Classifier,
    chosen: int,
    x: npt.NDArray[np.float32],
    label: npt.NDArray[np.int64],
    candidates: Rows,
    count: int = BACKGROUNDS,
    budget: float = BUDGET,
    seed: int = SEED,
) -> Attribution:
    """SHAP values of a class over several backgrounds.

    Args:
        classifier: trained.
        chosen: number of the class.
        x: reduced features of the clips [n, d]; backgrounds are drawn from all of them.
        label: class of each [n], for stratification.
        candidates: rows that may be explained; a stratified sample of at most 100 is, fewer where the model is large.
        count: backgrounds.
        budget: multiplications that the gradients may cost.
        seed: of all draws.

    Raises:
        UsageError: trees with vectors in their leaves, which no exact method explains.
    """
    members = members_of(classifier)
    grounds = draw_backgrounds(x, label, count, seed)
    affordable = int(budget / (6.0 * parameters(members) * NODES * len(grounds.pool)))
    rows = candidates[stratified_rows(label[candidates], int(np.clip(affordable, LEAST_ROWS, MOST_ROWS)), seed)]
    explained, pool = x[rows], x[grounds.pool]
    if all(state.facts["kind"] in SMOOTH for state in members):
        pairs, values, base = expected_gradients(LogOdds(members, chosen), explained, pool)
        output = "log-odds"
    else:
        pairs, values, base = _tree_values(members, chosen, explained, pool)
        output = "margin of the trees"
    importance: list[Floats] = []
    residual: list[Floats] = []
    total = np.zeros(explained.shape)
    for draw in grounds.draws:
        phi = np.tensordot(pairs[:, draw], grounds.weights, axes=(1, 0))
        importance.append(np.abs(phi).mean(axis=0))
        residual.append(values - grounds.weights @ base[draw] - phi.sum(axis=1))
        total += phi
    order = np.argsort(-np.array(importance), axis=1, kind="stable")
    ranks = np.argsort(order, axis=1).astype(np.float64) + 1
    return Attribution(
        rows, total / count, explained, np.array(importance), ranks, np.array(residual), float(values.std()), output
    )


def expected_gradients(
    function: LogOdds, explained: npt.NDArray[Any], pool: npt.NDArray[Any], nodes: int = NODES
) -> tuple[npt.NDArray[np.float32], Floats, Floats]:
    """Integrated gradients for each pair.

    Args:
        function: with `value` and `gradient`.
        explained: [n, d].
        pool: reference clips [p, d].
        nodes: of the quadrature; more for functions with more bends.

    Returns:
        phi [n, p, d], the function at the explained clips [n] and at the references [p].
    """
    places, weights = np.polynomial.legendre.leggauss(nodes)
    places, weights = (places + 1) / 2, weights / 2
    references = np.asarray(pool, np.float64)
    pairs = np.empty((len(explained), *references.shape), np.float32)
    for i, row in enumerate(np.asarray(explained, np.float64)):
        step = row - references
        points = references[:, None] + places[None, :, None] * step[:, None]
        slopes = function.gradient(points.reshape(-1, references.shape[1])).reshape(points.shape)
        pairs[i] = step * np.tensordot(slopes, weights, axes=(1, 0))
    return pairs, function.value(explained), function.value(pool)


def _tree_values(
    members: Sequence[State], chosen: int, explained: npt.NDArray[np.float32], pool: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], Floats, Floats]:
    """Interventional SHAP values of the mean margin of boosted trees; as `expected_gradients`."""
    import shap
    import xgboost

    pairs = np.zeros((len(explained), *pool.shape), np.float32)
    values, base = np.zeros(len(explained)), np.zeros(len(pool))
    for state in members:
        booster = xgboost.Booster(model_file=bytearray(np.asarray(state.arrays["ubj"]).tobytes()))
        booster = booster[: int(str(state.facts["rounds"]))]
        margins = [
            _of_class(booster.predict(xgboost.DMatrix(x), output_margin=True), state, chosen) for x in (explained, pool)
        ]
        values += margins[0] / len(members)
        base += margins[1] / len(members)
        for p in range(len(pool)):
            try:
                tree = shap.TreeExplainer(booster, data=pool[p : p + 1], feature_perturbation="interventional")
                found = tree.shap_values(explained, check_additivity=False)
            except Exception as error:  # shap has no type for a model it cannot read
                msg = f"SHAP values of this XGBoost model cannot be computed: {type(error).__name__}: {error}"
                raise UsageError(msg) from error
            pairs[:, p] += _of_class(np.asarray(found), state, chosen) / len(members)
    return pairs, values, base


def _of_class(found: npt.NDArray[Any], state: State, chosen: int) -> Any:
    """The chosen class of per-class values on the last axis; a binary model has one value, that of class 1."""
    if state.facts["task"] == "binary":
        return found if chosen else -found
    return found[..., chosen]
