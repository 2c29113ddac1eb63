"""Probabilities of every label that do not depend on the label the clip itself is given.

Each scorer judges the clips of a fold after learning from the other folds. The weights with which the scorers are
pooled in that fold are fitted on the two adjacent folds, to predictions of models that learned from neither those folds
nor the fold the weights are for. So nothing that scores a clip's labels has seen its label, and the label counts
once, at the end, when the ranking asks how well it agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from acoustic_env.audit.combine import Combination, fit_combination
from acoustic_env.audit.intervals import Bools, Floats, Ints

if TYPE_CHECKING:
    from acoustic_env.audit.scorers import LabeledClips, Scorer

    HeldOutScorer = Callable[[Bools, Bools], Floats]


@dataclass(frozen=True)
class Posterior:
    """Probabilities of the classes by each scorer and by all together.

    Attributes:
        own: [scorers, clips, classes] each scorer's probabilities.
        pooled: [clips, classes] their weighted mean.
        shares: [scorers, classes or 1] weight of each scorer, mean over the folds; exclusive classes share one.
        combinations: of each fold.
    """

    own: Floats
    pooled: Floats
    shares: Floats
    combinations: tuple[Combination, ...]


def score_posterior(clips: LabeledClips, scorers: Mapping[str, Scorer]) -> Posterior:
    """Score every clip by models and with weights that do not know the labels of its fold.

    Linear algebra runs on one thread, which is faster for its small products and makes the result independent of the
    number of threads; networks that read frames keep theirs, of which their last digits depend.

    Args:
        clips: with three folds or more.
        scorers: by name.
    """
    from threadpoolctl import threadpool_limits

    folds, classes = clips.folds, clips.target.shape[1]
    count = int(folds.max()) + 1
    with threadpool_limits(1, user_api="blas"):
        learners = [partial(scorer, clips) for scorer in scorers.values()]
        own = np.stack([predict_out_of_fold(learner, folds, classes) for learner in learners])
        before, after = np.stack([predict_without_two_folds(learner, folds, classes) for learner in learners], axis=1)
        pooled, combinations = np.empty(own.shape[1:]), list[Combination]()
        for fold in range(count):
            previous, following = folds == (fold - 1) % count, folds == (fold + 1) % count
            blind = np.where(previous[:, None], after, before)
            rows, held_out = previous | following, folds == fold
            combination = fit_combination(blind[:, rows], clips.target[rows], clips.exclusive)
            pooled[held_out] = combination.pool(own[:, held_out])
            combinations.append(combination)
    shares = np.mean([combination.shares for combination in combinations], axis=0)
    return Posterior(own, pooled, shares, tuple(combinations))


def score_further(
    found: Posterior, clips: LabeledClips, scorers: Mapping[str, Scorer], learned: Bools
) -> tuple[Floats, Floats]:
    """Score clips that nothing was learned from, by the models and weights of their fold.

    Args:
        found: of the clips learned from.
        clips: those, in their order, and the further ones.
        scorers: by name.
        learned: [clips] which were learned from.

    Returns:
        Each scorer's probabilities [scorers, further clips, classes], and the pooled ones [further clips, classes].
    """
    from threadpoolctl import threadpool_limits

    folds = clips.folds[~learned]
    own = np.empty((len(scorers), len(folds), clips.target.shape[1]))
    pooled = np.empty(own.shape[1:])
    with threadpool_limits(1, user_api="blas"):
        for fold in np.unique(folds):
            here, train = folds == fold, learned & (clips.folds != fold)
            held_out = ~learned & (clips.folds == fold)
            for number, scorer in enumerate(scorers.values()):
                own[number, here] = scorer(clips, train, held_out)
            pooled[here] = found.combinations[fold].pool(own[:, here])
    return own, pooled


def predict_out_of_fold(scorer: HeldOutScorer, folds: Ints, classes: int) -> Floats:
    """Return probabilities [clips, classes] of each clip by a model that learned from the other folds only.

    Args:
        scorer: (clips to learn from, clips to score) -> probabilities [clips to score, classes].
        folds: [clips].
        classes: how many.

    >>> y = np.array([0.0, 0.0, 1.0, 1.0])
    >>> mean = lambda train, held_out: np.full((held_out.sum(), 1), y[train].mean())
    >>> predict_out_of_fold(mean, np.array([0, 0, 1, 1]), classes=1).ravel().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    found = np.empty((len(folds), classes))
    for fold in np.unique(folds):
        held_out = folds == fold
        found[held_out] = scorer(~held_out, held_out)
    return found


def predict_without_two_folds(scorer: HeldOutScorer, folds: Ints, classes: int) -> tuple[Floats, Floats]:
    """Return probabilities [clips, classes] by models that learned neither from a clip's fold nor from an adjacent one.

    Folds form a ring: fold 0 follows the last. What must not know the labels of fold k can be fitted on the clips of
    the two adjacent folds.

    Args:
        scorer: (clips to learn from, clips to score) -> probabilities [clips to score, classes].
        folds: [clips], 0 to 2 or more.
        classes: how many.

    Returns:
        Without the fold before the clip's own, and without the fold after it.

    >>> y = np.array([0.0, 1.0, 5.0])
    >>> mean = lambda train, held_out: np.full((held_out.sum(), 1), y[train].mean())
    >>> before, after = predict_without_two_folds(mean, np.array([0, 1, 2]), classes=1)
    >>> before.ravel().tolist(), after.ravel().tolist()
    ([1.0, 5.0, 0.0], [5.0, 0.0, 1.0])
    """
    before, after = np.empty((2, len(folds), classes))
    count = int(folds.max()) + 1
    for fold in range(count):
        one, two = folds == fold, folds == (fold + 1) % count
        held_out = one | two
        found = scorer(~held_out, held_out)
        after[one], before[two] = found[one[held_out]], found[two[held_out]]
    return before, after
