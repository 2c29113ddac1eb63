"""Noise-adjusted AUC and accuracy, shown only when nothing contradicts the assumption that they rest on.

The corrections of `noise` need predictions and label errors to be independent given the truth, and a closed vocabulary.
Real label errors fall on ambiguous clips, where both fail together, and the corrected value overshoots. So it comes
with its interval (sampling errors of the metric and of the audit), the probability that it is impossible, the bounds
that need no assumption, and, with gold clips, a test of the assumption and a direct estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from acoustic_env.audit import noise
from acoustic_env.audit.designs import ratio
from acoustic_env.audit.intervals import (
    Floats,
    Interval,
    Ints,
    design_effect,
    from_variance,
    nothing_observed,
    percentile,
)
from acoustic_env.audit.noise import Contamination
from acoustic_env.audit.table import require_columns, require_values, table_schema
from acoustic_env.errors import UsageError

Status = Literal["refused", "not refuted"]

MOST_IMPOSSIBLE: Final = 0.05  # a corrected value is refused when it is impossible with more than this probability
LEAST_P: Final = 0.05  # the assumption is rejected below this p-value on gold clips
DRAWS: Final = 40_000
SEED: Final = 23  # of the draws
_GOLD: Final = table_schema(
    {"predicted": pa.int64(), "given": pa.int64(), "truth": pa.int64()}
    | {"score": pa.float64(), "inclusion_probability": pa.float64(), "group": pa.string()},
    nullable=("score", "inclusion_probability", "group"),
)


@dataclass(frozen=True)
class AnnotatedCounts:
    """Answers to a simple random sample of the clips of one given class, and how many say that the label is right."""

    right: int
    answers: int


@dataclass(frozen=True)
class GoldClips:
    """Test clips whose truth is known.

    Attributes:
        predicted, given, truth: [clips] 0 or 1.
        score: [clips] what the AUC ranks by; None where there is none.
        inclusion: [clips] probability with which each was chosen from the test list; equal for a simple sample.
        groups: [clips] video or recording.
    """

    predicted: Ints
    given: Ints
    truth: Ints
    score: Floats | None
    inclusion: Floats
    groups: Ints


@dataclass(frozen=True)
class Adjusted:
    """A noise-adjusted metric with its limits.

    Attributes:
        metric: its name.
        observed: its value against the given labels.
        corrected: the value that the identity gives; may be impossible.
        interval: of the corrected value, not clipped to what is possible.
        impossible: P(corrected value outside 0 to 1, or labels without information).
        bounds: what accuracy can be whatever the dependence (accuracy only).
        independence_p: p-value of the test of the assumption on gold clips; None without them.
        status: "refused", or "not refuted" (which is not "confirmed").
        reason: why.
        gold: the direct estimate on gold clips; None without them.
    """

    metric: str
    observed: float
    corrected: float
    interval: tuple[float, float]
    impossible: float
    bounds: tuple[float, float] | None
    independence_p: float | None
    status: Status
    reason: str
    gold: Interval | None

    def __str__(self) -> str:
        low, high = self.interval
        shown = f"{self.metric} against given labels {self.observed:.3f}: corrected {self.corrected:.3f} "
        shown += f"({low:.2f} to {high:.2f}), P(impossible) {self.impossible:.2f}; {self.status.upper()}: {self.reason}"
        if self.bounds is not None:
            shown += f"; without any assumption {self.bounds[0]:.2f} to {self.bounds[1]:.2f}"
        return shown + (f"; on gold clips {self.gold}" if self.gold is not None else "")


def adjusted_auc(
    auc: float,
    clips: tuple[int, int],
    positive: AnnotatedCounts,
    negative: AnnotatedCounts,
    independence_p: float | None = None,
    gold: Interval | None = None,
) -> Adjusted:
    """Correct an AUC to true labels, or state why these numbers do not allow it.

    Args:
        auc: against given labels.
        clips: given positives and negatives of the test list.
        positive: of the clips given positive, how many are.
        negative: of the clips given negative, how many are.
        independence_p: from `independence_test`, where there are gold clips.
        gold: from `gold_auc`.

    >>> found = adjusted_auc(0.766, (122, 121), AnnotatedCounts(42, 50), AnnotatedCounts(32, 50))
    >>> found.status, round(found.corrected, 3), round(found.impossible, 2)
    ('refused', 1.054, 0.72)
    >>> adjusted_auc(0.75, (500, 500), AnnotatedCounts(185, 200), AnnotatedCounts(190, 200)).status
    'not refuted'
    """
    error = hanley_mcneil(auc, *clips)
    return _adjusted("AUC", auc, error, (positive, negative), None, independence_p, gold)


def adjusted_balanced_accuracy(
    rates: tuple[float, float],
    clips: tuple[int, int],
    positive: AnnotatedCounts,
    negative: AnnotatedCounts,
    independence_p: float | None = None,
    gold: Interval | None = None,
) -> Adjusted:
    """Correct a balanced accuracy to true labels, or state why not.

    Args:
        rates: true positive and true negative rate against given labels.
        clips, positive, negative, independence_p, gold: as for `adjusted_auc`.

    >>> positive, negative = AnnotatedCounts(42, 50), AnnotatedCounts(32, 50)
    >>> found = adjusted_balanced_accuracy((0.721, 0.721), (122, 121), positive, negative)
    >>> round(found.corrected, 2), [round(bound, 2) for bound in found.bounds]
    (0.96, [0.46, 0.98])
    """
    error = math.sqrt(sum(rate * (1.0 - rate) / n for rate, n in zip(rates, clips, strict=True))) / 2.0
    share = clips[0] / sum(clips)
    agreement = share * rates[0] + (1.0 - share) * rates[1]
    bounds = noise.frechet_bounds(agreement, noise.label_accuracy(_contamination(positive, negative), share))
    name, counts = "balanced accuracy", (positive, negative)
    return _adjusted(name, sum(rates) / 2.0, error, counts, bounds, independence_p, gold)


def hanley_mcneil(auc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC from its value and the class sizes (Hanley & McNeil 1982).

    >>> round(hanley_mcneil(0.893, 51, 58), 3)
    0.033
    """
    both_positive, both_negative = auc / (2.0 - auc), 2.0 * auc**2 / (1.0 + auc)
    variance = (
        auc * (1.0 - auc) + (positives - 1) * (both_positive - auc**2) + (negatives - 1) * (both_negative - auc**2)
    )
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


