"""Rank the labels of more clips than `rank.LEARNED`: learn from a sample of them, score all in batches.

Every clip has its fold. Scorers and their weights learn from the sample's clips of other folds, so no clip, sampled or
not, is scored by what has seen its label or its group. Features, neighbors and scores lie on this machine's disk;
memory holds the sample, a batch, and what is known of each clip: its id, its labels, and one label's scores at a time.
Time is linear in the clips: each label's models are fitted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit import rank
from acoustic_env.audit.intervals import Bools, Floats, Ints
from acoustic_env.audit.neighbors import Neighborhood, References
from acoustic_env.audit.posterior import Posterior, score_further, score_posterior
from acoustic_env.audit.scorers import LabeledClips
from acoustic_env.config import AuditSettings, Recipe
from acoustic_env.features.block import Json
from acoustic_env.io.spool import RowFile

if TYPE_CHECKING:
    from acoustic_env.models.data.frames import Sequences
    from acoustic_env.models.data.matrix import FeatureMatrix

BATCH: Final = 16_384  # clips scored at once


@dataclass(frozen=True)
class Stored:
    """Clips whose features are on disk.

    Attributes:
        clip_ids: [clips].
        rows: [clips] of the matrix.
        y: int64 [clips] given classes, or bool [clips, classes], sparse (`csr_array`).
        groups: [clips] what stays in one fold.
        matrix: spooled.
        duplicates: [clips] number of the clip's group of duplicates, -1 for none; None when they are unknown.
    """

    clip_ids: Sequence[str]
    rows: Ints
    y: Any
    groups: npt.NDArray[Any]
    matrix: FeatureMatrix
    duplicates: Ints | None


def rank_stored(
    stored: Stored,
    recipe: Recipe,
    classes: Sequence[str],
    tags: Mapping[str, RowFile],
    sequences: Sequences | None,
) -> Iterator[tuple[pa.Table, dict[str, Json]]]:
    """Yield ranked tables with their summaries, as `rank.rank_study`.

    Args:
        stored: the clips.
        recipe: of the study.
        classes: names.
        tags: scores of taggers by name, [clips, classes].
        sequences: frames in the order of the matrix, for scorers that read them.
    """
    study = _Study(stored, recipe, tags, sequences)
    names, duplicates, settings = study.names, stored.duplicates, recipe.audit
    clip_ids = np.asarray(stored.clip_ids, object)
    if recipe.task != "multilabel":
        given = stored.y.astype(np.int64)
        probabilities, shares = study.score(np.eye(len(classes))[given[study.learned]], np.arange(len(classes)), True)
        by_class = np.stack([probabilities.of(place) for place in range(len(classes))], axis=2)
        own = dict(zip(names, by_class[1:], strict=True))
        scores = rank.label_scores(duplicates, given, by_class[0], own, shares[:, 0])
        yield rank.exclusive_table(clip_ids, given, classes, scores)
        return
    learned = stored.y[study.learned].tocsc()
    carried = learned.sum(axis=0)
    able = np.flatnonzero(np.minimum(carried, len(study.learned) - carried) >= settings.folds)
    for start in range(0, len(classes), rank.LABELS):
        some = able[(able >= start) & (able < start + rank.LABELS)]
        if len(some):
            target = learned[:, some].toarray().astype(np.float64)
            probabilities, shares = study.score(target, some, False)
        for k in range(start, min(start + rank.LABELS, len(classes))):
            carries = np.zeros(len(clip_ids), np.int64)
            carries[_members(study.y, k)] = 1
            if k in some:
                place = int(np.searchsorted(some, k))
                pooled, *each = map(rank.yes_or_no, probabilities.of(place))
                own = dict(zip(names, each, strict=True))
                scores = rank.label_scores(duplicates, carries, pooled, own, shares[:, place])
            else:
                scores = rank.unscored(duplicates, carries, names, settings)
            has = carries.astype(bool)
            table = rank.ranked_table(clip_ids, classes[k], has, 1, scores, scores.flagged, carries)
            yield rank.sort_ranked(table), {"label": classes[k], **scores.information}


def choose_learned(y: Any, most: int, seed: int) -> Ints:
    """Return the clips to learn from, sorted: some of every class, all of a rare one, the others at random.

    Args:
        y: int64 [clips] class index, or bool [clips, classes], sparse (`csc_array`).
        most: how many; all where there are no more.
        seed: of the choice.

    >>> choose_learned(np.array([0] * 90 + [1] * 10), 20, 0)[-5:].tolist()
    [90, 93, 94, 97, 98]
    """
    order = np.random.default_rng(seed).permutation(y.shape[0])
    place = np.argsort(order)
    classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    chosen = np.zeros(len(order), np.bool_)
    for k in range(classes):
        own = _members(y, k)
        chosen[own[np.argsort(place[own])][: most // (2 * classes)]] = True
    left = order[~chosen[order]]
    chosen[left[: max(0, most - int(chosen.sum()))]] = True
    return np.flatnonzero(chosen)


def adjust_shares(probabilities: Floats, learned: Floats, shares: Floats, exclusive: bool) -> Floats:
    """Return the probabilities where classes are as frequent as among all clips, not as among those learned from.

    Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities, Neural
    Computation 2002.

    Args:
        probabilities: [..., classes].
        learned, shares: [classes] share of the clips learned from, and of all.
        exclusive: whether a clip has exactly one class.

    >>> adjust_shares(np.array([0.5]), np.array([0.5]), np.array([0.1]), False).round(3).tolist()
    [0.1]
    """
    yes = probabilities * np.divide(shares, learned, out=np.ones_like(shares), where=learned > 0)
    no = yes.sum(axis=-1, keepdims=True) - yes if exclusive else (1 - probabilities) * ((1 - shares) / (1 - learned))
    return np.asarray(yes / (yes + no))


class _Scores:
    """Probabilities of the scorers and, first, pooled, of some labels, on disk: a label's are side by side."""

    def __init__(self, clips: int, labels: int, scorers: int) -> None:
        self._clips, self._each, self._batches = clips, scorers + 1, -(-clips // BATCH)
        self._file = RowFile(labels * self._each * self._batches, BATCH)

    def write(self, batch: int, values: Floats) -> None:
        """Write [scorers + 1, clips of a batch, labels]."""
        padded = np.zeros((values.shape[2] * self._each, BATCH), np.float32)
        padded[:, : values.shape[1]] = values.transpose(2, 0, 1).reshape(len(padded), -1)
        self._file.write(np.arange(len(padded)) * self._batches + batch, padded)

    def of(self, label: int) -> Floats:
        """Return [scorers + 1, clips] of one of the labels, by its place."""
        rows = self._each * self._batches
        found = self._file[slice(label * rows, (label + 1) * rows)].reshape(self._each, -1)
        return np.asarray(found[:, : self._clips], np.float64)


def _members(y: Any, k: int) -> Ints:
    """Return the clips of a class."""
    return np.asarray(y.indices[y.indptr[k] : y.indptr[k + 1]] if y.ndim == 2 else np.flatnonzero(y == k))


class _Study:
    """The clips prepared: folds, the sample, and on disk features as scorers see them and neighbors."""

    def __init__(
        self, stored: Stored, recipe: Recipe, tags: Mapping[str, RowFile], sequences: Sequences | None
    ) -> None:
        from acoustic_env.models.data.folds import grouped_folds

        self.settings: AuditSettings = recipe.audit
        self.folds = grouped_folds(stored.y, stored.groups, self.settings.folds, self.settings.seed)
        self.y = stored.y.tocsc() if stored.y.ndim == 2 else stored.y
        self.learned = choose_learned(self.y, rank.LEARNED, self.settings.seed)
        self.sequences = None if sequences is None else sequences[stored.rows]
        self.model = recipe.model
        self.tags = tags
        self.names = [*self.settings.scorers, *tags]
        self._prepare(stored, recipe)

    def _prepare(self, stored: Stored, recipe: Recipe) -> None:
        from acoustic_env.models.data.preprocessing import Preprocessor

        values, rows, learned = stored.matrix.values, stored.rows, self.learned
        blocks = Preprocessor.of(stored.matrix.columns, recipe.reduction.replace(default_components=0))
        sample = blocks.fit(values[rows[learned]]).transform(values[rows[learned]])
        reduction = rank.fit_reduction(sample, self.settings.seed)
        sample = reduction(sample)
        references = References(sample, self.folds[learned], self.settings.neighbors, self.settings.seed)
        self.features = RowFile(len(rows), sample.shape[1])
        for batch in self._batches():
            own = reduction(blocks.transform(values[rows[batch]]))
            self.features.write(batch, own)
            found = references.neighbors(own, self.folds[batch])
            if batch[0] == 0:
                self.neighbors = RowFile(len(rows), 2 * found.index.shape[1])  # index, exact up to 2^24, and weight
            self.neighbors.write(batch, np.hstack([found.index, found.weight]))

    def _batches(self) -> Iterator[Ints]:
        for start in range(0, len(self.folds), BATCH):
            yield np.arange(start, min(start + BATCH, len(self.folds)))

    def score(self, target: Floats, classes: Ints, exclusive: bool) -> tuple[_Scores, Floats]:
        """Score some classes of all clips; return the probabilities and the weight of each scorer.

        Args:
            target: [learned, classes] 0 or 1.
            classes: which.
            exclusive: whether a clip has exactly one class.
        """
        clips = self._labeled(self.learned, target, exclusive)
        tags = self._tags(self.learned, classes)
        found = score_posterior(clips, rank.make_scorers(self.settings, tags))
        scores = _Scores(len(self.folds), len(classes), len(self.names))
        place = np.full(len(self.folds), -1)
        place[self.learned] = np.arange(len(self.learned))
        sampled = target.mean(axis=0)
        shares = np.asarray([len(_members(self.y, k)) for k in classes]) / len(self.folds)
        for number, batch in enumerate(self._batches()):
            values = np.empty((len(self.names) + 1, len(batch), len(classes)))
            known = place[batch] >= 0
            values[1:, known], values[0, known] = found.own[:, place[batch[known]]], found.pooled[place[batch[known]]]
            if not known.all():
                new = self._tags(batch[~known], classes)
                both = {name: np.concatenate([own, new[name]]) for name, own in tags.items()}
                values[1:, ~known], values[0, ~known] = self._further(found, clips, batch[~known], both)
            values = adjust_shares(values, sampled, shares, exclusive)
            scores.write(number, values)
        return scores, found.shares

    def _further(
        self, found: Posterior, clips: LabeledClips, further: Ints, tags: Mapping[str, Floats]
    ) -> tuple[Floats, Floats]:
        """Score clips that were not learned from: the learned ones come first, so that models are found again."""
        rows = np.concatenate([self.learned, further])
        new = self._labeled(further, np.zeros((len(further), clips.target.shape[1])), clips.exclusive)
        both = replace(
            clips,
            features=np.concatenate([clips.features, new.features]),
            target=np.concatenate([clips.target, new.target]),
            folds=self.folds[rows],
            neighborhood=Neighborhood(
                np.concatenate([clips.neighborhood.index, new.neighborhood.index]),
                np.concatenate([clips.neighborhood.weight, new.neighborhood.weight]),
            ),
            sequences=None if self.sequences is None else self.sequences[rows],
        )
        learned: Bools = np.arange(len(rows)) < len(self.learned)
        return score_further(found, both, rank.make_scorers(self.settings, tags), learned)

    def _labeled(self, rows: Ints, target: Floats, exclusive: bool) -> LabeledClips:
        index, weight = np.hsplit(self.neighbors[rows], 2)
        return LabeledClips(
            self.features[rows],
            target,
            exclusive,
            self.folds[rows],
            Neighborhood(index.astype(np.int64), weight),
            self.settings.seed,
            None if self.sequences is None else self.sequences[rows],
            self.model if self.sequences is not None else None,
            fitted={},
        )

    def _tags(self, rows: Ints, classes: Ints) -> dict[str, Floats]:
        return {name: np.asarray(scores[rows][:, classes], np.float64) for name, scores in self.tags.items()}
