"""What a network on sequences relies on in a clip, patch by patch of frames x bands, in log odds of a class.

Integrated gradients (Sundararajan, Taly and Yan 2017, arXiv:1703.01365) run from the training mean of each band to the
clip; summed over all patches they are the log odds of the clip less those of the mean (completeness). Occlusion (Zeiler
and Fergus 2014, arXiv:1311.2901) replaces a patch by the mean of its bands; what it reports is the log odds lost.

Where the network reads windows of a clip, all of this is of the mean of the windows' log odds, whatever their pooling:
what a frame adds is the mean over all windows of what it adds to them, and frames after the last window add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import UsageError
from acoustic_env.explain.attribution import SEED, expected_gradients
from acoustic_env.explain.gradients import LogOdds, is_smooth
from acoustic_env.explain.material import HeldOutScorer, Material
from acoustic_env.models.data.cut import Cut
from acoustic_env.stats.intervals import Floats

if TYPE_CHECKING:
    import torch

CELLS: Final = 1 << 18  # of a pass through the network: bounds its memory
CLASSES: Final = 10  # those predicted most often
PER_CLASS: Final = 3
CANDIDATES: Final = 1_000  # held-out clips that are scored, to choose from
REFERENCE_CLIPS: Final = 512  # that the mean of each band is taken of
TIME_PATCHES: Final = 20
BAND_PATCHES: Final = 8

Edges = npt.NDArray[np.int64]
Frames = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Patches:
    """A grid over frames and bands."""

    frames: Edges  # where each row of patches begins, and the end [rows + 1]
    bands: Edges  # where each column of patches begins, and the end [columns + 1]

    @classmethod
    def of(cls, frames: int, bands: int, signals: int = 1, *, by_band: bool = True) -> Patches:
        """Return patches of about equal size, none across signals.

        >>> Patches.of(40, 16).bands.tolist()
        [0, 2, 4, 6, 8, 10, 12, 14, 16]
        """
        own = _edges(bands // signals, BAND_PATCHES if by_band else 1)[:-1]
        starts = [signal * (bands // signals) + own for signal in range(signals)]
        return cls(_edges(frames, TIME_PATCHES), np.concatenate([*starts, [bands]]))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (time) and columns (bands)."""
        return len(self.frames) - 1, len(self.bands) - 1

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """Sum values [..., frames, bands] within each patch, [..., rows, columns]."""
        over_time = np.add.reduceat(np.asarray(values, np.float64), self.frames[:-1], axis=-2)
        return np.asarray(np.add.reduceat(over_time, self.bands[:-1], axis=-1))

    def sizes(self) -> Floats:
        """Return the cells of each patch [rows, columns]."""
        return np.outer(np.diff(self.frames), np.diff(self.bands)).astype(np.float64)


def _edges(length: int, count: int) -> Edges:
    return np.unique(np.linspace(0, length, min(length, count) + 1).round().astype(np.int64))


