"""Grouped permutation importance: how much worse the whole chain gets when original features are shuffled among clips.

Shuffled are features as they come from the store, before reduction, so units and principal components cannot make one
look important. Columns of a group are shuffled together, among clips of the same fold, and every clip is predicted by
a model that held it out. One resample of recordings per repeat puts the sampling of the clips into the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from acoustic_env.explain.maps import stratified_rows
from acoustic_env.explain.material import HeldOutScorer, Material
from acoustic_env.features.modulation import axes
from acoustic_env.models.data.preprocessing import Part
from acoustic_env.stats.intervals import TAIL, Floats
from acoustic_env.stats.ranking import Ranking, finite_mean

REPEATS: Final = 20
MOST_ROWS: Final = 1000
SEED: Final = 23
# Edges of the regions of a modulation map. Below 2 Hz level drifts, 2 to 16 Hz calls and speech, above 32 Hz roughness.
TEMPORAL_HZ: Final = (0.0, 2.0, 8.0, 32.0, 101.0)
SPECTRAL_CYCLES_PER_KHZ: Final = (0.0, 0.5, 2.0, 10.0)

Columns = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Original features that are shuffled together."""

    name: str  # human-readable
    kind: str  # `part` (a whole block of a signal), `column` (one index or vector), `region` (of a modulation map)
    block: str  # where they come from
    signal: str
    columns: Columns  # numbers in the matrix


@dataclass(frozen=True)
class Importance:
    """What shuffling a group costs."""

    group: Group  # which
    drop: float  # in AUC (mean over classes where there are several), mean over the repeats
    low: float  # 95 % interval over shuffles and resampled recordings
    high: float
    of_class: tuple[float, ...]  # drop in each class's AUC, the positive one's in a binary study; NaN if undefined


def feature_groups(material: Material) -> list[Group]:
    """Return every block of a signal; within it every index or vector, and the regions of a modulation map."""
    found: list[Group] = []
    for (block, signal), numbers in material.matrix.parts().items():
        found.append(Group(f"{block}, {signal}", "part", block, signal, numbers))
        if block in material.maps:
            found += _regions(block, signal, numbers)
            continue
        columns: dict[str, list[int]] = {}
        for number in numbers:
            columns.setdefault(material.matrix.columns[number].name.partition("[")[0], []).append(int(number))
        if len(columns) > 1:
            # A vector's name, as `embedding`, is that of other blocks' vectors too.
            for name, own in columns.items():
                shown = name if len(own) == 1 else f"{block} {name}"
                found.append(Group(f"{shown} ({signal})", "column", block, signal, np.array(own, np.int64)))
    return found


def _regions(block: str, signal: str, numbers: Columns) -> list[Group]:
    spectral, temporal = axes()
    rows = np.digitize(spectral, SPECTRAL_CYCLES_PER_KHZ) - 1
    columns = np.digitize(temporal, TEMPORAL_HZ) - 1
    found = []
    for row, column in np.ndindex(len(SPECTRAL_CYCLES_PER_KHZ) - 1, len(TEMPORAL_HZ) - 1):
        cells = ((rows == row)[:, None] & (columns == column)[None]).ravel()
        low, high = SPECTRAL_CYCLES_PER_KHZ[row : row + 2]
        slow, fast = TEMPORAL_HZ[column : column + 2]
        name = f"{slow:g}–{min(fast, 100):g} Hz, {low:g}–{high:g} cyc/kHz ({signal})"
        found.append(Group(name, "region", block, signal, numbers[cells]))
    return found


