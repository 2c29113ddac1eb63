"""Estimate label accuracy from an annotated probability sample, per class and overall, and the ranking's own quality.

Only estimators that are valid for the sample's design are used. `values` are 1 where the list is right about a row (for
rows of labels not given: right not to give it), 0 where it is wrong, in between where several votes were weighted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit import designs, intervals
from acoustic_env.audit.agreement import agreement
from acoustic_env.audit.annotations import latest, vote_table
from acoustic_env.audit.consensus import consensus, gold_truths
from acoustic_env.audit.intervals import Bools, Floats, Interval, Ints, from_variance
from acoustic_env.audit.sample import frame_of
from acoustic_env.audit.table import key_pairs
from acoustic_env.audit.votes import dawid_skene_share, rogan_gladen
from acoustic_env.errors import UsageError

PREFERRED: Final = {"simple": "difference", "stratified": "stratified", "unequal": "difference"}
FEW: Final = 50  # below, a slope of answers on the score is not worth estimating
TOPS: Final = (50, 100, 200, 500, 1000)
FEWEST_IN_TOP: Final = 5
SIDES: Final = (("right", 1), ("wrong", 0))


@dataclass(frozen=True)
class AnnotatedSample:
    """The sampled rows and whether the list is right about them.

    Attributes:
        design: simple, stratified or unequal.
        frame: the sample's metadata about its frame.
        values: [rows] in [0, 1], 1 where the list is right; NaN for rows without an answer other than unsure.
        inclusion, quality: [rows] of the sample table.
        rank: [rows] place in the ranking, 1 = most suspect.
        flagged: [rows].
        stratum, label: [rows].
        effect: design effect of groups, by which variances are multiplied.
    """

    design: str
    frame: Mapping[str, Any]
    values: Floats
    inclusion: Floats
    quality: Floats
    rank: Ints
    flagged: Bools
    stratum: npt.NDArray[Any]
    label: npt.NDArray[Any]
    effect: float

    @property
    def preferred(self) -> str:
        """Name of the estimator to quote for this design and number of answers."""
        few = self.design == "simple" and np.isfinite(self.values).sum() < FEW
        return "wilson" if few else PREFERRED[self.design]

    def headline(self, values: Floats, level: float) -> Interval:
        """Return the preferred estimate of the whole frame with other values."""
        other = replace(self, values=values)
        return estimators(other, None, level)[other.preferred]


def estimate(
    sample: pa.Table,
    annotations: pa.Table,
    where: str,
    groups: Mapping[str, str] | None = None,
    seed: int = 23,
    level: float = 0.95,
) -> dict[str, Any]:
    """Estimate label accuracy, the annotators' agreement and the ranking's quality.

    Args:
        sample: from `audit sample`.
        annotations: from `check_annotations`.
        where: name of the sample's file, for messages.
        groups: clip_id -> group (video, recording); None treats clips as independent.
        seed: of bootstraps.
        level: coverage of every interval.

    Returns:
        Plain values and `Interval`s: `design`, `frame`, `drawn`, `answered`, `without_answer`, `unsure`, `overall`,
        `labels`, `preferred`, `annotators`, `ranking`. A row without an answer is not an unsure one.

    Raises:
        UsageError: not a sample, or no answer to any of its rows.

    >>> import pyarrow.parquet as pq
    >>> found = estimate(pq.read_table("sample.parquet"), pq.read_table("annotations.parquet"), "sample.parquet")
    >>> print(found["overall"][found["preferred"]])
    0.825 (0.779 to 0.863, n = 100, stratified)
    >>> found["drawn"], found["answered"], found["unsure"], sorted(found["labels"])
    (100, 100, {'rows': 0}, ['natural', 'urban'])
    """
    frame = frame_of(sample, where)
    answers = latest(annotations)
    drawn = _of_role(sample, "sample")
    given = np.asarray(drawn.column("given"))
    keys = key_pairs(drawn)
    answered = set(key_pairs(_of_role(answers, "sample")))
    known = consensus(annotations, gold_truths(sample))
    # A gold row that was drawn counts once it is answered, like any other: before, it would favor the gold rows.
    beliefs = [known[key].applies if key in answered else None for key in keys]
    applies = np.array([np.nan if belief is None else belief for belief in beliefs], dtype=np.float64)
    has_answer = np.array([key in answered for key in keys], dtype=np.bool_)
    if np.isnan(applies).all():
        msg = f"{where}: none of the {len(keys)} sampled rows has an answer; annotate first: acoustic-env audit listen"
        raise UsageError(msg)
    annotated = _annotated_sample(drawn, frame, np.where(given, applies, 1.0 - applies), groups)
    return {
        "design": annotated.design,
        "frame": {"rows": frame["size"], "flagged": frame["flagged"], "hash": sample.column("frame_hash")[0].as_py()},
        "drawn": len(keys),
        "answered": int(np.isfinite(applies).sum()),
        "without_answer": int((~has_answer).sum()),
        "unsure": _unsure(annotated, has_answer, level),
        "design_effect": annotated.effect,
        "preferred": annotated.preferred,
        "overall": estimators(annotated, None, level),
        "labels": {name: estimators(annotated, name, level) for name in sorted(frame["labels"])},
        "annotators": _annotators(sample, answers, annotated, level, seed),
        "ranking": ranking_quality(annotated, level),
    }


def estimators(annotated: AnnotatedSample, label: str | None, level: float) -> dict[str, Interval]:
    """Return every estimate that is valid for the design, of one label or (None) of the whole frame."""
    known = np.isfinite(annotated.values)
    if label is not None:
        known &= annotated.label == label
    part = annotated.frame if label is None else annotated.frame["labels"][label]
    y, f, n = annotated.values[known], annotated.quality[known], int(known.sum())
    if n == 0:
        return {annotated.preferred: intervals.nothing_observed(annotated.preferred)}

    def made(pair: tuple[float, float], method: str) -> Interval:
        return from_variance(pair[0], pair[1] * annotated.effect, n, method, level)

    if annotated.design == "simple":
        effective = n / annotated.effect
        counts = float(y.mean()) * effective, effective, level
        found = {
            "wilson": intervals.wilson(*counts),
            "clopper-pearson": intervals.clopper_pearson(*counts),
            "jeffreys": intervals.jeffreys(*counts),
        }
        if n <= 2:
            return found | {"difference": found["wilson"]}
        rest = max(part["size"] - n, 1)
        difference = designs.difference(y, f, part["quality"], part["size"])
        ppi = designs.ppi_plus_plus(y, f, part["quality"], part["variance"], rest)
        return found | {"difference": made(difference, "difference"), "ppi++": made(ppi, "ppi++")}
    if annotated.design == "stratified":
        return {"stratified": made(_stratified(annotated, label, known), "stratified")}
    everyone = np.ones(n)
    inclusion = annotated.inclusion[known]
    shift, variance = designs.ratio(y - f, everyone, inclusion)
    return {
        "difference": made((part["quality"] + shift, variance), "difference"),
        "inverse-probability": made(designs.ratio(y, everyone, inclusion), "inverse-probability"),
    }


def ranking_quality(annotated: AnnotatedSample, level: float = 0.95) -> dict[str, dict[str, Interval]]:
    """Estimate precision (share wrong) and recall (share of all wrong) of the ranking's flags and top ks.

    Each is a ratio of two totals of the frame, weighted by inclusion probabilities; a top k with fewer than five
    sampled rows is left out.
    """
    known = np.isfinite(annotated.values)
    wrong, inclusion = 1.0 - annotated.values[known], annotated.inclusion[known]
    parts: dict[str, Bools] = {"flagged": annotated.flagged[known]}
    for k in TOPS:
        within = annotated.rank[known] <= k
        if within.sum() >= FEWEST_IN_TOP and k < annotated.frame["size"]:
            parts[f"top {k}"] = within

    def ratio(inside: Bools, total: Floats, n: int) -> Interval:
        share, variance = designs.ratio(wrong * inside, total, inclusion)
        return from_variance(share, variance * annotated.effect, n, "ratio", level)

    return {
        name: {
            "precision": ratio(part, part.astype(np.float64), int(part.sum())),
            "recall": ratio(part, wrong, int((wrong > 0.5).sum())),
        }
        for name, part in parts.items()
    }


def _annotated_sample(
    drawn: pa.Table, frame: dict[str, Any], values: Floats, groups: Mapping[str, str] | None
) -> AnnotatedSample:
    effect = 1.0
    known = np.isfinite(values)
    if groups is not None:
        clip_ids = drawn.column("clip_id").to_pylist()
        _, index = np.unique([groups.get(clip_id, clip_id) for clip_id in clip_ids], return_inverse=True)
        effect = intervals.design_effect(values[known], index[known])
    columns = {name: drawn[name].to_numpy() for name in ("quality", "rank", "flagged", "stratum", "label")}
    inclusion = drawn["inclusion_probability"].to_numpy()
    return AnnotatedSample(drawn["design"][0].as_py(), frame, values, inclusion, effect=effect, **columns)


def _stratified(annotated: AnnotatedSample, label: str | None, known: Bools) -> tuple[float, float]:
    """Return estimate and variance of a label with strata of its own, of one that shares them, or of all labels."""
    names = list(annotated.frame["strata"])
    sizes = np.array([annotated.frame["strata"][name]["size"] for name in names], dtype=np.float64)
    answered = np.isfinite(annotated.values)
    strata = np.array([names.index(name) for name in annotated.stratum[answered]], dtype=np.int64)
    inside = known[answered].astype(np.float64)
    right = annotated.values[answered] * inside
    own = [h for h, name in enumerate(names) if label in (None, name.rpartition(" q")[0])]
    if not own:
        return designs.stratified_ratio(right, inside, strata, sizes)
    member = np.equal.outer(strata, own).astype(np.float64)
    return designs.stratified(sizes[own], inside @ member, right @ member)


def _unsure(annotated: AnnotatedSample, has_answer: Bools, level: float) -> dict[str, Any]:
    """Count the rows with unsure answers only; bound the estimate by counting them all as wrong or as right."""
    unsure = np.isnan(annotated.values) & has_answer
    if not unsure.any():
        return {"rows": 0}
    low, high = (annotated.headline(np.where(unsure, value, annotated.values), level) for value in (0.0, 1.0))
    return {"rows": int(unsure.sum()), "if all wrong": low, "if all right": high}


def _of_role(table: pa.Table, role: str) -> pa.Table:
    return table.filter(pc.equal(table.column("role"), role))


def _annotators(
    sample: pa.Table, answers: pa.Table, annotated: AnnotatedSample, level: float, seed: int
) -> dict[str, Any]:
    """Describe the annotators: answers, agreement, skill on gold rows, and the accuracy corrected for their errors."""
    drawn, gold_rows = _of_role(sample, "sample"), _of_role(sample, "gold")
    votes = vote_table(_of_role(answers, "sample"), key_pairs(drawn))
    truth = np.array([value == "right" for value in gold_rows["truth"].to_pylist()], dtype=np.int64)
    on_gold = vote_table(_of_role(answers, "gold"), key_pairs(gold_rows), votes.annotators).votes
    skill = {
        name: {side: (int((vote[truth == k] == k).sum()), int((vote[truth == k] >= 0).sum())) for side, k in SIDES}
        for name, vote in zip(votes.annotators, on_gold.T, strict=True)
    }
    found: dict[str, Any] = {
        "answers": {name: int((vote >= 0).sum()) for name, vote in zip(votes.annotators, votes.votes.T, strict=True)},
        "agreement": agreement(votes.votes, 2, seed, level=level),
        "self_agreement": _repeats(sample, answers, level),
        "gold": {
            name: {side: intervals.wilson(*counts, level) for side, counts in sides.items()}
            for name, sides in skill.items()
        },
    }
    given = np.asarray(drawn["given"])
    if len(votes.annotators) == 1:
        answer = votes.votes[:, 0]
        apparent = annotated.headline(np.where(answer >= 0, answer == given, np.nan), level)
        share = apparent.estimate
        variance = max((apparent.half_width / intervals.z_value(level)) ** 2, 1e-9)
        effective = share * (1.0 - share) / variance if 0.0 < share < 1.0 else apparent.n
        on_right, on_wrong = skill[votes.annotators[0]].values()
        known = (on_right, on_wrong) if given[0] else (on_wrong, on_right)
        found["corrected"] = rogan_gladen(share * effective, effective, *known, seed, level=level)
    elif annotated.design == "simple":
        gold = (truth, on_gold)
        found["dawid_skene"] = dawid_skene_share(votes.votes, 2, int(given[0]), seed, level=level, gold=gold)
    return found


def _repeats(sample: pa.Table, answers: pa.Table, level: float) -> Interval:
    """Estimate the share of repeated rows on which an annotator gave the same answer as before."""
    keys = key_pairs(_of_role(sample, "repeat"))
    second = vote_table(_of_role(answers, "repeat"), keys)
    one, two = vote_table(_of_role(answers, "sample"), keys, second.annotators).votes, second.votes
    pairs = (one >= 0) & (two >= 0)
    return intervals.wilson(int((one == two)[pairs].sum()), int(pairs.sum()), level)