class SequenceLogOdds(LogOdds):
    """The log odds of a class as a function of flattened frames [n, frames * bands], a few clips at a time.

    Args:
        members: fitted networks, whose probabilities are averaged.
        chosen: number of the class.
        shape: frames and bands.
    """

    def __init__(self, members: Sequence[Any], chosen: int, shape: tuple[int, int]) -> None:
        super().__init__(members, chosen, np.float32)  # half the time and memory of double precision
        self._shape = shape
        self._cut: Cut | None = getattr(members[0], "cut_", None)
        frames = shape[0] if self._cut is None else len(self._cut.starts(shape[0])) * self._cut.length
        self._step = max(1, CELLS // (frames * shape[1]))

    def value(self, x: npt.NDArray[Any]) -> Floats:
        """Return the log odds [n]."""
        return np.concatenate([super(SequenceLogOdds, self).value(part) for part in self._parts(x)])

    def gradient(self, x: npt.NDArray[Any]) -> Floats:
        """Return the derivatives [n, frames * bands]."""
        return np.concatenate([super(SequenceLogOdds, self).gradient(part) for part in self._parts(x)]).reshape(x.shape)

    def _of(self, x: torch.Tensor) -> torch.Tensor:
        if self._cut is None:
            return super()._of(x)
        windows = x.unfold(1, self._cut.length, self._cut.hop).transpose(2, 3)  # [n, windows, frames, bands]
        return super()._of(windows.flatten(0, 1)).reshape(windows.shape[:2]).mean(dim=1)

    def _parts(self, x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        clips = x.reshape(-1, *self._shape)
        return [clips[start : start + self._step] for start in range(0, len(clips), self._step)]


def integrated_gradients(function: SequenceLogOdds, clip: Frames, reference: Floats) -> tuple[Floats, float, float]:
    """Integrate gradients along the straight line from the mean of each band [bands] to a clip [frames, bands].

    Returns:
        Contributions [frames, bands], the log odds of the clip, and those of the mean.
    """
    start = np.broadcast_to(reference, clip.shape).reshape(1, -1)
    pairs, value, base = expected_gradients(function, clip.reshape(1, -1), start)
    return np.asarray(pairs[0, 0].reshape(clip.shape), np.float64), float(value[0]), float(base[0])


def occlusion(function: SequenceLogOdds, clip: Frames, reference: Floats, patches: Patches) -> Floats:
    """Return the log odds lost when a patch of a clip is replaced by the mean of its bands [rows, columns].

    The clip is [frames, bands], the reference the mean of each band [bands].
    """
    rows, columns = patches.shape
    lost = np.empty((rows, columns))
    whole = function.value(clip.reshape(1, -1))[0]
    for row in range(rows):
        frames = slice(*patches.frames[row : row + 2])
        occluded = np.repeat(np.asarray(clip, np.float64)[None], columns, axis=0)
        for column in range(columns):
            bands = slice(*patches.bands[column : column + 2])
            occluded[column, frames, bands] = reference[bands]
        lost[row] = whole - function.value(occluded.reshape(columns, -1))
    return lost


@dataclass(frozen=True)
class ExplainedClip:
    """A clip and what the log odds of its predicted class are made of."""

    clip_id: str  # of the list
    given: str  # its labels, for display
    predicted: int  # number of the class
    probability: float  # of that class, by a model that did not learn from the clip where there is one
    frames: Frames  # [frames, bands]
    gradients: Floats  # integrated gradients summed within each patch [rows, columns]
    occlusion: Floats  # log odds lost without each patch [rows, columns]
    value: float  # log odds of the clip
    base: float  # log odds of the mean of each band

    @property
    def residual(self) -> float:
        """What the integrated gradients lack to be complete."""
        return self.value - self.base - float(self.gradients.sum())


def explained_clips(material: Material, patches: Patches, per_class: int = PER_CLASS) -> list[ExplainedClip]:
    """Explain a few clips of each class predicted, in random order of a fixed seed.

    Raises:
        UsageError: a classifier that is not one of the package's networks, or did not learn every class.
    """
    classes = len(material.targets.classes)
    if not all(is_smooth(member, classes) for member in material.bundle.classifier.members):
        raise UsageError("gradients are of the package's networks on sequences, trained on clips of every class")
    scorer_of = {int(row): scorer for scorer in material.scorers for row in scorer.rows}
    by_id = sorted(scorer_of, key=lambda row: material.targets.clip_ids[row])
    candidates = np.random.default_rng(SEED).permutation(by_id)[:CANDIDATES]
    said = np.empty((len(candidates), classes))
    for scorer in material.scorers:
        own = np.isin(candidates, scorer.rows)
        answers = scorer.model.predict_proba(material.matrix.values[candidates[own]])
        said[own] = answers.reshape(own.sum(), -1, classes).mean(axis=1)  # several rows where windows are not pooled
    predicted = said.argmax(axis=1)
    shown = np.argsort(-np.bincount(predicted, minlength=classes), kind="stable")[:CLASSES]
    references = {id(scorer): _reference(material, scorer) for scorer in material.scorers}
    found = []
    for chosen in sorted(shown.tolist()):
        for place in np.flatnonzero(predicted == chosen)[:per_class]:
            row = int(candidates[place])
            scorer = scorer_of[row]
            found.append(_explain(material, scorer, references[id(scorer)], row, said[place], patches))
    return found


def _explain(
    material: Material, scorer: HeldOutScorer, reference: Floats, row: int, said: Floats, patches: Patches
) -> ExplainedClip:
    """Explain a clip to which the scorer gives the probabilities `said` [classes]."""
    chosen = int(said.argmax())
    clip = material.matrix.values.load(slice(row, row + 1))[0]
    function = SequenceLogOdds(scorer.model.members, chosen, clip.shape)
    cells, value, base = integrated_gradients(function, clip, reference)
    given = ", ".join(material.name(int(label)) for label in np.flatnonzero(material.truth[row])) or "none"
    lost = occlusion(function, clip, reference, patches)
    named = material.targets.clip_ids[row], given, chosen, float(said[chosen])
    return ExplainedClip(*named, clip, patches.sums(cells), lost, value, base)


def _reference(material: Material, scorer: HeldOutScorer) -> Floats:
    """Return the mean of each band over clips that a scorer learned from, or all clips where none is among them."""
    learned = np.setdiff1d(np.arange(len(material.groups)), scorer.rows)
    rows = learned if len(learned) else scorer.rows
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), REFERENCE_CLIPS)).astype(np.int64))
    # Clip by clip: the frames of all of them need not fit into memory.
    values = material.matrix.values
    return np.asarray(np.mean([values.load(slice(row, row + 1))[0].mean(0, dtype=np.float64) for row in rows[some]], 0))