def permutation_importance(
    material: Material, groups: Sequence[Group], repeats: int = REPEATS
) -> tuple[list[Importance], float, int]:
    """Shuffle each group.

    Args:
        material: with its scorers.
        groups: from `feature_groups`.
        repeats: shuffles, the same for every group.

    Returns:
        Every group, block by block, the AUC without shuffling, and the number of clips predicted.
    """
    held_out = _HeldOut.of(material)
    values, preprocessor = material.matrix.values[held_out.rows], material.bundle.preprocessor
    recordings, resamples = _resampled(material.groups[held_out.rows], repeats)
    quantile = float(stats.t.ppf(TAIL, max(min(repeats, recordings) - 1, 1)))
    orders = [held_out.shuffled(SEED + repeat) for repeat in range(repeats)]
    whole = preprocessor.transform(values)
    (base,) = held_out.aucs(whole[np.newaxis], [[None, *resamples]])
    nothing = np.zeros((repeats, base.shape[1]))
    measured = {id(group): Importance(group, 0.0, 0.0, 0.0, tuple(nothing[0] * base[0])) for group in groups}
    start = 0
    for part in preprocessor.parts:
        centered = part.center(values)
        for group in groups:
            columns = np.flatnonzero(np.isin(part.columns, group.columns))
            if (group.block, group.signal) != (part.block, part.signal) or not len(columns):
                continue
            moved = np.repeat(whole[np.newaxis], repeats, axis=0)
            for one, order in zip(moved, orders, strict=True):
                one[:, start : start + part.size] += _change(part, centered, columns, order)
            found = held_out.aucs(moved, [[None, weights] for weights in resamples])
            of_class = base[0] - found[:, 0]
            drop = float(np.nanmean(finite_mean(base[0]) - finite_mean(found[:, 0])))
            half = quantile * float(np.nanstd(finite_mean(base[1:]) - finite_mean(found[:, 1]), ddof=1))
            measured[id(group)] = Importance(group, drop, drop - half, drop + half, tuple(of_class.mean(axis=0)))
        start += part.size
    return list(measured.values()), float(finite_mean(base[0])), len(held_out.rows)


def _resampled(groups: npt.NDArray[Any], repeats: int) -> tuple[int, list[Floats]]:
    """Return the number of recordings, and weights [n] of resamples: how often each clip's recording was drawn."""
    codes = np.unique(groups, return_inverse=True)[1]
    count, random = int(codes.max()) + 1, np.random.default_rng(SEED)
    drawn = random.multinomial(count, np.full(count, 1 / count), repeats).astype(np.float64)
    return count, [own[codes] for own in drawn]


def _change(part: Part, centered: Floats, columns: Columns, order: Columns) -> npt.NDArray[np.float32]:
    """Return what shuffling some columns of a part does to its reduced features [n, size]; reduction is linear."""
    moved = centered[np.ix_(order, columns)] - centered[:, columns]
    if part.components is not None:
        return np.asarray(moved @ part.components[:, columns].T / part.component_std, np.float32)
    change = np.zeros((len(centered), part.size), np.float32)
    change[:, columns] = moved / part.component_std[columns]
    return change


@dataclass(frozen=True)
class _HeldOut:
    """The clips that are scored, by models that held them out."""

    rows: Columns  # of the material, sorted
    scorers: list[HeldOutScorer]  # their rows count within `rows`
    truth: npt.NDArray[np.bool_]  # bool [n, classes that are scored]
    folds: npt.NDArray[np.int64]  # [n]

    @classmethod
    def of(cls, material: Material) -> _HeldOut:
        """Return at most 1,000 of the held-out clips, classes with their shares."""
        held = np.unique(np.concatenate([scorer.rows for scorer in material.scorers]))
        rows = held[stratified_rows(material.truth[held].argmax(axis=1), MOST_ROWS)]
        scorers = [replace(own, rows=np.flatnonzero(np.isin(rows, own.rows))) for own in material.scorers]
        first = 1 if material.bundle.recipe.task == "binary" else 0
        return cls(rows, scorers, material.truth[rows, first:], material.folds[rows])

    def aucs(self, x: npt.NDArray[np.float32], weightings: Sequence[Sequence[Floats | None]]) -> Floats:
        """Return AUCs by copies of the preprocessed features, all predicted at once.

        Args:
            x: [copies, n, reduced].
            weightings: for each copy, weights of the clips [n], as many for each.

        Returns:
            [copies, weightings, classes].
        """
        said = np.full((len(x), *self.truth.shape), np.nan)
        for scorer in self.scorers:
            if len(scorer.rows):
                answers = scorer.model.predict_proba(np.concatenate(list(x[:, scorer.rows])))
                said[:, scorer.rows] = answers.reshape(len(x), len(scorer.rows), -1)[..., -self.truth.shape[1] :]
        found = []
        for copy, own in zip(said, weightings, strict=True):
            rankings = [Ranking(*pair) for pair in zip(self.truth.T, copy.T, strict=True)]
            found.append([[ranking.auc(weights) for ranking in rankings] for weights in own])
        return np.array(found)

    def shuffled(self, seed: int) -> Columns:
        """Return an order of the clips in which every one keeps its fold."""
        random = np.random.default_rng(seed)
        order = np.arange(len(self.rows))
        for fold in np.unique(self.folds):
            own = np.flatnonzero(self.folds == fold)
            order[own] = random.permutation(own)
        return order
