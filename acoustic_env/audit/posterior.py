"""Probabilities of every label that do not depend on the label the clip itself is given.

Each scorer judges the clips of a fold with what it learned from the other folds. The weights with which the scorers
are pooled in that fold are fitted on the two folds beside it, to predictions of models that knew neither those clips'
own fold nor the fold the weights are for. So nothing that scores a clip's labels has seen its label, and the
label counts once, at the end, when the ranking asks how well it agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.combine import Combination, LabelCombination, fit_combination, fit_label_combination
from acoustic_env.audit.intervals import Floats
from acoustic_env.audit.neighbors import Neighborhood
from acoustic_env.audit.scorers import Features, Scorer, out_of_fold, without_two_folds

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NEIGHBORS: Final = "neighbors"
UNTAGGED: Final = 1e-3  # share of every class before its tag score


@dataclass(frozen=True)
class Evidence:
    """What scorers learn from and judge.

    Attributes:
        features: float32 [clips, features], scaled, finite.
        target: [clips, classes] 0 or 1.
        exclusive: every clip has one of the classes; else each class is a label of its own, there or not.
        folds: [clips] grouped folds, 0 to 2 or more.
        neighborhood: nearest clips of other folds.
        seed: of models.
        models: scorers by name.
        tags: scores in [0, 1] from taggers that never saw these labels, by name, [clips, classes]; NaN where absent.
    """

    features: Features
    target: Floats
    exclusive: bool
    folds: Ints
    neighborhood: Neighborhood
    seed: int
    models: Mapping[str, Scorer]
    tags: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def prior(self) -> float:
        """Probability of each class before anything is known."""
        return 1.0 / self.target.shape[1] if self.exclusive else 0.5

    def judge(self, name: str, train: Bools, judged: Bools) -> Floats:
        """Return probabilities [judged, classes] by a scorer that knows the labels of `train` only.

        Args:
            name: of a model, of tags, or `neighbors`.
            train: [clips].
            judged: [clips].
        """
        if name == NEIGHBORS:
            return self.neighborhood.vote(self.target, train, judged, self.prior)
        if name in self.tags:
            return self._calibrated_tags(self.tags[name], train, judged)
        model, features = self.models[name], self.features
        return model(features[train], self.target[train], features[judged], self.seed, self.exclusive)

    def combine(self, probabilities: Floats, rows: Bools) -> Combination | LabelCombination:
        """Fit the scorers' weights to the labels of `rows`.

        Args:
            probabilities: [scorers, rows, classes].
            rows: [clips].
        """
        target = self.target[rows]
        if self.exclusive:
            return fit_combination(probabilities, target.argmax(axis=1))
        return fit_label_combination(probabilities, target)

    def _calibrated_tags(self, scores: Floats, train: Bools, judged: Bools) -> Floats:
        """A tagger's scores, calibrated to the labels of `train` by a slope and biases; unknown ones undecided."""
        present: Bools = np.asarray(np.isfinite(scores))
        if self.exclusive:
            present = np.repeat(present.all(axis=1, keepdims=True), scores.shape[1], axis=1)
        shares = np.where(present, np.nan_to_num(scores), self.prior) + UNTAGGED
        shares = shares / (shares.sum(axis=1, keepdims=True) if self.exclusive else 1.0 + 2.0 * UNTAGGED)
        calibrated = self.combine(shares[None, train], train).log_pool(shares[None, judged])
        return np.asarray(np.where(present[judged], calibrated, self.prior))


@dataclass(frozen=True)
class Posterior:
    """What the scorers of some evidence score_labels, each and together.

    Attributes:
        own: [scorers, clips, classes] each scorer's probabilities.
        pooled: [clips, classes] probabilities of all together.
        shares: [scorers, classes] weight of each scorer, mean over the folds; exclusive classes share one.
    """

    own: Floats
    pooled: Floats
    shares: Floats


def posterior(evidence: Evidence, names: Sequence[str]) -> Posterior:
    """HeldOutScorer every clip by scorers, and pool them with weights, that know nothing of its fold's labels.

    Linear algebra runs on one thread: the products are too small to share, and waiting threads burn processor time. So
    its numbers do not depend on how many there are.

    Args:
        evidence: with three folds or more.
        names: of the scorers.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return _posterior(evidence, names)


def _posterior(evidence: Evidence, names: Sequence[str]) -> Posterior:
    folds, classes = evidence.folds, evidence.target.shape[1]
    judges = [partial(evidence.judge, name) for name in names]
    own = np.stack([out_of_fold(judge, folds, classes) for judge in judges])
    before, after = np.stack([without_two_folds(judge, folds, classes) for judge in judges], axis=1)
    pooled, shares = np.empty(own.shape[1:]), np.zeros((len(names), classes))
    count = int(folds.max()) + 1
    for fold in range(count):
        previous, following = folds == (fold - 1) % count, folds == (fold + 1) % count
        blind = np.where(previous[:, None], after, before)
        rows = previous | following
        combination = evidence.combine(blind[:, rows], rows)
        held = folds == fold
        pooled[held] = combination.pool(own[:, held])
        shares += combination.shares.reshape(len(names), -1) / count
    return Posterior(own, pooled, shares)
