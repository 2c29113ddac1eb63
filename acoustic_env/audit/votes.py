"""Weigh fallible answers: Dawid-Skene for several annotators, the Rogan-Gladen correction for a single one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acoustic_env.audit.intervals import Floats, Interval, Ints, nothing_observed, percentile

# Pseudo-counts of an annotator's confusion matrix: three right answers to one wrong keep EM on the side where
# annotators are better than chance, and vanish beside a few dozen real answers.
PRIOR_RIGHT = 3.0
PRIOR_WRONG = 1.0
CONVERGED = 1e-4  # largest change of a posterior at which EM stops
MOST_ROUNDS = 200  # of EM


@dataclass(frozen=True)
class VoteModel:
    """A fitted Dawid-Skene model.

    Attributes:
        posterior: [clips, K] P(truth = k | votes).
        confusion: [annotators, K, K] P(answer j | truth k), rows k.
        prior: [K] share of each truth.
    """

    posterior: Floats
    confusion: Floats
    prior: Floats


def dawid_skene(votes: Ints, categories: int, known: Ints | None = None) -> VoteModel:
    """Fit Dawid-Skene by EM, maximum a posteriori.

    Two annotators alone do not identify it; three do, or clips whose truth is known.

    Args:
        votes: [clips, annotators] category or -1.
        categories: K.
        known: [clips] truth of gold clips, -1 elsewhere.

    >>> votes = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]])
    >>> model = dawid_skene(votes, 2)
    >>> model.posterior[:, 1].round(2).tolist()
    [0.95, 0.97, 0.05, 0.03, 0.95, 0.05]
    >>> model.confusion[:, 1, 1].round(2).tolist()  # how often each annotator recognizes class 1
    [0.84, 0.84, 0.58]
    """
    known = np.full(len(votes), -1, dtype=np.int64) if known is None else known
    patterns, index, counts = _patterns(votes, known)
    weights = counts[None, :].astype(np.float64)
    posterior, confusion, prior = _em(patterns, weights, categories, MOST_ROUNDS, _start(patterns, categories))
    return VoteModel(posterior[0][index], confusion[0], prior[0])


def dawid_skene_share(
    votes: Ints,
    categories: int,
    category: int,
    seed: int,
    draws: int = 500,
    level: float = 0.95,
    gold: tuple[Ints, Ints] | None = None,
) -> Interval:
    """Estimate the share of clips whose truth is `category`, with an interval from resampled clips.

    Args:
        votes: [clips, annotators] category or -1, a simple random sample of clips.
        categories: K.
        category: whose share.
        seed: of the bootstrap.
        draws: bootstrap samples.
        level: coverage.
        gold: truths [gold clips] and the same annotators' votes on them, to learn how annotators err.

    >>> votes = np.repeat([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1]], 10, axis=0)
    >>> print(dawid_skene_share(votes, 2, category=1, seed=0))
    0.743 (0.597 to 0.864, n = 40, dawid-skene)
    """
    votes = votes[(votes >= 0).any(axis=1)]
    clips = len(votes)
    if clips == 0:
        return nothing_observed("dawid-skene")
    known = np.full(clips, -1, dtype=np.int64)
    if gold is not None:
        known, votes = np.concatenate([known, gold[0]]), np.vstack([votes, gold[1]])
    patterns, _, counts = _patterns(votes, known)
    weights = counts[None, :].astype(np.float64)
    posterior, _, prior = _em(patterns, weights, categories, 200, _start(patterns, categories))
    resampled = np.random.default_rng(seed).multinomial(len(known), counts / len(known), size=draws).astype(np.float64)
    _, _, again = _em(patterns, resampled, categories, 40, posterior[0])  # warm: near the end already
    return percentile(again[:, category], float(prior[0, category]), clips, "dawid-skene", level)


def rogan_gladen(
    positive: float,
    n: float,
    gold_right: tuple[int, int],
    gold_wrong: tuple[int, int],
    seed: int,
    draws: int = 20_000,
    level: float = 0.95,
) -> Interval:
    """Correct a share for one annotator's errors (Rogan & Gladen 1978): share = (p + Sp - 1) / (Se + Sp - 1).

    Args:
        positive: "right" answers among n (an effective count for a designed sample).
        n: answers, or effective size.
        gold_right: (answered right, answers) among gold clips whose label is right: sensitivity Se.
        gold_wrong: (answered wrong, answers) among gold clips whose label is wrong: specificity Sp.
        seed: of the draws.
        draws: from the Beta posteriors.
        level: coverage.

    Returns:
        The corrected share; 0 to 1 when gold clips of either kind are missing or the annotator may be no better
        than chance.

    >>> print(rogan_gladen(80, 100, gold_right=(45, 50), gold_wrong=(40, 50), seed=0))
    0.857 (0.710 to 1.000, n = 100, rogan-gladen)
    >>> print(rogan_gladen(80, 100, gold_right=(5, 10), gold_wrong=(5, 10), seed=0))
    nan (0.000 to 1.000, n = 0, rogan-gladen)
    """
    method = "rogan-gladen"
    if n <= 0 or gold_right[1] == 0 or gold_wrong[1] == 0:
        return nothing_observed(method)
    rng = np.random.default_rng(seed)
    share = rng.beta(positive + 0.5, n - positive + 0.5, draws)
    sensitivity = rng.beta(gold_right[0] + 0.5, gold_right[1] - gold_right[0] + 0.5, draws)
    specificity = rng.beta(gold_wrong[0] + 0.5, gold_wrong[1] - gold_wrong[0] + 0.5, draws)
    skill = sensitivity + specificity - 1.0
    if (skill <= 0.0).mean() > (1.0 - level) / 2.0:
        return nothing_observed(method)
    corrected = np.clip((share + specificity - 1.0) / np.where(skill > 0, skill, np.nan), 0.0, 1.0)
    observed_skill = gold_right[0] / gold_right[1] + gold_wrong[0] / gold_wrong[1] - 1.0
    point = (positive / n + gold_wrong[0] / gold_wrong[1] - 1.0) / observed_skill if observed_skill > 0 else np.nan
    return percentile(corrected, float(np.clip(point, 0.0, 1.0)), round(n), method, level)


def _patterns(votes: Ints, known: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the distinct rows of (votes, known truth), the row of each clip, and how often each occurs."""
    rows = np.column_stack([votes, known])
    patterns, index, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    return patterns, index.reshape(-1), counts


