"""Automatic decisions by score, with a bound on the share of wrong ones among them.

A decision (drop a given label, add a missing one, keep one) is made for every row without an answer whose score lies
below a threshold. Bounded is what a user is promised: with probability `confidence`, at least the share `precision` of
the rows so decided is decided rightly. The evidence is the answers to a probability sample of the rows.

One threshold: let R be the rows below it. Each answered sample row of R is retained with chance (smallest inclusion
probability in R) / (its own), so that all rows of R are equally likely to be among the T retained. The null hypothesis
is that less than `precision` of R's rows without an answer would be decided rightly: R then holds at most
K = (right answers in R) + ceil(precision * rows without an answer) - 1 right rows. Its p-value is
P(Hypergeometric(|R|, K, T) >= right answers among the retained). For a simple sample this is exact, whatever the score.
In stratified samples and samples with unequal chances, inclusions are negatively dependent and the count varies about
as much or less; for them the promise is shown by simulation (`tests.audit.bench_relabel`).

Several thresholds: regions are bounded by the scores of sampled rows and chosen without an answer. From up to four
starting sizes, each twice the one before, regions grow by steps until one fails (fixed-sequence testing); Bonferroni's
correction pays for the starts. A bounding row and all that tie with it stay outside: given that row, the sampled rows
below it are a random sample of the region.

Sources: Angelopoulos et al. 2021 (Learn then Test: fixed sequences from several starts); the hypergeometric test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

PRECISION: Final = 0.8
CONFIDENCE: Final = 0.95
STARTS: Final = 4
STEPS: Final = 100  # regions considered, evenly spaced in the logarithm of their sampled rows
FEWEST_TO_PLAN: Final = 8  # retained answers below which a region's precision is not used for advice
CHANCE_TO_PASS: Final = 0.8  # with the number of answers that is advised
MOST_TO_PLAN: Final = 10_000
THINNING_SEED: Final = 23


@dataclass(frozen=True)
class Answers:
    """What is known of the rows of one kind of decision, all [rows].

    Attributes:
        score: low = decide first.
        heard: the row has an answer, so people decide it.
        right: the row has an answer and it surely agrees with the decision.
        inclusion: probability in (0, 1] with which an answered sample row came to be answered; 0 for all other rows.
    """

    score: Floats
    heard: Bools
    right: Bools
    inclusion: Floats


@dataclass(frozen=True)
class Region:
    """The rows below one threshold.

    Attributes:
        below: the threshold; infinite for all rows.
        rows: rows of the region.
        unheard: those without an answer.
        answers: retained answers T.
        right: those of them that agree with the decision.
        p_value: of "too few of the rows without an answer would be decided rightly".
    """

    below: float
    rows: int
    unheard: int
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
        nearest: where none may: the region that needs the fewest further answers; None where all hold too few to say.
        needed: answers it needs in all; None where no number of answers would pass while as many labels are left.
        expected: whether `needed` passes with a chance of 80 % at the region's present precision; else it passes only
            if all further answers agree.
    """

    kind: str
    precision: float
    sampled: int
    passed: Region | None
    nearest: Region | None = None
    needed: int | None = None
    expected: bool = False

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; an infinite threshold becomes None."""
        plain = asdict(self)
        for region in (plain["passed"], plain["nearest"]):
            if region is not None and math.isinf(region["below"]):
                region["below"] = None
        return plain

    def __str__(self) -> str:
        """A sentence for a person."""
        if self.passed is not None:
            found = self.passed
            return (
                f"{self.kind}: {found.unheard:,} labels without an answer; {found.right} of {found.answers} answers in "
                f"that region agree, so with {CONFIDENCE:.0%} confidence at least {self.precision:.0%} are right"
            )
        none = f"{self.kind}: no label without an answer; "
        if self.nearest is None:
            fewest = fewest_answers(self.precision)
            return f"{none}{self.sampled} answers are too few to say more: it takes {fewest} that all agree"
        near, wanted = self.nearest, f"where {self.precision:.0%} must be proven"
        seen = f"of the {near.rows:,} labels to decide first, {near.right} of {near.answers} answers agree {wanted}"
        if self.needed is None:
            return f"{none}{seen}; no number of answers proves that: annotate these labels one by one"
        more = self.needed - near.answers
        drawn = math.ceil(self.sampled * self.needed / near.answers)
        many = f"about {more:,} more answers" if self.expected else f"at least {more:,} more answers, all agreeing,"
        return f"{none}{seen}; {many} among them may do (`audit sample --n {drawn}` of the same design)"


def find_rule(kind: str, answers: Answers, precision: float, most: float, confidence: float = CONFIDENCE) -> Rule:
    """Find the largest region whose rows without an answer may be decided.

    Args:
        kind: name of the decision.
        answers: of all rows it could be made for.
        precision: promised share of right decisions, in (0, 1).
        most: share of the rows beyond which no region is tried.
        confidence: of the promise.
    """
    candidates = list(_candidates(answers, most))
    chains = _chains(candidates, precision, 1.0 - confidence)
    level = (1.0 - confidence) / max(len(chains), 1)
    sampled = int((answers.inclusion > 0.0).sum())
    passed = None
    for chain in chains:
        for candidate in chain:
            region = candidate.test(precision)
            if region.p_value > level:
                break
            passed = region
    if passed is not None:
        return Rule(kind, precision, sampled, passed)
    regions = [candidate.test(precision) for candidate in candidates if candidate.answers >= FEWEST_TO_PLAN]
    return Rule(kind, precision, sampled, None, *_advise(regions, precision, level))


def fewest_answers(precision: float, starts: int = 1, confidence: float = CONFIDENCE) -> int:
    """Return how many answers pass when all of them are right: the smallest T with precision^T <= level."""
    return math.ceil(math.log((1.0 - confidence) / starts) / math.log(precision))


@dataclass(frozen=True)
class _Candidate:
    """A region, with counts; `right` and `known_right` are not looked at before it is tested."""

    below: float
    rows: int
    heard: int
    answers: int
    right: int
    known_right: int

    def test(self, precision: float) -> Region:
        from scipy.stats import hypergeom

        unheard = self.rows - self.heard
        wanted = self.known_right + math.ceil(precision * unheard - 1e-9)
        p_value = float(hypergeom.sf(self.right - 1, self.rows, wanted - 1, self.answers))
        return Region(self.below, self.rows, unheard, self.answers, self.right, p_value)


def _candidates(answers: Answers, most: float) -> Iterable[_Candidate]:
    """Regions below the scores of sampled rows, smallest first, then all rows."""
    by_score = np.argsort(answers.score, kind="stable")
    scores = answers.score[by_score]
    heard, right = np.cumsum(answers.heard[by_score]), np.cumsum(answers.right[by_score])
    sampled = by_score[answers.inclusion[by_score] > 0.0]
    if len(sampled) == 0:
        return
    chance, draw = answers.inclusion[sampled], np.random.default_rng(THINNING_SEED).random(len(sampled))
    bounds = np.unique(np.geomspace(1, len(sampled), STEPS).astype(np.int64))
    before = 0
    for place in bounds:
        below = float(answers.score[sampled[place]]) if place < len(sampled) else math.inf
        rows = int(np.searchsorted(scores, below, side="left"))
        if rows == before or rows > most * len(scores) or heard[rows - 1] == rows:
            continue
        before = rows
        inside = int(np.searchsorted(answers.score[sampled], below, side="left"))
        if inside:
            kept = sampled[:inside][draw[:inside] * chance[:inside] <= chance[:inside].min()]
            agree = int(answers.right[kept].sum())
            yield _Candidate(below, rows, int(heard[rows - 1]), len(kept), agree, int(right[rows - 1]))


def _chains(candidates: list[_Candidate], precision: float, alpha: float) -> list[list[_Candidate]]:
    """The regions that are tested, in the order in which they are, from as many starts as the answers allow."""
    for starts in range(STARTS, 0, -1):
        wanted = float(fewest_answers(precision, starts, 1.0 - alpha))
        chains: list[list[_Candidate]] = []
        for candidate in candidates:
            if candidate.answers >= wanted and len(chains) < starts:
                chains.append([])
                wanted = 2.0 * candidate.answers
            if chains:
                chains[-1].append(candidate)
        if len(chains) == starts:
            return chains
    return []


def _advise(regions: list[Region], precision: float, level: float) -> tuple[Region | None, int | None, bool]:
    """The region that needs the fewest further answers, how many in all, and whether its present precision is enough.

    Answers pay as long as they leave at least as many labels to decide as they cost. A region is given up when the
    95 % upper bound of its precision is below the promise.
    """
    from scipy.special import betaincinv
    from scipy.stats import binom

    if not regions:
        return None, None, False
    sizes = np.unique(np.geomspace(1, MOST_TO_PLAN, 200).astype(np.int64))
    enough = binom.isf(level, sizes, precision) + 1.0
    likely: list[tuple[int, int]] = []
    possible: list[tuple[int, int]] = []
    for place, region in enumerate(regions):
        x, n = region.right, region.answers
        share = (x + 0.5) / (n + 1.0)
        further = sizes[2 * sizes <= region.unheard]
        passes = np.flatnonzero(binom.sf(enough - 1.0, sizes, share) >= CHANCE_TO_PASS)
        if share > precision and len(passes) and 2 * (sizes[passes[0]] - n) <= region.unheard:
            likely.append((max(int(sizes[passes[0]]) - n, 1), place))
        elif x == n or betaincinv(x + 1, n - x, CONFIDENCE) > precision:
            agreeing = np.flatnonzero(binom.sf(x + further - 1, n + further, precision) <= level)
            possible += [(int(further[agreeing[0]]), place)] if len(agreeing) else []
    for found in (likely, possible):
        if found:
            more, place = min(found)
            return regions[place], regions[place].answers + more, found is likely
    return regions[0], None, False