def independence_test(predicted: Ints, given: Ints, truth: Ints) -> float:
    """Test on gold clips whether predictions and given labels are independent given the truth; return the p-value.

    Fisher's exact test within each true class, the smaller p-value doubled (Bonferroni).

    Args:
        predicted, given, truth: [gold clips] 0 or 1.

    >>> truth = np.repeat([0, 1], 20)
    >>> given = np.where(np.arange(40) % 4 == 0, 1 - truth, truth)
    >>> independence_test(predicted=given, given=given, truth=truth) < 0.01  # the same clips are wrong twice
    True
    >>> independence_test(predicted=np.where(np.arange(40) % 5 == 0, 1 - truth, truth), given=given, truth=truth)
    1.0
    """
    from scipy.stats import fisher_exact

    values = []
    for k in (0, 1):
        here = truth == k
        table = np.array([[((predicted == j) & (given == i))[here].sum() for j in (0, 1)] for i in (0, 1)])
        values.append(float(fisher_exact(table).pvalue))
    return min(1.0, 2.0 * min(values))


def read_gold(table: pa.Table, where: str) -> GoldClips:
    """Return the gold clips of a table: predicted, given, truth (0 or 1); score, inclusion_probability, group if known.

    Args:
        table: a row for each test clip whose truth is known.
        where: name of its file, for messages.

    Raises:
        UsageError: a column is missing or a value is invalid; names file, row and column.

    >>> gold = read_gold(pa.table({"predicted": [1, 0], "given": [1, 1], "truth": [1, 0]}), "gold.csv")
    >>> gold.truth.tolist(), gold.score is None, gold.inclusion.tolist()
    ([1, 0], True, [1.0, 1.0])
    """
    found = require_columns(table, _GOLD, where, "a table of gold clips")
    if not found.num_rows:
        raise UsageError(f"{where}: no rows; a table of gold clips has {', '.join(_GOLD.names)}")
    require_values(found, dict.fromkeys(("predicted", "given", "truth"), (0, 1)), where)
    for name in ("score", "inclusion_probability", "group"):
        if 0 < found[name].null_count < found.num_rows:
            row = found[name].is_null().to_pylist().index(True) + 1
            raise UsageError(f"{where}: row {row:,}, column {name!r}: empty, while other rows have a value")
    known = {name: found[name].to_numpy() for name in _GOLD.names if not found[name].null_count}
    clips = np.arange(found.num_rows)
    groups = np.unique(known.get("group", clips), return_inverse=True)[1].astype(np.int64)
    inclusion = known.get("inclusion_probability", np.ones(found.num_rows))
    impossible = np.flatnonzero((inclusion <= 0.0) | (inclusion > 1.0))
    if len(impossible):
        row = impossible[0]
        msg = f"{where}: row {row + 1:,}, column 'inclusion_probability': {inclusion[row]:g} is not in (0, 1]"
        raise UsageError(msg)
    return GoldClips(known["predicted"], known["given"], known["truth"], known.get("score"), inclusion, groups)


