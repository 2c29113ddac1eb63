"""Automatic decisions by score, with a bound on the share of wrong ones among them.

A decision (drop a given label, add a missing one, keep one) is made for every row without an answer whose score lies
below a threshold. With probability `confidence`, at least the share `precision` of these decisions is right. The
evidence is the answers to a probability sample of the rows.

One threshold: let R be the rows below it. Answered sample rows of R are thinned until all rows of R are equally likely
to be among the T retained. Fewer than `precision` right decisions would mean at most K = (right answers in R) +
ceil(precision * rows without an answer) - 1 right rows in R; the p-value is P(Hypergeometric(|R|, K, T) >= right
answers retained). Several thresholds: fixed-sequence testing over growing regions, from up to four starts that share
the error by Bonferroni's correction (Angelopoulos et al. 2021, Learn then Test). docs/audit.md says why, and what is
proven by simulation only (`tests.audit.bench_relabel`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from acoustic_env.audit.intervals import Bools, Floats, Ints

CONFIDENCE: Final = 0.95
STARTS: Final = 4
STEPS: Final = 100  # regions considered, evenly spaced in the logarithm of their sampled rows
FEWEST_TO_PLAN: Final = 8  # retained answers below which a region's precision is not used for advice
CHANCE_TO_PASS: Final = 0.8  # with the number of answers that is advised
MOST_TO_PLAN: Final = 10_000
THINNING_SEED: Final = 23


@dataclass(frozen=True)
class Answers:
    """The answered rows of one kind of decision, [answered], and where they lie among all rows it could be made for.

    Attributes:
        score: low = decide first.
        right: the answer surely agrees with the decision.
        inclusion: probability in (0, 1] that an answered sample row was drawn and answered; 0 for other answered rows.
        below: number of all rows, answered or not, whose score is lower.
        rows: number of all rows.
    """

    score: Floats
    right: Bools
    inclusion: Floats
    below: Ints
    rows: int


@dataclass(frozen=True)
class Region:
    """The rows below one threshold.

    Attributes:
        below: the threshold; infinite for all rows.
        rows: rows of the region.
        unannotated: those without an answer.
        answers: retained answers T.
        right: those of them that agree with the decision.
        p_value: of the null hypothesis that too few of the decisions would be right.
    """

    below: float
    rows: int
    unannotated: int
    answers: int
    right: int
    p_value: float


@dataclass(frozen=True)
class Rule:
    """Result for one kind of decision.

    Attributes:
        kind: name of the decision.
        precision: promised share of right decisions.
        sampled: answered rows of the probability sample.
        passed: the largest region that may be decided; None where none may.
        nearest: where none may: the region that needs the fewest further answers; None where all have too few.
        needed: answers it needs in all; None where no number would pass while as many labels are left.
        expected: whether `needed` passes with a chance of 80 % at the region's present precision, not only if all
            further answers agree.
        outside: rows of this kind that the sample was not drawn from, where they are too many to decide any.
    """

    kind: str
    precision: float
    sampled: int
    passed: Region | None
    nearest: Region | None = None
    needed: int | None = None
    expected: bool = False
    outside: int = 0

    def __str__(self) -> str:
        if self.passed is not None:
            found = self.passed
            proven = f"with {CONFIDENCE:.0%} confidence at least {self.precision:.0%} are right"
            agree = f"{found.right} of {found.answers} answers in that region agree"
            return f"{self.kind}: {found.unannotated:,} labels without an answer; {agree}, so {proven}"
        none = f"{self.kind}: no label without an answer; "
        if self.outside:
            return (
                f"{none}the sample was drawn without {self.outside:,} of these labels: draw one of all (`audit sample`)"
            )
        if self.nearest is None:
            fewest = fewest_answers(self.precision)
            return f"{none}{self.sampled} answers are too few: it takes at least {fewest} that all agree"
        near, wanted = self.nearest, f"where {self.precision:.0%} must be proven"
        seen = f"of the {near.rows:,} labels to decide first, {near.right} of {near.answers} answers agree {wanted}"
        if self.needed is None:
            return f"{none}{seen}; no number of answers proves that: annotate these labels one by one"
        more = self.needed - near.answers
        drawn = math.ceil(self.sampled * self.needed / near.answers)
        many = f"about {more:,} more answers" if self.expected else f"at least {more:,} more answers, all agreeing,"
        return f"{none}{seen}; {many} among them may do (`audit sample --n {drawn}` of the same design)"


def find_rule(kind: str, answers: Answers, precision: float, most: float) -> Rule:
    """Find the largest region whose rows without an answer may be decided.

    Args:
        kind: name of the decision.
        answers: to rows it could be made for.
        precision: promised share of right decisions, in (0, 1).
        most: share of the rows beyond which no region is tried.

    >>> answers = Answers(np.linspace(0, 1, 60), np.arange(60) < 50, np.full(60, 0.1), np.arange(0, 600, 10), 600)
    >>> rule = find_rule("drop", answers, precision=0.8, most=1.0)
    >>> rule.passed.rows, rule.passed.unannotated, rule.passed.answers, rule.passed.right
    (520, 468, 52, 50)
    >>> find_rule("drop", answers, precision=0.99, most=1.0).passed is None
    True
    """
    regions = _regions(answers, precision, most)
    chains = _chains(regions, precision, 1.0 - CONFIDENCE)
    level = (1.0 - CONFIDENCE) / max(len(chains), 1)
    sampled = int((answers.inclusion > 0.0).sum())
    passed = [region for chain in chains for region in itertools.takewhile(lambda one: one.p_value <= level, chain)]
    if passed:
        return Rule(kind, precision, sampled, passed[-1])
    known = [region for region in regions if region.answers >= FEWEST_TO_PLAN]
    return Rule(kind, precision, sampled, None, *_advise(known, precision, level))


def fewest_answers(precision: float, starts: int = 1, confidence: float = CONFIDENCE) -> int:
    """Return how many answers pass when all of them are right: the smallest T with precision^T <= level.

    >>> fewest_answers(0.8)
    14
    """
    return math.ceil(math.log((1.0 - confidence) / starts) / math.log(precision))


def _regions(answers: Answers, precision: float, most: float) -> list[Region]:
    """Return the regions below the scores of sampled rows, smallest first, then all rows; no bound uses an answer."""
    from scipy.stats import hypergeom

    by_score = np.argsort(answers.score, kind="stable")
    scores, right = answers.score[by_score], np.cumsum(answers.right[by_score])
    sampled = by_score[answers.inclusion[by_score] > 0.0]
    if len(sampled) == 0:
        return []
    chance, draw = answers.inclusion[sampled], np.random.default_rng(THINNING_SEED).random(len(sampled))
    found: list[tuple[float, int, int, int, int, int]] = []
    for place in np.unique(np.geomspace(1, len(sampled), STEPS).astype(np.int64)):
        every = place == len(sampled)
        below = math.inf if every else float(answers.score[sampled[place]])
        rows = answers.rows if every else int(answers.below[sampled[place]])
        answered = int(np.searchsorted(scores, below, side="left"))
        inside = int(np.searchsorted(answers.score[sampled], below, side="left"))
        unannotated = rows - answered
        if inside == 0 or unannotated == 0 or rows > most * answers.rows or (found and rows == found[-1][1]):
            continue
        kept = sampled[:inside][draw[:inside] * chance[:inside] <= chance[:inside].min()]
        wanted = int(right[answered - 1]) + math.ceil(precision * unannotated - 1e-9)
        found.append((below, rows, unannotated, len(kept), int(answers.right[kept].sum()), wanted))
    if not found:
        return []
    _, rows_, _, kept_, right_, wanted_ = (np.array(column) for column in zip(*found, strict=True))
    p_values: Floats = np.asarray(hypergeom.sf(right_ - 1, rows_, wanted_ - 1, kept_))
    return [Region(*counts[:5], float(p)) for counts, p in zip(found, p_values, strict=True)]


def _chains(regions: list[Region], precision: float, alpha: float) -> list[list[Region]]:
    """Return the regions in the order of their tests, from as many starts as the answers allow."""
    for starts in range(STARTS, 0, -1):
        wanted = float(fewest_answers(precision, starts, 1.0 - alpha))
        chains: list[list[Region]] = []
        for region in regions:
            if region.answers >= wanted and len(chains) < starts:
                chains.append([])
                wanted = 2.0 * region.answers
            if chains:
                chains[-1].append(region)
        if len(chains) == starts:
            return chains
    return []


def _advise(regions: list[Region], precision: float, level: float) -> tuple[Region | None, int | None, bool]:
    """Return the region that needs the fewest further answers, how many in all, and whether its precision is enough.

    Answers pay as long as they leave at least as many labels to decide as they cost. A region is given up when the
    95 % upper bound of its precision is below the promise.
    """
    from scipy.special import betaincinv
    from scipy.stats import binom

    if not regions:
        return None, None, False
    x, n, unannotated = (
        np.array([getattr(one, name) for one in regions]) for name in ("right", "answers", "unannotated")
    )
    sizes = np.unique(np.geomspace(1, MOST_TO_PLAN, 60).astype(np.int64))
    share = (x + 0.5) / (n + 1.0)
    enough = binom.isf(level, sizes, precision) + 1.0
    passes = binom.sf(enough - 1.0, sizes, share[:, None]) >= CHANCE_TO_PASS
    likely = np.maximum(_first(sizes, passes & (share > precision)[:, None]) - n, 1.0)
    hopeful = (x == n) | (betaincinv(x + 1, np.maximum(n - x, 1), CONFIDENCE) > precision)
    agreeing = binom.sf((x[:, None] + sizes) - 1, n[:, None] + sizes, precision) <= level
    possible = _first(sizes, agreeing & hopeful[:, None])
    for more, expected in ((likely, True), (possible, False)):
        more[2 * more > unannotated] = np.inf
        place = int(np.argmin(more))
        if np.isfinite(more[place]):
            return regions[place], int(n[place] + more[place]), expected
    return regions[0], None, False


def _first(sizes: Ints, holds: Bools) -> Floats:
    """Return [rows] the first size for which a row of `holds` [rows, sizes] is true; infinite where none is."""
    return np.where(holds.any(axis=1), sizes[holds.argmax(axis=1)], np.inf)
