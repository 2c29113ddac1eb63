"""Overlapping windows inside clips for networks on sequences, and pooling of probabilities to clips and recordings.

A network is trained on windows, each with the target and the weight of its clip. Everything else sees clips: a fitted
`NetworkClassifier` answers with a row a clip, so folds, calibration, metrics and their intervals count clips, or
recordings where the recipe says so (`at_level`). At the level `window` it answers with a row a window, those of a clip
side by side; folds and intervals are of the clips' groups all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.config import Pooling, Recipe, Task
from acoustic_env.errors import UsageError
from acoustic_env.models.data.cut import Cut, frame_seconds
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.data.stored_frames import Integers
from acoustic_env.stats.intervals import Floats

# Of auto-pool, from the mean to near the maximum; the loss over them may have several minima.
EXPONENTS: Final = (0.0, *np.geomspace(0.1, 50, 40).tolist())
SMALLEST: Final = 1e-7  # probability whose logarithm is taken
PARTS: Final = 5  # of recordings, each pooled by the exponent of the others


def clip_frames(recipe: Recipe, block: str) -> int | None:
    """Return the frames of a clip by the recipe's `clip_seconds`, None where it has none.

    >>> clip_frames(Recipe(name="r", clip_seconds=9.6), "vggish_released")
    10
    """
    if recipe.clip_seconds is None:
        return None
    return max(1, round(recipe.clip_seconds / frame_seconds(block, recipe.block_options(block))))


def window_times(recipe: Recipe, block: str, count: int) -> tuple[Floats, Floats]:
    """Return start and end of a clip's first windows in s from its start, [count] each.

    >>> from acoustic_env.config import WindowSettings
    >>> windows = WindowSettings(length=2.0, hop=1.0)
    >>> [times.tolist() for times in window_times(Recipe(name="r", windows=windows), "vggish_released", 2)]
    [[0.0, 0.96], [1.92, 2.88]]
    """
    assert recipe.windows is not None
    options = recipe.block_options(block)
    cut, seconds = Cut.of(recipe.windows, block, options), frame_seconds(block, options)
    first = np.arange(count) * cut.hop
    return np.asarray(first * seconds, np.float64), np.asarray((first + cut.length) * seconds, np.float64)


class Windows(Sequences):
    """The windows of clips as rows, read from the clips when they are asked for: those of a clip are neighbors.

    Args:
        clips: to cut.
        cut: how.

    Attributes:
        owners: int64 [windows], the clip of each.

    >>> clips = Sequences.of(np.arange(5, dtype=np.float32).reshape(1, 5, 1))
    >>> Windows(clips, Cut(3, 2, "mean")).load()[:, :, 0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]
    """

    def __init__(self, clips: Sequences, cut: Cut) -> None:
        starts = cut.starts(clips.shape[1])
        self.__dict__.update(clips[np.repeat(np.arange(len(clips)), len(starts))].__dict__)
        self._length, self._starts = cut.length, np.tile(starts, len(clips))
        self.cut = None
        self.owners = np.repeat(np.arange(len(clips)), len(starts))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, frames and bands."""
        return (len(self._rows), self._length, super().shape[2])

    def __getitem__(self, rows: Any) -> Windows:
        """Return some rows (index, mask or slice) without reading them."""
        view = super().__getitem__(rows)
        view._starts, view.owners = self._starts[rows], self.owners[rows]
        return view

    def batches(self, batches: Sequence[Integers]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the rows of each batch as float32 [n, frames, bands]."""
        for rows, clips in zip(batches, super().batches(batches), strict=True):
            frames = self._starts[rows][:, None] + np.arange(self._length)
            yield clips[np.arange(len(clips))[:, None], frames]

    def digest(self) -> bytes:
        """Return the SHA-256 of all rows in their order."""
        return hashlib.sha256(super().digest() + self._starts.tobytes() + str(self._length).encode()).digest()


def in_windows(clips: Examples) -> Examples:
    """Return the windows of clips, each with the target, group and weight of its clip; the clips where none are cut.

    >>> clips = Sequences.of(np.zeros((2, 10, 4), np.float32))
    >>> clips.cut = Cut(4, 3, "mean")
    >>> found = in_windows(Examples(clips, np.array([1, 0]), np.array([7, 8])))
    >>> found.x.shape, found.y.tolist(), found.groups.tolist()
    ((6, 4, 4), [1, 1, 1, 0, 0, 0], [7, 7, 7, 8, 8, 8])
    """
    if not isinstance(clips.x, Sequences) or clips.x.cut is None:
        return clips
    windows = Windows(clips.x, clips.x.cut)
    return replace(clips.take(windows.owners), x=windows)


def pool(
    probabilities: Floats, owners: npt.NDArray[Any], pooling: Pooling, task: Task, exponent: float = 0.0
) -> Floats:
    """Pool the probabilities of rows that belong together.

    mean and max; vote, the share of rows that are of the class (the likeliest one, or a probability of 0.5);
    noisy-or, 1 - prod(1 - p); learned, the mean weighted by softmax(exponent * p) (auto-pool, McFee, Salamon and Bello
    2018). Binary probabilities are pooled for the positive class, multiclass ones for each class and then divided by
    their sum.

    Args:
        probabilities: [rows, classes].
        owners: int [rows], the clip or recording of each, from 0, each with a row.
        pooling: which.
        task: of the classifier.
        exponent: of learned; 0 is the mean, a large one the maximum.

    Returns:
        [owners, classes].

    >>> p = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    >>> pool(p, np.array([0, 0, 1]), "noisy-or", "binary").round(3).tolist()
    [[0.45, 0.55], [0.2, 0.8]]
    """
    own = probabilities[:, 1:] if task == "binary" else probabilities
    match pooling:
        case "max":
            pooled = np.zeros((int(owners.max()) + 1, own.shape[1]))
            np.maximum.at(pooled, owners, own)
        case "vote":
            likeliest = np.eye(own.shape[1])[own.argmax(axis=1)] if task == "multiclass" else own >= 0.5
            pooled = _means(likeliest, owners)
        case "noisy-or":
            with np.errstate(divide="ignore"):
                pooled = -np.expm1(_sums(np.log1p(-own), owners))
        case "learned":
            weights = np.exp(exponent * (own - 1))
            pooled = _sums(weights * own, owners) / _sums(weights, owners)
        case _:
            pooled = _means(own, owners)
    if task == "binary":
        return np.hstack([1 - pooled, pooled])
    return pooled / pooled.sum(axis=1, keepdims=True) if task == "multiclass" else pooled


def fit_exponent(probabilities: Floats, owners: npt.NDArray[Any], y: npt.NDArray[Any], task: Task) -> float:
    """Return the exponent of learned pooling with the least log loss on validation clips.

    Args:
        probabilities: of windows [windows, classes].
        owners: int [windows], the clip of each.
        y: int64 [clips] class index, or bool [clips, classes].
        task: of the classifier.

    >>> random = np.random.default_rng(23)
    >>> y = np.arange(50) % 2
    >>> loud = (np.arange(5) == 0) & (y[:, None] == 1)
    >>> p = np.where(loud, 0.95, 0.05 + 0.1 * random.random((50, 5))).ravel()
    >>> fit_exponent(np.stack([1 - p, p], axis=1), np.repeat(np.arange(50), 5), y, "binary") > 1
    True
    """
    truth = y if y.ndim == 2 else np.eye(probabilities.shape[1], dtype=bool)[y]

    def loss(exponent: float) -> float:
        pooled = pool(probabilities, owners, "learned", task, exponent)
        if task != "multilabel":
            return float(-np.log(np.maximum(pooled[truth], SMALLEST)).mean())
        return float(-np.log(np.maximum(np.where(truth, pooled, 1 - pooled), SMALLEST)).mean())

    return float(min(EXPONENTS, key=loss))


def at_level(
    recipe: Recipe,
    y: npt.NDArray[Any],
    probabilities: Floats,
    recordings: Sequence[str],
    exponent: float | None = None,
) -> tuple[npt.NDArray[Any], Floats, npt.NDArray[np.int64]]:
    """Return targets, probabilities and groups of the windows, clips or recordings, whichever the recipe counts.

    Args:
        recipe: of the study.
        y: int64 [clips] class index, or bool [clips, classes].
        probabilities: [clips, classes], or [windows, classes] where it counts windows.
        recordings: [clips] the recording of each; the result is in the order of their names.
        exponent: of learned pooling of recordings (`learn_recordings`); None pools each fifth of them by the exponent
            of the others.

    Raises:
        UsageError: clips of one recording are of different classes.

    >>> from acoustic_env.config import WindowSettings
    >>> recipe = Recipe(name="r", windows=WindowSettings(length=2.0, hop=1.0, level="recording"))
    >>> p = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    >>> targets, pooled, groups = at_level(recipe, np.array([0, 0, 1]), p, ["a", "a", "b"])
    >>> targets.tolist(), pooled.round(2).tolist(), groups.tolist()
    ([0, 1], [[0.8, 0.2], [0.2, 0.8]], [0, 1])
    """
    groups = np.unique(np.asarray(recordings, object), return_inverse=True)[1]
    if recipe.level != "recording":
        return per_row(y, probabilities), probabilities, per_row(groups, probabilities)
    targets = recording_targets(y, recordings)
    if exponent is None and _learns_recordings(recipe):
        pooled = _pool_by_others(recipe.task, probabilities, groups, targets)
    else:
        pooled = pool_recordings(recipe, probabilities, groups, exponent)
    return targets, pooled, np.arange(len(targets))


def learn_recordings(
    recipe: Recipe, y: npt.NDArray[Any], probabilities: Floats, recordings: Sequence[str]
) -> float | None:
    """Return the exponent that pools held-out clips to their recordings best (`fit_exponent`); None if none is learned.

    Args:
        recipe: of the study.
        y: int64 [clips] class index, or bool [clips, classes].
        probabilities: [clips, classes].
        recordings: [clips] the recording of each.

    Raises:
        UsageError: clips of one recording are of different classes.
    """
    if not _learns_recordings(recipe):
        return None
    owners = np.unique(np.asarray(recordings, object), return_inverse=True)[1]
    return fit_exponent(probabilities, owners, recording_targets(y, recordings), recipe.task)


def _learns_recordings(recipe: Recipe) -> bool:
    return recipe.windows is not None and recipe.level == "recording" and recipe.windows.pooling == "learned"


def _pool_by_others(task: Task, probabilities: Floats, owners: npt.NDArray[Any], y: npt.NDArray[Any]) -> Floats:
    """Return the probabilities of recordings, each part of them pooled by an exponent fitted on the other parts."""
    part = np.random.default_rng(0).permutation(len(y)) % PARTS
    pooled = np.zeros((len(y), probabilities.shape[1]))
    for held in np.unique(part):
        of_others = part[owners] != held
        others, own = np.flatnonzero(part != held), np.flatnonzero(part == held)
        exponent = 0.0
        if len(others):
            exponent = fit_exponent(
                probabilities[of_others], np.searchsorted(others, owners[of_others]), y[others], task
            )
        numbers = np.searchsorted(own, owners[~of_others])
        pooled[own] = pool(probabilities[~of_others], numbers, "learned", task, exponent)
    return pooled


def per_row(of_clips: npt.NDArray[Any], probabilities: Floats) -> npt.NDArray[Any]:
    """Return what clips have for each row of their probabilities: once, or for each of a clip's windows.

    >>> per_row(np.array([7, 8]), np.zeros((4, 2))).tolist()
    [7, 7, 8, 8]
    """
    return np.repeat(of_clips, len(probabilities) // max(1, len(of_clips)), axis=0)


def pool_recordings(recipe: Recipe, probabilities: Floats, owners: npt.NDArray[Any], exponent: float | None) -> Floats:
    assert recipe.windows is not None
    return pool(probabilities, owners, recipe.windows.pooling, recipe.task, exponent or 0.0)


def recording_targets(y: npt.NDArray[Any], recordings: Sequence[str]) -> npt.NDArray[Any]:
    """Return the target of each recording, in the order of their names: its clips' class, or all labels of its clips.

    Raises:
        UsageError: clips of one recording are of different classes.

    >>> recording_targets(np.array([1, 0, 1]), ["b", "a", "b"]).tolist()
    [0, 1]
    """
    names, first, owners = np.unique(np.asarray(recordings, object), return_index=True, return_inverse=True)
    if y.ndim == 2:
        return _sums(y, owners) > 0
    differing = np.flatnonzero(y != y[first][owners])
    if len(differing):
        raise UsageError(
            f"clips of recording {names[owners[differing[0]]]!r} are of different classes; `windows: level: recording` "
            "needs one class a recording; use `level: clip`"
        )
    return np.asarray(y[first])


def _sums(values: npt.NDArray[Any], owners: npt.NDArray[Any]) -> Floats:
    return np.stack([np.bincount(owners, column) for column in values.T], axis=1)


def _means(values: npt.NDArray[Any], owners: npt.NDArray[Any]) -> Floats:
    return _sums(values, owners) / np.bincount(owners)[:, None]