def gold_balanced_accuracy(gold: GoldClips, level: float = 0.95) -> Interval:
    """Estimate the balanced accuracy against true labels directly: the mean of both classes' shares predicted right.

    Each class's variance is that of its own clips, p~ (1 - p~) / n with p~ = (n p + 1/2) / (n + 1), so a rare class
    widens the interval; n = p (1 - p) / Var(p) where inclusion probabilities are known.

    Args:
        gold: from `read_gold`.
        level: coverage.

    >>> truth, clips = np.repeat([0, 1], [80, 20]), np.arange(100)
    >>> predicted = np.where(clips % 10 == 0, 1 - truth, truth)
    >>> print(gold_balanced_accuracy(GoldClips(predicted, truth, truth, None, np.ones(100), clips)))
    0.900 (0.794 to 0.955, n = 100, gold, balanced accuracy)
    """
    method = "gold, balanced accuracy"
    if len(np.unique(gold.truth)) < 2:
        return nothing_observed(method)
    right = (gold.predicted == gold.truth).astype(np.float64)
    shares, sizes = np.empty(2), np.empty(2)
    for k in (0, 1):
        here = (gold.truth == k).astype(np.float64)
        shares[k], spread = ratio(right * here, here, gold.inclusion)
        binomial = shares[k] * (1.0 - shares[k])
        # Of clips that are all right, or all chosen with certainty, the estimated variance is 0: their number counts.
        sizes[k] = binomial / spread if spread > 0.0 and binomial > 0.0 else here.sum()
    smoothed = (shares * sizes + 0.5) / (sizes + 1.0)
    variance = float((smoothed * (1.0 - smoothed) / sizes).mean()) / 2.0 * design_effect(right, gold.groups)
    alike = round(4.0 / float((1.0 / sizes).sum()))  # clips of which a plain share would be as exact
    return replace(from_variance(float(shares.mean()), variance, alike, method, level), n=len(right))


def gold_auc(
    score: Floats, truth: Ints, inclusion: Floats, groups: Ints, seed: int, draws: int = 1000, level: float = 0.95
) -> Interval:
    """Estimate the AUC against true labels directly: pairs weighted 1 / (pi_i pi_j), interval from resampled groups.

    Args:
        score: [gold clips].
        truth: [gold clips] 0 or 1.
        inclusion: [gold clips] inclusion probabilities.
        groups: [gold clips] video or recording.
        seed: of the bootstrap.
        draws: bootstrap samples.
        level: coverage.

    >>> score, truth = np.array([0.1, 0.4, 0.35, 0.8, 0.7, 0.2]), np.array([0, 0, 1, 1, 1, 0])
    >>> print(gold_auc(score, truth, np.ones(6), np.arange(6), seed=0))
    0.889 (0.400 to 1.000, n = 6, gold, weighted AUC)
    """
    method = "gold, weighted AUC"
    if len(np.unique(truth)) < 2:
        return nothing_observed(method)
    _, index = np.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    ahead = score[truth == 1][:, None] - score[truth == 0][None, :]
    again = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=draws)[:, index]
    weights = np.vstack([np.ones(len(score)), again]) / inclusion
    up, down = weights[:, truth == 1], weights[:, truth == 0]
    with np.errstate(invalid="ignore"):
        wins = np.einsum("bi,ij,bj->b", up, np.heaviside(ahead, 0.5), down, optimize=True)
        values = wins / (up.sum(axis=1) * down.sum(axis=1))
    return percentile(values[1:], float(values[0]), len(score), method, level)


def _adjusted(
    metric: str,
    observed: float,
    error: float,
    counts: tuple[AnnotatedCounts, AnnotatedCounts],
    bounds: tuple[float, float] | None,
    independence_p: float | None,
    gold: Interval | None,
) -> Adjusted:
    """Correct a metric of standard error `error`, with draws of it and of the contaminations (Jeffreys posteriors)."""
    try:
        corrected = noise.adjusted_auc(observed, _contamination(*counts))
    except ValueError:  # labels without information
        corrected = math.inf
    rng = np.random.default_rng(SEED)
    values = rng.normal(observed, error, DRAWS)
    alpha, beta = (rng.beta(one.answers - one.right + 0.5, one.right + 0.5, DRAWS) for one in counts)
    information = 1.0 - alpha - beta
    with np.errstate(divide="ignore"):
        draws = 0.5 + (values - 0.5) / information
    impossible = float(((draws < 0.0) | (draws > 1.0) | (information <= 0.0)).mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    status: Status = "refused"
    if not 0.0 <= corrected <= 1.0:
        reason = (
            f"the corrected value {corrected:.3f} is impossible, so label errors are not independent of the "
            "predictions (or are out of vocabulary, or the audited list is not the tested one)"
        )
    elif independence_p is not None and independence_p < LEAST_P:
        reason = f"on gold clips predictions and label errors are not independent (p = {independence_p:.3g})"
    elif impossible > MOST_IMPOSSIBLE:
        reason = f"with probability {impossible:.2f} the corrected value is impossible: too few answers to correct"
    else:
        status = "not refuted"
        tested = "not tested on gold clips" if independence_p is None else f"p = {independence_p:.2f} on gold clips"
        reason = f"the value is possible and independence is {tested}; errors on ambiguous clips would still inflate it"
    interval = (float(low), float(high))
    return Adjusted(metric, observed, corrected, interval, impossible, bounds, independence_p, status, reason, gold)


def _contamination(positive: AnnotatedCounts, negative: AnnotatedCounts) -> Contamination:
    return Contamination(1.0 - positive.right / positive.answers, 1.0 - negative.right / negative.answers)