def _start(patterns: Ints, categories: int) -> Floats:
    """Return [patterns, K] each pattern's share of votes."""
    shares = (patterns[:, :-1, None] == np.arange(categories)).sum(axis=1) + 0.1
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _em(patterns: Ints, weights: Floats, categories: int, rounds: int, start: Floats) -> tuple[Floats, Floats, Floats]:
    """Run EM for several weightings [draws, patterns]; return posterior [draws, patterns, K], confusion, prior."""
    votes, known = patterns[:, :-1], patterns[:, -1]
    answers = (votes[:, :, None] == np.arange(categories)).astype(np.float64)
    fixed = known >= 0
    truth = np.eye(categories)[np.maximum(known, 0)]
    posterior: Floats = np.repeat(np.where(fixed[:, None], truth, start)[None], len(weights), axis=0)
    pseudo = np.full((categories, categories), PRIOR_WRONG) + np.eye(categories) * (PRIOR_RIGHT - PRIOR_WRONG)
    flat = answers.reshape(len(answers), -1)
    sampled = weights * ~fixed
    for _ in range(rounds):
        weighted = weights[:, :, None] * posterior
        confusion = (flat.T @ weighted).reshape(len(weights), votes.shape[1], categories, -1)
        confusion = confusion.transpose(0, 1, 3, 2) + pseudo
        confusion /= confusion.sum(axis=3, keepdims=True)
        mass = (sampled[:, :, None] * posterior).sum(axis=1) + 0.5
        prior = mass / mass.sum(axis=1, keepdims=True)
        by_answer = np.log(confusion).transpose(0, 1, 3, 2).reshape(len(weights), -1, categories)
        log = flat @ by_answer + np.log(prior)[:, None, :]
        log -= log.max(axis=2, keepdims=True)
        updated = np.exp(log)
        updated /= updated.sum(axis=2, keepdims=True)
        updated[:, fixed] = truth[fixed]
        change = float(np.abs(updated - posterior).max())
        posterior = updated
        if change < CONVERGED:
            break
    return posterior, confusion, prior
